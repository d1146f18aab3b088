import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { runProgram } from "../../src/demo/process.ts";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { trafficThrough } from "../support/live-traffic.ts";
import {
  binary,
  type Daemon,
  overlayPerTest,
  pingSoon,
  type TestOverlay,
  transferBothWays,
  vtepAddress,
} from "../support/overlay.ts";
import {
  hasBridgeFilter,
  podBridge,
  type StockDaemon,
  startFlanneld,
  stockRegistry,
} from "../support/stock-daemon.ts";

const engines = ["userspace", "kernel", "dgram"] as const;
const registry = await stockRegistry();

describe(`flanneld, etcd ${registry.api}`, () => {
  const openOverlay = overlayPerTest();

  /** Two hosts with an empty network; its rules are in what flanneld can use here. */
  const openPair = async (backend: object = { Type: "vxlan" }, more: object = {}) => {
    const net = await openOverlay(2, registry.etcdFlags);
    const [first, second] = net.lab.hosts;
    if (first === undefined || second === undefined) throw new Error("no hosts");
    const nftables = !(await hasBridgeFilter(first));
    const network = { Network: "10.99.0.0/16", EnableNFTables: nftables, ...more, Backend: backend };
    await registry.putConfig(net, network);
    return { net, first, second };
  };
  const leaseOf = (net: TestOverlay, host: LabHost) => registry.leaseOf(net, host);
  const firstAddress = (subnet: string) => subnet.replace(/-.*/, "");

  test.each(engines)(
    "%s: one network with flanneld, ping and TCP both ways, leases of one shape",
    async (engine) => {
      const { net, first, second } = await openPair();
      const stock = startFlanneld(net.lab, first, net);
      await stock.ready();
      const daemon = net.startDaemon(second, { engine });
      const own = vtepAddress(await daemon.ready(1));
      const [theirs, ours] = [await leaseOf(net, first), await leaseOf(net, second)];
      const target = firstAddress(theirs.subnet);
      await pingSoon(second, own, target);
      await pingSoon(first, target, own);
      const [here, there] = [
        { host: first, address: target },
        { host: second, address: own },
      ];
      await transferBothWays(net.lab, here, there);
      const shape = (value: string) =>
        value.replace(/10\.77\.0\.\d+/, "IP").replace(/([0-9a-f]{2}:){5}[0-9a-f]{2}/, "MAC");
      expect(shape(ours.value)).toBe(shape(theirs.value));

      // Each follows when the other goes: its lease ends, its routes go.
      await stock.child.end();
      await registry.deleteLease(net, theirs.subnet);
      await daemon.ready(0);
      const again = startFlanneld(net.lab, first, net);
      await again.ready();
      await registry.deleteLease(net, ours.subnet);
      await daemon.ready(1); // it takes its lease again
      expect((await leaseOf(net, second)).subnet).toBe(ours.subnet);
      await pingSoon(second, own, firstAddress((await leaseOf(net, first)).subnet));
    },
  );

  test.each(engines)(
    "%s: flanneld, then ours, then flanneld, under a TCP connection that stays",
    async (engine) => {
      const { net, first, second } = await openPair();
      const subnetFile = join(net.lab.directory, "host1a/flannel/subnet.env");
      const stock = startFlanneld(net.lab, first, { ...net, subnetFile });
      const peer = startFlanneld(net.lab, second, net);
      await stock.ready();
      await peer.ready();
      const before = await leaseOf(net, first);
      const peerSubnet = (await leaseOf(net, second)).subnet;
      const ends = [
        { host: first, address: await podBridge(first, before.subnet) },
        { host: second, address: await podBridge(second, peerSubnet) },
      ] as const;
      await pingSoon(first, ends[0].address, ends[1].address);

      let live: StockDaemon = stock;
      const options = { engine, datapath: 'on_stop = "kernel"' } as const;
      const beside = net.startDaemon(first, options);
      expect(await beside.child.exited).toBe(1);
      expect(beside.child.errorTail()).toContain(`flanneld (pid ${live.child.pid}) runs on this host`);
      const planned = (await net.run(beside, "plan")).output;
      expect(planned).toContain(`# flanneld (pid ${live.child.pid}) runs here`);
      expect(planned).toContain("# flannel.1 is flannel's");
      const words = [binary, "plan", "-from-flannel", `-datapath-engine=${engine}`];
      const unconfigured = await inside(first.namespace, words);
      expect(unconfigured).toContain(`endpoints = ["${net.endpoint}"]  # flanneld's flag -etcd-endpoints`);
      expect(unconfigured).toContain(`subnet_file = "${subnetFile}"  # flanneld's flag -subnet-file`);
      const changes = (output: string) => output.split("\n").filter((line) => /^[-+~] (?!file)/.test(line));
      expect(changes(unconfigured)).toEqual(changes(planned));

      const daemons = [beside];
      const there = await trafficThrough(
        net.lab,
        ends,
        async () => {
          await live.child.end();
          const daemon = net.startDaemon(first, options);
          daemons.push(daemon);
          await daemon.ready(1);
        },
        5_000,
      );
      expect(there.flow.intact).toBe(true);
      expect(there.lostPings).toBeLessThan(150);
      expect(await leaseOf(net, first)).toEqual(before);

      const back = await trafficThrough(
        net.lab,
        ends,
        async () => {
          await daemons.at(-1)?.child.end();
          live = startFlanneld(net.lab, first, { ...net, subnetFile });
          await live.ready();
        },
        5_000,
      );
      expect(back.flow.intact).toBe(true);
      expect(back.lostPings).toBeLessThan(150);
      expect(await leaseOf(net, first)).toEqual(before);
      expect(live.child.errorTail()).not.toContain("incompatible configuration");
      const route = await runProgram(["ip", "-n", first.namespace, "route", "show", "dev", "flannel.1"]);
      expect(route.trim()).toBe(`${firstAddress(peerSubnet)}/24 via ${firstAddress(peerSubnet)} onlink`);
      process.stdout.write(
        `${engine}: pings of 10 ms lost: ${there.lostPings} from flanneld to ours, ${back.lostPings} back\n`,
      );
    },
  );

  test.each(engines)("%s: after keep, and after cleanup, flanneld starts cleanly", async (engine) => {
    const { net, first, second } = await openPair();
    const peer = startFlanneld(net.lab, second, net);
    await peer.ready();
    const target = firstAddress((await leaseOf(net, second)).subnet);
    for (const cleanup of [false, true]) {
      const daemon = net.startDaemon(first, { engine, host: "ip_masq = true" });
      const own = vtepAddress(await daemon.ready(1));
      await pingSoon(first, own, target);
      await daemon.child.end();
      if (cleanup) {
        expect((await net.run(daemon, "cleanup")).output).toContain("- link flannel.1");
        const links = await runProgram(["ip", "-n", first.namespace, "-o", "link"]);
        expect(links).not.toContain("flannel");
        const rules = ["iptables-nft-save", "iptables-legacy-save"].map((tool) =>
          runProgram(["ip", "netns", "exec", first.namespace, tool]),
        );
        expect((await Promise.all(rules)).join("")).not.toMatch(/flannel/i);
      }
      const stock = startFlanneld(net.lab, first, net, ["-ip-masq"]);
      await stock.ready();
      expect(firstAddress((await leaseOf(net, first)).subnet)).toBe(own);
      await pingSoon(first, own, target);
      await pingSoon(second, target, own);
      await stock.child.end();
    }
  });

  const direct = { Type: "vxlan", DirectRouting: true };
  test.each([
    ["host-gw", { Type: "host-gw" }, "auto"],
    ["vxlan with DirectRouting, userspace", direct, "userspace"],
    ["vxlan with DirectRouting, kernel", direct, "kernel"],
  ] as const)(
    "%s: routes past the tunnel are exchanged, and taken over there and back under traffic",
    async (_, backend, engine) => {
      const { net, first, second } = await openPair(backend);
      const subnetFile = join(net.lab.directory, "host1a/flannel/subnet.env");
      let stock = startFlanneld(net.lab, first, { ...net, subnetFile });
      await stock.ready();
      const peer = net.startDaemon(second, { engine });
      await peer.ready(1);
      const [before, theirs] = [await leaseOf(net, first), await leaseOf(net, second)];
      const ends = [
        { host: first, address: await podBridge(first, before.subnet) },
        { host: second, address: await podBridge(second, theirs.subnet) },
      ] as const;
      await pingSoon(first, ends[0].address, ends[1].address);
      await pingSoon(second, ends[1].address, ends[0].address);
      const to = theirs.subnet.replace("-", "/");
      const routes = async () =>
        (await runProgram(["ip", "-n", first.namespace, "route", "show", to])).trim().replace(/\s+/g, " ");
      expect(await routes()).toBe(`${to} via ${second.address} dev eth0`);

      const daemons: Daemon[] = [];
      const there = await trafficThrough(
        net.lab,
        ends,
        async () => {
          await stock.child.end();
          const daemon = net.startDaemon(first, { engine, datapath: 'on_stop = "kernel"' });
          daemons.push(daemon);
          await daemon.ready(1);
        },
        3_000,
      );
      expect(await routes()).toBe(`${to} via ${second.address} dev eth0 proto 241`);
      expect(await leaseOf(net, first)).toEqual(before);
      const back = await trafficThrough(
        net.lab,
        ends,
        async () => {
          await daemons.at(-1)?.child.end();
          stock = startFlanneld(net.lab, first, { ...net, subnetFile });
          await stock.ready();
        },
        3_000,
      );
      expect(await leaseOf(net, first)).toEqual(before);
      expect((await routes()).split(" dev ")[0]).toBe(`${to} via ${second.address}`);
      // What goes past the tunnel is in nobody's hands.
      for (const { flow, lostPings } of [there, back]) expect([flow.intact, lostPings]).toEqual([true, 0]);
    },
  );

  // Version 0.11 over API v2 knows no IPv6.
  test.each(registry.api === "v3" ? engines : [])(
    "%s: a dual-stack network with flanneld: both families both ways, leases of one shape, the swap keeps both MACs",
    async (engine) => {
      const { net, first, second } = await openPair(undefined, {
        EnableIPv6: true,
        IPv6Network: "fd00:99::/48",
      });
      const stock = startFlanneld(net.lab, first, net);
      await stock.ready();
      const daemon = net.startDaemon(second, { engine });
      const report = await daemon.ready(1);
      expect(report.refused).toEqual([]);
      const [theirs, ours] = [await leaseOf(net, first), await leaseOf(net, second)];
      const shape = (value: string) =>
        value
          .replace(/10\.77\.0\.\d+/, "IP")
          .replace(/fd77::\d+/, "IPV6")
          .replaceAll(/([0-9a-f]{2}:){5}[0-9a-f]{2}/g, "MAC");
      expect(shape(ours.value)).toBe(shape(theirs.value));
      const targets = theirs.subnet.split("&").map(firstAddress);
      const carries = async () => {
        for (const [at, target] of targets.entries()) {
          const own = vtepAddress(report, at === 0 ? 4 : 6);
          await pingSoon(second, own, target);
          await pingSoon(first, target, own);
          const [here, there] = [
            { host: first, address: target },
            { host: second, address: own },
          ];
          await transferBothWays(net.lab, here, there);
        }
      };
      await carries();

      await stock.child.end();
      const instead = net.startDaemon(first, { engine });
      await instead.ready(1);
      expect(await leaseOf(net, first)).toEqual(theirs);
      await carries();
      await instead.child.end();
      expect((await net.run(instead, "cleanup")).output).toContain("- link flannel-v6.1");
    },
  );
});
