import { describe, expect, test } from "bun:test";
import { type DropReason, dropReasons } from "../../src/datapath/dgram/drop.ts";
import { isHeaderIntact, setHeaderChecksum } from "../../src/datapath/dgram/checksum.ts";
import { type IpPacket, parseIp, protocolTcp, protocolUdp, viewOf } from "../../src/datapath/dgram/ip.ts";
import { cutSuperPacket, fitToMtu } from "../../src/datapath/dgram/segment.ts";
import { isWithin, readTable, type Table } from "../../src/datapath/dgram/table.ts";
import { decapsulate, encapsulate } from "../../src/datapath/dgram/tunnel.ts";
import type { Encapsulation, ForwardingPeer, ForwardingTable } from "../../src/native/ports.ts";
import { parseIpAddress } from "../../src/net/address.ts";
import { parsePrefix } from "../../src/net/prefix.ts";
import type { Strict } from "../../src/plan/plan.ts";
import { loadProbe, type TunnelBuffer, type TunPacket } from "../support/probe.ts";
import { type Random, seededRandom } from "../support/random.ts";
import {
  addressIn,
  type Addresses,
  type ChecksumChoice,
  ipPacket,
  mutate,
  oddAddress,
  parsed,
  randomBytes,
  randomPacket,
  setChecksum,
  tcpSegment,
  udpDatagram,
} from "../support/random-packet.ts";
import {
  asReceived,
  decodeVnet,
  encodeVnet,
  gsoEcn,
  gsoTcp4,
  gsoTcp6,
  gsoUdp,
  plainVnet,
  type Vnet,
  withoutOffloads,
} from "../support/vnet.ts";

/** Packets in each direction at least; super-packets count once. */
const packetsMin = 100_000;
const packetsPerBatch = 150;
const ownMac = "02:00:00:00:00:01";
const mtuBytes = 1450;

const seed = Number(process.env["FL_SEED"] ?? Math.floor(Math.random() * 2 ** 32));
console.log(`differential test: FL_SEED=${seed}`);
const probe = loadProbe();
/** Super-packets that either side cut or joined. */
let superPackets = 0;
/** ICMP answers. */
let answers = 0;

/** What came of a batch: for each flow its packets in order, as text, and the drops that were any. */
interface Outcome {
  readonly flows: Readonly<Record<string, readonly string[]>>;
  readonly drops: Readonly<Record<string, number>>;
}

describe.each(["vxlan", "udp", "ipip"] as const)(
  "the native engine and the reference engine: %s",
  (encapsulation) => {
    test("outbound: the same payloads to the same endpoints, and the same drops", () => {
      const random = seededRandom(seed);
      superPackets = 0;
      answers = 0;
      const seen = differ(random, encapsulation, (table) => {
        const items = outboundItems(random, readTable(table));
        return { items, native: nativeOutbound, reference: referenceOutbound };
      });
      expectEachMet(seen, ["noRoute", "multicast", "notIp", "truncated", "badOffload"]);
      if (encapsulation === "udp") {
        expectEachMet(seen, ["ttlExceeded"]);
        expect(answers).toBeGreaterThan(packetsMin / 100);
      } else expect(answers).toBe(0);
    }, 120_000);

    test("inbound: the same packets to the host, flow by flow, and the same drops", () => {
      const random = seededRandom(seed ^ 0x5a5a);
      superPackets = 0;
      const seen = differ(random, encapsulation, (table) => {
        const items = inboundItems(random, readTable(table));
        return { items, native: nativeInbound, reference: referenceInbound };
      });
      expectEachMet(seen, ["truncated", "notIp", "unknownSender", "spoofedSource", "outsideOverlay"]);
      if (encapsulation === "udp") expectEachMet(seen, ["ttlExceeded"]);
      else expectEachMet(seen, ["ecnCe"]);
      if (encapsulation === "vxlan")
        expectEachMet(seen, ["badVxlan", "wrongVni", "wrongMac", "arp", "notIpFrame"]);
    }, 120_000);

    test("both count by the same names", () => {
      const table = randomTable(seededRandom(seed), encapsulation);
      expect(Object.keys(probe.probeOutbound(table, mtuBytes, []).drops).sort()).toEqual(
        [...dropReasons].sort(),
      );
    });
  },
);

