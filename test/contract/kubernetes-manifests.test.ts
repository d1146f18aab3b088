import { describe, expect, test } from "bun:test";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseCniConfig } from "../../src/cni/config.ts";
import { parseInstallCni } from "../../src/command/install-cni.ts";
import { loadConfig } from "../../src/config/load.ts";
import { type NetworkConfig, parseNetworkConfig } from "../../src/config/network.ts";
import { parseVxlanOptions } from "../../src/backend/vxlan-options.ts";
import { parseConflist, shippedConflist } from "../../src/host/cni-conflist.ts";
import { version } from "../../src/version.ts";
import {
  chartChecksum,
  chartDirectory,
  chartScenarios,
  type KubeObject,
  manifestsDirectory,
  parseManifest,
} from "../support/chart.ts";
import { type Container, daemonSetOf, environmentOf } from "../support/daemon-set.ts";
import { readGolden } from "../support/golden.ts";
import { schemaProblems } from "../support/kube-schema.ts";

const manifest = readFileSync(join(manifestsDirectory, "flannel-lite.yml"), "utf8");

/** What kube-flannel.yml is made of (flannel's reference, §17.1). */
const flannelsObjects = [
  "Namespace /kube-flannel",
  "ServiceAccount kube-flannel/flannel",
  "ConfigMap kube-flannel/kube-flannel-cfg",
  "ClusterRole /flannel",
  "ClusterRoleBinding /flannel",
  "DaemonSet kube-flannel/kube-flannel-ds",
];

const names = (objects: readonly KubeObject[]) =>
  objects.map(({ kind, metadata }) => `${kind} ${metadata.namespace ?? ""}/${metadata.name}`);

function configOf(objects: readonly KubeObject[]): Readonly<Record<string, string>> {
  const found = objects.find(({ kind }) => kind === "ConfigMap");
  return found?.["data"] as Readonly<Record<string, string>>;
}

/** What the daemon makes of the arguments and the environment that its container gets. */
const loadedFrom = (container: Container) => {
  const [command, ...argv] = container.args ?? [];
  expect(command).toBe("run");
  return loadConfig({
    argv,
    env: environmentOf(container, { "spec.nodeName": "worker-7" }),
    readFile: () => {
      throw Object.assign(new Error("none"), { code: "ENOENT" });
    },
  });
};

test("the goldens are of the chart as it stands: make manifests renders them anew", () => {
  expect(readGolden("helm/checksum.txt")).toBe(`${chartChecksum()}\n`);
});

test.each(
  readdirSync(manifestsDirectory).filter((file) => /\.ya?ml$/.test(file) && file !== "kustomization.yaml"),
)("deploy/kubernetes/%s fits the API's types", (file) => {
  const objects = parseManifest(readFileSync(join(manifestsDirectory, file), "utf8"));
  expect(objects.length).toBeGreaterThan(0);
  expect(objects.flatMap(schemaProblems)).toEqual([]);
});

test("what the API's types do not have, or have otherwise, is found", () => {
  const object = { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "x", nmae: "y" }, data: { a: 1 } };
  expect(schemaProblems(object)).toEqual(["/data/a is wrong", "/metadata/nmae is no member of the type"]);
});

test("one release: chart, manifest, kustomization and program have the same version", () => {
  const chart = Bun.YAML.parse(readFileSync(join(chartDirectory, "Chart.yaml"), "utf8"));
  expect(chart).toMatchObject({ version, appVersion: version });
  const { pod } = daemonSetOf(parseManifest(manifest));
  const image = `flannel-lite:${version}`;
  expect([...pod.initContainers, ...pod.containers].map((container) => container.image)).toEqual([
    image,
    image,
    image,
  ]);
  const kustomization = readFileSync(join(manifestsDirectory, "kustomization.yaml"), "utf8");
  expect(Bun.YAML.parse(kustomization)).toMatchObject({
    resources: ["flannel-lite.yml"],
    images: [{ name: "flannel-lite", newTag: version }],
  });
});

describe("flannel-lite.yml", () => {
  const objects = parseManifest(manifest);

  test("has kube-flannel's objects, under its names and labels", () => {
    expect(names(objects)).toEqual(flannelsObjects);
    for (const { metadata } of objects) expect(metadata.labels).toMatchObject({ "k8s-app": "flannel" });
    const { object, template } = daemonSetOf(objects);
    const labels = { tier: "node", app: "flannel", "k8s-app": "flannel" };
    expect([object.metadata.labels, template.metadata.labels]).toEqual([labels, labels]);
    expect(object.spec.selector).toEqual({ matchLabels: { app: "flannel" } });
  });

  test("no container is privileged, and none has more than it is known to need", () => {
    const { pod } = daemonSetOf(objects);
    expect(pod.securityContext).toEqual({ seccompProfile: { type: "RuntimeDefault" } });
    expect(pod.hostPID).toBeUndefined();
    const added = Object.fromEntries(
      [...pod.initContainers, ...pod.containers].map(({ name, securityContext }) => {
        const { capabilities, ...rest } = securityContext;
        expect(rest).toEqual({
          privileged: false,
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
        });
        expect(capabilities.drop).toEqual(["ALL"]);
        return [name, capabilities.add];
      }),
    );
    expect(added).toEqual({
      "install-cni-plugin": ["DAC_OVERRIDE"],
      "install-cni": ["DAC_OVERRIDE"],
      "kube-flannel": ["NET_ADMIN", "NET_RAW"],
    });
  });

  test("what the daemon writes to is mounted from the host, for its root is read-only", () => {
    const { pod } = daemonSetOf(objects);
    const [container] = pod.containers;
    if (container === undefined) throw new Error("no container");
    const { config } = loadedFrom(container);
    const hostPaths = new Map(pod.volumes.map(({ name, hostPath }) => [name, hostPath?.path]));
    const mounted = container.volumeMounts.map(({ name, mountPath }) => [mountPath, hostPaths.get(name)]);
    expect(Object.fromEntries(mounted)).toEqual({
      "/run/flannel": "/run/flannel",
      "/etc/kube-flannel/": undefined,
      "/run/xtables.lock": "/run/xtables.lock",
      "/dev/net": "/dev/net",
      [config.host.runDir]: config.host.runDir,
      [config.host.stateDir]: config.host.stateDir,
    });
    expect(config.host.subnetFile).toStartWith("/run/flannel/");
    expect(config.kubernetes.netConfig).toStartWith("/etc/kube-flannel/");
  });
});

