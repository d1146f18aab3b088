import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import { chartDirectory, manifestsDirectory } from "../support/chart.ts";
import { helmProgram, renderChart } from "../support/helm.ts";
import { type KubeApiserver, startKubeApiserver } from "../support/kube-apiserver.ts";

const flannelsChart = process.env["KUBE_FLANNEL_CHART"] ?? "";
const kubectl = process.env["KUBECTL_BIN"] ?? "";

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

  test("by kubectl apply: the strategy stays, the way back leaves nothing of ours, old pods keep their right", async () => {
    const { output } = await renderChart(flannelsChart, {});
    const theirs = join(dirname(apiserver.kubeconfig("admin")), "kube-flannel.yml");
    writeFileSync(theirs, output);
    const ours = join(manifestsDirectory, "flannel-lite.yml");
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
    await kube("delete", "--wait=false", "-f", ours);
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
  }, 120_000);
});