interface Batch<Item> {
  readonly items: readonly Item[];
  readonly native: (table: ForwardingTable, items: readonly Item[]) => Outcome;
  readonly reference: (table: ForwardingTable, items: readonly Item[]) => Outcome;
}

/** Compares batch after batch, each with a table of its own. @returns how often each outcome was met */
function differ<Item>(
  random: Random,
  encapsulation: Encapsulation,
  makeBatch: (table: ForwardingTable) => Batch<Item>,
): Map<string, number> {
  const seen = new Map<string, number>();
  for (let done = 0; done < packetsMin;) {
    const table = randomTable(random, encapsulation);
    const { items, native, reference } = makeBatch(table);
    const expected = reference(table, items);
    const got = native(table, items);
    if (!Bun.deepEquals(got, expected)) explain(table, items, { native, reference }, done);
    for (const [reason, count] of Object.entries(expected.drops))
      seen.set(reason, (seen.get(reason) ?? 0) + count);
    const passed = Object.values(expected.flows).reduce((sum, flow) => sum + flow.length, 0);
    seen.set("passed", (seen.get("passed") ?? 0) + passed);
    done += items.length;
  }
  return seen;
}

/** Fails with the smallest run of the batch's items that still differs. */
function explain<Item>(
  table: ForwardingTable,
  all: readonly Item[],
  { native, reference }: Pick<Batch<Item>, "native" | "reference">,
  done: number,
): void {
  const differs = (items: readonly Item[]) => !Bun.deepEquals(native(table, items), reference(table, items));
  let items = all;
  for (let size = Math.ceil(items.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < items.length;) {
      const fewer = [...items.slice(0, at), ...items.slice(at + size)];
      if (differs(fewer)) items = fewer;
      else at += size;
    }
  }
  const context = { seed, done, table, items: items.map(readable) };
  expect({ ...context, ...native(table, items) }).toEqual({ ...context, ...reference(table, items) });
}

function readable(item: unknown): unknown {
  if (item instanceof Uint8Array) return hex(item);
  if (typeof item !== "object" || item === null) return item;
  return Object.fromEntries(Object.entries(item).map(([key, value]) => [key, readable(value)]));
}

/** The generator is worth something only where it reaches every branch. */
function expectEachMet(seen: Map<string, number>, reasons: readonly DropReason[]): void {
  expect(reasons.filter((reason) => (seen.get(reason) ?? 0) < 50)).toEqual([]);
  expect(seen.get("passed")).toBeGreaterThan(packetsMin / 4);
  expect(superPackets).toBeGreaterThan(packetsMin / 100);
}

// ---- outbound

function nativeOutbound(table: ForwardingTable, items: readonly TunPacket[]): Outcome {
  const { sent, answers, drops } = probe.probeOutbound(table, mtuBytes, items);
  const flows = new Map<string, string[]>();
  const lanes = new Map<string, number>();
  for (const { payload, endpoint, tos, lane } of sent) {
    const flow = flowOf(payload.subarray(table.encapsulation === "vxlan" ? 22 : 0));
    add(flows, flow, `${endpoint} tos ${tos} ${hex(payload)}`);
    // One source port a flow, else its packets would overtake one another.
    if ((lanes.get(flow) ?? lane) !== lane) add(flows, flow, `lane ${lane}`);
    lanes.set(flow, lane);
  }
  for (const { vnet, packet } of answers) add(flows, "answers", `${hex(vnet)} ${hex(packet)}`);
  return outcome(flows, drops);
}

