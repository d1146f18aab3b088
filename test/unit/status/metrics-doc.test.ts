import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { metrics, metricsPrefix } from "../../../src/status/metrics.ts";
import { metricsDocument } from "../../../src/status/metrics-doc.ts";

const document = readFileSync(new URL("../../../docs/metrics.md", import.meta.url), "utf8");

test("metrics document: the committed file is what the list gives", () => {
  expect(document).toBe(metricsDocument());
});

test("metrics document: what it names exists", () => {
  const known = new Set(metrics.map(({ name }) => metricsPrefix + name));
  const named = document.match(/flannel_lite_\w+/g) ?? [];
  expect(named.filter((name) => !known.has(name))).toEqual([]);
});
