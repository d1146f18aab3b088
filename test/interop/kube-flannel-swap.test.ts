import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import { chartDirectory, type KubeObject, manifestsDirectory } from "../support/chart.ts";
import { helmProgram, renderChart } from "../support/helm.ts";
import { type KubeApiserver, startKubeApiserver } from "../support/kube-apiserver.ts";

const sources = process.env["FLANNEL_SOURCES"] ?? "";
const flannelsChart = join(sources, "chart/kube-flannel");
const flannelsManifest = join(sources, "Documentation/kube-flannel.yml");
const ourManifest = join(manifestsDirectory, "flannel-lite.yml");
const kubectl = process.env["KUBECTL_BIN"] ?? "";

const objects = [
  "serviceaccount/flannel",
  "configmap/kube-flannel-cfg",
  "clusterrole/flannel",
  "clusterrolebinding/flannel",
  "daemonset/kube-flannel-ds",
];

/** What docs/migrating-from-flannel.md has people do to a cluster, on a real API server; no pods run there. */
describe("a cluster of kube-flannel", () => {
  let apiserver: KubeApiserver;
  beforeAll(async () => {
    apiserver = await startKubeApiserver();
  }, 120_000);
  afterAll(async () => {
    await apiserver?.[Symbol.asyncDispose]();
  });

  const access = () => ["--kubeconfig", apiserver.kubeconfig("admin")];
  const kube = (...words: string[]) => runProgram([kubectl, ...access(), ...words], 60_000);
  const setOf = async (namespace: string) =>
    JSON.parse(await kube("-n", namespace, "get", "daemonset", "kube-flannel-ds", "-o", "json")).spec;
  const onDelete = (namespace: string) =>
    kube(
      ...["-n", namespace, "patch", "daemonset", "kube-flannel-ds"],
      ...["-p", '{"spec":{"updateStrategy":{"type":"OnDelete"}}}'],
    );
  const imagesOf = (spec: { template: { spec: { containers: readonly { image: string }[] } } }) =>
    spec.template.spec.containers.map(({ image }) => image.replace(/:.*/, ""));
  const mayReadPods = async () => {
    const account = "--as=system:serviceaccount:kube-flannel:flannel";
    return (await tryProgram([kubectl, ...access(), "auth", "can-i", "get", "pods", account])).output.trim();
  };
  const underOnDelete = (spec: object) => ({
    ...spec,
    updateStrategy: expect.objectContaining({ type: "OnDelete" }),
  });

  /** All that either makes, in a namespace, as the API server has it; but for what tells one making from another. */
  const made = async (namespace: string) =>
    await Promise.all(
      objects.map(async (object) => {
        const text = await kube("-n", namespace, "get", object, "-o", "json");
        const { status: _, metadata, ...rest } = JSON.parse(text) as KubeObject & { status?: unknown };
        return { ...rest, metadata: { name: metadata.name, labels: metadata.labels } };
      }),
    );
  // Not the namespace: no controller is there that would let it go.
  const remove = (namespace: string) => kube("-n", namespace, "delete", "--wait=false", ...objects);

  test("by kubectl apply: the strategy stays, the way back leaves nothing of ours, old pods keep their right", async () => {
    const { output } = await renderChart(flannelsChart, {});
    const theirs = join(dirname(apiserver.kubeconfig("admin")), "kube-flannel.yml");
    writeFileSync(theirs, output);
    const ours = ourManifest;
    await kube("create", "namespace", "kube-flannel");
    await kube("apply", "-f", theirs);
    const before = await setOf("kube-flannel");
    expect(await mayReadPods()).toBe("yes");
    await onDelete("kube-flannel");
    await kube("create", "clusterrole", "flannel-swap", "--verb=get", "--resource=pods");
    await kube(
      ...["create", "clusterrolebinding", "flannel-swap", "--clusterrole=flannel-swap"],
      "--serviceaccount=kube-flannel:flannel",
    );
    await kube("apply", "-f", ours);
    const swapped = await setOf("kube-flannel");
    expect([imagesOf(swapped), swapped.updateStrategy.type]).toEqual([["flannel-lite"], "OnDelete"]);
    expect(await mayReadPods()).toBe("yes");
    await kube("apply", "-f", theirs);
    expect(await setOf("kube-flannel")).toEqual(underOnDelete(before));
    await kube("delete", "clusterrolebinding,clusterrole", "flannel-swap");
    expect(await mayReadPods()).toBe("yes");
    // Without the additional role it is our manifest that takes the right away.
    await kube("apply", "-f", ours);
    expect(await mayReadPods()).toBe("no");
    expect(await setOf("kube-flannel")).toEqual(swapped);
    await remove("kube-flannel");
  }, 120_000);

  test("by helm: an upgrade keeps values and strategy, a rollback leaves nothing of ours", async () => {
    const helm = (...words: string[]) =>
      runProgram([helmProgram(), ...access(), "--namespace", "by-helm", ...words], 60_000);
    await kube("create", "namespace", "by-helm");
    await helm("install", "flannel", flannelsChart, "--set", "podCidr=10.99.0.0/16");
    const before = await setOf("by-helm");
    await onDelete("by-helm");
    await helm("upgrade", "flannel", chartDirectory, "--reset-then-reuse-values");
    const swapped = await setOf("by-helm");
    expect([imagesOf(swapped), swapped.updateStrategy.type]).toEqual([["flannel-lite"], "OnDelete"]);
    const config = await kube("-n", "by-helm", "get", "configmap", "kube-flannel-cfg", "-o", "json");
    expect(JSON.parse(JSON.parse(config).data["net-conf.json"]).Network).toBe("10.99.0.0/16");
    await helm("rollback", "flannel", "1");
    expect(await setOf("by-helm")).toEqual(underOnDelete(before));
    await helm("uninstall", "flannel");
  }, 120_000);

  test("what kubectl apply makes of one manifest over the other is what it makes of that alone, both ways", async () => {
    const ours = "kube-flannel";
    await kube("apply", "-f", flannelsManifest);
    const theirs = await made(ours);
    await kube("apply", "-f", ourManifest);
    const swapped = await made(ours);
    await kube("apply", "-f", flannelsManifest);
    expect(await made(ours)).toEqual(theirs);
    await remove(ours);
    await kube("apply", "-f", ourManifest);
    expect(swapped).toEqual(await made(ours));
    await remove(ours);
  }, 120_000);

  test("so it is with helm upgrade; with the other chart's defaults it is refused and changes nothing", async () => {
    const namespace = "by-upgrade";
    const helm = (...words: string[]) => [helmProgram(), ...access(), "--namespace", namespace, ...words];
    const run = (...words: string[]) => runProgram(helm(...words), 60_000);
    const given = ["--set", "podCidr=10.42.0.0/16", "--set", "flannel.backend=host-gw"];
    await kube("create", "namespace", namespace);
    await run("install", "flannel", flannelsChart, ...given);
    const theirs = await made(namespace);
    const refused = await tryProgram(helm("upgrade", "flannel", chartDirectory, "--reuse-values"));
    expect([refused.code, refused.errors]).toEqual([1, expect.stringContaining("--reset-then-reuse-values")]);
    expect(await made(namespace)).toEqual(theirs);
    await run("upgrade", "flannel", chartDirectory, "--reset-then-reuse-values");
    const swapped = await made(namespace);
    await run("upgrade", "flannel", flannelsChart, "--reset-then-reuse-values");
    expect(await made(namespace)).toEqual(theirs);
    await run("uninstall", "flannel");
    await run("install", "flannel", chartDirectory, ...given);
    expect(swapped).toEqual(await made(namespace));
    await run("uninstall", "flannel");
  }, 120_000);
});
