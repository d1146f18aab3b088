import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { inside, type LabHost, switchAddress } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import type { StatusReport } from "../../src/status/report.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  ping,
  pingAnswered,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/dual-stack.test.ts: ${refused}`);

const networkJson =
  '{"Network":"10.99.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:99::/48","Backend":{"Type":"vxlan"}}';
const subnetsKey = "/coreos.com/network/subnets/";
const engines = ["userspace", "kernel", "dgram"] as const;
const devices = { 4: "flannel.1", 6: "flannel-v6.1" } as const;
/** Of an uplink of 1500 bytes. */
const mtuBytes = { 4: 1450, 6: 1430 } as const;
/** IP and ICMP headers of a ping. */
const pingBytes = { 4: 28, 6: 48 } as const;

describe.skipIf(refused !== undefined)("dual-stack", () => {
  let open: TestOverlay | undefined;
  const overlay = async (): Promise<TestOverlay> => {
    open = await openTestOverlay(2);
    await open.etcd("put", "/coreos.com/network/config", networkJson);
    return open;
  };
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const hostsOf = ({ lab }: TestOverlay): readonly [LabHost, LabHost] => {
    const [first, second] = lab.hosts;
    if (first === undefined || second === undefined) throw new Error("no hosts");
    return [first, second];
  };
  const ip = ({ namespace }: { namespace: string }, words: string) =>
    runProgram(["ip", "-n", namespace, ...words.split(" ")]);
  const leaseText = async (net: TestOverlay, report: StatusReport) => {
    const key = report.lease?.subnets.map((subnet) => subnet.replace("/", "-")).join("&") ?? "";
    return (await net.etcd("get", "--print-value-only", `${subnetsKey}${key}`)).trim();
  };
  /** Datagrams that the host has cut into fragments, both families. */
  const fragments = async ({ namespace }: LabHost) => {
    const read = (file: string) => inside(namespace, ["cat", `/proc/net/${file}`]);
    const [names = "", counts = ""] = (await read("snmp"))
      .split("\n")
      .filter((line) => line.startsWith("Ip:"));
    const at = names.split(" ").indexOf("FragCreates");
    const ipv6 = /^Ip6FragCreates\s+(\d+)/m.exec(await read("snmp6"))?.[1];
    return [Number(counts.split(" ")[at]), Number(ipv6)];
  };
  const waitFor = async (what: string, holds: () => Promise<boolean>) => {
    for (const deadline = Date.now() + 10_000; !(await holds()); await Bun.sleep(50))
      if (Date.now() > deadline) throw new Error(`${what} does not come`);
  };

  test.each([
    ["userspace", "userspace"],
    ["userspace", "kernel"],
    ["kernel", "kernel"],
    ["dgram", "userspace"],
    ["dgram", "kernel"],
  ] as const)(
    "%s and %s: each family over its own, up to the MTU without a fragment, and TCP",
    async (first, second) => {
      const net = await overlay();
      const hosts = hostsOf(net);
      const daemons = [
        net.startDaemon(hosts[0], { engine: first }),
        net.startDaemon(hosts[1], { engine: second }),
      ] as const;
      const reports = [await daemons[0].ready(1), await daemons[1].ready(1)] as const;
      for (const [at, report] of reports.entries()) {
        const { address, addressV6 } = hosts[at] as LabHost;
        const { vtepMac, vtepMacV6 } = report.lease ?? {};
        expect(report.network?.mtuBytes).toBe(1430);
        expect(readFileSync((daemons[at] as Daemon).subnetFile, "utf8")).toContain("FLANNEL_MTU=1430\n");
        expect(vtepMacV6).not.toBe(vtepMac);
        expect(await leaseText(net, report)).toBe(
          `{"PublicIP":"${address}","PublicIPv6":"${addressV6}","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"${vtepMac}"},"BackendV6Data":{"VNI":1,"VtepMAC":"${vtepMacV6}"}}`,
        );
      }
      for (const family of [4, 6] as const) {
        const ends = [0, 1].map((at) => ({
          host: hosts[at as 0 | 1],
          address: vtepAddress(reports[at as 0 | 1], family),
        }));
        for (const [from, to] of [ends, [...ends].reverse()]) {
          if (from === undefined || to === undefined) throw new Error("two ends");
          const largest = mtuBytes[family] - pingBytes[family];
          const sized = (bytes: number) => ["-M", "do", "-s", String(bytes)];
          await ping(from.host, to.address, ["-I", from.address, ...sized(largest)]);
          const over = await tryProgram(
            ["ip", "netns", "exec", from.host.namespace, "ping", "-n", "-c", "1", "-W", "1"].concat(
              ...[["-I", from.address], sized(largest + 1), [to.address]],
            ),
          );
          expect(over.code).not.toBe(0);
          expect(`${over.output}${over.errors}`).toMatch(new RegExp(`mtu[:=] ?${mtuBytes[family]}`));
          const result = await transfer(net.lab, from, to);
          expect(result.intact).toBe(true);
          expect(result.bytes).toBeGreaterThan(50_000);
        }
        const route = await ip(hosts[0], `-${family} route get ${vtepAddress(reports[1], family)}`);
        expect(route).toContain(` dev ${devices[family]} `);
      }
      for (const host of hosts) expect(await fragments(host)).toEqual([0, 0]);
    },
    60_000,
  );

  test("userspace: IPv4 and IPv6 leave by different uplinks", async () => {
    const net = await overlay();
    const hosts = hostsOf(net);
    for (const host of hosts) {
      const port = `six${host.number}`;
      await ip(
        { namespace: net.lab.switchNamespace },
        `link add ${port} type veth peer name eth1 netns ${host.namespace}`,
      );
      await ip({ namespace: net.lab.switchNamespace }, `link set ${port} master br0 up`);
      await ip(host, `address delete ${host.addressV6}/64 dev eth0`);
      await ip(host, `address add ${host.addressV6}/64 dev eth1 nodad`);
      await ip(host, "link set eth1 mtu 1400 up");
      await ip(host, "-6 route add default via fd77::fe dev eth1");
    }
    const options = { engine: "userspace" } as const;
    const [first, second] = [net.startDaemon(hosts[0], options), net.startDaemon(hosts[1], options)];
    const [own, peer] = [await first.ready(1), await second.ready(1)];
    expect(own.uplink).toMatchObject({
      name: "eth0",
      address: hosts[0].address,
      interfaceV6: "eth1",
      addressV6: hosts[0].addressV6,
      reason: "it has the default route; IPv6 by eth1: it has the IPv6 default route",
    });
    expect(own.network?.mtuBytes).toBe(1330);
    for (const family of [4, 6] as const) await ping(hosts[0], vtepAddress(peer, family));
    await ip(hosts[0], "link set eth1 down");
    expect(await pingAnswered(hosts[0], vtepAddress(peer, 6), [])).toBe(false);
    await ping(hosts[0], vtepAddress(peer, 4));
  });

  test.each(engines)(
    "%s: a stock peer with both devices made by iproute2, its lease put by hand, works both ways and follows a change of its IPv6 address alone",
    async (engine) => {
      const net = await overlay();
      const [host, stock] = hostsOf(net);
      const daemon = net.startDaemon(host, { engine });
      const { lease } = await daemon.ready(0);
      const macs = { 4: "0e:2a:00:00:00:77", 6: "0e:2a:00:00:00:78" } as const;
      const subnets = { 4: "10.99.77.0", 6: "fd00:99:0:77::" } as const;
      const local = { 4: stock.address, 6: stock.addressV6 } as const;
      for (const family of [4, 6] as const) {
        const device = devices[family];
        const [subnet = ""] = lease?.subnets.filter((text) => text.includes(":") === (family === 6)) ?? [];
        const via = subnet.split("/")[0] ?? "";
        const peerMac = family === 4 ? lease?.vtepMac : lease?.vtepMacV6;
        const peerAddress = family === 4 ? host.address : host.addressV6;
        await ip(
          stock,
          `link add ${device} address ${macs[family]} mtu ${mtuBytes[family]} type vxlan id 1 local ${local[family]} dev eth0 dstport 8472 nolearning`,
        );
        await ip(
          stock,
          `address add ${subnets[family]}/${family === 4 ? 32 : 128} dev ${device} ${family === 4 ? "" : "nodad"}`.trim(),
        );
        await ip(stock, `link set ${device} up`);
        await ip(stock, `neighbour replace ${via} lladdr ${peerMac} dev ${device} nud permanent`);
        await inside(stock.namespace, [
          ...[
            "bridge",
            "fdb",
            "replace",
            `${peerMac}`,
            "dev",
            device,
            "dst",
            peerAddress,
            "self",
            "permanent",
          ],
        ]);
        await ip(stock, `-${family} route replace ${subnet} via ${via} dev ${device} onlink`);
      }
      const put = (publicIpv6: string) =>
        net.etcd(
          "put",
          `${subnetsKey}10.99.77.0-24&fd00:99:0:77::-64`,
          `{"PublicIP":"${stock.address}","PublicIPv6":"${publicIpv6}","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"${macs[4]}"},"BackendV6Data":{"VNI":1,"VtepMAC":"${macs[6]}"}}`,
        );
      await put(stock.addressV6);
      const report = await daemon.ready(1);
      expect(report.peers).toMatchObject([
        { publicIp: stock.address, publicIpv6: stock.addressV6, vtepMac: macs[4], vtepMacV6: macs[6] },
      ]);
      const check = async () => {
        for (const family of [4, 6] as const) {
          const own = vtepAddress(report, family);
          await ping(host, subnets[family], ["-I", own]);
          await ping(stock, own, ["-I", subnets[family]]);
          const to = { host: stock, address: subnets[family] };
          expect((await transfer(net.lab, { host, address: own }, to)).intact).toBe(true);
          expect((await transfer(net.lab, to, { host, address: own })).intact).toBe(true);
        }
      };
      await check();

      // Stock flannel drops an update in which one family is as it was.
      await ip(stock, "address add fd77::99/64 dev eth0 nodad");
      await ip(stock, `link set ${devices[6]} down`);
      await ip(stock, `link delete ${devices[6]}`);
      const own = vtepAddress(report, 6);
      await ip(
        stock,
        `link add ${devices[6]} address ${macs[6]} type vxlan id 1 local fd77::99 dev eth0 dstport 8472 nolearning`,
      );
      await ip(stock, `address add ${subnets[6]}/128 dev ${devices[6]} nodad`);
      await ip(stock, `link set ${devices[6]} up`);
      await ip(stock, `neighbour replace ${own} lladdr ${lease?.vtepMacV6} dev ${devices[6]} nud permanent`);
      await inside(stock.namespace, [
        ...["bridge", "fdb", "replace", `${lease?.vtepMacV6}`, "dev", devices[6]],
        ...["dst", host.addressV6, "self", "permanent"],
      ]);
      await ip(stock, `-6 route replace ${own}/64 via ${own} dev ${devices[6]} onlink`);
      await put("fd77::99");
      await waitFor("the new address", async () => {
        const { peers, settled } = await daemon.report();
        return settled && peers[0]?.publicIpv6 === "fd77::99";
      });
      await check();
    },
    60_000,
  );

  test.each(["userspace", "kernel"] as const)(
    "%s: public_ipv6 is what others send to, and where we send from where it is ours",
    async (engine) => {
      const net = await overlay();
      const hosts = hostsOf(net);
      await ip(hosts[0], "address add fd77::aa/64 dev eth0 nodad");
      const first = net.startDaemon(hosts[0], { engine, uplink: 'public_ipv6 = "fd77::aa"' });
      const second = net.startDaemon(hosts[1], { engine });
      const [own, peer] = [await first.ready(1), await second.ready(1)];
      expect(peer.peers).toMatchObject([{ publicIp: hosts[0].address, publicIpv6: "fd77::aa" }]);
      expect(await leaseText(net, own)).toContain('"PublicIPv6":"fd77::aa"');
      for (const family of [4, 6] as const) {
        await ping(hosts[0], vtepAddress(peer, family));
        await ping(hosts[1], vtepAddress(own, family));
      }
      // Another one, IPv4 as before: the peer follows.
      await first.child.end();
      const again = net.startDaemon(hosts[0], { engine, uplink: `public_ipv6 = "${hosts[0].addressV6}"` });
      expect((await again.ready(1)).lease).toMatchObject({
        vtepMac: own.lease?.vtepMac as string,
        vtepMacV6: own.lease?.vtepMacV6 as string,
        publicIpv6: hosts[0].addressV6,
      });
      await waitFor("the new address", async () => {
        const { peers, settled } = await second.report();
        return settled && peers[0]?.publicIpv6 === hosts[0].addressV6;
      });
      await ping(hosts[1], vtepAddress(own, 6));
    },
    60_000,
  );

  test("userspace: of a peer without IPv6 address and data the IPv4 subnet is used, and it is said", async () => {
    const net = await overlay();
    const [host] = hostsOf(net);
    const daemon = net.startDaemon(host, { engine: "userspace" });
    await daemon.ready(0);
    await net.etcd(
      "put",
      `${subnetsKey}10.99.77.0-24&fd00:99:0:77::-64`,
      `{"PublicIP":"${switchAddress}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:77"}}`,
    );
    const report = await daemon.ready(1);
    expect(report.refused).toMatchObject([{ kind: "public-ip", reason: "it has no PublicIPv6" }]);
    expect(await ip(host, "route show 10.99.77.0/24")).toContain("flannel.1");
    expect(await ip(host, "-6 route show fd00:99:0:77::/64")).toBe("");
  });

  test("a host without an IPv6 address ends with 1, says what to do and leaves nothing", async () => {
    const net = await overlay();
    const [host] = hostsOf(net);
    await ip(host, `address delete ${host.addressV6}/64 dev eth0`);
    const daemon = net.startDaemon(host, { engine: "userspace" });
    expect(await daemon.child.exited).toBe(1);
    expect(daemon.child.errorTail()).toContain(
      "interface eth0 has no usable IPv6 address, and the network has IPv6",
    );
    expect(await ip(host, "-o link")).not.toContain("flannel");
  });

  test.each(["userspace", "kernel"] as const)(
    "%s: restarts keep both MACs, on_stop kernel leaves both devices, an IPv4 network takes the second away",
    async (engine) => {
      const net = await overlay();
      const hosts = hostsOf(net);
      const first = net.startDaemon(hosts[0], { engine, datapath: 'on_stop = "kernel"' });
      const second = net.startDaemon(hosts[1], { engine: "userspace" });
      const [own, peer] = [await first.ready(1), await second.ready(1)];
      await first.child.end();
      const links = await ip(hosts[0], "-d link");
      for (const device of Object.values(devices))
        expect(links).toMatch(new RegExp(` ${device}:[^]*?vxlan id 1 `));
      for (const family of [4, 6] as const) await ping(hosts[0], vtepAddress(peer, family));

      // The lease gone, the state directory remembers.
      await net.etcd("del", "--prefix", subnetsKey.replace("subnets", "nodes"));
      await net.etcd("del", "--prefix", `${subnetsKey}${own.lease?.subnets[0]?.replace("/", "-")}`);
      const again = net.startDaemon(hosts[0], { engine });
      const { lease } = await again.ready(1);
      expect(lease).toMatchObject({
        vtepMac: own.lease?.vtepMac as string,
        vtepMacV6: own.lease?.vtepMacV6 as string,
      });
      await second.ready(1);
      for (const family of [4, 6] as const)
        await ping(hosts[1], lease?.subnets[family === 4 ? 0 : 1]?.split("/")[0] ?? "");
      await again.child.end();

      await net.etcd(
        "put",
        "/coreos.com/network/config",
        '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
      );
      await net.startDaemon(hosts[0], { engine }).settled();
      expect(await ip(hosts[0], "-o link")).not.toContain(devices[6]);
      expect(await ip(hosts[0], "-6 route show")).not.toContain("fd00:99");
    },
    60_000,
  );
});