function referenceOutbound(spec: ForwardingTable, items: readonly TunPacket[]): Outcome {
  const table = readTable(spec);
  const flows = new Map<string, string[]>();
  const drops: Record<string, number> = {};
  for (const { vnet, packet } of items) {
    const verdict = encapsulate(packet, table);
    const offloads = decodeVnet(vnet);
    const pieces = "drop" in verdict ? [] : withoutOffloads(offloads, packet);
    if ("drop" in verdict && verdict.answer !== undefined) {
      // It quotes the packet as it would have left; of a super-packet, what the kernel gave.
      const whole = (offloads.gsoType & ~gsoEcn) === 0 ? withoutOffloads(offloads, packet)?.[0] : packet;
      const again = encapsulate(whole ?? packet, table);
      const answer = "drop" in again ? again.answer : undefined;
      add(flows, "answers", `${hex(encodeVnet(plainVnet))} ${hex(answer ?? new Uint8Array())}`);
      answers++;
    }
    const reason = "drop" in verdict ? verdict.drop : pieces === undefined ? "badOffload" : undefined;
    if (reason !== undefined) drops[reason] = (drops[reason] ?? 0) + 1;
    if (pieces !== undefined && pieces.length > 1) superPackets++;
    for (const piece of pieces ?? []) {
      const sent = encapsulate(piece, table);
      if ("drop" in sent) throw new Error(`a piece was dropped as ${sent.drop}`);
      add(flows, flowOf(piece), `${sent.peer.endpoint} tos ${sent.tos} ${hex(sent.payload)}`);
    }
  }
  return outcome(flows, drops);
}

function outboundItems(random: Random, table: Table): TunPacket[] {
  const addresses: Addresses = {
    source: (family) => someAddress(random, table, family),
    destination: (family) => someAddress(random, table, family),
  };
  const items: TunPacket[] = [];
  while (items.length < packetsPerBatch) {
    switch (random.below(12)) {
      case 0: {
        items.push(superPacket(random, addresses));
        break;
      }
      case 1: {
        const { vnet, packet } = superPacket(random, addresses, 3_000);
        items.push({ vnet: encodeVnet(oddVnet(random, decodeVnet(vnet))), packet });
        break;
      }
      case 2: {
        items.push({ vnet: encodeVnet(oddVnet(random, plainVnet)), packet: randomPacket(random, addresses) });
        break;
      }
      case 3: {
        // A run of one size, which leaves as one message.
        const packet = randomPacket(random, addresses);
        for (let count = random.below(8); count >= 0; count--)
          items.push({ vnet: encodeVnet(plainVnet), packet });
        break;
      }
      case 4:
      case 5: {
        const packet = randomPacket(random, addresses);
        items.push({ vnet: encodeVnet(unfinishedVnet(packet)), packet });
        break;
      }
      default: {
        const packet = randomPacket(random, addresses);
        const isMutated = random.below(3) === 0;
        items.push({ vnet: encodeVnet(plainVnet), packet: isMutated ? mutate(random, packet) : packet });
      }
    }
  }
  return items;
}

/** Leaves the checksum of a TCP or UDP packet to be completed, and says so; says nothing of any other. */
function unfinishedVnet(packet: Uint8Array): Vnet {
  const { protocol, headerBytes, isFragment } = parsed(packet);
  if (isFragment || (protocol !== protocolTcp && protocol !== protocolUdp)) return plainVnet;
  setChecksum(packet, "unfinished");
  return {
    ...plainVnet,
    needsChecksum: true,
    checksumStart: headerBytes,
    checksumOffset: protocol === protocolTcp ? 16 : 6,
  };
}

/** A TCP or UDP super-packet as a kernel hands it to a TUN. */
function superPacket(random: Random, addresses: Addresses, bytesMax = 64_000): TunPacket {
  const family = random.pick<4 | 6>([4, 6]);
  const isTcp = random.below(3) > 0;
  const size = random.below(12) === 0 ? bytesMax : Math.min(bytesMax, 8_000);
  const payload = randomBytes(random, 1 + random.below(size));
  const ports = [2_000 + random.below(4), 443] as const;
  const flags = random.pick([0x10, 0x18, 0x19, 0x90, 0x98]);
  const options = randomBytes(random, random.pick([0, 12, 40]));
  const body = isTcp
    ? tcpSegment({ ports, sequence: random.below(2 ** 32), flags, options }, payload)
    : udpDatagram(ports, payload);
  const protocol = isTcp ? protocolTcp : protocolUdp;
  const isExtended = family === 6 && random.below(4) === 0;
  const packet = ipPacket(
    {
      source: addresses.source(family),
      destination: addresses.destination(family),
      protocol: isExtended ? 60 : protocol,
      trafficClass: random.below(256),
      identification: random.below(65536),
      ...(isExtended ? { more: Uint8Array.of(protocol, 0, 1, 4, 0, 0, 0, 0) } : {}),
    },
    body,
  );
  setChecksum(packet, "unfinished");
  const checksumStart = (family === 4 ? 20 : 40) + (isExtended ? 8 : 0);
  const headerBytes = checksumStart + (isTcp ? 20 + options.length : 8);
  const tcpType = (family === 4 ? gsoTcp4 : gsoTcp6) | ((flags & 0x80) !== 0 ? gsoEcn : 0);
  const vnet = {
    needsChecksum: true,
    gsoType: isTcp ? tcpType : gsoUdp,
    headerBytes,
    gsoBytes: random.pick([mtuBytes - headerBytes, 500 + random.below(900), 40 + random.below(1_000)]),
    checksumStart,
    checksumOffset: isTcp ? 16 : 6,
  };
  return { vnet: encodeVnet(vnet), packet };
}

