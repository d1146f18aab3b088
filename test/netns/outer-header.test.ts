import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { innerEcn } from "../../src/datapath/dgram/ecn.ts";
import { type IpPacket, parseIp, protocolUdp, viewOf } from "../../src/datapath/dgram/ip.ts";
import { parseIpAddress } from "../../src/net/address.ts";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { type Capture, openCapture } from "../support/capture.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  pingSeries,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";
import { ipPacket, parsed, setChecksum, udpDatagram } from "../support/random-packet.ts";

const missing = Bun.which("tcpdump") === null ? "there is no tcpdump" : undefined;
const refused = overlayRefused() ?? missing;
if (refused !== undefined) console.warn(`SKIPPED test/netns/outer-header.test.ts: ${refused}`);

const networkJson =
  '{"Network":"10.99.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:99::/48","Backend":{"Type":"vxlan"}}';
const families = [4, 6] as const;
/** DSCP EF, beside which each ECN value is tried. */
const dscp = 0xb8;
const ecnNames = ["Not-ECT", "ECT(1)", "ECT(0)", "CE"];

interface Node {
  readonly host: LabHost;
  readonly report: StatusReport;
}

/** Two nodes that send to a third: one with our engine, one with the kernel's device as the measure. */
describe.skipIf(refused !== undefined)("outer header", () => {
  let net: TestOverlay;
  let ours: Node;
  let kernels: Node;
  let far: Node;

  beforeAll(async () => {
    if (refused !== undefined) return;
    net = await openTestOverlay(3);
    await net.etcd("put", "/coreos.com/network/config", networkJson);
    // Else several datagrams cross the virtual wire as one frame.
    for (const { namespace } of net.lab.hosts)
      await inside(namespace, ["ethtool", "-K", "eth0", "tx-udp-segmentation", "off", "gso", "off"]);
    const daemons: Daemon[] = [];
    for (const [at, host] of net.lab.hosts.entries()) {
      daemons.push(net.startDaemon(host, { engine: at === 0 ? "userspace" : "kernel" }));
      await daemons[at]?.ready(at);
    }
    const nodes = await Promise.all(
      daemons.map(async (daemon) => ({ host: daemon.host, report: await daemon.ready(2) })),
    );
    [ours, kernels, far] = nodes as [Node, Node, Node];
  }, 60_000);
  afterAll(async () => {
    await net?.[Symbol.asyncDispose]();
  });

  /** Captures the tunnel's packets from `node` where they arrive. */
  const captureFrom = ({ host: { address, addressV6 } }: Node): Promise<Capture> =>
    openCapture(net.lab, {
      namespace: far.host.namespace,
      device: "eth0",
      filter: `udp dst port 8472 and (src host ${address} or src host ${addressV6})`,
    });

  /** The `count` packets that `send` makes `node` send and that are wanted, outside and inside. */
  const tunnelled = async (
    node: Node,
    { count, isWanted }: { count: number; isWanted: (inner: IpPacket) => boolean },
    send: () => Promise<unknown>,
  ): Promise<Tunnelled[]> => {
    await using capture = await captureFrom(node);
    await send();
    const wanted = () => capture.packets.map(readTunnelled).filter(({ inner }) => isWanted(inner));
    await capture.until(() => wanted().length >= count);
    return wanted();
  };

  const pingFar = (node: Node, family: 4 | 6, ...more: string[]) =>
    pingSeries(
      node.host,
      vtepAddress(far.report, family),
      ["-I", vtepAddress(node.report, family), ...more],
      1,
    );

  test("TOS, DF and TTL are what the kernel's device writes, for every ECN value and a DSCP, in both families", async () => {
    for (const family of families) {
      for (const [ecn, expected] of [0, 1, 2, 2].entries()) {
        const tos = dscp | ecn;
        for (const node of [kernels, ours]) {
          const [seen] = await tunnelled(node, onePing, () => pingFar(node, family, "-Q", String(tos)));
          expect(seen?.inner.trafficClass).toBe(tos);
          expect(seen?.outer).toEqual({ tos: expected, dontFragment: false, ttl: 64 });
        }
      }
    }
  });

  test("DF stays clear outside where it is set inside, up to the largest packet", async () => {
    for (const node of [ours, kernels]) {
      const full = ["-M", "do", "-s", "1422"];
      const [seen] = await tunnelled(node, onePing, () => pingFar(node, 4, ...full));
      expect(seen?.inner.bytes.length).toBe(1450);
      expect(seen?.inner.bytes[6]).toBe(0x40);
      expect(seen?.outer.dontFragment).toBe(false);
    }
  });

  test("one flow keeps one source port, and many flows spread over several", async () => {
    const flows = 200;
    const portsOf = async (node: Node) => {
      const args = [node, far].map(({ report }) => vtepAddress(report));
      const packets = await tunnelled(
        node,
        { count: 2 * flows, isWanted: ({ protocol }) => protocol === protocolUdp },
        () => inside(node.host.namespace, ["perl", "-e", sendFlows, ...args, String(flows)]),
      );
      const byFlow = new Map<number, Set<number>>();
      for (const { inner, outerPort } of packets) {
        const flow = viewOf(inner.bytes).getUint16(inner.headerBytes);
        byFlow.set(flow, (byFlow.get(flow) ?? new Set()).add(outerPort));
      }
      return [...byFlow.values()];
    };
    const spread = (ports: readonly Set<number>[]) => new Set(ports.flatMap((one) => [...one])).size;
    const [own, kernel] = [await portsOf(ours), await portsOf(kernels)];
    for (const ports of [own, kernel]) {
      expect(ports).toHaveLength(flows);
      expect(ports.every(({ size }) => size === 1)).toBe(true);
    }
    // The kernel has a port for each flow; we have eight sockets.
    expect(spread(own)).toBe(8);
    expect(spread(kernel)).toBeGreaterThan(8);
  });

  test("a mark made outside is carried in, or the packet dropped, as by the kernel's device and RFC 6040", async () => {
    const cases = [0, 1, 2, 3].flatMap((outer) => [0, 1, 2, 3].map((inner) => ({ outer, inner })));
    for (const family of families) {
      const delivered = async (to: Node) => {
        await using capture = await openCapture(net.lab, {
          namespace: to.host.namespace,
          device: family === 4 ? "flannel.1" : "flannel-v6.1",
          filter: `${family === 4 ? "ip" : "ip6"} and udp dst port 9`,
        });
        const datagrams = cases.map(({ outer, inner }, at) => ({
          tos: dscp | outer,
          payload: toVtep(far, to, family, { tos: dscp | inner, port: 1000 + at }),
        }));
        // The last one comes through whatever its mark: the others have then come, or will not.
        datagrams.push({ tos: 0, payload: toVtep(far, to, family, { tos: 0, port: 1000 + cases.length }) });
        await sendFrom(far.host, family === 4 ? to.host.address : to.host.addressV6, datagrams);
        const isLast = (packet: Uint8Array) => sourcePort(packet) === 1000 + cases.length;
        const packets = await capture.until((seen) => seen.some(isLast));
        return cases.map((_, at) => {
          const packet = packets.find((seen) => sourcePort(seen) === 1000 + at);
          return packet === undefined ? "drop" : parsed(packet).trafficClass;
        });
      };
      const named = (results: readonly (number | "drop")[]) =>
        cases.map(({ outer, inner }, at) => {
          const result = results[at];
          const text = typeof result === "number" ? `${ecnNames[result & 3]} DSCP ${result & 0xfc}` : result;
          return `${ecnNames[inner]} in ${ecnNames[outer]}: ${text}`;
        });
      const expected = cases.map(({ outer, inner }) => {
        const ecn = innerEcn(outer, inner);
        return ecn === "drop" ? ecn : dscp | ecn;
      });
      expect(named(await delivered(kernels))).toEqual(named(expected));
      expect(named(await delivered(ours))).toEqual(named(expected));
    }
  });

  test("what we send with any mark, the kernel's device hands on with that mark", async () => {
    for (const [ecn] of ecnNames.entries()) {
      await using capture = await openCapture(net.lab, {
        namespace: far.host.namespace,
        device: "flannel.1",
        filter: `icmp[0] = 8 and src host ${vtepAddress(ours.report)}`,
      });
      await pingFar(ours, 4, "-Q", String(dscp | ecn));
      const packets = await capture.until(({ length }) => length >= 1);
      expect(parsed(packets[0] ?? new Uint8Array()).trafficClass).toBe(dscp | ecn);
    }
  });
});

