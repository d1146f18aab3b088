import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { flagReference } from "../../../src/config/flag-reference.ts";
import { flanneldFlagsGone, flanneldFlagsWithoutEffect } from "../../../src/config/flanneld-flags.ts";
import { settings } from "../../../src/config/schema.ts";

const committed = readFileSync(new URL("../../../docs/flags.md", import.meta.url), "utf8");

test("docs/flags.md: the committed page is what the schema gives", () => {
  expect(committed).toBe(flagReference());
});

test("docs/flags.md: every flag, variable and key has its place, a secret has no key", () => {
  const words = new Set(committed.split(/[\s`|]+/));
  for (const { path, option, flags, variables } of settings) {
    for (const { name } of [...flags.map(({ name }) => ({ name: `-${name}` })), ...variables])
      expect([name, words.has(name)]).toEqual([name, true]);
    expect([path, words.has(path)]).toEqual([path, !option.secret]);
  }
  for (const name of [...flanneldFlagsWithoutEffect.map((flag) => flag.name), ...flanneldFlagsGone.keys()])
    expect([name, words.has(`-${name}`)]).toEqual([name, true]);
});

test("docs/flags.md: every row of a table has as many cells as its title", () => {
  const rows = committed.split("\n").filter((line) => line.startsWith("|"));
  const cells = (line: string) => line.split(/(?<!\\)\|/).length;
  let wanted = 0;
  for (const [at, line] of rows.entries()) {
    if (rows[at + 1]?.startsWith("| ---") === true) wanted = cells(line);
    expect([line, cells(line)]).toEqual([line, wanted]);
  }
  expect(rows.length).toBeGreaterThan(settings.length);
});
