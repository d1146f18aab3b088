import { type Family, IpAddress } from "../../net/address.ts";
import type { Dropped } from "./drop.ts";

/** Protocol numbers. */
export const protocolTcp = 6;
export const protocolUdp = 17;

/** IPv6's fixed header (RFC 8200 §3). */
const ipv6HeaderBytes = 40;
/** The next-header number of IPv6's fragment header (RFC 8200 §4.5). */
const ipv6Fragment = 44;

/** An IP packet with what the engine looks at. */
export interface IpPacket {
  /** The packet, as long as it says it is: what follows (Ethernet pads) is left out. */
  readonly bytes: Uint8Array;
  readonly family: Family;
  readonly source: IpAddress;
  readonly destination: IpAddress;
  /** DSCP and ECN: IPv4's TOS, IPv6's traffic class. */
  readonly trafficClass: number;
  /** Protocol, or IPv6's first next-header number: extension headers are not walked. */
  readonly protocol: number;
  /** Bytes before what `protocol` names. */
  readonly headerBytes: number;
  /** A part of a fragmented packet, the first one included. */
  readonly isFragment: boolean;
}

/** Reads an IPv4 (RFC 791 §3.1) or IPv6 (RFC 8200 §3) header. Drops as `truncated` or `notIp`. */
export function parseIp(bytes: Uint8Array): IpPacket | Dropped {
  const first = bytes[0];
  if (first === undefined) return { drop: "truncated" };
  if (first >> 4 === 4) return parseIpv4(bytes);
  if (first >> 4 === 6) return parseIpv6(bytes);
  return { drop: "notIp" };
}

function parseIpv4(bytes: Uint8Array): IpPacket | Dropped {
  if (bytes.length < 20) return { drop: "truncated" };
  const view = viewOf(bytes);
  const headerBytes = (view.getUint8(0) & 0x0f) * 4;
  const totalBytes = view.getUint16(2);
  if (headerBytes < 20 || totalBytes < headerBytes) return { drop: "notIp" };
  if (totalBytes > bytes.length) return { drop: "truncated" };
  const flagsAndOffset = view.getUint16(6);
  const moreFragments = (flagsAndOffset & 0x2000) !== 0;
  const fragmentOffset = flagsAndOffset & 0x1fff;
  return {
    bytes: bytes.subarray(0, totalBytes),
    family: 4,
    source: addressAt(view, 4, 12),
    destination: addressAt(view, 4, 16),
    trafficClass: view.getUint8(1),
    protocol: view.getUint8(9),
    headerBytes,
    isFragment: moreFragments || fragmentOffset !== 0,
  };
}

function parseIpv6(bytes: Uint8Array): IpPacket | Dropped {
  if (bytes.length < ipv6HeaderBytes) return { drop: "truncated" };
  const view = viewOf(bytes);
  const totalBytes = ipv6HeaderBytes + view.getUint16(4);
  if (totalBytes > bytes.length) return { drop: "truncated" };
  const protocol = view.getUint8(6);
  return {
    bytes: bytes.subarray(0, totalBytes),
    family: 6,
    source: addressAt(view, 6, 8),
    destination: addressAt(view, 6, 24),
    trafficClass: (view.getUint16(0) >> 4) & 0xff,
    protocol,
    headerBytes: ipv6HeaderBytes,
    isFragment: protocol === ipv6Fragment,
  };
}

/** A view of the same bytes, for big-endian numbers. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function addressAt(view: DataView, family: Family, at: number): IpAddress {
  if (family === 4) return new IpAddress(4, BigInt(view.getUint32(at)));
  return new IpAddress(6, (view.getBigUint64(at) << 64n) | view.getBigUint64(at + 8));
}

/** Sent to many: IPv4 224.0.0.0/4 and 255.255.255.255, IPv6 ff00::/8. */
export function isMulticast({ family, value }: IpAddress): boolean {
  if (family === 6) return value >> 120n === 0xffn;
  return value >> 28n === 0xen || value === 0xffff_ffffn;
}
