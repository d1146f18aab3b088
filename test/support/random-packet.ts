import {
  checksumOffset,
  onesComplementSum,
  pseudoHeader,
  setHeaderChecksum,
  setTransportChecksum,
} from "../../src/datapath/dgram/checksum.ts";
import { type IpPacket, parseIp, protocolTcp, protocolUdp, viewOf } from "../../src/datapath/dgram/ip.ts";
import { type IpAddress, parseIpAddress } from "../../src/net/address.ts";
import type { Prefix } from "../../src/net/prefix.ts";
import type { Random } from "./random.ts";

/** What a made IP packet consists of; the rest is filled in. */
export interface PacketParts {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  readonly protocol: number;
  readonly trafficClass?: number;
  /** IPv4's identification. */
  readonly identification?: number;
  /** IPv4's flags and fragment offset. */
  readonly fragment?: number;
  /** IPv4 options, a multiple of 4 bytes; IPv6 extension headers, a multiple of 8. */
  readonly more?: Uint8Array;
  readonly hopLimit?: number;
}

/** An IP packet with a right header checksum around `body`, whose own checksum is left alone. */
export function ipPacket(parts: PacketParts, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const { source, destination, protocol, trafficClass = 0, more = new Uint8Array(0) } = parts;
  const isV4 = source.family === 4;
  const fixedBytes = isV4 ? 20 : 40;
  const bytes = new Uint8Array(fixedBytes + more.length + body.length);
  const view = viewOf(bytes);
  bytes.set(more, fixedBytes);
  bytes.set(body, fixedBytes + more.length);
  if (isV4) {
    view.setUint8(0, 0x40 | ((fixedBytes + more.length) / 4));
    view.setUint8(1, trafficClass);
    view.setUint16(2, bytes.length);
    view.setUint16(4, parts.identification ?? 0);
    view.setUint16(6, parts.fragment ?? 0x4000);
    view.setUint8(8, parts.hopLimit ?? 64);
    view.setUint8(9, protocol);
    view.setUint32(12, Number(source.value));
    view.setUint32(16, Number(destination.value));
    setHeaderChecksum(bytes, fixedBytes + more.length);
  } else {
    view.setUint32(0, 0x6000_0000 + trafficClass * 2 ** 20 + 0x12345);
    view.setUint16(4, bytes.length - 40);
    view.setUint8(6, protocol);
    view.setUint8(7, parts.hopLimit ?? 64);
    for (const [at, { value }] of [
      [8, source],
      [24, destination],
    ] as const) {
      view.setBigUint64(at, value >> 64n);
      view.setBigUint64(at + 8, value & 0xffff_ffff_ffff_ffffn);
    }
  }
  return bytes;
}

export interface TcpParts {
  readonly ports: readonly [number, number];
  readonly sequence: number;
  readonly flags: number;
  readonly window?: number;
  /** A multiple of 4 bytes, at most 40. */
  readonly options?: Uint8Array;
}

/** A TCP segment; its checksum is still to be set. */
export function tcpSegment(parts: TcpParts, payload: Uint8Array): Uint8Array {
  const { ports, sequence, flags, window = 512, options = new Uint8Array(0) } = parts;
  const bytes = new Uint8Array(20 + options.length + payload.length);
  const view = viewOf(bytes);
  view.setUint16(0, ports[0]);
  view.setUint16(2, ports[1]);
  view.setUint32(4, sequence >>> 0);
  view.setUint32(8, 0x1234_5678);
  view.setUint8(12, ((20 + options.length) / 4) << 4);
  view.setUint8(13, flags);
  view.setUint16(14, window);
  bytes.set(options, 20);
  bytes.set(payload, 20 + options.length);
  return bytes;
}

/** A UDP datagram; its checksum is still to be set. */
export function udpDatagram(ports: readonly [number, number], payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + payload.length);
  const view = viewOf(bytes);
  view.setUint16(0, ports[0]);
  view.setUint16(2, ports[1]);
  view.setUint16(4, bytes.length);
  bytes.set(payload, 8);
  return bytes;
}

/** `absent`: zero, which in UDP over IPv4 says that there is none. */
export type ChecksumChoice = "right" | "unfinished" | "wrong" | "absent";

/** Sets the transport checksum, or leaves in its field what a sender leaves that relies on its device. */
export function setChecksum(packet: Uint8Array, state: ChecksumChoice): void {
  const ip = parsed(packet);
  const offset = checksumOffset(ip.protocol);
  const at = ip.headerBytes + (offset ?? 0);
  if (offset === undefined || at + 2 > packet.length) return;
  const view = viewOf(packet);
  const sum = onesComplementSum(pseudoHeader(ip, ip.protocol, packet.length - ip.headerBytes));
  if (state === "unfinished") view.setUint16(at, sum);
  else if (state === "absent") view.setUint16(at, 0);
  else setTransportChecksum(ip, ip.protocol, ip.headerBytes);
  if (state === "wrong") view.setUint16(at, view.getUint16(at) ^ 0x0101);
}

