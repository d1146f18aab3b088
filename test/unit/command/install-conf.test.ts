import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { installConf } from "../../../src/command/install-conf.ts";

let directory: string;
let source: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "fl-install-conf-"));
  source = join(directory, "cni-conf.json");
  writeFileSync(source, "new\n");
  chmodSync(source, 0o640);
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

test("install-conf: content and mode of the source replace what stands there, and nothing else is left", () => {
  const target = join(directory, "net.d/10-flannel.conflist");
  installConf([source, target]);
  writeFileSync(target, "older and longer\n");
  chmodSync(target, 0o600);
  installConf([source, target]);
  expect(readFileSync(target, "utf8")).toBe("new\n");
  expect(statSync(target).mode & 0o7777).toBe(0o640);
  expect(readdirSync(join(directory, "net.d"))).toEqual(["10-flannel.conflist"]);
});

test("install-conf: two words, a source that can be read and a place to write, or an error that says which", () => {
  const target = join(directory, "10-flannel.conflist");
  for (const words of [[], [source], [source, target, "more"]])
    expect(() => installConf(words)).toThrow("usage: install-conf <src> <dest>");
  expect(() => installConf([join(directory, "none"), target])).toThrow(
    `cannot read ${join(directory, "none")}`,
  );
  expect(() => installConf([directory, target])).toThrow(`cannot change ${target}`);
  expect(() => installConf([source, join(source, "below-a-file")])).toThrow("cannot change ");
  expect(readdirSync(directory)).toEqual(["cni-conf.json"]);
});
