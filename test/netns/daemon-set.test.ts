import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { chownSync, copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inside, type LabHost, switchAddress } from "../../src/demo/lab.ts";
import type { Child } from "../../src/demo/process.ts";
import { readReport } from "../../src/status/admin-socket.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { openCertificates } from "../support/certificates.ts";
import { manifestsDirectory, parseManifest } from "../support/chart.ts";
import { type Containers, imageRefused, openContainers } from "../support/container.ts";
import { readGolden } from "../support/golden.ts";
import type { SeenRequest } from "../support/kube-api.ts";
import { type KubeProcess, startKubeProcess } from "../support/kube-process.ts";
import { type Kubelet, openKubelet } from "../support/kubelet.ts";
import {
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";
import { seccompRefused } from "../support/seccomp.ts";

const refused = overlayRefused() ?? imageRefused() ?? seccompRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/daemon-set.test.ts: ${refused}`);

const manifest = readFileSync(join(manifestsDirectory, "flannel-lite.yml"), "utf8");
const token = "a-pods-token";

/** A node that runs the DaemonSet's pod. */
interface Node {
  readonly host: LabHost;
  readonly kubelet: Kubelet;
  pod: Child;
  report(): Promise<StatusReport>;
}

describe.skipIf(refused !== undefined)("DaemonSet", () => {
  let containers: Containers;
  let net: TestOverlay | undefined;

  beforeAll(async () => {
    containers = await openContainers();
  }, 60_000);

  afterEach(async () => {
    await net?.[Symbol.asyncDispose]();
    net = undefined;
  });

  afterAll(async () => {
    await containers?.[Symbol.asyncDispose]();
  });

  /** An API server that pods reach by their service account, as in a cluster. */
  const cluster = (overlay: TestOverlay): { start: () => Promise<KubeProcess>; ca: string } => {
    using certificates = openCertificates();
    const ca = readFileSync(certificates.authority("ca"), "utf8");
    const pair = certificates.issue("apiserver", { by: "ca", names: `IP:${switchAddress}` });
    const tls = { cert: readFileSync(pair.cert, "utf8"), key: readFileSync(pair.key, "utf8") };
    return { start: () => startKubeProcess(overlay.lab, switchAddress, { tls, tokens: [token] }), ca };
  };

  const ready = async (node: Node, peers = 1): Promise<StatusReport> => {
    let last: StatusReport | undefined;
    for (const deadline = Date.now() + 30_000; Date.now() < deadline; await Bun.sleep(50)) {
      last = await node.report().catch(() => undefined);
      if (last?.ready === true && last.settled && last.peers.length === peers && last.missing.length === 0)
        return last;
    }
    throw new Error(`${node.host.namespace}: ${JSON.stringify(last)}\n${node.pod.errorTail()}`);
  };

  const probe = async ({ host }: Node, path: string, address = host.address) =>
    await inside(host.namespace, [
      ...["curl", "--silent", "--max-time", "5", "--write-out", " %{http_code}"],
      `http://${address}:8081${path}`,
    ]);

  /** A host as a node of the cluster, its pod not started yet. `hasTun`: else its /dev/net is empty. */
  const kubeletOf = (host: LabHost, ca: string, text: string, hasTun = true): Kubelet =>
    openKubelet({
      ...{ containers, host, nodeName: `node-${host.number}`, manifest: text, port: 6443, token, ca },
      directory: join(containers.directory, host.namespace),
      real: hasTun ? ["/dev/net"] : [],
    });

  const startNode = async (host: LabHost, kubelet: Kubelet): Promise<Node> => {
    const report = () => readReport(kubelet.hostPath("/run/flannel-lite"));
    return { host, kubelet, pod: await kubelet.startPod(), report };
  };

  test("by its manifest alone, in containers as it asks for: two nodes, one without a TUN; between two pods of a node traffic flows", async () => {
    const overlay = await openTestOverlay(2);
    net = overlay;
    const { start, ca } = cluster(overlay);
    const kube = await start();
    const nodes: Node[] = [];
    for (const host of overlay.lab.hosts) {
      await kube.call("createNode", {
        name: `node-${host.number}`,
        podCidrs: [`10.244.${host.number}.0/24`],
        networkUnavailable: "True",
      });
      const kubelet = kubeletOf(host, ca, manifest, host.number === 1);
      // A cluster that ran kube-flannel, on nodes whose installer gave the plugins to a user of their own.
      const plugins = kubelet.hostPath("/opt/cni/bin");
      writeFileSync(join(plugins, "flannel"), "flannel's own", { mode: 0o755 });
      chownSync(plugins, 1000, 1000);
      nodes.push(await startNode(host, kubelet));
    }
    const [first, second] = nodes;
    if (first === undefined || second === undefined) throw new Error("two nodes");

    const reports = [await ready(first), await ready(second)] as const;
    expect(reports.map(({ engine }) => engine?.name)).toEqual(["userspace", "kernel"]);
    expect(reports[1].engine?.reason).toContain("/dev/net/tun does not open: it is not there");
    const ends = [
      { host: first.host, address: vtepAddress(reports[0]) },
      { host: second.host, address: vtepAddress(reports[1]) },
    ] as const;
    await ping(first.host, ends[1].address);
    await ping(second.host, ends[0].address);
    expect((await transfer(overlay.lab, ...ends)).intact).toBe(true);

    // What the manifest's probes and the CNI plugin's caller find.
    expect([await probe(first, "/healthz"), await probe(second, "/readyz")]).toEqual([
      "flanneld is running 200",
      "flanneld is ready 200",
    ]);
    expect(readFileSync(first.kubelet.hostPath("/run/flannel/subnet.env"), "utf8")).toContain(
      "FLANNEL_SUBNET=10.244.1.1/24",
    );
    const conflist = first.kubelet.hostPath("/etc/cni/net.d/10-flannel.conflist");
    expect(JSON.parse(readFileSync(conflist, "utf8"))).toMatchObject({ name: "cbr0" });
    const plugin = first.kubelet.hostPath("/opt/cni/bin/flannel");
    const asked = Bun.spawnSync([plugin], {
      env: { CNI_COMMAND: "VERSION" },
      stdin: new TextEncoder().encode('{"cniVersion":"1.1.0"}'),
    });
    expect(JSON.parse(asked.stdout.toString())).toMatchObject({ supportedVersions: expect.any(Array) });
    const rules = await inside(first.host.namespace, ["iptables-save"]);
    expect(rules).toContain("-A FLANNEL-POSTRTG");

    // As an update does to a pod: SIGTERM, some time in which there is none, the next one.
    await first.pod.end(30_000);
    expect(await first.pod.exited).toBe(0);
    await ping(second.host, ends[0].address);
    expect((await transfer(overlay.lab, ...ends)).intact).toBe(true);
    first.pod = await first.kubelet.startPod();
    const again = await ready(first);
    expect(again.engine?.name).toBe("userspace");
    expect(again.lease?.vtepMac).toBe(reports[0].lease?.vtepMac ?? "none");
    expect((await transfer(overlay.lab, ...ends)).intact).toBe(true);

    const condition = (await kube.getNode("node-1")).status.conditions?.[0];
    expect(condition).toMatchObject({ type: "NetworkUnavailable", status: "False", reason: "FlannelIsUp" });
    expect(await kube.refused()).toEqual([]);
    expect(rightsUsed(await kube.requests())).toEqual(rightsGiven());
    for (const { pod } of nodes) await pod.end(30_000);

    // What a deleted DaemonSet leaves, the plugin takes away, which is the whole program.
    const links = async () => await inside(first.host.namespace, ["ip", "-o", "link"]);
    expect(await links()).toContain(" flannel.1:");
    const config = join(overlay.lab.directory, "none.toml");
    writeFileSync(config, "");
    await inside(first.host.namespace, [
      ...[plugin, "cleanup", "-config", config],
      ...["-host-run-dir", first.kubelet.hostPath("/run/flannel-lite")],
      ...["-host-state-dir", first.kubelet.hostPath("/var/lib/flannel-lite")],
      ...["-subnet-file", first.kubelet.hostPath("/run/flannel/subnet.env")],
    ]);
    expect(await links()).not.toContain(" flannel.1:");
    await inside(first.host.namespace, [
      ...[plugin, "install", "cni", "-remove", "-root", first.kubelet.hostPath("/")],
    ]);
    expect([existsSync(plugin), existsSync(conflist)]).toEqual([false, false]);
  }, 120_000);

  test("while the API server is away its pod is alive but not ready, saying why; then it is", async () => {
    const overlay = await openTestOverlay(1);
    net = overlay;
    const { start, ca } = cluster(overlay);
    const [host] = overlay.lab.hosts;
    if (host === undefined) throw new Error("one host");
    const node = await startNode(host, kubeletOf(host, ca, manifest));
    const answers = async (path: string, holds: (answer: string) => boolean) => {
      let last: string | undefined;
      for (const deadline = Date.now() + 30_000; Date.now() < deadline; await Bun.sleep(50)) {
        last = await probe(node, path).catch(() => undefined);
        if (last !== undefined && holds(last)) return;
      }
      throw new Error(`${path}: ${last}\n${node.pod.errorTail()}`);
    };
    await answers("/healthz", (answer) => answer === "flanneld is running 200");
    await answers("/readyz", (answer) => /^flanneld is not ready yet\n.+ 503$/s.test(answer));
    const kube = await start();
    await kube.call("createNode", { name: "node-1", podCidrs: ["10.244.1.0/24"] });
    await ready(node, 0);
    await answers("/readyz", (answer) => answer === "flanneld is ready 200");
    await node.pod.end(30_000);
  }, 90_000);

  test("with hostPID a flanneld that runs on the host is named; once it has ended our own values count", async () => {
    const overlay = await openTestOverlay(1);
    net = overlay;
    const { start, ca } = cluster(overlay);
    const kube = await start();
    const [host] = overlay.lab.hosts;
    if (host === undefined) throw new Error("one host");
    await kube.call("createNode", { name: "node-1", podCidrs: ["10.244.1.0/24"] });
    const flanneld = join(overlay.lab.directory, "flanneld");
    copyFileSync("/bin/sleep", flanneld);
    const other = overlay.lab.start(host.namespace, [flanneld, "600"]);
    const kubelet = kubeletOf(host, ca, readGolden("helm/lite.yml"));
    const refused = await startNode(host, kubelet);
    expect(await refused.pod.exited).toBe(1);
    expect(refused.pod.errorTail()).toContain(`(pid ${other.pid})`);
    await other.end(0);

    const node = await startNode(host, kubelet);
    expect((await ready(node, 0)).engine?.name).toBe("kernel");
    const metrics = await inside(host.namespace, ["curl", "--silent", `http://${host.address}:9091/metrics`]);
    expect(metrics).toContain("\nflannel_lite_");
    const log = node.pod.errorTail().trim().split("\n").at(-1) ?? "";
    expect(JSON.parse(log)).toBeObject();
    await node.pod.end(30_000);
  }, 90_000);

  test.each([
    ["dual-stack", ["10.42", "fd00:10:244:"]],
    ["host-gw", ["10.244"]],
    ["udp", ["10.244"]],
  ] as const)(
    "the chart's pods with other values: %s",
    async (values, [network, networkV6]) => {
      const overlay = await openTestOverlay(2);
      net = overlay;
      const { start, ca } = cluster(overlay);
      const kube = await start();
      const nodes: Node[] = [];
      for (const host of overlay.lab.hosts) {
        const { number } = host;
        const ipv6 = networkV6 === undefined ? [] : [`${networkV6}${number}::/64`];
        const podCidrs = [`${network}.${number}.0/24`, ...ipv6];
        await kube.call("createNode", { name: `node-${number}`, podCidrs });
        nodes.push(await startNode(host, kubeletOf(host, ca, readGolden(`helm/${values}.yml`))));
      }
      const [first, second] = nodes;
      if (first === undefined || second === undefined) throw new Error("two nodes");
      await Promise.all([ready(first), ready(second)]);
      for (const family of networkV6 === undefined ? ([4] as const) : ([4, 6] as const)) {
        const [from, to] = nodes.map((node) => podAddress(node, family)) as [string, string];
        await inside(first.host.namespace, ["ip", "address", "add", from, "dev", "lo"]);
        await inside(second.host.namespace, ["ip", "address", "add", to, "dev", "lo"]);
        await ping(first.host, to, ["-I", from]);
      }
      const probed = networkV6 === undefined ? first.host.address : `[${first.host.addressV6}]`;
      expect(await probe(first, "/readyz", probed)).toBe("flanneld is ready 200");
      expect(await kube.refused()).toEqual([]);
      for (const { pod } of nodes) await pod.end(30_000);
    },
    90_000,
  );
});

