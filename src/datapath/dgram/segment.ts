import {
  isHeaderIntact,
  setHeaderChecksum,
  setTransportChecksum,
  transportChecksumState,
} from "./checksum.ts";
import { type IpPacket, protocolTcp, protocolUdp, viewOf } from "./ip.ts";

const finAndPsh = 0x01 | 0x08;
const cwr = 0x80;

/** How a super-packet is cut. */
export interface Cut {
  /** TCP or UDP. */
  readonly protocol: number;
  /** Where the TCP or UDP header begins. */
  readonly transport: number;
  /** Payload of every piece but the last. */
  readonly payloadBytes: number;
}

/**
 * Cuts a TCP super-packet, or UDP datagrams joined to one, into the packets it stands for, as Linux does
 * (tcp_gso_segment, __udp_gso_segment, inet_gso_segment). Its transport checksum need not be finished. Undefined
 * where the headers do not fit in it.
 */
export function cutSuperPacket(packet: IpPacket, cut: Cut): Uint8Array[] | undefined {
  const { protocol, transport, payloadBytes } = cut;
  const headersBytes = headersEnd(packet, protocol, transport);
  if (headersBytes === undefined || payloadBytes < 1) return undefined;
  const headers = packet.bytes.subarray(0, headersBytes);
  const payload = packet.bytes.subarray(headersBytes);
  const count = Math.max(1, Math.ceil(payload.length / payloadBytes));
  return Array.from({ length: count }, (_, index) => {
    const before = index * payloadBytes;
    const piece = Buffer.concat([headers, payload.subarray(before, before + payloadBytes)]);
    const view = viewOf(piece);
    if (packet.family === 4) {
      view.setUint16(2, piece.length);
      view.setUint16(4, (view.getUint16(4) + index) & 0xffff);
      setHeaderChecksum(piece, packet.headerBytes);
    } else {
      view.setUint16(4, piece.length - packet.headerBytes);
    }
    if (protocol === protocolUdp) {
      view.setUint16(transport + 4, piece.length - transport);
    } else {
      view.setUint32(transport + 4, (view.getUint32(transport + 4) + before) >>> 0);
      let flags = view.getUint8(transport + 13);
      if (index < count - 1) flags &= ~finAndPsh;
      if (index > 0) flags &= ~cwr;
      view.setUint8(transport + 13, flags);
    }
    setTransportChecksum({ ...packet, bytes: piece }, protocol, transport);
    return piece;
  });
}

/**
 * The packet as packets of at most `mtuBytes`: over a virtual link a kernel peer hands its super-packets on whole.
 * TCP does not care where it is cut. UDP is cut only where its checksum came unfinished, which a datagram that
 * crossed a wire has not; the MTU is then a guess at where the boundaries were. Takes what `decapsulate` gives.
 */
export function fitToMtu(packet: IpPacket, wasUnfinished: boolean, mtuBytes: number): Uint8Array[] {
  const { protocol, headerBytes, bytes } = packet;
  if (bytes.length <= mtuBytes || packet.isFragment) return [bytes];
  if (protocol !== protocolTcp && !(protocol === protocolUdp && wasUnfinished)) return [bytes];
  // What is broken shall stay so: the host's stack judges and counts it.
  if (transportChecksumState(packet) !== "right" || !isHeaderIntact(packet)) return [bytes];
  const headersBytes = headersEnd(packet, protocol, headerBytes);
  if (headersBytes === undefined) return [bytes];
  const cut = { protocol, transport: headerBytes, payloadBytes: mtuBytes - headersBytes };
  return cutSuperPacket(packet, cut) ?? [bytes];
}

/** Where the payload begins behind the TCP or UDP header. */
function headersEnd({ bytes }: IpPacket, protocol: number, transport: number): number | undefined {
  if (protocol === protocolUdp) return transport + 8 <= bytes.length ? transport + 8 : undefined;
  const dataOffset = bytes[transport + 12];
  if (dataOffset === undefined || dataOffset >> 4 < 5) return undefined;
  const end = transport + (dataOffset >> 4) * 4;
  return end <= bytes.length ? end : undefined;
}
