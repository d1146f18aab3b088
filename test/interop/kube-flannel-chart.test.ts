import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { parseNetworkConfig } from "../../src/config/network.ts";
import { chartDirectory, chartScenarios, type KubeObject, parseManifest } from "../support/chart.ts";
import { daemonSetOf } from "../support/daemon-set.ts";
import { renderChart } from "../support/helm.ts";

const flannelsChart = join(process.env["FLANNEL_SOURCES"] ?? "", "chart/kube-flannel");
const flannels = chartScenarios.filter(({ isFlannels }) => isFlannels);

describe("beside kube-flannel's chart", () => {
  const both = async (values: object) => {
    const [theirs, ours] = await Promise.all([
      renderChart(flannelsChart, values),
      renderChart(chartDirectory, values),
    ]);
    expect([theirs.code, ours.code]).toEqual([0, 0]);
    return { theirs: parseManifest(theirs.output), ours: parseManifest(ours.output) };
  };
  const name = ({ apiVersion, kind, metadata }: KubeObject) =>
    `${apiVersion} ${kind} ${metadata.namespace ?? ""}/${metadata.name}`;

  test.each(flannels)("$name: the same objects under the same names and labels", async ({ values }) => {
    const { theirs, ours } = await both(values);
    expect(ours.map(name).sort()).toEqual(theirs.map(name).sort());
    for (const object of theirs)
      expect(ours.find((own) => name(own) === name(object))?.metadata.labels).toMatchObject(
        object.metadata.labels ?? {},
      );
  });

  test.each(flannels)("$name: the same settings", async ({ values }) => {
    const { theirs, ours } = await both(values);
    expect(settingsOf(ours)).toEqual(settingsOf(theirs));
    expect(podOf(ours).selector).toEqual(podOf(theirs).selector);
    // What we mount beside theirs is our own.
    expect(podOf(ours).volumes).toMatchObject(podOf(theirs).volumes);
  });
});

function podOf(objects: readonly KubeObject[]) {
  const { object, pod } = daemonSetOf(objects);
  return {
    pod,
    selector: object.spec.selector,
    volumes: Object.fromEntries(pod.volumes.map(({ name, hostPath }) => [name, hostPath?.path ?? "other"])),
  };
}

/** What a cluster gets of either chart, but for what only the programs differ in. */
function settingsOf(objects: readonly KubeObject[]) {
  const config = objects.find(({ kind }) => kind === "ConfigMap") as unknown as {
    data: Readonly<Record<string, string>>;
  };
  const { pod } = podOf(objects);
  const { affinity, hostNetwork, hostPID, priorityClassName, tolerations, nodeSelector } = pod;
  const { serviceAccountName, imagePullSecrets } = pod;
  const [main, ...sidecars] = pod.containers;
  if (main === undefined) throw new Error("no container");
  const { ports, livenessProbe, readinessProbe, resources } = main;
  const program = ["/opt/bin/flanneld", "run"];
  return {
    network: parseNetworkConfig(config.data["net-conf.json"] ?? ""),
    cni: JSON.parse(config.data["cni-conf.json"] ?? "") as unknown,
    ...{ affinity, hostNetwork, hostPID, priorityClassName, tolerations, nodeSelector },
    ...{ serviceAccountName, imagePullSecrets },
    init: pod.initContainers.map(({ name }) => name),
    main: {
      name: main.name,
      args: [...(main.command ?? []), ...(main.args ?? [])].filter((word) => !program.includes(word)),
      ...{ ports, livenessProbe, readinessProbe, resources },
    },
    sidecars,
  };
}
