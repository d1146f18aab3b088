import { describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type LabHost, switchAddress } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import type { NodeObject } from "../support/kube-api.ts";
import { type KubeApiserver, startLabApiserver } from "../support/kube-apiserver.ts";
import { trafficThrough } from "../support/live-traffic.ts";
import { binary, type Daemon, overlayPerTest, pingSoon, transfer, vtepAddress } from "../support/overlay.ts";
import { hasBridgeFilter, podBridge, startStock, type StockDaemon } from "../support/stock-daemon.ts";

const engines = ["userspace", "kernel", "dgram"] as const;
/** flanneld 0.28 panics on a node that has none. */
const ofTheNodeController = { "node.alpha.kubernetes.io/ttl": "0" };
const prefix = "flannel.alpha.coreos.com/";

/** Two nodes with the rights of the shipped manifest; flanneld with -kube-subnet-mgr. */
describe("flanneld, leases in nodes", () => {
  const openOverlay = overlayPerTest();

  const openCluster = async () => {
    const net = await openOverlay(2);
    const [first, second] = net.lab.hosts;
    if (first === undefined || second === undefined) throw new Error("no hosts");
    const kube = await startLabApiserver(net);
    const netConfig = join(net.lab.directory, "net-conf.json");
    const nftables = !(await hasBridgeFilter(first));
    writeFileSync(
      netConfig,
      JSON.stringify({ Network: "10.244.0.0/16", EnableNFTables: nftables, Backend: { Type: "vxlan" } }),
    );
    for (const { number } of [first, second])
      await kube.createNode({
        name: `node-${number}`,
        podCidrs: [`10.244.${number}.0/24`],
        annotations: ofTheNodeController,
      });
    return { net, kube, first, second, netConfig };
  };
  type Cluster = Awaited<ReturnType<typeof openCluster>>;

  const subnetFileOf = ({ net }: Cluster, { number }: LabHost) =>
    join(net.lab.directory, `host${number}a/flannel/subnet.env`);

  const startTheirs = async (cluster: Cluster, host: LabHost): Promise<StockDaemon> => {
    const { net, kube, netConfig } = cluster;
    const stock = startStock(net.lab, host, {
      subnetFile: subnetFileOf(cluster, host),
      args: [
        ...["-kube-subnet-mgr", `-kubeconfig-file=${kube.kubeconfig("annotator")}`],
        ...[`-net-config-path=${netConfig}`, "-ip-masq"],
      ],
      env: { NODE_NAME: `node-${host.number}` },
    });
    await stock.ready();
    return stock;
  };

  const startOurs = async (
    { net, kube, netConfig }: Cluster,
    host: LabHost,
    engine: (typeof engines)[number],
  ): Promise<Daemon> => {
    const daemon = net.startDaemon(host, {
      engine,
      ...{ store: 'type = "kubernetes"', datapath: 'on_stop = "kernel"', host: "ip_masq = true" },
      more: `[kubernetes]\nkubeconfig = "${kube.kubeconfig("annotator")}"\nnet_config = "${netConfig}"\nnode_name = "node-${host.number}"\n`,
    });
    await daemon.ready(1);
    return daemon;
  };

  const annotationsOf = async (kube: KubeApiserver, host: LabHost) =>
    (await kube.getNode(`node-${host.number}`)).metadata.annotations ?? {};
  const conditionOf = ({ status }: NodeObject) => {
    const found = status.conditions?.find(({ type }) => type === "NetworkUnavailable");
    return found && { ...found, lastHeartbeatTime: "", lastTransitionTime: "" };
  };
  const vtepOf = ({ number }: LabHost) => `10.244.${number}.0`;

  test.each(engines)(
    "%s: one network with flanneld by its node, both ways; annotations and condition are flanneld's, field by field",
    async (engine) => {
      const cluster = await openCluster();
      const { net, kube, first, second } = cluster;
      await startTheirs(cluster, first);
      const daemon = await startOurs(cluster, second, engine);
      expect(vtepAddress(await daemon.report())).toBe(vtepOf(second));
      await pingSoon(second, vtepOf(second), vtepOf(first));
      await pingSoon(first, vtepOf(first), vtepOf(second));
      const [here, there] = [first, second].map((host) => ({ host, address: vtepOf(host) }));
      if (here === undefined || there === undefined) throw new Error("two ends");
      expect((await transfer(net.lab, here, there, 500)).intact).toBe(true);
      expect((await transfer(net.lab, there, here, 500)).intact).toBe(true);

      const [theirs, ours] = [await annotationsOf(kube, first), await annotationsOf(kube, second)];
      const shape = (annotations: Readonly<Record<string, string>>) =>
        JSON.parse(
          JSON.stringify(annotations)
            .replace(/10\.77\.0\.\d+/, "IP")
            .replace(/([0-9a-f]{2}:){5}[0-9a-f]{2}/, "MAC"),
        );
      expect(shape(ours)).toEqual(shape(theirs));
      expect([theirs[`${prefix}public-ip`], ours[`${prefix}public-ip`]]).toEqual([
        first.address,
        second.address,
      ]);
      const conditions = async () =>
        (await Promise.all([1, 2].map((number) => kube.getNode(`node-${number}`)))).map(conditionOf);
      for (
        const deadline = Date.now() + 20_000;
        (await conditions()).includes(undefined);
        await Bun.sleep(100)
      )
        if (Date.now() > deadline) throw new Error("no condition in 20 s");
      const [theirCondition, ourCondition] = await conditions();
      expect(ourCondition).toEqual(theirCondition);

      // What another tool writes to the peer's node is followed.
      await kube.annotate("node-1", { [`${prefix}public-ip`]: "10.77.0.99" });
      const peerIp = async () => (await daemon.report()).peers[0]?.publicIp;
      for (const deadline = Date.now() + 20_000; (await peerIp()) !== "10.77.0.99"; await Bun.sleep(50))
        if (Date.now() > deadline) throw new Error("the peer's address is not followed in 20 s");
    },
  );

  test.each(engines)(
    "%s: a node goes from flanneld to ours, by plan -from-flannel, and back, under a TCP connection that stays",
    async (engine) => {
      const cluster = await openCluster();
      const { net, kube, first, second, netConfig } = cluster;
      let live = await startTheirs(cluster, first);
      await startTheirs(cluster, second);
      const before = await annotationsOf(kube, first);
      const ends = [
        { host: first, address: await podBridge(first, "10.244.1.0/24") },
        { host: second, address: await podBridge(second, "10.244.2.0/24") },
      ] as const;
      await pingSoon(first, ends[0].address, ends[1].address);

      const planned = await tryProgram([
        ...["ip", "netns", "exec", first.namespace, binary, "plan", "-from-flannel", "-json"],
        ...[`-datapath-engine=${engine}`, `-cni-conf-dir=${net.lab.directory}/cni`],
      ]);
      expect([planned.code, planned.errors]).toEqual([0, ""]);
      const told = JSON.parse(planned.output);
      expect(told).toMatchObject({ flannel: { pid: live.child.pid }, notTakenOver: [], planTrouble: null });
      for (const line of [
        'type = "kubernetes"  # flanneld\'s flag -kube-subnet-mgr',
        `kubeconfig = "${kube.kubeconfig("annotator")}"  # flanneld's flag -kubeconfig-file`,
        `net_config = "${netConfig}"  # flanneld's flag -net-config-path`,
        'node_name = "node-1"  # flanneld\'s env NODE_NAME',
        "ip_masq = true  # flanneld's flag -ip-masq",
      ])
        expect(told.configToml).toContain(line);
      expect(told.plan.steps.join("\n")).toContain("route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink");

      const daemons: Daemon[] = [];
      const there = await trafficThrough(
        net.lab,
        ends,
        async () => {
          await live.child.end();
          daemons.push(await startOurs(cluster, first, engine));
        },
        5_000,
      );
      expect(there.flow.intact).toBe(true);
      expect(there.lostPings).toBeLessThan(150);
      expect(await annotationsOf(kube, first)).toEqual(before);

      const back = await trafficThrough(
        net.lab,
        ends,
        async () => {
          await daemons.at(-1)?.child.end();
          live = await startTheirs(cluster, first);
        },
        5_000,
      );
      expect(back.flow.intact).toBe(true);
      expect(back.lostPings).toBeLessThan(150);
      expect(await annotationsOf(kube, first)).toEqual(before);
      const route = await runProgram(["ip", "-n", first.namespace, "route", "show", "dev", "flannel.1"]);
      expect(route.trim()).toBe("10.244.2.0/24 via 10.244.2.0 onlink");
      process.stdout.write(
        `${engine}: pings of 10 ms lost: ${there.lostPings} from flanneld to ours, ${back.lostPings} back\n`,
      );
    },
  );

  test("plan -from-flannel beside a flanneld with a pod's files asks as that pod, and tells the same", async () => {
    const cluster = await openCluster();
    const { net, kube, first, second, netConfig } = cluster;
    await startTheirs(cluster, second);
    // Its node has flanneld's pod from this, as kube-flannel's manifest has it: it says no NODE_NAME.
    await kube.call("POST", "/api/v1/namespaces", { metadata: { name: "kube-flannel" } });
    const made = await kube.call("POST", "/api/v1/namespaces/kube-flannel/pods", {
      metadata: { name: "kube-flannel-ds-x7" },
      spec: { nodeName: "node-1", containers: [{ name: "kube-flannel", image: "flannel" }] },
    });
    expect([made.status, made.text]).toEqual([201, expect.any(String)]);
    // What kubelet mounts, in a mount namespace of its own, by links as kubelet makes them.
    const pod = join(net.lab.directory, "pod");
    mkdirSync(join(pod, "account"), { recursive: true });
    copyFileSync(netConfig, join(pod, "net-conf.json"));
    const { user, cluster: server } = readKubeconfig(kube.kubeconfig("flannel"));
    copyFileSync(server["certificate-authority"], join(pod, "account/ca.crt"));
    writeFileSync(join(pod, "account/token"), user.token);
    const mounts = [
      ...["mount -t tmpfs none /run", "mkdir -p /run/secrets/kubernetes.io"],
      ...['ln -s "$0/account" /run/secrets/kubernetes.io/serviceaccount', 'ln -s "$0/net-conf.json" /run'],
      'exec "$@"',
    ];
    const stock = startStock(net.lab, first, {
      subnetFile: subnetFileOf(cluster, first),
      wrap: ["unshare", "-m", "sh", "-c", mounts.join(" && "), pod],
      args: ["--kube-subnet-mgr", "--net-config-path=/run/net-conf.json", "--ip-masq"],
      env: {
        ...{ KUBERNETES_SERVICE_HOST: switchAddress, KUBERNETES_SERVICE_PORT: "6443" },
        ...{ POD_NAME: "kube-flannel-ds-x7", POD_NAMESPACE: "kube-flannel", EVENT_QUEUE_DEPTH: "5000" },
      },
    });
    await stock.ready();
    const { code, output, errors } = await tryProgram([
      ...["ip", "netns", "exec", first.namespace, binary, "plan", "-from-flannel"],
      ...["-datapath-engine=kernel", `-cni-conf-dir=${pod}`, `-cni-bin-dir=${pod}`],
    ]);
    expect([code, errors]).toEqual([0, ""]);
    const lines = output.split("\n");
    for (const line of [
      "#               -kube-subnet-mgr=true",
      "#   leases      kubernetes of the cluster that this pod is in",
      'type = "kubernetes"  # flanneld\'s flag -kube-subnet-mgr',
      'net_config = "/run/net-conf.json"  # flanneld\'s flag -net-config-path',
      "~ route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
      "# flannel.1 is flannel's: it is taken over as it stands, without a gap",
      `+ file ${pod}/flannel`,
      "# EVENT_QUEUE_DEPTH has no effect",
      "# the service account of flanneld's pod: a flannel-lite outside of a pod takes kubernetes.kubeconfig",
      "# the node's name, which flanneld has by POD_NAME: a flannel-lite outside of a pod takes kubernetes.node_name",
    ])
      expect(lines).toContain(line);
    expect(output).not.toContain(user.token);
  });
});

function readKubeconfig(path: string) {
  const { users, clusters } = JSON.parse(readFileSync(path, "utf8")) as {
    users: [{ user: { token: string } }];
    clusters: [{ cluster: { "certificate-authority": string } }];
  };
  return { user: users[0].user, cluster: clusters[0].cluster };
}
