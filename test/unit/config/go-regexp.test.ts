import { expect, test } from "bun:test";
import { goRegExp } from "../../../src/config/go-regexp.ts";

const matches = (pattern: string, text: string): boolean | undefined => goRegExp(pattern)?.test(text);

test("Go's regular expressions: searched anywhere, case counts, unless the pattern says otherwise", () => {
  expect(matches(String.raw`192\.168\.200\.\d+`, "192.168.200.128")).toBe(true);
  expect(matches("168", "192.168.200.128")).toBe(true);
  expect(matches("^168", "192.168.200.128")).toBe(false);
  expect([matches("ETH", "eth0"), matches("(?i)ETH", "eth0")]).toEqual([false, true]);
});

test("Go's regular expressions: what is written otherwise in JavaScript means the same", () => {
  const same: [string, string, boolean][] = [
    ["(?P<kind>eth|ens)[0-9]+", "ens5", true],
    ["^eth[[:digit:]]$", "eth7", true],
    ["^[^[:alpha:]]+$", "eth7", false],
    [String.raw`\Aeth\d\z`, "eth0", true],
    [String.raw`\Ath\d`, "eth0", false],
    [String.raw`\Q10.0.\E\d`, "10.0.7.1", true],
    [String.raw`\Q10.0.\E\d`, "10.0x7.1", false],
    ["[]x]", "a]", true],
    ["^[^]]+$", "a]", false],
    ["(?:a|b){2,3}$", "xab", true],
    [String.raw`bond\-0`, "bond-0", true],
  ];
  for (const [pattern, text, expected] of same)
    expect([pattern, matches(pattern, text)]).toEqual([pattern, expected]);
});

test("Go's regular expressions: what Go would not compile is refused, and what JavaScript cannot say", () => {
  const refused = ["(", "[a", "a)", "*", "a**", String.raw`(a)\1`, "(?=a)", "(?<!a)b", "[[:nope:]]", "a\\"];
  for (const pattern of [...refused, String.raw`\pL`, "(?U)a", "x".repeat(513)])
    expect([pattern, goRegExp(pattern)]).toEqual([pattern, undefined]);
});
