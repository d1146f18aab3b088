import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { parseIp, viewOf } from "../../src/datapath/dgram/ip.ts";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { runProgram } from "../../src/demo/process.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { openCapture } from "../support/capture.ts";
import { kernelHasIpip } from "../support/ipip.ts";
import {
  type Daemon,
  hostOf,
  openTestOverlay,
  overlayRefused,
  ping,
  pingEachOther,
  pingSeries,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/ipip-backend.test.ts: ${refused}`);

/** IP in IPv4. */
const protocol = 4;

describe.skipIf(refused !== undefined)("the ipip backend", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  const overlay = async (hosts: number, more = ""): Promise<TestOverlay> => {
    open = await openTestOverlay(hosts);
    const network = `{"Network":"10.99.0.0/16","Backend":{"Type":"ipip"${more}}}`;
    await open.etcd("put", "/coreos.com/network/config", network);
    return open;
  };
  const ip = ({ namespace }: LabHost, words: string) =>
    runProgram(["ip", "-n", namespace, ...words.split(" ")]);
  const start = (net: TestOverlay, number: number) =>
    net.startDaemon(hostOf(net, number), { engine: "userspace" });

  test("three hosts: ping, TCP at full MTU, a late joiner, a restart", async () => {
    const net = await overlay(2);
    const [first, second] = [start(net, 1), start(net, 2)];
    await Promise.all([first.ready(1), second.ready(1)]);
    const third = net.startDaemon(await net.lab.addHost(), { engine: "userspace" });
    const daemons = [first, second, third];
    const reports = await Promise.all(daemons.map((daemon) => daemon.ready(2)));
    expect(reports[0]?.engine).toMatchObject({ name: "userspace", device: "flannel.ipip" });
    const ends = daemons.map(({ host }, at) => ({ host, address: vtepAddress(reports[at] as StatusReport) }));
    await pingEachOther(ends, 1480);
    const [a, b, c] = ends as [(typeof ends)[0], (typeof ends)[0], (typeof ends)[0]];
    for (const [from, to] of [
      [a, b],
      [c, a],
    ] as const) {
      const { bytes, intact } = await transfer(net.lab, from, to, 500);
      expect(intact).toBe(true);
      expect(bytes).toBeGreaterThan(100_000);
    }
    const lines = (await net.etcd("get", "--prefix", "/coreos.com/network/subnets/")).split("\n");
    expect(lines).toContain('{"PublicIP":"10.77.0.1","PublicIPv6":null,"BackendType":"ipip"}');
    expect(readFileSync(first.subnetFile, "utf8")).toContain("FLANNEL_MTU=1480\n");
    const subnet = reports[1]?.lease?.subnets[0] ?? "";
    expect(await ip(a.host, `route show ${subnet}`)).toMatch(
      /^\S+ via 10\.77\.0\.2 dev flannel\.ipip proto 241 onlink/,
    );
    await first.child.end();
    await start(net, 1).ready(2);
    await ping(a.host, b.address, ["-I", a.address]);
    await ping(b.host, a.address, ["-I", b.address]);
  }, 60_000);

  test("on the wire is the packet as it is behind an outer header of protocol 4; other senders are refused", async () => {
    const net = await overlay(3);
    const daemons = [start(net, 1), start(net, 2)];
    const [own, other] = (await Promise.all(daemons.map((daemon) => daemon.ready(1)))) as [
      StatusReport,
      StatusReport,
    ];
    const [first, second, stranger] = [hostOf(net, 1), hostOf(net, 2), hostOf(net, 3)];
    const capture = (device: string, filter: string) =>
      openCapture(net.lab, { namespace: first.namespace, device, filter });
    await using sent = await capture("flannel.ipip", "icmp[icmptype] = icmp-echo");
    await using wire = await capture("eth0", "ip proto 4 and src host 10.77.0.1");
    const options = ["-I", vtepAddress(own), "-t", "1", "-s", "700", "-Q", "2"];
    await pingSeries(first, vtepAddress(other), options, 3);
    const inner = (await sent.until((seen) => seen.length >= 3))[0] ?? new Uint8Array();
    const outers = (await wire.until((seen) => seen.length >= 3)).map((packet) => parseIp(packet));
    const outer = outers.find(
      (one) => !("drop" in one) && viewOf(one.bytes).getUint16(24) === viewOf(inner).getUint16(4),
    );
    if (outer === undefined || "drop" in outer) throw new Error("the packet is not among what was sent");
    expect([outer.headerBytes, outer.protocol]).toEqual([20, protocol]);
    expect([`${outer.source}`, `${outer.destination}`]).toEqual(["10.77.0.1", "10.77.0.2"]);
    // ECN goes along, and DF stays out.
    expect([outer.bytes[1], (outer.bytes[6] ?? 0) & 0x40]).toEqual([2, 0]);
    expect(Buffer.from(outer.bytes.subarray(20)).equals(Buffer.from(inner))).toBe(true);

    const hex = (text: string) => Buffer.from(text.split(".").map(Number)).toString("hex");
    const packet = (source: string) =>
      `4500001c0000000040110000${hex(source)}${hex(vtepAddress(other))}0001000200080000`;
    const send =
      'use Socket; socket(my $s, PF_INET, SOCK_RAW, 4) or die "$!"; send($s, pack("H*", $ARGV[1]), 0, sockaddr_in(0, inet_aton($ARGV[0]))) or die "$!" for 1 .. 3;';
    const attempts = [
      [first, packet(vtepAddress(own)), undefined],
      [first, packet("10.99.250.9"), "spoofedSource"],
      [stranger, packet(vtepAddress(own)), "unknownSender"],
      [first, "45", "truncated"],
      [first, `6${packet("10.99.250.9").slice(1)}`, "notIp"],
    ] as const;
    const stats = async () => (await (daemons[1] as Daemon).report()).engines[0]?.stats;
    for (const [at, [from, payload, reason]] of attempts.entries()) {
      const before = await stats();
      await inside(from.namespace, ["perl", "-e", send, second.address, payload]);
      await Bun.sleep(50);
      const after = await stats();
      const received = (after?.received.packets ?? 0) - (before?.received.packets ?? 0);
      const dropped = (after?.drops[reason ?? ""] ?? 0) - (before?.drops[reason ?? ""] ?? 0);
      expect([at, received, dropped]).toEqual(reason === undefined ? [at, 3, 0] : [at, 0, 3]);
    }
  }, 60_000);

  test("DirectRouting: neighbours are routed to over the uplink", async () => {
    const net = await overlay(2, ',"DirectRouting":true');
    const daemons = [start(net, 1), start(net, 2)];
    const reports = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
    const [own, other] = reports as [StatusReport, StatusReport];
    const subnet = other.lease?.subnets[0] ?? "";
    expect(await ip(hostOf(net, 1), `route show ${subnet}`)).toMatch(
      /^\S+ via 10\.77\.0\.2 dev eth0 proto 241/,
    );
    await ping(hostOf(net, 1), vtepAddress(other), ["-I", vtepAddress(own)]);
    expect((await (daemons[0] as Daemon).report()).engines[0]?.stats.sent.packets).toBe(0);
  }, 60_000);

  test("a take-over loses no packet, and the engine that cannot do it is refused", async () => {
    const net = await overlay(2);
    const [host, otherHost] = [hostOf(net, 1), hostOf(net, 2)];
    let daemon: Daemon = start(net, 1);
    const [own, peer] = await Promise.all([daemon.ready(1), start(net, 2).ready(1)]);
    const pinger = net.lab.start(otherHost.namespace, [
      ...["ping", "-n", "-i", "0.005", "-W", "5", "-I", vtepAddress(peer), vtepAddress(own)],
    ]);
    const output = new Response(pinger.output).text();
    await Bun.sleep(300);
    for (let round = 0; round < 3; round++) {
      const successor = net.startDaemon(host, { engine: "userspace", args: ["--take-over"] });
      expect(await daemon.child.exited).toBe(0);
      await successor.ready(1);
      expect(successor.child.errorTail()).toContain("going on with the descriptors of the run before");
      expect(successor.child.errorTail()).not.toContain("of no use");
      daemon = successor;
    }
    process.kill(pinger.pid, "SIGINT");
    const seen = new Set([...(await output).matchAll(/icmp_seq=(\d+) ttl/g)].map(([, at]) => Number(at)));
    expect(seen.size).toBe(Math.max(0, ...seen));
    expect(seen.size).toBeGreaterThan(50);
    await daemon.child.end();
    const refusing = net.startDaemon(host, { engine: "dgram", instance: "dgram" });
    expect(await refusing.child.exited).toBe(2);
    expect(refusing.child.errorTail()).toContain("the dgram engine has no raw socket");
  }, 60_000);

  test("the kernel's device: where there is none start and stop say so with the remedy, and the next start is in userspace again", async () => {
    const net = await overlay(2);
    const [host, otherHost] = [hostOf(net, 1), hostOf(net, 2)];
    const peer = await start(net, 2).ready(0);
    const daemon = net.startDaemon(host, { engine: "userspace", datapath: 'on_stop = "kernel"' });
    const own = await daemon.ready(1);
    await daemon.child.end();
    const ends = { own: vtepAddress(own), peer: vtepAddress(peer) };
    if (kernelHasIpip()) {
      expect(await ip(host, "-d link show flannel.ipip")).toMatch(/ipip .*local 10\.77\.0\.1 /);
      await ping(host, ends.peer, ["-I", ends.own]);
      await ping(otherHost, ends.own, ["-I", ends.peer]);
      const kernel = net.startDaemon(host, { engine: "kernel" });
      expect((await kernel.ready(1)).engine?.name).toBe("kernel");
      await ping(host, ends.peer, ["-I", ends.own]);
      await kernel.child.end();
    } else {
      expect(daemon.child.errorTail()).toContain("this kernel has no ipip devices");
      const kernel = net.startDaemon(host, { engine: "kernel" });
      expect(await kernel.child.exited).toBe(1);
      expect(kernel.child.errorTail()).toContain("this kernel has no ipip devices");
      expect(kernel.child.errorTail()).toContain("modprobe ipip");
    }
    await start(net, 1).ready(1);
    await ping(host, ends.peer, ["-I", ends.own]);
  }, 60_000);
});
