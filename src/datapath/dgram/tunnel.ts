import type { IpAddress } from "../../net/address.ts";
import { setTransportChecksum, transportChecksumState } from "./checksum.ts";
import type { Dropped } from "./drop.ts";
import { innerEcn, outerTos, setEcn } from "./ecn.ts";
import { type IpPacket, isMulticast, parseIp, viewOf } from "./ip.ts";
import { lowerHopLimit, unreachable } from "./hop.ts";
import { type Carriage, isWithin, type Peer, peerOf, type Table } from "./table.ts";

/** VXLAN 8 bytes (RFC 7348 §5) and the inner Ethernet header 14, which flannel's overlay always has. */
const vxlanHeaderBytes = 22;
/** The flag I: the VNI is valid. Other flags and the reserved bits are ignored. */
const vniValid = 0x08;

const etherTypeIpv4 = 0x0800;
const etherTypeArp = 0x0806;
const etherTypeIpv6 = 0x86dd;

/** RFC 2003. */
const protocolIpIp = 4;

/** A UDP payload for a peer. */
export interface Encapsulated {
  readonly payload: Uint8Array;
  /** Bytes of `payload` in front of the inner packet. */
  readonly headerBytes: number;
  readonly peer: Peer;
  /** What the outer header's TOS or traffic class shall be. */
  readonly tos: number;
}

/** A packet that no peer gets. */
export interface Undeliverable extends Dropped {
  /** An IP packet for its sender, which says so. */
  readonly answer?: Uint8Array;
}

/** Decides about an IP packet from the TUN: the payload of the datagram that carries it, or why there is none. */
export function encapsulate(packet: Uint8Array, table: Table): Encapsulated | Undeliverable {
  const ip = parseIp(packet);
  if ("drop" in ip) return ip;
  const peer = peerOf(table, ip.destination);
  const { carriage } = table;
  if (peer === undefined) {
    if (isMulticast(ip.destination)) return { drop: "multicast" };
    const answer = carriage.kind === "udp" ? unreachable(ip, carriage.answerFrom) : undefined;
    return { drop: "noRoute", ...(answer === undefined ? {} : { answer }) };
  }
  if (carriage.kind === "udp") {
    const lowered = lowerHopLimit(ip);
    // flannel's udp backend does not look at the outer header when it decapsulates (RFC 6040 §4.1: then Not-ECT).
    return lowered === undefined
      ? { drop: "ttlExceeded" }
      : { payload: lowered, headerBytes: 0, peer, tos: 0 };
  }
  const tos = outerTos(ip.trafficClass);
  if (carriage.kind === "ipip") return { payload: ip.bytes, headerBytes: 0, peer, tos };
  const payload = new Uint8Array(vxlanHeaderBytes + ip.bytes.length);
  const view = viewOf(payload);
  view.setUint8(0, vniValid);
  view.setUint32(4, carriage.vni * 256); // 24 bits, then 8 reserved ones
  payload.set(peer.mac, 8);
  payload.set(carriage.vtepMac, 14);
  view.setUint16(20, ip.family === 4 ? etherTypeIpv4 : etherTypeIpv6);
  payload.set(ip.bytes, vxlanHeaderBytes);
  return { payload, headerBytes: vxlanHeaderBytes, peer, tos };
}

/** What is known of a received datagram's outer header. */
export interface Outer {
  readonly source: IpAddress;
  /** TOS or traffic class; 0 where it is not known. */
  readonly tos: number;
}

export interface Decapsulated {
  /** The inner packet, its checksum finished and congestion met outside marked in it. A copy. */
  readonly packet: IpPacket;
  /** The packet's checksum came unfinished: it has crossed no wire. */
  readonly wasUnfinished: boolean;
  /** Whose endpoint the outer source is. */
  readonly sender: Peer | undefined;
}

export interface Refused extends Dropped {
  /** The inner packet, where a sender check refused it. */
  readonly inner?: IpPacket;
}

