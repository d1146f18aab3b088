import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { version } from "../../src/version.ts";
import { manifestsDirectory, parseManifest } from "../support/chart.ts";
import { daemonSetOf } from "../support/daemon-set.ts";
import { schemaProblems } from "../support/kube-schema.ts";

const kubectl = process.env["KUBECTL_BIN"] ?? "";

async function kustomize(directory: string): Promise<string> {
  const child = Bun.spawn([kubectl, "kustomize", directory], { stdout: "pipe", stderr: "pipe" });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  expect([await child.exited, errors]).toEqual([0, ""]);
  return output;
}

test("the kustomization of docs/kubernetes.md takes the image from a registry", async () => {
  const overlay = mkdtempSync(join(tmpdir(), "fl-kustomize-"));
  try {
    const base = relative(realpathSync(overlay), realpathSync(manifestsDirectory));
    const docs = readFileSync(join(manifestsDirectory, "../../docs/kubernetes.md"), "utf8");
    const shown = [...docs.matchAll(/^ {4}((?:resources|images): .*)$/gm)].map(([, line]) => line).join("\n");
    expect(shown).toContain("../path/to/deploy/kubernetes");
    writeFileSync(join(overlay, "kustomization.yaml"), shown.replace("../path/to/deploy/kubernetes", base));
    const { pod } = daemonSetOf(parseManifest(await kustomize(overlay)));
    const images = [...pod.initContainers, ...pod.containers].map(({ image }) => image);
    expect(new Set(images)).toEqual(new Set([`registry.example/flannel-lite:${version}`]));
  } finally {
    rmSync(overlay, { recursive: true, force: true });
  }
});

test("kubectl kustomize gives the manifest's objects, and they fit the API's types", async () => {
  const output = await kustomize(manifestsDirectory);
  const byKind = (text: string) => parseManifest(text).sort((one, other) => (one.kind < other.kind ? -1 : 1));
  const built = byKind(output);
  expect(built.flatMap(schemaProblems)).toEqual([]);
  expect(built).toEqual(byKind(readFileSync(join(manifestsDirectory, "flannel-lite.yml"), "utf8")));
});
