import { expect, test } from "bun:test";
import { editDistance, mostSimilar } from "../../../src/config/similar.ts";

test("similar: insertions, deletions, substitutions and swaps cost one each", () => {
  const pairs: [string, string, number][] = [
    ["", "", 0],
    ["abc", "", 3],
    ["iface", "iface", 0],
    ["ifcae", "iface", 1],
    ["iface", "ifaces", 1],
    ["iface", "uface", 1],
    ["kitten", "sitting", 3],
  ];
  for (const [a, b, distance] of pairs) {
    expect([a, b, editDistance(a, b), editDistance(b, a)]).toEqual([a, b, distance, distance]);
  }
});

test("similar: the nearest candidate is named, and none where all are far", () => {
  const names = ["interface", "public_ip", "engine"];
  expect(mostSimilar("intreface", names)).toBe("interface");
  expect(mostSimilar("PUBLIC_IP", names)).toBe("public_ip");
  expect(mostSimilar("workers", names)).toBeUndefined();
  expect(mostSimilar("", names)).toBeUndefined();
  expect(mostSimilar("x", ["v"])).toBeUndefined();
});

test("similar: a word of any length is compared in bounded work", () => {
  expect(mostSimilar("x".repeat(1_000_000), ["interface"])).toBeUndefined();
});
