import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { tryProgram } from "../../src/demo/process.ts";
import { chartDirectory, type KubeObject, manifestsDirectory } from "../support/chart.ts";
import { helmProgram } from "../support/helm.ts";
import { type KubeApiserver, startKubeApiserver } from "../support/kube-apiserver.ts";

const sources = process.env["FLANNEL_SOURCES"] ?? "";
const kubectlProgram = process.env["KUBECTL_BIN"] ?? "";
const flannelsManifest = join(sources, "Documentation/kube-flannel.yml");
const flannelsChart = join(sources, "chart/kube-flannel");
const ourManifest = join(manifestsDirectory, "flannel-lite.yml");

let apiserver: KubeApiserver;

const run = (command: readonly string[]) =>
  tryProgram(["env", `KUBECONFIG=${apiserver.kubeconfig("admin")}`, "HOME=/nonexistent", ...command]);

async function succeed(...command: string[]): Promise<string> {
  const { code, output, errors } = await run(command);
  if (code !== 0) throw new Error(`${command.join(" ")}: ${errors}`);
  return output;
}

const kubectl = (...args: string[]) => succeed(kubectlProgram, ...args);
const helm = (...args: string[]) => succeed(helmProgram(), ...args);
const inNamespace = ["--namespace", "kube-flannel"];

const kinds = [
  ["serviceaccount", "flannel"],
  ["configmap", "kube-flannel-cfg"],
  ["clusterrole", "flannel"],
  ["clusterrolebinding", "flannel"],
  ["daemonset", "kube-flannel-ds"],
] as const;

/** The objects as the API server has them, but for what tells one making of them from another. */
async function live(): Promise<Record<string, unknown>[]> {
  return await Promise.all(
    kinds.map(async ([kind, name]) => {
      const text = await kubectl("get", ...inNamespace, kind, name, "--output", "json");
      const { status: _, metadata, ...rest } = JSON.parse(text) as KubeObject & { status?: unknown };
      return { ...rest, metadata: { name: metadata.name, labels: metadata.labels } };
    }),
  );
}

beforeAll(async () => {
  apiserver = await startKubeApiserver(["--allow-privileged=true"]);
  await kubectl("create", "namespace", "kube-flannel");
}, 120_000);

// Not the namespace, which takes a controller to vanish.
afterEach(async () => {
  for (const [kind, name] of kinds)
    await kubectl("delete", ...inNamespace, "--ignore-not-found", "--cascade=background", kind, name);
});

afterAll(async () => {
  await apiserver?.[Symbol.asyncDispose]();
});

describe("kubectl apply over kube-flannel's manifest", () => {
  test("leaves nothing of flannel's, and back again nothing of ours", async () => {
    await kubectl("apply", "-f", flannelsManifest);
    const theirs = await live();
    await kubectl("apply", "-f", ourManifest);
    const switched = await live();
    await kubectl("apply", "-f", flannelsManifest);
    const back = await live();
    for (const [kind, name] of kinds)
      await kubectl("delete", ...inNamespace, "--cascade=background", kind, name);
    await kubectl("apply", "-f", ourManifest);
    expect(switched).toEqual(await live());
    expect(back).toEqual(theirs);
  }, 60_000);
});

describe("helm upgrade of a release of kube-flannel's chart", () => {
  afterEach(async () => void (await run([helmProgram(), "uninstall", ...inNamespace, "flannel"])));

  const given = ["--set", "podCidr=10.42.0.0/16", "--set", "flannel.backend=host-gw"];

  test("keeps the values that were given, leaves nothing of flannel's, and back again nothing of ours", async () => {
    await helm("install", ...inNamespace, "flannel", flannelsChart, ...given);
    const theirs = await live();
    await helm("upgrade", ...inNamespace, "flannel", chartDirectory, "--reset-then-reuse-values");
    const switched = await live();
    await helm("upgrade", ...inNamespace, "flannel", flannelsChart, "--reset-then-reuse-values");
    expect(await live()).toEqual(theirs);
    await helm("uninstall", ...inNamespace, "flannel");
    await helm("install", ...inNamespace, "flannel", chartDirectory, ...given);
    expect(switched).toEqual(await live());
  }, 60_000);

  test("with the other chart's defaults is refused, and changes nothing", async () => {
    await helm("install", ...inNamespace, "flannel", flannelsChart, ...given);
    const theirs = await live();
    const { code, errors } = await run([
      ...[helmProgram(), "upgrade", ...inNamespace, "flannel", chartDirectory, "--reuse-values"],
    ]);
    expect(code).toBe(1);
    expect(errors).toContain("--reset-then-reuse-values");
    expect(await live()).toEqual(theirs);
  }, 60_000);
});
