import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { manifestsDirectory, parseManifest } from "../support/chart.ts";
import { schemaProblems } from "../support/kube-schema.ts";

const kubectl = process.env["KUBECTL_BIN"] ?? "";

test("kubectl kustomize gives the manifest's objects, and they fit the API's types", async () => {
  const child = Bun.spawn([kubectl, "kustomize", manifestsDirectory], { stdout: "pipe", stderr: "pipe" });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  expect([await child.exited, errors]).toEqual([0, ""]);
  const byKind = (text: string) => parseManifest(text).sort((one, other) => (one.kind < other.kind ? -1 : 1));
  const built = byKind(output);
  expect(built.flatMap(schemaProblems)).toEqual([]);
  expect(built).toEqual(byKind(readFileSync(join(manifestsDirectory, "flannel-lite.yml"), "utf8")));
});