/** A header that no kernel writes. Addresses and ports stay, so that flows can be told apart. */
function oddVnet(random: Random, vnet: Vnet): Vnet {
  switch (random.below(6)) {
    case 0:
      return { ...vnet, gsoType: random.below(256) };
    case 1:
      return {
        ...vnet,
        gsoBytes: random.pick([0, 1, 7, 65_535]),
        gsoType: random.pick([gsoTcp4, gsoTcp6, gsoUdp]),
      };
    case 2:
      return {
        ...vnet,
        needsChecksum: true,
        checksumStart: random.pick([64, 65, 200, 2_999, 65_535]),
      };
    case 3:
      return {
        ...vnet,
        needsChecksum: true,
        checksumStart: 64,
        checksumOffset: random.pick([0, 1, 6, 15, 16, 65_535]),
      };
    case 4:
      return { ...vnet, needsChecksum: !vnet.needsChecksum, checksumStart: vnet.checksumStart || 64 };
    default:
      return {
        needsChecksum: random.below(2) === 0,
        gsoType: random.pick([0, gsoTcp4, gsoTcp6, gsoUdp, 3, 0x80]),
        headerBytes: random.below(65_536),
        gsoBytes: 1 + random.below(65_535),
        checksumStart: 64 + random.below(100),
        checksumOffset: random.below(20),
      };
  }
}

// ---- inbound

function nativeInbound(table: ForwardingTable, items: readonly TunnelBuffer[]): Outcome {
  const { written, drops } = probe.probeInbound(table, mtuBytes, items);
  const flows = new Map<string, string[]>();
  for (const { vnet, packet } of written) {
    const pieces = asReceived(decodeVnet(vnet), packet);
    if (pieces !== undefined && pieces.length > 1) superPackets++;
    if (pieces === undefined) add(flows, "impossible", `${hex(vnet)} ${hex(packet)}`);
    for (const piece of pieces ?? []) add(flows, flowOf(piece), hex(comparable(piece)));
  }
  return outcome(flows, drops);
}

function referenceInbound(spec: ForwardingTable, items: readonly TunnelBuffer[]): Outcome {
  const table = readTable(spec);
  const flows = new Map<string, string[]>();
  const drops: Record<string, number> = {};
  for (const { source, tos, segment, payload } of items) {
    const joined = isJoinedInside(payload, segment, table.carriage.kind !== "vxlan");
    for (const datagram of joined ? [payload] : datagramsOf(payload, segment)) {
      const verdict = decapsulate(datagram, { source: parseIpAddress(source), tos }, table);
      if ("drop" in verdict) {
        drops[verdict.drop] = (drops[verdict.drop] ?? 0) + 1;
        continue;
      }
      const { packet, wasUnfinished } = verdict;
      const pieces = joined
        ? cutInside(packet, wasUnfinished, segment)
        : fitToMtu(packet, wasUnfinished, mtuBytes);
      for (const piece of pieces) add(flows, flowOf(piece), hex(comparable(piece)));
    }
  }
  return outcome(flows, drops);
}

/** Whether it is one VXLAN packet around joined UDP datagrams: the kernel then tells the size of the inner ones. */
function isJoinedInside(payload: Uint8Array, segment: number, isBare: boolean): boolean {
  if (isBare || segment === 0 || segment >= payload.length || ((payload[0] ?? 0) & 8) === 0) return false;
  const ip = parseIp(payload.subarray(22));
  return !("drop" in ip) && ip.protocol === protocolUdp && 22 + ip.bytes.length === payload.length;
}

