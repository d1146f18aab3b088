import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import {
  overlayPerTest,
  pingAnswered,
  pingSeries,
  pingSoon,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";
import { hasBridgeFilter, startFlanneld, stockRegistry } from "../support/stock-daemon.ts";

const registry = await stockRegistry();

/** Takes a flanneld for amd64 that was built with cgo: others have no udp backend, and end with a line that says so. */
describe(`flanneld's udp backend, etcd ${registry.api}`, () => {
  const openOverlay = overlayPerTest();

  /** Two hosts with a network that names no backend. */
  const openPair = async () => {
    const net = await openOverlay(2, registry.etcdFlags);
    const [first, second] = net.lab.hosts;
    if (first === undefined || second === undefined) throw new Error("no hosts");
    const nftables = !(await hasBridgeFilter(first));
    await registry.putConfig(net, { Network: "10.99.0.0/16", EnableNFTables: nftables });
    return { net, first, second };
  };
  const firstAddress = (subnet: string) => subnet.replace(/-.*/, "");

  test.each(["userspace", "dgram"] as const)(
    "%s: one network, ping, TCP and full packets both ways, TTLs lowered alike, leases of one shape",
    async (engine) => {
      const { net, first, second } = await openPair();
      const stock = startFlanneld(net.lab, first, net);
      await stock.ready();
      const daemon = net.startDaemon(second, { engine });
      const own = vtepAddress(await daemon.ready(1));
      const [theirs, ours] = [await registry.leaseOf(net, first), await registry.leaseOf(net, second)];
      const target = firstAddress(theirs.subnet);
      const ends = [
        { host: first, address: target },
        { host: second, address: own },
      ] as const;
      for (const [from, to] of [ends, [ends[1], ends[0]]] as const) {
        await pingSoon(from.host, from.address, to.address);
        const full = ["-I", from.address, "-M", "do", "-s", "1444"];
        await pingSeries(from.host, to.address, full, 3);
        const { bytes, intact } = await transfer(net.lab, from, to, 500);
        expect(intact).toBe(true);
        expect(bytes).toBeGreaterThan(100_000);
        // Each end of the tunnel is a hop, whoever it is.
        expect(await pingAnswered(from.host, to.address, ["-I", from.address, "-t", "2"])).toBe(false);
        await pingSeries(from.host, to.address, ["-I", from.address, "-t", "3"], 3);
      }
      const shape = (value: string) => value.replace(/10\.77\.0\.\d+/, "IP");
      expect(shape(ours.value)).toBe(shape(theirs.value));
    },
  );

  test.each(["userspace", "dgram"] as const)(
    "%s: in place of a flanneld and back, with the same subnet",
    async (engine) => {
      const { net, first, second } = await openPair();
      const subnetFile = join(net.lab.directory, "host1a/flannel/subnet.env");
      const stock = startFlanneld(net.lab, first, { ...net, subnetFile });
      const peer = startFlanneld(net.lab, second, net);
      await Promise.all([stock.ready(), peer.ready()]);
      const before = await registry.leaseOf(net, first);
      const target = firstAddress((await registry.leaseOf(net, second)).subnet);
      await pingSoon(first, firstAddress(before.subnet), target);

      const options = { engine, datapath: 'on_stop = "remove"' } as const;
      const beside = net.startDaemon(first, options);
      expect(await beside.child.exited).toBe(1);
      expect(beside.child.errorTail()).toContain(`flanneld (pid ${stock.child.pid}) runs on this host`);
      expect(beside.child.errorTail()).toContain("device flannel0");

      await stock.child.end();
      const daemon = net.startDaemon(first, options);
      await daemon.ready(1);
      await pingSoon(first, firstAddress(before.subnet), target);
      expect(await registry.leaseOf(net, first)).toEqual(before);

      await daemon.child.end();
      const again = startFlanneld(net.lab, first, { ...net, subnetFile });
      await again.ready();
      await pingSoon(first, firstAddress(before.subnet), target);
      expect(await registry.leaseOf(net, first)).toEqual(before);
    },
  );
});
