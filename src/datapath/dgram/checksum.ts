import { type IpPacket, protocolTcp, protocolUdp, viewOf } from "./ip.ts";

/** The ones' complement sum of big-endian 16-bit words, an odd last byte padded with zero (RFC 1071 §1). */
export function onesComplementSum(...parts: readonly Uint8Array[]): number {
  let sum = 0;
  for (const bytes of parts) {
    const view = viewOf(bytes);
    for (let at = 0; at + 1 < bytes.length; at += 2) sum += view.getUint16(at);
    if (bytes.length % 2 === 1) sum += view.getUint8(bytes.length - 1) << 8;
  }
  while (sum > 0xffff) sum = Math.floor(sum / 0x10000) + (sum & 0xffff);
  return sum;
}

/** Whether IPv4's header checksum is right; IPv6 has none. */
export function isHeaderIntact({ family, bytes, headerBytes }: IpPacket): boolean {
  return family === 6 || onesComplementSum(bytes.subarray(0, headerBytes)) === 0xffff;
}

/** Sets IPv4's header checksum. */
export function setHeaderChecksum(bytes: Uint8Array, headerBytes: number): void {
  const view = viewOf(bytes);
  view.setUint16(10, 0);
  view.setUint16(10, ~onesComplementSum(bytes.subarray(0, headerBytes)) & 0xffff);
}

/** Where the checksum field stands in the transport header, if the protocol has one. */
export function checksumOffset(protocol: number): number | undefined {
  if (protocol === protocolTcp) return 16;
  if (protocol === protocolUdp) return 6;
  return undefined;
}

/**
 * What a packet's transport checksum is. `unfinished`: the field holds the pseudo-header's sum, as a sender leaves
 * it to its network device; over a virtual link nobody completes it. One broken packet in 65,536 looks the same.
 * `unknown`: neither TCP nor UDP, or a fragment.
 */
export type ChecksumState = "right" | "unfinished" | "wrong" | "unknown";

export function transportChecksumState(packet: IpPacket): ChecksumState {
  const { protocol, headerBytes, family } = packet;
  const offset = checksumOffset(protocol);
  if (offset === undefined || packet.isFragment) return "unknown";
  const segment = packet.bytes.subarray(headerBytes);
  if (segment.length < offset + 2) return "wrong";
  const field = viewOf(segment).getUint16(offset);
  // In UDP zero says that there is none, which only IPv4 allows (RFC 768, RFC 8200 §8.1).
  if (protocol === protocolUdp && field === 0) return family === 4 ? "right" : "wrong";
  const pseudo = pseudoHeader(packet, protocol, segment.length);
  if (onesComplementSum(pseudo, segment) === 0xffff) return "right";
  return field === onesComplementSum(pseudo) ? "unfinished" : "wrong";
}

/** Sets the checksum of the TCP or UDP segment that begins `transport` bytes into `packet` and ends with it. */
export function setTransportChecksum(packet: IpPacket, protocol: number, transport: number): void {
  const segment = packet.bytes.subarray(transport);
  const offset = checksumOffset(protocol);
  if (offset === undefined || segment.length < offset + 2) return;
  const view = viewOf(segment);
  view.setUint16(offset, 0);
  const sum = onesComplementSum(pseudoHeader(packet, protocol, segment.length), segment);
  const checksum = ~sum & 0xffff;
  view.setUint16(offset, checksum === 0 && protocol === protocolUdp ? 0xffff : checksum);
}

/** The bytes that TCP and UDP put before themselves for the sum (RFC 9293 §3.1, RFC 8200 §8.1). */
export function pseudoHeader({ family, bytes }: IpPacket, protocol: number, length: number): Uint8Array {
  const addresses = family === 4 ? bytes.subarray(12, 20) : bytes.subarray(8, 40);
  const pseudo = new Uint8Array(addresses.length + 8);
  pseudo.set(addresses);
  viewOf(pseudo).setUint32(addresses.length, length);
  pseudo[pseudo.length - 1] = protocol;
  return pseudo;
}
