import type { IpAddress } from "../../net/address.ts";
import { onesComplementSum, pseudoHeader, setHeaderChecksum } from "./checksum.ts";
import { type IpPacket, isMulticast, protocolTcp, protocolUdp, viewOf } from "./ip.ts";

const icmp = 1;
const icmpV6 = 58;
/** Of answers: flannel's, and enough, for they go no further than this host's own subnet. */
const answerHopLimit = 8;
const icmpHeaderBytes = 8;
/** An IPv4 header with every option it can have; flannel does not answer those. */
const headerBytesMax = 60;
/** The longest answer that IPv6 allows (RFC 4443 §2.4 c). */
const answerBytesMax = 1280;

/**
 * The packet, copied, one hop further on; undefined where that was its last. IPv4's checksum follows by difference
 * (RFC 1624 §3): one that was wrong stays wrong by as much.
 */
export function lowerHopLimit({ bytes, family }: IpPacket): Uint8Array | undefined {
  const copy = Uint8Array.from(bytes);
  const view = viewOf(copy);
  const at = family === 4 ? 8 : 7;
  const left = view.getUint8(at);
  if (left <= 1) return undefined;
  view.setUint8(at, left - 1);
  if (family === 4) view.setUint16(10, ~plus(~view.getUint16(10) & 0xffff, 0xfeff) & 0xffff);
  return copy;
}

/**
 * The ICMP answer to a packet that no peer gets (RFC 792 type 3 code 0, RFC 4443 §3.1 type 1 code 0), from our address
 * of its family. None to ICMP, to later fragments and to IPv6 packets other than plain TCP and UDP, behind whose
 * headers an ICMP error may hide.
 */
export function unreachable(packet: IpPacket, answerFrom: readonly IpAddress[]): Uint8Array | undefined {
  const from = answerFrom.find(({ family }) => family === packet.family);
  if (from === undefined || packet.source.value === 0n || isMulticast(packet.source)) return undefined;
  return packet.family === 4 ? unreachableV4(packet, from) : unreachableV6(packet, from);
}

function unreachableV4({ bytes, protocol, headerBytes }: IpPacket, from: IpAddress): Uint8Array | undefined {
  const fragmentOffset = viewOf(bytes).getUint16(6) & 0x1fff;
  if (protocol === icmp || fragmentOffset !== 0 || headerBytes >= headerBytesMax) return undefined;
  const quoted = bytes.subarray(0, headerBytes + 8);
  const answer = new Uint8Array(20 + icmpHeaderBytes + quoted.length);
  const view = viewOf(answer);
  view.setUint8(0, 0x45);
  view.setUint16(2, answer.length);
  view.setUint8(8, answerHopLimit);
  view.setUint8(9, icmp);
  view.setUint32(12, Number(from.value));
  answer.set(bytes.subarray(12, 16), 16);
  setHeaderChecksum(answer, 20);
  view.setUint8(20, 3);
  answer.set(quoted, 28);
  view.setUint16(22, ~onesComplementSum(answer.subarray(20)) & 0xffff);
  return answer;
}

function unreachableV6(packet: IpPacket, from: IpAddress): Uint8Array | undefined {
  const { bytes, protocol } = packet;
  if (protocol !== protocolTcp && protocol !== protocolUdp) return undefined;
  const quoted = bytes.subarray(0, answerBytesMax - 40 - icmpHeaderBytes);
  const answer = new Uint8Array(40 + icmpHeaderBytes + quoted.length);
  const view = viewOf(answer);
  view.setUint8(0, 0x60);
  view.setUint16(4, answer.length - 40);
  view.setUint8(6, icmpV6);
  view.setUint8(7, answerHopLimit);
  view.setBigUint64(8, from.value >> 64n);
  view.setBigUint64(16, from.value & 0xffff_ffff_ffff_ffffn);
  answer.set(bytes.subarray(8, 24), 24);
  view.setUint8(40, 1);
  answer.set(quoted, 48);
  const pseudo = pseudoHeader({ ...packet, bytes: answer }, icmpV6, answer.length - 40);
  view.setUint16(42, ~onesComplementSum(pseudo, answer.subarray(40)) & 0xffff);
  return answer;
}

function plus(one: number, other: number): number {
  const sum = one + other;
  return sum > 0xffff ? sum - 0xffff : sum;
}
