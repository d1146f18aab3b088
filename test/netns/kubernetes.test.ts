import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inside } from "../../src/demo/lab.ts";
import { type KubeProcess, startKubeProcess } from "../support/kube-process.ts";
import {
  type Daemon,
  type DaemonOptions,
  hostOf,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/kubernetes.test.ts: ${refused}`);

const netConf = '{"Network":"10.244.0.0/16","EnableNFTables":false,"Backend":{"Type":"vxlan"}}';
const prefix = "flannel.alpha.coreos.com/";

describe.skipIf(refused !== undefined)("kubernetes", () => {
  let open: TestOverlay | undefined;

  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const cluster = async (hosts: number): Promise<{ net: TestOverlay; kube: KubeProcess }> => {
    const net = await openTestOverlay(hosts);
    open = net;
    const kube = await startKubeProcess(net.lab);
    writeFileSync(join(net.lab.directory, "net-conf.json"), netConf);
    return { net, kube };
  };

  /** A daemon whose node is `node-N`, with its leases in the nodes. */
  const startInNodes = (
    net: TestOverlay,
    kube: KubeProcess,
    number: number,
    options: Partial<DaemonOptions> = {},
  ): Daemon =>
    net.startDaemon(hostOf(net, number), {
      engine: "auto",
      store: 'type = "kubernetes"',
      more: `[kubernetes]\napi_url = "${kube.url}"\nnet_config = "${net.lab.directory}/net-conf.json"\n${number === 1 ? 'node_name = "node-1"\n' : ""}`,
      env: number === 1 ? {} : { NODE_NAME: `node-${number}` },
      ...options,
    });

  const until = async (what: string, holds: () => Promise<boolean>) => {
    for (const deadline = Date.now() + 20_000; Date.now() < deadline; await Bun.sleep(50))
      if (await holds()) return;
    throw new Error(`not ${what} in 20 s`);
  };

  test.each([["userspace"], ["kernel"]] as const)(
    "three hosts with leases in their nodes carry traffic: %s",
    async (engine) => {
      const { net, kube } = await cluster(3);
      for (const number of [1, 2, 3])
        await kube.call("createNode", {
          name: `node-${number}`,
          // The first subnet of the network is a node's like any other.
          podCidrs: [`10.244.${number - 1}.0/24`],
          networkUnavailable: "True",
        });
      const daemons = [1, 2, 3].map((number) => startInNodes(net, kube, number, { engine }));
      const reports = await Promise.all(daemons.map((daemon) => daemon.ready(2)));
      expect(reports.map(({ lease }) => lease?.subnets)).toEqual([
        ["10.244.0.0/24"],
        ["10.244.1.0/24"],
        ["10.244.2.0/24"],
      ]);
      const ends = reports.map((report, at) => ({
        host: hostOf(net, at + 1),
        address: vtepAddress(report),
      }));
      for (const from of ends) {
        for (const to of ends) {
          if (from === to) continue;
          await ping(from.host, to.address);
        }
      }
      const [first, second] = ends;
      if (first === undefined || second === undefined) throw new Error("two ends");
      expect((await transfer(net.lab, first, second)).intact).toBe(true);
      expect(readFileSync(daemons[0]?.subnetFile ?? "", "utf8")).toContain("FLANNEL_SUBNET=10.244.0.1/24");

      const node = await kube.getNode("node-2");
      const mac = daemons[1] && (await daemons[1].report()).lease?.vtepMac;
      expect(node.metadata.annotations).toEqual({
        [`${prefix}kube-subnet-manager`]: "true",
        [`${prefix}backend-type`]: "vxlan",
        [`${prefix}backend-data`]: `{"VNI":1,"VtepMAC":"${mac}"}`,
        [`${prefix}public-ip`]: hostOf(net, 2).address,
      });
      await until("available", async () => {
        const { status } = await kube.getNode("node-2");
        return status.conditions?.[0]?.["reason"] === "FlannelIsUp";
      });
      const [daemon] = daemons;
      if (daemon === undefined) throw new Error("no daemon");
      const listed = await net.run(daemon, "leases");
      expect(listed.output).toMatch(/10\.244\.2\.0\/24 .* vxlan +never +node-3\n# 3 leases in kubernetes /);
      const planned = await net.run(daemon, "plan");
      expect([planned.code, planned.errors]).toEqual([0, expect.any(String)]);
      expect(planned.output).toMatch(/^# \d+ changes, engine /m);
      const released = await net.run(daemon, "leases", "release", "10.244.2.0/24", "--force");
      expect([released.code, released.errors]).toEqual([
        2,
        expect.stringContaining("kubectl delete node node-3"),
      ]);
      expect(await kube.refused()).toEqual([]);
    },
    90_000,
  );

  test.each([
    ["userspace", "dual-stack", [4, 6]],
    ["kernel", "dual-stack", [4, 6]],
    ["userspace", "IPv6 alone", [6]],
    ["kernel", "IPv6 alone", [6]],
  ] as const)(
    "%s, %s: each family over its own, published as flannel does",
    async (engine, _, families) => {
      const { net, kube } = await cluster(2);
      const hasIpv4 = families.some((family) => family === 4);
      const conf = {
        ...(hasIpv4 ? { Network: "10.244.0.0/16" } : { EnableIPv4: false }),
        ...{ EnableIPv6: true, IPv6Network: "fd00:244::/48", Backend: { Type: "vxlan" } },
      };
      writeFileSync(join(net.lab.directory, "net-conf.json"), JSON.stringify(conf));
      for (const number of [1, 2])
        await kube.call("createNode", {
          name: `node-${number}`,
          podCidrs: [...(hasIpv4 ? [`10.244.${number}.0/24`] : []), `fd00:244:0:${number}::/64`],
        });
      const daemons = [1, 2].map((number) => startInNodes(net, kube, number, { engine }));
      const [own, peer] = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
      if (own === undefined || peer === undefined) throw new Error("two reports");
      const [here, there] = [hostOf(net, 1), hostOf(net, 2)];
      for (const family of families) {
        const ends = [
          { host: here, address: vtepAddress(own, family) },
          { host: there, address: vtepAddress(peer, family) },
        ] as const;
        await ping(here, ends[1].address, ["-I", ends[0].address]);
        await ping(there, ends[0].address, ["-I", ends[1].address]);
        expect((await transfer(net.lab, ...ends)).intact).toBe(true);
      }
      const { annotations } = (await kube.getNode("node-2")).metadata;
      const { vtepMac, vtepMacV6 } = peer.lease ?? {};
      expect(annotations).toEqual({
        [`${prefix}kube-subnet-manager`]: "true",
        [`${prefix}backend-type`]: "vxlan",
        ...(hasIpv4 && {
          [`${prefix}backend-data`]: `{"VNI":1,"VtepMAC":"${vtepMac}"}`,
          [`${prefix}public-ip`]: there.address,
        }),
        [`${prefix}backend-v6-data`]: `{"VNI":1,"VtepMAC":"${vtepMacV6}"}`,
        [`${prefix}public-ipv6`]: there.addressV6,
      });
      const links = await inside(there.namespace, ["ip", "-o", "link"]);
      expect([links.includes(" flannel.1:"), links.includes(" flannel-v6.1:")]).toEqual([hasIpv4, true]);
    },
    60_000,
  );

  /** Hosts with nothing of IPv4 but loopback's, and an API server that is reached over IPv6. */
  const clusterWithoutIpv4 = async (conf: object) => {
    const net = await openTestOverlay(2);
    open = net;
    const kube = await startKubeProcess(net.lab, "fd77::fe");
    writeFileSync(join(net.lab.directory, "net-conf.json"), JSON.stringify(conf));
    for (const { namespace, number } of net.lab.hosts) {
      await inside(namespace, ["ip", "-4", "address", "flush", "dev", "eth0"]);
      await inside(namespace, ["ip", "-6", "route", "add", "default", "via", "fd77::fe"]);
      const podCidrs = [`fd00:244:0:${number}::/64`];
      await kube.call("createNode", { name: `node-${number}`, podCidrs });
    }
    return { net, kube };
  };
  const ipv6Alone = { EnableIPv4: false, EnableIPv6: true, IPv6Network: "fd00:244::/48" };

  test.each([
    ["userspace", { Type: "vxlan" }],
    ["kernel", { Type: "vxlan" }],
    ["userspace", { Type: "vxlan", DirectRouting: true }],
    ["auto", { Type: "host-gw" }],
  ] as const)(
    "hosts without any IPv4 address carry IPv6: %s, %j",
    async (engine, backend) => {
      const { net, kube } = await clusterWithoutIpv4({ ...ipv6Alone, Backend: backend });
      const daemons = [
        startInNodes(net, kube, 1, { engine }),
        startInNodes(net, kube, 2, { engine, uplink: 'interface = ["fd77::2"]' }),
      ] as const;
      const reports = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
      expect(reports[0]?.uplink).toEqual({
        ...{ name: "eth0", addressV6: "fd77::1", publicIpv6: "fd77::1" },
        reason: "it has the IPv6 default route",
      });
      const pods = [1, 2].map((number) => `fd00:244:0:${number}::1`);
      for (const [at, pod] of pods.entries())
        await inside(hostOf(net, at + 1).namespace, ["ip", "address", "add", `${pod}/128`, "dev", "lo"]);
      const [one = "", two = ""] = pods;
      await ping(hostOf(net, 1), two, ["-I", one]);
      const ends = [
        { host: hostOf(net, 1), address: one },
        { host: hostOf(net, 2), address: two },
      ] as const;
      expect((await transfer(net.lab, ...ends)).intact).toBe(true);
      const { annotations } = (await kube.getNode("node-2")).metadata;
      expect(annotations?.[`${prefix}public-ipv6`]).toBe("fd77::2");
      // As flannel: host-gw leaves nothing out.
      expect(annotations?.[`${prefix}public-ip`]).toBe(backend.Type === "vxlan" ? undefined : "0.0.0.0");
      const status = await net.run(daemons[0], "status");
      expect(status.output).toContain(
        "uplink     eth0 fd77::1 (public fd77::1): it has the IPv6 default route",
      );
      const check = await net.run(daemons[0], "check");
      expect(check.output).toContain("the uplink is eth0 with fd77::1: it has the IPv6 default route");
      const planned = await net.run(daemons[0], "plan");
      // Another process sees neither tunnel nor forwarding table of a running engine.
      const engineless = planned.output.split("\n").filter((line) => !/^\+ (tunnel|forward) /.test(line));
      expect([planned.code, engineless]).toEqual([0, [expect.stringMatching(/^# \d changes, engine /), ""]]);
    },
    60_000,
  );

  test.each([
    ["dual-stack vxlan", { EnableIPv4: true, Network: "10.244.0.0/16", Backend: { Type: "vxlan" } }],
    ["dual-stack host-gw", { EnableIPv4: true, Network: "10.244.0.0/16", Backend: { Type: "host-gw" } }],
    ["udp", { EnableIPv4: true, EnableIPv6: false, Network: "10.244.0.0/16", Backend: { Type: "udp" } }],
  ] as const)("without any IPv4 address a network that has IPv4 is refused by name: %s", async (_, more) => {
    const { net, kube } = await clusterWithoutIpv4({ ...ipv6Alone, ...more });
    const daemon = startInNodes(net, kube, 1);
    expect(await daemon.child.exited).toBe(1);
    const said = daemon.child.errorTail();
    expect(said).toContain("interface eth0 has no usable IPv4 address, and the network has IPv4");
    expect(said).toContain("make the network one of IPv6 alone");
  });

  test("without any IPv4 address leases in etcd are refused, and where IPv6 alone would do is said", async () => {
    const { net } = await clusterWithoutIpv4(ipv6Alone);
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "auto", endpoint: "http://[fd77::fe]:2379" });
    expect(await daemon.child.exited).toBe(1);
    expect(daemon.child.errorTail()).toContain("IPv6 alone will do only for leases in Kubernetes nodes");
  });

  const hybrid = (net: TestOverlay, kube: KubeProcess, number: number): Daemon =>
    net.startDaemon(hostOf(net, number), {
      engine: "auto",
      more: `[kubernetes]\nannotate_node = true\napi_url = "${kube.url}"\nnode_name = "node-${number}"\n`,
    });

  test("the node follows: another pod CIDR, annotations removed, the node made anew; the API server away", async () => {
    const { net, kube } = await cluster(2);
    for (const number of [1, 2])
      await kube.call("createNode", { name: `node-${number}`, podCidrs: [`10.244.${number}.0/24`] });
    const daemons = [startInNodes(net, kube, 1), startInNodes(net, kube, 2)] as const;
    await Promise.all(daemons.map((daemon) => daemon.ready(1)));
    const ownOf = async (daemon: Daemon) => (await daemon.report()).lease?.subnets[0];
    const peerOf = async (daemon: Daemon) => (await daemon.report()).peers[0]?.subnets[0];
    const reached = async () => {
      const settled = await daemons[1].ready(1);
      await daemons[0].ready(1);
      await ping(hostOf(net, 1), vtepAddress(settled));
    };

    await kube.call("setPodCidrs", "node-2", ["10.244.77.0/24"]);
    await until("moved", async () => (await ownOf(daemons[1])) === "10.244.77.0/24");
    await until("seen to move", async () => (await peerOf(daemons[0])) === "10.244.77.0/24");
    expect(readFileSync(daemons[1].subnetFile, "utf8")).toContain("FLANNEL_SUBNET=10.244.77.1/24");
    await reached();

    await kube.call("annotate", "node-2", {
      [`${prefix}kube-subnet-manager`]: null,
      [`${prefix}public-ip`]: null,
    });
    const publicIp = async () => (await kube.getNode("node-2")).metadata.annotations?.[`${prefix}public-ip`];
    await until("annotated again", async () => (await publicIp()) === hostOf(net, 2).address);
    await reached();

    await kube.call("deleteNode", "node-2");
    await until("gone", async () => (await peerOf(daemons[0])) === undefined);
    await kube.call("createNode", { name: "node-2", podCidrs: ["10.244.78.0/24"] });
    await until("back", async () => (await peerOf(daemons[0])) === "10.244.78.0/24");
    await until("moved again", async () => (await ownOf(daemons[1])) === "10.244.78.0/24");
    await reached();

    await kube.stop();
    await Bun.sleep(500);
    const last = await daemons[1].report();
    expect(last.ready).toBe(true);
    await ping(hostOf(net, 1), vtepAddress(last));
    // A daemon that starts meanwhile goes by what was seen last.
    await daemons[1].child.end();
    const again = startInNodes(net, kube, 2);
    const report = await again.ready(1);
    expect(report.lease?.subnets).toEqual(["10.244.78.0/24"]);
    await ping(hostOf(net, 2), vtepAddress(await daemons[0].report()));
  }, 120_000);

  test("host-gw over both families: its annotations are flannel's, and are read back as our own", async () => {
    const { net, kube } = await cluster(2);
    const document = {
      ...{ Network: "10.244.0.0/16", EnableIPv6: true, IPv6Network: "fd00:244::/56" },
      Backend: { Type: "host-gw" },
    };
    writeFileSync(join(net.lab.directory, "net-conf.json"), JSON.stringify(document));
    for (const number of [1, 2]) {
      const { namespace } = hostOf(net, number);
      await inside(namespace, ["ip", "address", "add", `fd00:77::${number}/64`, "dev", "eth0", "nodad"]);
      await kube.call("createNode", {
        name: `node-${number}`,
        podCidrs: [`10.244.${number}.0/24`, `fd00:244:0:${number}::/64`],
      });
    }
    const daemons = [startInNodes(net, kube, 1), startInNodes(net, kube, 2)] as const;
    const reports = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
    expect(reports[0]?.lease?.subnets).toEqual(["10.244.1.0/24", "fd00:244:0:1::/64"]);
    const routes = await inside(hostOf(net, 1).namespace, ["ip", "route", "show", "10.244.2.0/24"]);
    expect(routes).toContain(`via ${hostOf(net, 2).address}`);
    const { metadata } = await kube.getNode("node-2");
    expect(metadata.annotations).toMatchObject({
      [`${prefix}backend-type`]: "host-gw",
      [`${prefix}backend-data`]: "null",
      [`${prefix}public-ip`]: hostOf(net, 2).address,
    });
    // One that took its own annotations for another's would look after its lease at every heartbeat.
    const flannelNode = { ...metadata.annotations, [`${prefix}public-ip`]: "10.77.0.100" };
    await kube.call("createNode", { name: "node-3", podCidrs: ["10.244.3.0/24"], annotations: flannelNode });
    for (const address of ["10.77.0.101", "10.77.0.102", "10.77.0.103"]) {
      await kube.call("heartbeat", "node-2");
      await kube.call("annotate", "node-3", { [`${prefix}public-ip`]: address });
      const seen = async () => (await daemons[1].report()).peers.map(({ publicIp }) => publicIp);
      await until("told", async () => (await seen()).includes(address));
    }
    expect((await daemons[1].report()).lease?.events).toMatchObject({ renewed: 0, lost: 0, conflict: 0 });
  }, 60_000);

  test("node-public-ip names the address that others send to, and public-ip-overwrite only what they are told", async () => {
    const { net, kube } = await cluster(2);
    await kube.call("createNode", {
      name: "node-1",
      podCidrs: ["10.244.1.0/24"],
      annotations: { [`${prefix}public-ip-overwrite`]: "192.0.2.77" },
    });
    const second = hostOf(net, 2);
    await inside(second.namespace, ["ip", "address", "add", "10.77.0.202/24", "dev", "eth0"]);
    await kube.call("createNode", {
      name: "node-2",
      podCidrs: ["10.244.2.0/24"],
      annotations: { [`${prefix}node-public-ip`]: "10.77.0.202" },
    });
    const daemons = [startInNodes(net, kube, 1), startInNodes(net, kube, 2)] as const;
    const [report] = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
    expect(report?.uplink?.address).toBe(hostOf(net, 1).address);
    expect(report?.peers[0]?.publicIp).toBe("10.77.0.202");
    expect((await daemons[1].report()).peers[0]?.publicIp).toBe("192.0.2.77");
    expect((await daemons[1].report()).uplink?.publicIp).toBe("10.77.0.202");
    const planned = await net.run(daemons[0], "plan");
    expect([planned.code, planned.output]).toEqual([0, expect.stringMatching(/^# \d+ changes, engine /m)]);
    expect((await net.run(daemons[0], "check")).output).toContain(
      `with ${hostOf(net, 1).address}, known to others as 192.0.2.77`,
    );
    expect(JSON.parse((await net.run(daemons[0], "check", "-json")).output).uplink).toMatchObject({
      address: hostOf(net, 1).address,
      publicIp: "192.0.2.77",
    });
    // A change is published at once, and so is the end of it.
    for (const [overwrite, told] of [
      ["192.0.2.78", "192.0.2.78"],
      [null, hostOf(net, 1).address],
    ] as const) {
      await kube.call("annotate", "node-1", { [`${prefix}public-ip-overwrite`]: overwrite });
      const seen = async () => (await daemons[1].report()).peers[0]?.publicIp === told;
      await until(`told ${told}`, seen);
    }
    await kube.stop();
    const alone = await net.run(daemons[0], "check");
    expect([alone.code, alone.output]).toEqual([
      0,
      expect.stringMatching(/uplink is eth0 with 10\.77\.0\.1.*\n# This node's annotations were not read: /),
    ]);
  }, 60_000);

  test("leases in etcd, nodes annotated: as soon as the device is there, and again for a node made anew", async () => {
    const { net, kube } = await cluster(2);
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
    );
    // A node that is not Ready yet, and one that is not there yet.
    await kube.call("createNode", { name: "node-1", networkUnavailable: "True" });
    const daemons = [hybrid(net, kube, 1), hybrid(net, kube, 2)] as const;
    const reports = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
    await ping(hostOf(net, 1), vtepAddress(await daemons[1].report()));
    await kube.call("createNode", { name: "node-2" });
    for (const number of [1, 2]) {
      await until(`node-${number} annotated`, async () => {
        const { metadata, status } = await kube.getNode(`node-${number}`);
        if (metadata.annotations === undefined) return false;
        expect(metadata.annotations).toEqual({
          [`${prefix}kube-subnet-manager`]: "true",
          [`${prefix}backend-type`]: "vxlan",
          [`${prefix}backend-data`]: `{"VNI":1,"VtepMAC":"${reports[number - 1]?.lease?.vtepMac}"}`,
          [`${prefix}public-ip`]: hostOf(net, number).address,
        });
        expect(status.conditions?.[0]?.status).toBe(number === 1 ? "True" : undefined);
        return true;
      });
    }
    await kube.call("deleteNode", "node-1");
    await kube.call("createNode", { name: "node-1" });
    await until(
      "annotated anew",
      async () => (await kube.getNode("node-1")).metadata.annotations !== undefined,
    );
    // Traffic does not wait for the API server.
    await kube.stop();
    await daemons[0].child.end();
    await hybrid(net, kube, 1).ready(1);
    await ping(hostOf(net, 1), vtepAddress(await daemons[1].report()));
  }, 90_000);
});
