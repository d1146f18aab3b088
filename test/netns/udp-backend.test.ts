import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { lowerHopLimit } from "../../src/datapath/dgram/hop.ts";
import { type IpPacket, parseIp, protocolUdp, viewOf } from "../../src/datapath/dgram/ip.ts";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { openCapture } from "../support/capture.ts";
import {
  type Daemon,
  hostOf,
  openTestOverlay,
  overlayRefused,
  ping,
  pingAnswered,
  pingEachOther,
  pingSeries,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/udp-backend.test.ts: ${refused}`);

const bare = '{"Network":"10.99.0.0/16"}';
const dual =
  '{"Network":"10.99.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:99::/48","Backend":{"Type":"udp","Port":9285}}';

describe.skipIf(refused !== undefined)("the udp backend", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  const overlay = async (hosts: number, network = bare): Promise<TestOverlay> => {
    open = await openTestOverlay(hosts);
    await open.etcd("put", "/coreos.com/network/config", network);
    return open;
  };
  const ip = ({ namespace }: LabHost, words: string) =>
    runProgram(["ip", "-n", namespace, ...words.split(" ")]);
  const subnetOf = (report: StatusReport) => report.lease?.subnets[0] ?? "";

  /** What a UDP datagram carries, as an IP packet. */
  const payloadOf = (datagram: Uint8Array): IpPacket | undefined => {
    const outer = parseIp(datagram);
    if ("drop" in outer || outer.protocol !== protocolUdp) return undefined;
    const inner = parseIp(Uint8Array.from(outer.bytes.subarray(outer.headerBytes + 8)));
    return "drop" in inner ? undefined : inner;
  };
  const identificationOf = (bytes: Uint8Array) => viewOf(bytes).getUint16(4);

  test("a network without a Backend: three hosts, ping, TCP at full MTU, a late joiner, a leaver", async () => {
    const net = await overlay(2);
    const first = net.startDaemon(hostOf(net, 1), { engine: "auto" });
    const second = net.startDaemon(hostOf(net, 2), { engine: "dgram" });
    await Promise.all([first.ready(1), second.ready(1)]);
    const third = net.startDaemon(await net.lab.addHost(), { engine: "userspace" });
    const daemons = [first, second, third];
    const reports = await Promise.all(daemons.map((daemon) => daemon.ready(2)));
    const [own, far] = [reports[0] as StatusReport, reports[2] as StatusReport];
    expect(own.engine).toMatchObject({ name: "userspace", device: "flannel0" });
    expect(own.network).toMatchObject({ backend: "udp", mtuBytes: 1472 });
    const ends = daemons.map(({ host }, at) => ({ host, address: vtepAddress(reports[at] as StatusReport) }));
    await pingEachOther(ends, 1472);
    const [a, b, c] = ends as [(typeof ends)[0], (typeof ends)[0], (typeof ends)[0]];
    for (const [from, to] of [
      [a, c],
      [c, a],
      [b, c],
      [a, b],
    ] as const) {
      const { bytes, intact } = await transfer(net.lab, from, to, 500);
      expect(intact).toBe(true);
      expect(bytes).toBeGreaterThan(100_000);
    }

    const lines = (await net.etcd("get", "--prefix", "/coreos.com/network/subnets/")).split("\n");
    expect(lines).toContain('{"PublicIP":"10.77.0.1","PublicIPv6":null}');
    const environment = readFileSync(first.subnetFile, "utf8");
    expect(environment).toContain("FLANNEL_NETWORK=10.99.0.0/16\n");
    expect(environment).toContain("FLANNEL_MTU=1472\n");
    const routes = await ip(a.host, "route show");
    expect(routes).toMatch(/^10\.99\.0\.0\/16 dev flannel0 proto 241/m);
    expect(routes).not.toContain(subnetOf(far));
    expect(await ip(a.host, "-o -4 address show dev flannel0")).toContain(`${a.address}/32 scope global`);

    // What somebody deletes comes back; nothing else is to be done.
    await ip(a.host, "route delete 10.99.0.0/16");
    for (let tries = 0; tries < 100 && !(await ip(a.host, "route show")).includes("10.99.0.0/16"); tries++)
      await Bun.sleep(50);
    await ping(a.host, c.address, ["-I", a.address]);
    const planned = (await net.run(first, "plan")).output.split("\n");
    // A tunnel and its table stand in the daemon's process alone.
    expect(planned.filter((line) => !/^$|^#|^. (tunnel|forward) /.test(line))).toEqual([]);

    await third.child.end();
    await net.etcd("del", `/coreos.com/network/subnets/${subnetOf(far).replace("/", "-")}`);
    await first.ready(1);
    expect(await pingAnswered(a.host, c.address, ["-I", a.address])).toBe(false);
    await ping(a.host, b.address, ["-I", a.address]);
  }, 90_000);

  test.each(["userspace", "dgram"] as const)(
    "%s: on the wire is the inner packet with one less TTL, from and to port 8285; the host gets two less",
    async (engine) => {
      const net = await overlay(2);
      const daemons = [1, 2].map((number) => net.startDaemon(hostOf(net, number), { engine }));
      const [own, other] = (await Promise.all(daemons.map((daemon) => daemon.ready(1)))) as [
        StatusReport,
        StatusReport,
      ];
      const [first, second] = [hostOf(net, 1), hostOf(net, 2)];
      const capture = ({ namespace }: LabHost, device: string, filter: string) =>
        openCapture(net.lab, { namespace, device, filter });
      const echo = "icmp[icmptype] = icmp-echo";
      await using sent = await capture(first, "flannel0", echo);
      await using wire = await capture(first, "eth0", "udp and src host 10.77.0.1 and dst port 8285");
      await using received = await capture(second, "flannel0", echo);
      const target = vtepAddress(other);
      await pingSeries(first, target, ["-I", vtepAddress(own), "-t", "40", "-s", "700"], 3);
      const inner = parseIp(Uint8Array.from((await sent.until((seen) => seen.length >= 3))[0] ?? []));
      if ("drop" in inner) throw new Error(inner.drop);
      expect(inner.bytes[8]).toBe(40);
      const same = (packet: Uint8Array) => identificationOf(packet) === identificationOf(inner.bytes);
      const datagrams = await wire.until((seen) => seen.length >= 3);
      const datagram = datagrams.find((bytes) => same(payloadOf(bytes)?.bytes ?? new Uint8Array(20)));
      if (datagram === undefined) throw new Error("the packet is not among what was sent");
      expect(viewOf(datagram).getUint16(20)).toBe(8285);
      expect(viewOf(datagram).getUint16(22)).toBe(8285);
      expect(datagram[1]).toBe(0);
      const once = lowerHopLimit(inner);
      expect(Buffer.from(payloadOf(datagram)?.bytes ?? []).equals(once ?? new Uint8Array())).toBe(true);
      const arrived = (await received.until((seen) => seen.some(same))).find(same);
      const twice = lowerHopLimit({ ...inner, bytes: once ?? new Uint8Array() });
      expect(Buffer.from(arrived ?? []).equals(twice ?? new Uint8Array())).toBe(true);

      // With a TTL of 1 it leaves nobody, with 2 it does not reach the other host; nobody is told.
      for (const ttl of ["1", "2"])
        expect(await pingAnswered(first, target, ["-I", vtepAddress(own), "-t", ttl])).toBe(false);
      await ping(first, target, ["-I", vtepAddress(own), "-t", "3"]);
      for (const daemon of daemons)
        expect((await daemon.report()).engines[0]?.stats.drops["ttlExceeded"]).toBe(1);
    },
    60_000,
  );

  test.each(["userspace", "dgram"] as const)(
    "%s: a packet for nobody's subnet is answered by ICMP from our own address, a ping is not",
    async (engine) => {
      const net = await overlay(1);
      const daemon = net.startDaemon(hostOf(net, 1), { engine });
      const own = await daemon.ready(0);
      const { host } = daemon;
      await using seen = await openCapture(net.lab, {
        namespace: host.namespace,
        device: "flannel0",
        filter: "ip",
      });
      const program = `use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => "udp", PeerAddr => $ARGV[0], PeerPort => 9) or die "$!"; $s->send("x" x 100);`;
      await inside(host.namespace, ["perl", "-e", program, "10.99.250.7"]);
      const packets = await seen.until((all) => all.length >= 2);
      const [asked, answer] = packets as [Uint8Array, Uint8Array];
      expect(asked[9]).toBe(17);
      expect([answer[0], answer[8], answer[9], answer[20], answer[21]]).toEqual([0x45, 8, 1, 3, 0]);
      const address = vtepAddress(own).split(".").map(Number);
      expect([...answer.subarray(12, 16)]).toEqual(address);
      expect(answer.length).toBe(56);
      expect(answer.subarray(28, 48)).toEqual(asked.subarray(0, 20));
      expect(await pingAnswered(host, "10.99.250.7", [])).toBe(false);
      await inside(host.namespace, ["perl", "-e", program, "10.99.250.8"]);
      const all = await seen.until((now) => now.length >= 5);
      expect(all.map((packet) => packet[9])).toEqual([17, 1, 1, 17, 1]);
      expect(all[2]?.[20]).toBe(8);
      expect((await daemon.report()).engines[0]?.stats.drops["noRoute"]).toBe(3);
    },
    60_000,
  );

  test("inner IPv6 and another port: ping and TCP in both families", async () => {
    const net = await overlay(2, dual);
    const daemons = (["userspace", "dgram"] as const).map((engine, at) =>
      net.startDaemon(hostOf(net, at + 1), { engine }),
    );
    const reports = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
    for (const family of [4, 6] as const) {
      const [a, b] = reports.map((report, at) => ({
        host: hostOf(net, at + 1),
        address: vtepAddress(report, family),
      }));
      if (a === undefined || b === undefined) throw new Error("two hosts");
      await ping(a.host, b.address, ["-I", a.address]);
      await ping(b.host, a.address, ["-I", b.address]);
      expect((await transfer(net.lab, a, b)).intact).toBe(true);
      expect((await transfer(net.lab, b, a)).intact).toBe(true);
    }
    const sockets = await inside(hostOf(net, 1).namespace, ["ss", "-Hunl", "sport = :9285"]);
    expect(sockets).toContain("10.77.0.1:9285");
  }, 60_000);

  test("take-over and restart: the descriptors are gone on with, and what a stop leaves is used again", async () => {
    const net = await overlay(2);
    const [host, otherHost] = [hostOf(net, 1), hostOf(net, 2)];
    let daemon: Daemon = net.startDaemon(host, { engine: "userspace" });
    const other = net.startDaemon(otherHost, { engine: "userspace" });
    const [own, peer] = [await daemon.ready(1), await other.ready(1)];
    const pinger = net.lab.start(host.namespace, [
      ...["ping", "-n", "-i", "0.005", "-W", "5", "-I", vtepAddress(own), vtepAddress(peer)],
    ]);
    const output = new Response(pinger.output).text();
    await Bun.sleep(300);
    for (let round = 0; round < 3; round++) {
      const successor = net.startDaemon(host, { engine: "userspace", args: ["--take-over"] });
      expect(await daemon.child.exited).toBe(0);
      const after = await successor.ready(1);
      expect(after.lease?.subnets).toEqual(own.lease?.subnets as string[]);
      expect(successor.child.errorTail()).toContain("going on with the descriptors of the run before");
      expect(successor.child.errorTail()).not.toContain("of no use");
      daemon = successor;
    }
    process.kill(pinger.pid, "SIGINT");
    const seen = new Set([...(await output).matchAll(/icmp_seq=(\d+) ttl/g)].map(([, at]) => Number(at)));
    expect(seen.size).toBe(Math.max(0, ...seen));
    expect(seen.size).toBeGreaterThan(50);

    await daemon.child.end();
    expect(await ip(host, "route show dev flannel0")).toContain("10.99.0.0/16");
    daemon = net.startDaemon(host, { engine: "dgram" });
    expect((await daemon.ready(1)).lease?.subnets).toEqual(own.lease?.subnets as string[]);
    await ping(host, vtepAddress(peer), ["-I", vtepAddress(own)]);
  }, 60_000);

  test("on_stop: remove takes device and route away, kernel is refused as the kernel engine is; another backend replaces the device", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    const daemon = net.startDaemon(host, { engine: "userspace", datapath: 'on_stop = "remove"' });
    await daemon.ready(0);
    await daemon.child.end();
    expect(await ip(host, "-o link show")).not.toContain("flannel0");
    expect(await ip(host, "route show")).not.toContain("10.99.0.0/16");
    for (const options of [
      { engine: "userspace", datapath: 'on_stop = "kernel"', instance: "b" },
      { engine: "kernel", instance: "c" },
    ] as const) {
      const refusing = net.startDaemon(host, options);
      expect(await refusing.child.exited).toBe(2);
      expect(refusing.child.errorTail()).toContain(
        "there is no kernel device here for the network's backend, udp",
      );
    }
    expect(await ip(host, "-o link show")).not.toContain("flannel0");

    const kept = net.startDaemon(host, { engine: "userspace" });
    await kept.ready(0);
    await kept.child.end();
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
    );
    const next = net.startDaemon(host, { engine: "userspace" });
    await next.ready(0);
    const links = await ip(host, "-o link show");
    expect(links).toContain("flannel.1");
    expect(links).not.toContain("flannel0");
    expect(await ip(host, "route show")).not.toContain("10.99.0.0/16 ");
  }, 60_000);

  test.each(["userspace", "dgram"] as const)(
    "%s: who may send is strict's to say, nonsense is counted, and a deleted device comes back",
    async (engine) => {
      const net = await openTestOverlay(3);
      open = net;
      const [host, peer, stranger] = [hostOf(net, 1), hostOf(net, 2), hostOf(net, 3)];
      const key = "/coreos.com/network/subnets/10.99.2.0-24";
      // The network configuration is our own: published without a Backend.
      const more = '[network]\nNetwork = "10.99.0.0/16"\n';
      await net.etcd("put", key, `{"PublicIP":"${peer.address}"}`);
      const daemon = net.startDaemon(host, { engine, more });
      const own = vtepAddress(await daemon.ready(1));
      expect(await net.etcd("get", "/coreos.com/network/config", "--print-value-only")).toBe(
        '{"Network":"10.99.0.0/16"}\n',
      );
      const hex = (text: string) => Buffer.from(text.split(".").map(Number)).toString("hex");
      const packet = (source: string, ttl: string) =>
        `4500001c00000000${ttl}110000${hex(source)}${hex(own)}0001000200080000`;
      const send =
        'use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => "udp", PeerAddr => $ARGV[0], PeerPort => 8285) or die "$!"; $s->send(pack("H*", $ARGV[1])) for 1 .. 3;';
      const attempts = [
        [peer, packet("10.99.2.9", "40"), undefined],
        [peer, packet("172.16.0.9", "40"), undefined],
        [peer, packet("10.99.3.9", "40"), "spoofedSource"],
        [stranger, packet("10.99.2.9", "40"), "unknownSender"],
        [peer, packet("10.99.2.9", "01"), "ttlExceeded"],
        [peer, packet("10.99.2.9", "00"), "ttlExceeded"],
        [peer, "45", "truncated"],
        [peer, packet("10.99.2.9", "40").replace("001c", "00ff"), "truncated"],
        [peer, `95${packet("10.99.2.9", "40").slice(2)}`, "notIp"],
        [peer, `41${packet("10.99.2.9", "40").slice(2)}`, "notIp"],
      ] as const;
      for (const [at, [from, payload, reason]] of attempts.entries()) {
        const before = (await daemon.report()).engines[0]?.stats;
        await inside(from.namespace, ["perl", "-e", send, host.address, payload]);
        await Bun.sleep(50);
        const after = (await daemon.report()).engines[0]?.stats;
        const received = (after?.received.packets ?? 0) - (before?.received.packets ?? 0);
        const dropped = (after?.drops[reason ?? ""] ?? 0) - (before?.drops[reason ?? ""] ?? 0);
        expect([at, received, dropped]).toEqual(reason === undefined ? [at, 3, 0] : [at, 0, 3]);
      }

      const other = net.startDaemon(stranger, { engine });
      const [ready, far] = await Promise.all([daemon.ready(2), other.ready(2)]);
      await ping(host, vtepAddress(far), ["-I", vtepAddress(ready)]);
      await ip(host, "link delete flannel0");
      for (let tries = 0; tries < 100 && (await daemon.report()).repairs?.total === 0; tries++)
        await Bun.sleep(50);
      await daemon.ready(2);
      await ping(host, vtepAddress(far), ["-I", vtepAddress(ready)]);
      await ping(stranger, vtepAddress(ready), ["-I", vtepAddress(far)]);
    },
    60_000,
  );

  test("a device flannel0 of somebody else is left alone and named", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    await ip(host, "link add flannel0 type bridge");
    const daemon = net.startDaemon(host, { engine: "userspace" });
    expect(await daemon.child.exited).toBe(1);
    expect(daemon.child.errorTail()).toContain("a device named flannel0 exists and is not ours");
    expect((await tryProgram(["ip", "-n", host.namespace, "link", "show", "flannel0"])).code).toBe(0);
  }, 60_000);
});
