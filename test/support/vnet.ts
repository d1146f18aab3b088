import { endianness } from "node:os";
import { isHeaderIntact, onesComplementSum } from "../../src/datapath/dgram/checksum.ts";
import { parseIp, protocolTcp, protocolUdp, viewOf } from "../../src/datapath/dgram/ip.ts";
import { cutSuperPacket } from "../../src/datapath/dgram/segment.ts";

const littleEndian = endianness() === "LE";

export const gsoNone = 0;
export const gsoTcp4 = 1;
export const gsoTcp6 = 4;
export const gsoUdp = 5;
/** Set beside a TCP type: the first segment carries CWR. */
export const gsoEcn = 0x80;

/** The header of a TUN with IFF_VNET_HDR (virtio 1.2 §5.1.6, native byte order). Bytes from the packet's start. */
export interface Vnet {
  readonly needsChecksum: boolean;
  readonly gsoType: number;
  readonly headerBytes: number;
  readonly gsoBytes: number;
  readonly checksumStart: number;
  readonly checksumOffset: number;
}

export const plainVnet: Vnet = {
  needsChecksum: false,
  gsoType: gsoNone,
  headerBytes: 0,
  gsoBytes: 0,
  checksumStart: 0,
  checksumOffset: 0,
};

export function encodeVnet(vnet: Vnet): Uint8Array {
  const bytes = new Uint8Array(10);
  const view = viewOf(bytes);
  view.setUint8(0, vnet.needsChecksum ? 1 : 0);
  view.setUint8(1, vnet.gsoType);
  const numbers = [vnet.headerBytes, vnet.gsoBytes, vnet.checksumStart, vnet.checksumOffset];
  for (const [index, value] of numbers.entries()) view.setUint16(2 + 2 * index, value, littleEndian);
  return bytes;
}

export function decodeVnet(bytes: Uint8Array): Vnet {
  const view = viewOf(bytes);
  const [headerBytes = 0, gsoBytes = 0, checksumStart = 0, checksumOffset = 0] = [2, 4, 6, 8].map((at) =>
    view.getUint16(at, littleEndian),
  );
  return {
    needsChecksum: (view.getUint8(0) & 1) !== 0,
    gsoType: view.getUint8(1),
    headerBytes,
    gsoBytes,
    checksumStart,
    checksumOffset,
  };
}

/** The longest IP and transport headers of a super-packet: more than any real one has. */
const superHeadersBytesMax = 256;

/**
 * The packets that the kernel would make of this one for a device without offloads: checksum completed, cut.
 * Undefined where header and packet contradict each other. `packet` parses as IP.
 */
export function withoutOffloads(vnet: Vnet, packet: Uint8Array): Uint8Array[] | undefined {
  const ip = parseIp(packet);
  if ("drop" in ip) return undefined;
  const type = vnet.gsoType & ~gsoEcn;
  if (type === gsoNone) {
    const whole = vnet.needsChecksum ? completed(ip.bytes, vnet) : ip.bytes;
    return whole === undefined ? undefined : [whole];
  }
  const protocol = { [gsoTcp4]: protocolTcp, [gsoTcp6]: protocolTcp, [gsoUdp]: protocolUdp }[type];
  if (
    protocol === undefined ||
    (type === gsoTcp4 && ip.family !== 4) ||
    (type === gsoTcp6 && ip.family !== 6)
  )
    return undefined;
  // Behind IPv6's extension headers only checksumStart tells where the transport header is.
  const tellsTransport = ip.family === 6 && vnet.needsChecksum;
  const transport = tellsTransport ? vnet.checksumStart : ip.headerBytes;
  const isDirect = transport === ip.headerBytes && ip.protocol === protocol;
  if (ip.isFragment || !(isDirect || (tellsTransport && transport > 40))) return undefined;
  const headersBytes =
    transport + (protocol === protocolUdp ? 8 : ((ip.bytes[transport + 12] ?? 0) >> 4) * 4);
  if (headersBytes > superHeadersBytesMax) return undefined;
  return cutSuperPacket(ip, { protocol, transport, payloadBytes: vnet.gsoBytes });
}

/** As {@link withoutOffloads}, for what an engine writes: a packet whose header is broken gets no further whole or cut. */
export function asReceived(vnet: Vnet, packet: Uint8Array): Uint8Array[] | undefined {
  const ip = parseIp(packet);
  if ("drop" in ip) return undefined;
  if (isHeaderIntact(ip)) return withoutOffloads(vnet, packet);
  return withoutOffloads({ ...vnet, gsoType: gsoNone }, packet);
}

/** skb_checksum_help: the sum from checksumStart on, to the field, which holds the pseudo-header's sum. */
function completed(packet: Uint8Array, { checksumStart, checksumOffset }: Vnet): Uint8Array | undefined {
  if (checksumStart + checksumOffset + 2 > packet.length) return undefined;
  const whole = Uint8Array.from(packet);
  const checksum = ~onesComplementSum(whole.subarray(checksumStart)) & 0xffff;
  const isUdp = checksumOffset === 6;
  viewOf(whole).setUint16(checksumStart + checksumOffset, checksum === 0 && isUdp ? 0xffff : checksum);
  return whole;
}