/** What has a finished checksum has crossed a wire as the one datagram it is. */
function cutInside(packet: IpPacket, wasUnfinished: boolean, payloadBytes: number): Uint8Array[] {
  const { protocol, headerBytes, bytes, isFragment } = packet;
  if (!wasUnfinished || isFragment || !isHeaderIntact(packet)) return [bytes];
  return cutSuperPacket(packet, { protocol, transport: headerBytes, payloadBytes }) ?? [bytes];
}

function datagramsOf(payload: Uint8Array, segment: number): Uint8Array[] {
  if (segment === 0 || payload.length <= segment) return [payload];
  return [payload.subarray(0, segment), ...datagramsOf(payload.subarray(segment), segment)];
}

/**
 * A packet of a joined super-packet is numbered anew when it is cut. With DF set nothing looks at the number
 * (RFC 6864 §4), so it is left out of the comparison.
 */
function comparable(packet: Uint8Array): Uint8Array {
  const ip = parsed(packet);
  const dontFragment = ((packet[6] ?? 0) & 0x40) !== 0;
  const isJoined = ip.protocol === protocolTcp || ip.protocol === protocolUdp;
  if (ip.family === 6 || !isJoined || !dontFragment || !isHeaderIntact(ip)) return packet;
  const copy = Uint8Array.from(packet);
  viewOf(copy).setUint16(4, 0);
  setHeaderChecksum(copy, ip.headerBytes);
  return copy;
}

function inboundItems(random: Random, table: Table): TunnelBuffer[] {
  const streams: TunnelBuffer[][] = [];
  for (let count = 0; count < packetsPerBatch;) {
    const isStream = random.below(4) === 0;
    const stream = isStream ? packetStream(random, table) : [singleDatagram(random, table)];
    streams.push(stream);
    count += stream.length;
  }
  // Mixed up, each stream in its own order.
  const items: TunnelBuffer[] = [];
  const waiting = streams.slice();
  while (waiting.length > 0) {
    const at = random.below(Math.min(waiting.length, 10));
    const next = waiting[at]?.shift();
    if (next === undefined) waiting.splice(at, 1);
    else items.push(next);
  }
  return items;
}

interface Sender {
  readonly source: string;
  readonly addresses: Addresses;
}

/** Mostly a peer with an address of its own; else a stranger, a named one, or one that borrows an address. */
function someSender(random: Random, table: Table): Sender {
  const peer = table.peers[random.below(table.peers.length)];
  const isV4 = peer?.endpoint.family === 4;
  const odd = random.below(10);
  const source =
    peer !== undefined && odd > 1
      ? `${peer.endpoint}`
      : random.pick(isV4 ? ["198.51.100.7", "203.0.113.9"] : ["2001:db8:aaaa::7", "2001:db8:bbbb::9"]);
  return {
    source,
    addresses: {
      source: (family) => {
        const own = peer?.subnets.filter((subnet) => subnet.family === family)[0];
        return own === undefined || odd === 2 ? someAddress(random, table, family) : addressIn(own, random);
      },
      destination: (family) => someAddress(random, table, family),
    },
  };
}

function singleDatagram(random: Random, table: Table): TunnelBuffer {
  const { source, addresses } = someSender(random, table);
  const tos = random.below(3) > 0 ? random.below(4) : random.below(256);
  const kind = random.below(20);
  let packet: Uint8Array =
    kind === 0 ? superPacket(random, addresses).packet : randomPacket(random, addresses);
  if (kind === 0)
    setChecksum(packet, random.pick(["right", "right", "unfinished", "unfinished", "wrong", "absent"]));
  if (kind === 1) packet = mutate(random, packet);
  let payload: Uint8Array = wrap(packet, table);
  if (kind <= 3) payload = mutateFrame(random, payload);
  if (kind === 4) payload = mutate(random, payload);
  const segment = kind === 5 || kind === 0 ? 60 + random.below(1_500) : 0;
  return { source, tos, segment, payload };
}

/** A frame for somebody else, of another kind or network. */
function mutateFrame(random: Random, payload: Uint8Array): Uint8Array {
  const frame = Uint8Array.from(payload);
  const [at, value] = random.pick([
    [0, random.below(256)],
    [6, random.below(256)],
    [7, random.below(256)],
    [8, 0xff],
    [13, random.below(256)],
    [20, 0x86],
    [21, 0x06],
    [21, random.below(256)],
    [22, random.below(256)],
    [22, random.pick([0x40, 0x44])],
  ]);
  frame[at] = value;
  return frame;
}