export function parsed(packet: Uint8Array): IpPacket {
  const ip = parseIp(packet);
  if ("drop" in ip) throw new Error(`no IP packet: ${ip.drop}`);
  return ip;
}

/** Where addresses come from, one family at a time. */
export interface Addresses {
  /** Mostly one that matters, sometimes any. */
  source(family: 4 | 6): IpAddress;
  destination(family: 4 | 6): IpAddress;
}

export function addressIn({ address, size }: Prefix, random: Random): IpAddress {
  const span = size > 65536n ? 65536 : Number(size);
  const at = BigInt(random.below(span));
  // Also the far end of large ones.
  return address.plus(random.below(4) === 0 ? size - 1n - at : at);
}

const oddAddresses = {
  4: ["0.0.0.0", "127.0.0.1", "224.0.0.251", "239.255.255.255", "255.255.255.255", "240.0.0.1", "192.0.2.1"],
  6: ["::", "::1", "ff02::1", "fe80::1", "2001:db8::1", "feff::1"],
} as const;

export function oddAddress(family: 4 | 6, random: Random): IpAddress {
  return parseIpAddress(random.pick(oddAddresses[family]));
}

/** Makes random bytes quickly: slices of a pool. */
export function randomBytes(random: Random, length: number): Uint8Array {
  const start = random.below(pool.length - length);
  return pool.subarray(start, start + length);
}

const pool = (() => {
  const bytes = new Uint8Array(200_000);
  let state = 0x1234_5678;
  for (let at = 0; at < bytes.length; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
})();

/** Mostly small, sometimes about an MTU, sometimes jumbo. */
function payloadBytes(random: Random): number {
  switch (random.below(10)) {
    case 0:
      return 0;
    case 1:
      return 1_300 + random.below(300);
    case 2:
      return random.below(30) === 0 ? 1_500 + random.below(40_000) : random.below(3_000);
    default:
      return random.below(200);
  }
}

/** One IP packet as hosts send them: any protocol, options, fragments, all states of its checksum. */
export function randomPacket(random: Random, addresses: Addresses): Uint8Array<ArrayBuffer> {
  const family = random.pick<4 | 6>([4, 6]);
  const protocol = random.pick([
    protocolTcp,
    protocolTcp,
    protocolUdp,
    protocolUdp,
    family === 4 ? 1 : 58,
    50,
  ]);
  const ports = [1024 + random.below(4), random.pick([53, 80, 443])] as const;
  const payload = randomBytes(random, payloadBytes(random));
  const body =
    protocol === protocolTcp
      ? tcpSegment(
          {
            ports,
            sequence: random.below(2 ** 32),
            flags: random.below(256),
            options: randomBytes(random, 4 * random.below(11)),
          },
          payload,
        )
      : protocol === protocolUdp
        ? udpDatagram(ports, payload)
        : payload;
  const odd = random.below(8);
  const extension = family === 6 && odd === 0 ? random.pick([0, 44, 60]) : undefined;
  const packet = ipPacket(
    {
      source: addresses.source(family),
      destination: addresses.destination(family),
      protocol: extension ?? protocol,
      trafficClass: random.below(2) === 0 ? 0 : random.below(256),
      identification: random.below(65536),
      hopLimit: random.below(20) === 0 ? random.below(3) : 64,
      fragment: random.pick([
        0x4000,
        0x4000,
        0x4000,
        0x0000,
        0x0000,
        odd === 1 ? 0x2000 : 0,
        odd === 2 ? 0x0010 : 0,
      ]),
      more:
        extension !== undefined
          ? Uint8Array.of(protocol, 0, 1, 4, 0, 0, 0, 0)
          : family === 4 && odd === 0
            ? new Uint8Array(4 * (1 + random.below(10))).fill(1)
            : new Uint8Array(0),
    },
    body,
  );
  setChecksum(
    packet,
    random.pick<ChecksumChoice>([
      "right",
      "right",
      "right",
      "right",
      "unfinished",
      "unfinished",
      "wrong",
      protocol === protocolUdp ? "absent" : "right",
    ]),
  );
  return packet;
}

/** What bad luck or malice makes of bytes: some changed, cut short, padded, or others altogether. */
export function mutate(random: Random, bytes: Uint8Array): Uint8Array {
  switch (random.below(6)) {
    case 0:
      return randomBytes(random, random.below(120));
    case 1:
      return bytes.subarray(0, random.below(bytes.length + 1));
    case 2:
      return Buffer.concat([bytes, randomBytes(random, random.below(60))]);
    default: {
      const changed = Uint8Array.from(bytes);
      const reach = Math.min(changed.length, random.pick([24, 70, 110]));
      for (let times = 1 + random.below(3); times > 0 && reach > 0; times--) {
        const at = random.below(reach);
        changed[at] = random.pick([0, 0xff, random.below(256), (changed[at] ?? 0) ^ (1 << random.below(8))]);
      }
      return changed;
    }
  }
}