/** What subnet.env gives to the bridge of the host's pods. */
function podAddress({ kubelet }: Node, family: 4 | 6): string {
  const text = readFileSync(kubelet.hostPath("/run/flannel/subnet.env"), "utf8");
  const name = family === 4 ? "FLANNEL_SUBNET" : "FLANNEL_IPV6_SUBNET";
  const subnet = new RegExp(`^${name}=(.*)/`, "m").exec(text)?.[1];
  if (subnet === undefined) throw new Error(`no ${name} in ${text}`);
  return subnet;
}

/** `verb resource`, as the API server asks its authorizer for each request. */
function rightsUsed(requests: readonly SeenRequest[]): string[] {
  const rights = requests.map(({ method, path, query }) => {
    const [, , , resource = "", name, subresource] = path.split("/");
    const what = subresource === undefined ? resource : `${resource}/${subresource}`;
    if (method === "PATCH") return `patch ${what}`;
    if (method !== "GET") return `${method} ${what}`;
    if (query["watch"] === "true") return `watch ${what}`;
    return `${name === undefined ? "list" : "get"} ${what}`;
  });
  return [...new Set(rights)].sort();
}

function rightsGiven(): string[] {
  const role = parseManifest(manifest).find(({ kind }) => kind === "ClusterRole");
  const rules = role?.["rules"] as readonly { resources: readonly string[]; verbs: readonly string[] }[];
  return rules
    .flatMap(({ resources, verbs }) =>
      resources.flatMap((resource) => verbs.map((verb) => `${verb} ${resource}`)),
    )
    .sort();
}