/** Packets of one TCP connection or UDP flow, with what ends the joining of them now and then; also joined by UDP GRO. */
function packetStream(random: Random, table: Table): TunnelBuffer[] {
  const { source, addresses } = someSender(random, table);
  const family = random.pick<4 | 6>([4, 6]);
  const isTcp = random.below(2) === 0;
  const ends = { source: addresses.source(family), destination: addresses.destination(family) };
  const ports = [3_000 + random.below(2), 443] as const;
  const size = 1 + random.below(1_350);
  const options = randomBytes(random, random.pick([0, 12]));
  const fragment = random.pick([0x4000, 0x4000, 0]);
  const numbering = random.pick(["rising", "rising", "fixed", "random"]);
  const state = random.pick<ChecksumChoice>(["right", "right", "unfinished"]);
  const trafficClass = random.below(4);
  let sequence = random.below(2 ** 32);
  let identification = random.below(65_536);
  const packets: Uint8Array[] = [];
  for (let left = 2 + random.below(30); left > 0; left--) {
    const odd = random.below(16);
    const length = odd === 0 ? random.below(size) : odd === 1 ? size + 1 : size;
    if (odd === 2) sequence = random.pick([sequence + 1, sequence - size, random.below(2 ** 32)]) >>> 0;
    const flags = odd === 3 ? random.below(256) : odd === 4 ? 0x18 : 0x10;
    if (numbering === "rising") identification = (identification + 1) & 0xffff;
    if (numbering === "random") identification = random.below(65_536);
    const payload = randomBytes(random, length);
    const body = isTcp
      ? tcpSegment({ ports, sequence, flags, options, window: odd === 5 ? 1 : 512 }, payload)
      : udpDatagram(ports, payload);
    const packet = ipPacket(
      {
        ...ends,
        protocol: isTcp ? protocolTcp : protocolUdp,
        identification,
        fragment: odd === 6 ? fragment ^ 0x4000 : fragment,
        trafficClass: odd === 7 ? random.below(256) : trafficClass,
        hopLimit: odd === 8 ? 63 : 64,
      },
      body,
    );
    const oddStates: ChecksumChoice[] = ["right", "unfinished", "wrong", isTcp ? "wrong" : "absent"];
    setChecksum(packet, odd === 9 ? random.pick(oddStates as [ChecksumChoice]) : state);
    if (odd === 10 && family === 4) packet[10] = (packet[10] ?? 0) ^ 1;
    packets.push(packet);
    sequence = (sequence + length) >>> 0;
  }
  const tos = random.pick([0, 0, trafficClass, random.below(256)]);
  const payloads = packets.map((packet) => wrap(packet, table));
  if (random.below(2) === 0) return payloads.map((payload) => ({ source, tos, segment: 0, payload }));
  return joinedByGro(payloads).map((buffer) => ({ source, tos, ...buffer }));
}

/** Runs of payloads of one size, and a shorter one behind each. */
function joinedByGro(payloads: readonly Uint8Array[]): Pick<TunnelBuffer, "segment" | "payload">[] {
  const buffers: { segment: number; parts: Uint8Array[] }[] = [];
  for (const payload of payloads) {
    const last = buffers.at(-1);
    const isOpen = last !== undefined && last.parts.at(-1)?.length === last.segment && last.parts.length < 40;
    if (isOpen && payload.length <= last.segment) last.parts.push(payload);
    else buffers.push({ segment: payload.length, parts: [payload] });
  }
  return buffers.map(({ segment, parts }) => ({
    segment: parts.length > 1 ? segment : 0,
    payload: Buffer.concat(parts),
  }));
}

/** As a peer sends it to us. */
function wrap(packet: Uint8Array, { carriage }: Table): Uint8Array {
  if (carriage.kind === "udp") return packet;
  if (carriage.kind === "ipip") return inIpv4(packet);
  const { vni, vtepMac } = carriage;
  const header = Uint8Array.of(
    8,
    0,
    0,
    0,
    vni >> 16,
    vni >> 8,
    vni,
    0,
    ...vtepMac,
    2,
    0,
    0,
    0,
    0,
    9,
    0x08,
    0x00,
  );
  if ((packet[0] ?? 0) >> 4 === 6) header.set([0x86, 0xdd], 20);
  return Buffer.concat([header, packet]);
}

