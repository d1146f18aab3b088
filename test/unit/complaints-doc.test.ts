import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");

test("docs/complaints.md: all thirty, each with tests that exist or with what is not solved", () => {
  const rows = readFileSync(join(root, "docs/complaints.md"), "utf8")
    .split("\n")
    .filter((line) => /^\| \d/.test(line));
  expect(rows.map((row) => Number.parseInt(row.slice(2), 10))).toEqual(
    Array.from({ length: 30 }, (_, at) => at + 1),
  );
  for (const row of rows) {
    const tests = [...row.matchAll(/`(test\/[^`]+)`/g)].map(([, path = ""]) => path);
    expect([row, tests.filter((path) => !existsSync(join(root, path)))]).toEqual([row, []]);
    if (tests.length === 0) expect(row).toContain("**Not**");
  }
});
