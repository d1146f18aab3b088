import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { exampleText } from "../../../src/config/example.ts";
import { settings } from "../../../src/config/schema.ts";
import { loadFrom } from "../../support/config.ts";

const committed = readFileSync(new URL("../../../config.toml.example", import.meta.url), "utf8");

test("example: the committed file is what the schema gives", () => {
  expect(committed).toBe(exampleText());
});

test("example: loading it gives the defaults", () => {
  expect(loadFrom({ toml: committed }).config).toEqual(loadFrom({}).config);
});

test("example: every line held back is right, and every option that a file can set is there", () => {
  const toml = committed.replace(/^#(?=\S)/gm, "");
  const { config, origins } = loadFrom({ toml, argv: ["-etcd-endpoints=http://a"] });
  const fromFile = settings.filter(({ path }) => origins.get(path)?.startsWith("/c.toml:"));
  expect(fromFile.map(({ path }) => path)).toEqual(
    settings
      .map(({ path }) => path)
      .filter((path) => !["store.etcd.password", "store.etcd.endpoints"].includes(path)),
  );
  expect(config.network).toEqual({ Network: "10.5.0.0/16", SubnetLen: 24, Backend: { Type: "vxlan" } });
});

test("example: what has a default is shown with it", () => {
  const toml = committed.replace(/^#(?=\S)/gm, "");
  const shown = loadFrom({ toml }).config;
  const defaults = loadFrom({}).config;
  expect(shown.datapath).toEqual(defaults.datapath);
  expect({ ...shown.host, nodeId: defaults.host.nodeId }).toEqual(defaults.host);
  expect(shown.log).toEqual(defaults.log);
  expect(shown.store.etcd.endpoints).toEqual(defaults.store.etcd.endpoints);
  expect(shown.store.renewMargin).toBe(defaults.store.renewMargin);
});

test("example: no line is wider than 100 characters, no secret is offered", () => {
  expect(committed.split("\n").filter((line) => line.length > 100)).toEqual([]);
  expect(committed).not.toContain("\n#password =");
});