interface Tunnelled {
  readonly outer: { readonly tos: number; readonly dontFragment: boolean; readonly ttl: number };
  readonly outerPort: number;
  readonly inner: IpPacket;
}

/** One echo request of either family. */
const onePing = {
  count: 1,
  isWanted: ({ family, bytes, headerBytes }: IpPacket) => bytes[headerBytes] === (family === 4 ? 8 : 128),
};

function readTunnelled(packet: Uint8Array): Tunnelled {
  const view = viewOf(packet);
  const { headerBytes, family, trafficClass: tos } = parsed(packet);
  const inner = parsed(packet.subarray(headerBytes + 8 + 22));
  // The families never mix. IPv6 has no DF: no router cuts it.
  expect(inner.family).toBe(family);
  const dontFragment = family === 4 && (view.getUint8(6) & 0x40) !== 0;
  return {
    outer: { tos, dontFragment, ttl: view.getUint8(family === 4 ? 8 : 7) },
    outerPort: view.getUint16(headerBytes),
    inner,
  };
}

/** Sends two datagrams of each of so many flows, told apart by their source ports. */
const sendFlows =
  "use Socket; my ($from, $to, $flows) = @ARGV; for my $flow (0 .. $flows - 1) {" +
  "socket(my $s, PF_INET, SOCK_DGRAM, 0) or die; bind($s, sockaddr_in(20000 + $flow, inet_aton($from))) or die;" +
  "send($s, $_, 0, sockaddr_in(9, inet_aton($to))) or die for 'one', 'two' }";

