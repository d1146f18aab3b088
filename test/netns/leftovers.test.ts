import { afterEach, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/demo/lab.ts";
import { runProgram } from "../../src/demo/process.ts";
import { trafficThrough } from "../support/live-traffic.ts";
import { hostOf, openTestOverlay, overlayRefused, pingSeries, type TestOverlay } from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/leftovers.test.ts: ${refused}`);

const mac = "0e:2a:00:00:00:11";

describe.skipIf(refused !== undefined)("leftovers", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const ip = ({ namespace }: LabHost, ...args: string[]) => runProgram(["ip", "-n", namespace, ...args]);

  const backends = [
    ["host-gw", "auto", 4, { Type: "host-gw" }],
    ["host-gw", "auto", 6, { Type: "host-gw" }],
    ["vxlan with DirectRouting", "userspace", 4, { Type: "vxlan", DirectRouting: true }],
    ["vxlan with DirectRouting", "kernel", 4, { Type: "vxlan", DirectRouting: true }],
  ] as const;
  test.each(backends)(
    "%s, %s, IPv%d: a route that flannel left over the uplink becomes ours in place, without a packet lost",
    async (_, engine, family, backend) => {
      open = await openTestOverlay(2);
      const net = open;
      const [own, peer] = [hostOf(net, 1), hostOf(net, 2)];
      const dual = family === 6 ? { EnableIPv6: true, IPv6Network: "fd00:99::/48" } : {};
      const network = { Network: "10.99.0.0/16", ...dual, Backend: backend };
      await net.etcd("put", "/coreos.com/network/config", JSON.stringify(network));
      const values = [own, peer].map(({ address, number }) => ({
        PublicIP: address,
        PublicIPv6: family === 6 ? `fd00:77::${number}` : null,
        BackendType: backend.Type,
        ...(backend.Type === "vxlan" && {
          BackendData: { VNI: 1, VtepMAC: mac.replace("11", `1${number}`) },
        }),
      }));
      for (const [at, value] of values.entries()) {
        const subnet = `10.99.1${at + 1}.0-24${family === 6 ? `&fd00:99:0:1${at + 1}::-64` : ""}`;
        await net.etcd("put", `/coreos.com/network/subnets/${subnet}`, JSON.stringify(value));
      }
      const more = family === 6 ? ["-6"] : [];
      const pod = (number: number) => (family === 6 ? `fd00:99:0:1${number}::1` : `10.99.1${number}.1`);
      const subnet = (number: number) =>
        family === 6 ? `fd00:99:0:1${number}::/64` : `10.99.1${number}.0/24`;
      const gateway = ({ address, number }: LabHost) => (family === 6 ? `fd00:77::${number}` : address);
      for (const host of [own, peer]) {
        if (family === 6) await ip(host, "address", "add", `${gateway(host)}/64`, "dev", "eth0", "nodad");
        const words = [`${pod(host.number)}/${family === 6 ? 128 : 32}`, "dev", "lo"];
        await ip(host, "address", "add", ...words);
        const other = host === own ? peer : own;
        await ip(host, ...more, "route", "add", subnet(other.number), "via", gateway(other), "dev", "eth0");
      }
      // Nobody's lease, and not what any lease would have: whoever made them keeps them.
      const foreign = family === 6 ? "fd00:99:0:77::/64" : "10.99.77.0/24";
      await ip(own, ...more, "route", "add", foreign, "via", gateway(peer), "dev", "eth0");

      const monitor = net.lab.start(own.namespace, ["ip", ...more, "monitor", "route"]);
      const heard = new Response(monitor.output).text();
      const ends = [
        { host: own, address: pod(1) },
        { host: peer, address: pod(2) },
      ] as const;
      await pingSeries(own, pod(2), ["-I", pod(1)], 3);
      const start = async () => {
        await net.startDaemon(own, { engine }).ready(1);
      };
      if (family === 6) await start();
      else {
        const { flow, lostPings } = await trafficThrough(net.lab, ends, start, 3_000);
        expect([flow.intact, lostPings]).toEqual([true, 0]);
      }
      await pingSeries(own, pod(2), ["-I", pod(1)], 3);
      const routes = (await ip(own, ...more, "route", "show", subnet(2))).trim().split("\n");
      expect(routes).toHaveLength(1);
      expect(routes[0]).toContain(`via ${gateway(peer)} dev eth0 proto 241`);
      expect(await ip(own, ...more, "route", "show", foreign)).toContain(`via ${gateway(peer)} dev eth0`);
      expect(await ip(own, ...more, "route", "show", foreign)).not.toContain("proto 241");
      await monitor.end();
      const told = await heard;
      expect(told).toContain(`${subnet(2)} via ${gateway(peer)} dev eth0 proto 241`);
      expect(told).not.toContain(`Deleted ${subnet(2)}`);
    },
  );

  test("host-gw: a route to a peer's subnet over another gateway is somebody's: named, and left", async () => {
    open = await openTestOverlay(2);
    const net = open;
    const [own, peer] = [hostOf(net, 1), hostOf(net, 2)];
    const network = '{"Network":"10.99.0.0/16","Backend":{"Type":"host-gw"}}';
    await net.etcd("put", "/coreos.com/network/config", network);
    const value = `{"PublicIP":"${peer.address}","PublicIPv6":null,"BackendType":"host-gw"}`;
    await net.etcd("put", "/coreos.com/network/subnets/10.99.12.0-24", value);
    await ip(own, "route", "add", "10.99.12.0/24", "via", "10.77.0.254");
    const daemon = net.startDaemon(own, { engine: "auto" });
    let missing: readonly unknown[] = [];
    for (let tries = 0; tries < 200 && missing.length === 0; tries++) {
      missing = (await daemon.report().catch(() => undefined))?.missing ?? [];
      await Bun.sleep(50);
    }
    expect(JSON.stringify(missing)).toContain("a route to 10.99.12.0/24 that is not ours is in the way");
    expect(await ip(own, "route", "show", "10.99.12.0/24")).toContain("via 10.77.0.254 dev eth0");
    await ip(own, "route", "delete", "10.99.12.0/24");
    await daemon.ready(1);
  });

  const stale = {
    "over another gateway": ["via", "10.77.0.254"],
    "over another device": ["dev", "lo"],
  };
  const modes = ["host-gw", "DirectRouting"] as const;
  test.each(
    modes.flatMap((mode) => Object.entries(stale).map(([which, words]) => [mode, which, words] as const)),
  )(
    "%s: a route %s that carries our mark is one of our own last run: replaced, and removed with the lease",
    async (mode, _, words) => {
      open = await openTestOverlay(2);
      const net = open;
      const [own, peer] = [hostOf(net, 1), hostOf(net, 2)];
      const type = mode === "host-gw" ? "host-gw" : "vxlan";
      const backend = { Type: type, ...(type === "vxlan" && { DirectRouting: true }) };
      const dual = { EnableIPv6: true, IPv6Network: "fd00:99::/48" };
      const network = { Network: "10.99.0.0/16", ...dual, Backend: backend };
      await net.etcd("put", "/coreos.com/network/config", JSON.stringify(network));
      for (const { namespace, number } of [own, peer])
        await runProgram([
          "ip",
          "-n",
          namespace,
          ...`address add fd00:77::${number}/64 dev eth0 nodad`.split(" "),
        ]);
      const data = { VNI: 1, VtepMAC: mac };
      const value = {
        ...{ PublicIP: peer.address, PublicIPv6: "fd00:77::2", BackendType: type },
        ...(type === "vxlan" && { BackendData: data, BackendV6Data: data }),
      };
      const key = "/coreos.com/network/subnets/10.99.12.0-24&fd00:99:0:12::-64";
      await net.etcd("put", key, JSON.stringify(value));
      const wordsV6 = words.map((word) => word.replace("10.77.0.", "fd00:77::"));
      for (const gone of ["10.99.12.0/24", "10.99.13.0/24"])
        await ip(own, "route", "add", gone, "proto", "241", ...words);
      for (const gone of ["fd00:99:0:12::/64", "fd00:99:0:13::/64"])
        await ip(own, "-6", "route", "add", gone, "proto", "241", ...wordsV6);

      await net.startDaemon(own, { engine: "auto" }).ready(1);
      const ours = async () =>
        (await Promise.all(["-4", "-6"].map((family) => ip(own, family, "route", "show", "proto", "241"))))
          .join("")
          .split("\n")
          .filter((line) => /10.99.1[23]|fd00:99:0:1[23]/.test(line))
          .map((line) => line.trim().replace(/ metric.*| proto 241/g, ""));
      expect(await ours()).toEqual([
        `10.99.12.0/24 via ${peer.address} dev eth0`,
        "fd00:99:0:12::/64 via fd00:77::2 dev eth0",
      ]);
      await net.etcd("del", key);
      for (let tries = 0; tries < 200 && (await ours()).length > 0; tries++) await Bun.sleep(50);
      expect(await ours()).toEqual([]);
    },
  );

  test.each(["kernel", "userspace"] as const)(
    "%s: another port, VNI or uplink address makes the device anew, its MAC stays; what is missing stalls nothing",
    async (engine) => {
      open = await openTestOverlay(2);
      const net = open;
      const [own, peer] = [hostOf(net, 1), hostOf(net, 2)];
      const publish = (backend: object) =>
        net.etcd(
          ...["put", "/coreos.com/network/config"],
          JSON.stringify({ Network: "10.99.0.0/16", Backend: { Type: "vxlan", ...backend } }),
        );
      await publish({});
      const first = net.startDaemon(own, { engine });
      const before = await first.ready(0);
      const macs = async (device: string) =>
        /link\/ether (\S+)/.exec(await ip(own, "link", "show", device))?.[1];
      const restart = async (previous: typeof first) => {
        await previous.child.end();
        const next = net.startDaemon(own, { engine });
        const report = await next.ready(0);
        expect([report.lease?.subnets, report.lease?.vtepMac]).toEqual([
          before.lease?.subnets,
          before.lease?.vtepMac,
        ]);
        return next;
      };
      const details = (device: string) => ip(own, "-d", "link", "show", device);

      await publish({ Port: 4789 });
      let daemon = await restart(first);
      const port = await runProgram(["ip", "netns", "exec", own.namespace, "ss", "-lun"]);
      if (engine === "kernel") expect(await details("flannel.1")).toContain("dstport 4789");
      else expect(port).toContain(":4789");

      await publish({ VNI: 7 });
      daemon = await restart(daemon);
      expect(await ip(own, "-o", "link")).not.toContain("flannel.1");
      if (engine === "kernel") {
        expect(await details("flannel.7")).toMatch(/vxlan id 7 .*dstport 8472/s);
        expect(await macs("flannel.7")).toBe(before.lease?.vtepMac ?? "none");
      }

      // The host moves to another address: the lease's public IP changes with the device's local one.
      await daemon.child.end();
      await ip(own, "address", "add", "10.77.0.101/24", "dev", "eth0");
      const moved = net.startDaemon(own, { engine, uplink: 'interface = ["10.77.0.101"]' });
      // Its lease goes with it, and nothing is left under the old address.
      expect((await moved.settled()).lease).toMatchObject({
        subnets: before.lease?.subnets,
        vtepMac: before.lease?.vtepMac,
      });
      const keys = await net.etcd("get", "--prefix", "--keys-only", "/coreos.com/network/");
      const lease = `subnets/${before.lease?.subnets[0]?.replace("/", "-")}`;
      expect(keys.split(/\s+/).filter(Boolean)).toEqual(
        ["config", "nodes/10.77.0.101", lease].map((key) => `/coreos.com/network/${key}`),
      );
      const known = async (wanted: boolean) => {
        for (const deadline = Date.now() + 15_000; ; await Bun.sleep(50)) {
          const report = await moved.settled();
          const isKnown = report.peers.some(({ subnets }) => subnets.includes("10.99.200.0/24"));
          if (isKnown === wanted) return report;
          if (Date.now() > deadline)
            throw new Error(`the peer is not as it should: ${JSON.stringify(report)}`);
        }
      };
      if (engine === "kernel") expect(await details("flannel.7")).toContain("local 10.77.0.101");

      // A peer comes and goes after somebody else has removed what hung on it.
      const key = "/coreos.com/network/subnets/10.99.200.0-24";
      const data = `"BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"${mac}"}`;
      await net.etcd("put", key, `{"PublicIP":"${peer.address}","PublicIPv6":null,${data}}`);
      await known(true);
      if (engine === "kernel") {
        const entry = ["fdb", "delete", mac, "dev", "flannel.7", "dst", peer.address, "self"];
        await runProgram(["bridge", "-n", own.namespace, ...entry]);
        await ip(own, "neighbour", "delete", "10.99.200.0", "dev", "flannel.7");
      }
      await ip(own, "route", "delete", "10.99.200.0/24");
      await net.etcd("del", key);
      const last = await known(false);
      expect(last.missing).toEqual([]);
      expect(await ip(own, "route", "show", "10.99.200.0/24")).toBe("");
    },
    60_000,
  );
});
