import { expect, test } from "bun:test";
import { documentDifference } from "../../../src/config/document-difference.ts";
import { tableText } from "../../../src/command/table-text.ts";

test("document difference: members by their path, in the order of the documents", () => {
  const before = '{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1}}';
  const after = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":2,"Port":4789},"x":[1]}';
  expect(documentDifference(before, after)).toEqual([
    "- SubnetLen: 24",
    "- Backend.VNI: 1",
    "+ Backend.VNI: 2",
    "+ Backend.Port: 4789",
    "+ x: [1]",
  ]);
  expect(documentDifference(before, before)).toEqual([]);
  expect(documentDifference(undefined, '{"Network":"10.5.0.0/16"}')).toEqual(['+ Network: "10.5.0.0/16"']);
  expect(documentDifference("{old", '{"Network":"10.5.0.0/16"}')).toEqual([
    '- (unreadable): "{old"',
    '+ Network: "10.5.0.0/16"',
  ]);
});

test("table: columns are aligned, and what comes from the store steers no terminal", () => {
  const rows = [
    ["A", "B", "C"],
    ["long cell", "x", "\u001b[31mred\n"],
    ["", "y".repeat(100), "z"],
  ];
  expect(tableText(rows)).toBe(
    `A          B${" ".repeat(63)}  C\nlong cell  x${" ".repeat(63)}  ?[31mred?\n           ${"y".repeat(64)}  z\n`,
  );
});