/** A datagram's payload as `from` would send it to the VTEP of `to`. */
function toVtep(
  from: Node,
  to: Node,
  family: 4 | 6,
  { tos, port }: { tos: number; port: number },
): Uint8Array {
  const [source, destination] = [from, to].map(({ report }) => parseIpAddress(vtepAddress(report, family)));
  if (source === undefined || destination === undefined) throw new Error("two ends");
  const packet = ipPacket(
    { source, destination, protocol: 17, trafficClass: tos },
    udpDatagram([port, 9], new Uint8Array(8)),
  );
  setChecksum(packet, "right");
  const mac = ({ report: { lease } }: Node) =>
    `${family === 4 ? lease?.vtepMac : lease?.vtepMacV6}`.replaceAll(":", "");
  const header = `0800000000000100${mac(to)}${mac(from)}${family === 4 ? "0800" : "86dd"}`;
  return Buffer.concat([Buffer.from(header, "hex"), packet]);
}

/** Sends UDP payloads with an outer TOS of their own, which node:dgram cannot. */
async function sendFrom(
  host: LabHost,
  to: string,
  datagrams: readonly { readonly tos: number; readonly payload: Uint8Array }[],
): Promise<void> {
  // IP_TOS and IPV6_TCLASS, by level and option.
  const [family, address, tosOption] = to.includes(":")
    ? ["PF_INET6", "pack_sockaddr_in6(8472, inet_pton(AF_INET6, shift))", "41, 67"]
    : ["PF_INET", "sockaddr_in(8472, inet_aton(shift))", "0, 1"];
  const program =
    `use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6); my $to = ${address};` +
    `socket(my $s, ${family}, SOCK_DGRAM, 0) or die;` +
    `while (@ARGV) { my ($tos, $hex) = splice @ARGV, 0, 2; setsockopt($s, ${tosOption}, pack('i', $tos)) or die;` +
    "send($s, pack('H*', $hex), 0, $to) or die }";
  const args = datagrams.flatMap(({ tos, payload }) => [String(tos), Buffer.from(payload).toString("hex")]);
  await inside(host.namespace, ["perl", "-e", program, to, ...args]);
}

function sourcePort(packet: Uint8Array): number | undefined {
  const ip = parseIp(packet);
  return "drop" in ip ? undefined : viewOf(ip.bytes).getUint16(ip.headerBytes);
}