/** Decides about a datagram from the tunnel: the packet that the host gets, or why it gets none. */
export function decapsulate(payload: Uint8Array, outer: Outer, table: Table): Decapsulated | Refused {
  const { carriage } = table;
  const frame = open(payload, carriage);
  if ("drop" in frame) return frame;
  const received = parseIp(new Uint8Array(frame)); // a copy, which Buffer.slice is not
  if ("drop" in received) return received;

  const sender = table.peers.find(({ endpoint }) => endpoint.equals(outer.source));
  const refusal = checkSender(received.source, outer.source, sender, table);
  if (refusal !== undefined) return { ...refusal, inner: received };

  const packet = carriage.kind === "udp" ? afterHop(received) : afterEcn(received, outer.tos);
  if ("drop" in packet) return packet;

  const wasUnfinished = transportChecksumState(packet) === "unfinished";
  if (wasUnfinished) setTransportChecksum(packet, packet.protocol, packet.headerBytes);
  return { packet, wasUnfinished, sender };
}

/** The inner packet, unread. */
function open(payload: Uint8Array, carriage: Carriage): Uint8Array | Dropped {
  switch (carriage.kind) {
    case "vxlan":
      return openFrame(payload, carriage);
    case "udp":
      return payload;
    case "ipip":
      return insideIp(payload);
  }
}

/** The IPv4 packet in an IPv4 packet, as a raw socket gives it. */
function insideIp(payload: Uint8Array): Uint8Array | Dropped {
  const outer = parseIp(payload);
  if ("drop" in outer) return outer;
  const inner = outer.bytes.subarray(outer.headerBytes);
  const first = inner[0];
  if (first === undefined) return { drop: "truncated" };
  return outer.family === 4 && outer.protocol === protocolIpIp && first >> 4 === 4
    ? inner
    : { drop: "notIp" };
}

/** The IP packet in a VXLAN datagram that is for us. */
function openFrame(
  payload: Uint8Array,
  { vni, vtepMac }: Carriage & { readonly kind: "vxlan" },
): Uint8Array | Dropped {
  if (payload.length < vxlanHeaderBytes) return { drop: "badVxlan" };
  const view = viewOf(payload);
  if ((view.getUint8(0) & vniValid) === 0) return { drop: "badVxlan" };
  if (view.getUint32(4) >>> 8 !== vni) return { drop: "wrongVni" };
  const etherType = view.getUint16(20);
  // Often broadcast: before the address is looked at.
  if (etherType === etherTypeArp) return { drop: "arp" };
  if (Buffer.compare(payload.subarray(8, 14), vtepMac) !== 0) return { drop: "wrongMac" };
  if (etherType !== etherTypeIpv4 && etherType !== etherTypeIpv6) return { drop: "notIpFrame" };
  const frame = payload.subarray(vxlanHeaderBytes);
  const first = frame[0];
  if (first === undefined) return { drop: "truncated" };
  return first >> 4 === (etherType === etherTypeIpv4 ? 4 : 6) ? frame : { drop: "notIpFrame" };
}

/** Nobody marks the outer header, so it says nothing. */
function afterHop(packet: IpPacket): IpPacket | Dropped {
  const lowered = lowerHopLimit(packet);
  return lowered === undefined ? { drop: "ttlExceeded" } : { ...packet, bytes: lowered };
}

function afterEcn(packet: IpPacket, outer: number): IpPacket | Dropped {
  const ecn = innerEcn(outer, packet.trafficClass);
  if (ecn === "drop") return { drop: "ecnCe" };
  if (ecn !== (packet.trafficClass & 0b11)) setEcn(packet, ecn);
  return packet;
}

/** Whether the host `outer`, which is `sender`'s if anybody's, may send from the inner address `source`. */
function checkSender(
  source: IpAddress,
  outer: IpAddress,
  sender: Peer | undefined,
  table: Table,
): Dropped | undefined {
  if (table.strict === "off") return undefined;
  const isAllowed = isWithin(table.allowSources, outer);
  if (sender === undefined && !isAllowed) return { drop: "unknownSender" };
  if (isWithin(table.overlay, source)) {
    // Two peers may share an endpoint, so the address is compared, not the peer.
    const isOwner = peerOf(table, source)?.endpoint.equals(outer) === true;
    return isOwner ? undefined : { drop: "spoofedSource" };
  }
  if (table.strict === "full" && !isAllowed) return { drop: "outsideOverlay" };
  return undefined;
}