describe.each(chartScenarios)("chart, $name", ({ name, values, network }) => {
  const objects = parseManifest(readGolden(`helm/${name}.yml`));
  const { pod, object } = daemonSetOf(objects);
  const [main] = pod.containers;
  if (main === undefined) throw new Error("no container");

  test("kube-flannel's objects, which fit the API's types", () => {
    expect(names(objects)).toEqual(flannelsObjects.filter((each) => !each.startsWith("Namespace")));
    expect(objects.flatMap(schemaProblems)).toEqual([]);
    expect(object.spec.selector).toEqual({ matchLabels: { app: "flannel" } });
  });

  test("the network configuration is read as it is meant", () => {
    const plain = (config: NetworkConfig) => JSON.parse(JSON.stringify(config, text)) as unknown;
    const text = (_: string, value: unknown) => (typeof value === "bigint" ? `${value}` : value);
    const document = configOf(objects)["net-conf.json"] ?? "";
    expect(JSON.parse(document)).toEqual(network);
    const parsed = parseNetworkConfig(document);
    expect(plain(parsed)).toEqual(plain(parseNetworkConfig(JSON.stringify(network))));
    if (parsed.backend.type === "vxlan") expect(() => parseVxlanOptions(parsed.backend)).not.toThrow();
  });

  test("the daemon takes its arguments and its environment without a warning", () => {
    const { config, warnings } = loadedFrom(main);
    expect(warnings).toEqual([]);
    expect(config.store.type).toBe("kubernetes");
    expect(config.kubernetes.nodeName).toBeUndefined();
    expect(environmentOf(main, { "spec.nodeName": "worker-7" })["NODE_NAME"]).toBe("worker-7");
    expect(config.host.ipMasq).toBe(true);
    expect(config.health.port).toBe(main.ports?.[0]?.containerPort ?? 0);
    expect([main.livenessProbe, main.readinessProbe].map((probe) => probe?.httpGet.path)).toEqual(
      config.health.port === 0 ? [undefined, undefined] : ["/healthz", "/readyz"],
    );
    const isUdp = JSON.stringify(network).includes('"udp"');
    const expected = { engine: "auto", strict: "overlay", onStop: isUdp ? "keep" : "kernel" };
    const { lite = {} } = values as { lite?: { engine?: string; onStop?: string; strict?: string } };
    expect(config.datapath).toMatchObject({
      engine: lite.engine ?? expected.engine,
      strict: lite.strict ?? expected.strict,
      onStop: lite.onStop ?? expected.onStop,
    });
  });

  test("the CNI configuration is one that the plugin and its installer take", () => {
    const text = configOf(objects)["cni-conf.json"] ?? "";
    const conflist = parseConflist(text);
    const { cniConf = JSON.stringify(shippedConflist) } =
      (values as { flannel?: { cniConf?: string } }).flannel ?? {};
    expect(conflist).toEqual(JSON.parse(cniConf));
    const { plugins, ...list } = conflist as { plugins: readonly object[]; name: string };
    expect(parseCniConfig(JSON.stringify({ ...list, ...plugins[0] }))).toMatchObject({
      name: list.name,
      subnetFile: "/run/flannel/subnet.env",
    });
  });

  test("the init containers' commands are ours, or flannel's where its image is named", () => {
    const mounts = ({ volumeMounts }: Container) => volumeMounts.map(({ mountPath }) => mountPath);
    for (const container of pod.initContainers) {
      if (container.command !== undefined) {
        expect([...container.command, ...(container.args ?? [])].join(" ")).toBe(
          "cp -f /flannel /opt/cni/bin/flannel",
        );
        continue;
      }
      const [verb, what, ...argv] = container.args ?? [];
      expect([verb, what]).toEqual(["install", "cni"]);
      const request = parseInstallCni(argv);
      if (request === "help") throw new Error("no help");
      const isPlugin = container.name === "install-cni-plugin";
      expect(request).toMatchObject({
        ...{ pluginOnly: isPlugin, conflistOnly: !isPlugin, force: true },
        ...{ plugin: "/opt/cni/bin/flannel", confDir: "/etc/cni/net.d", name: "10-flannel.conflist" },
        conflist: isPlugin ? undefined : "/etc/kube-flannel/cni-conf.json",
      });
      expect(mounts(container)).toEqual(
        isPlugin ? ["/opt/cni/bin"] : ["/etc/cni/net.d", "/etc/kube-flannel/"],
      );
    }
  });
});