// ---- both

/** As a raw socket gives it: the outer header, at times with options, in front. */
function inIpv4(packet: Uint8Array): Uint8Array {
  const headerBytes = 20 + 4 * ((packet[0] ?? 0) % 3);
  const header = new Uint8Array(headerBytes);
  header[0] = 0x40 | (headerBytes / 4);
  viewOf(header).setUint16(2, headerBytes + packet.length);
  header.set([64, 4], 8);
  return Buffer.concat([header, packet]);
}

/** A table of up to ten peers, dual-stack inside, over IPv4 or IPv6. */
function randomTable(random: Random, encapsulation: Encapsulation): ForwardingTable {
  const isV4 = random.below(2) === 0;
  const peers: ForwardingPeer[] = [];
  for (let number = 1 + random.below(10); number > 0; number--) {
    const host = random.below(6) === 0 ? 1 : number; // some share an endpoint
    const length = 21 + random.below(10);
    peers.push({
      subnets: [
        `10.5.${8 * number}.0/${length}`,
        ...(random.below(3) > 0 ? [`fd00:5:0:${number.toString(16)}::/${random.pick([64, 112, 128])}`] : []),
        // A lease may lie beside the overlay's network.
        ...(random.below(5) === 0 ? [`10.6.${number}.0/24`] : []),
      ],
      endpoint: isV4 ? `192.0.2.${host}` : `2001:db8::${host.toString(16)}`,
      mac: `02:00:00:00:01:${number.toString(16).padStart(2, "0")}`,
    });
  }
  const common = {
    overlay: ["10.5.0.0/16", "fd00:5::/32"],
    strict: random.pick<Strict>(["off", "overlay", "overlay", "full"]),
    allowSources: random.below(2) === 0 ? [] : [isV4 ? "198.51.100.0/24" : "2001:db8:aaaa::/48"],
    peers,
  };
  if (encapsulation === "udp")
    return { encapsulation, answerFrom: random.pick([["10.5.0.0", "fd00:5::"], ["10.5.0.0"]]), ...common };
  if (encapsulation === "ipip") return { encapsulation, ...common };
  const vni = random.pick([1, 1, 0xabcdef, 2 ** 24 - 1]);
  return { encapsulation, vni, vtepMac: ownMac, ...common };
}

const overlays = { 4: parsePrefix("10.5.0.0/16"), 6: parsePrefix("fd00:5::/32") } as const;

/** Mostly in a peer's subnet, sometimes elsewhere in the overlay, or anywhere. */
function someAddress(random: Random, table: Table, family: 4 | 6) {
  const subnets = table.peers.flatMap(({ subnets }) => subnets).filter((subnet) => subnet.family === family);
  const kind = random.below(12);
  const subnet = subnets[random.below(Math.max(1, subnets.length))];
  if (subnet !== undefined && kind > 1) return addressIn(subnet, random);
  if (kind === 0) return oddAddress(family, random);
  const address = addressIn(overlays[family], random);
  return isWithin(subnets, address) && random.below(2) === 0 ? oddAddress(family, random) : address;
}

/** What must stay in order: addresses, protocol and, where every packet has them, ports. */
function flowOf(packet: Uint8Array): string {
  const ip = parseIp(packet);
  if ("drop" in ip) return ip.drop;
  const hasPorts = (ip.protocol === protocolTcp || ip.protocol === protocolUdp) && !ip.isFragment;
  const ports = hasPorts ? hex(ip.bytes.subarray(ip.headerBytes, ip.headerBytes + 4)) : "";
  return `${ip.source} ${ip.destination} ${ip.protocol} ${ports}`;
}

function add(flows: Map<string, string[]>, flow: string, text: string): void {
  const packets = flows.get(flow);
  if (packets === undefined) flows.set(flow, [text]);
  else packets.push(text);
}

function outcome(flows: Map<string, string[]>, drops: Readonly<Record<string, number>>): Outcome {
  const met = Object.entries(drops).filter(([, count]) => count > 0);
  return { flows: Object.fromEntries(flows), drops: Object.fromEntries(met) };
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}
