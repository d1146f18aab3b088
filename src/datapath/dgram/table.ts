import { FlannelError } from "../../base/error.ts";
import type { ForwardingTable } from "../../native/ports.ts";
import { type IpAddress, parseIpAddress } from "../../net/address.ts";
import { parseMac } from "../../net/mac.ts";
import { parsePrefix, type Prefix } from "../../net/prefix.ts";

/** A forwarding table with its texts read. */
export interface Table {
  readonly carriage: Carriage;
  readonly overlay: readonly Prefix[];
  readonly strict: ForwardingTable["strict"];
  readonly allowSources: readonly Prefix[];
  readonly peers: readonly Peer[];
}

/** How packets are carried. */
export type Carriage =
  | { readonly kind: "vxlan"; readonly vni: number; readonly vtepMac: Uint8Array }
  | { readonly kind: "udp"; readonly answerFrom: readonly IpAddress[] }
  | { readonly kind: "ipip" };

export interface Peer {
  readonly subnets: readonly Prefix[];
  readonly endpoint: IpAddress;
  readonly mac: Uint8Array;
}

/** Sends and accepts nothing. */
export const emptyTable: Table = {
  carriage: { kind: "vxlan", vni: 0, vtepMac: new Uint8Array(6) },
  overlay: [],
  strict: "full",
  allowSources: [],
  peers: [],
};

/**
 * Reads a table.
 * @throws FlannelError `engine/table`: a VNI beyond 24 bits, or subnets of two peers overlap;
 * `address/invalid`, `prefix/invalid`, `mac/invalid`
 */
export function readTable(table: ForwardingTable): Table {
  const { strict } = table;
  const peers = table.peers.map(({ subnets, endpoint, mac }) => ({
    subnets: subnets.map(parsePrefix),
    endpoint: parseIpAddress(endpoint),
    mac: mac === undefined ? new Uint8Array(6) : macBytes(mac),
  }));
  for (const [at, peer] of peers.entries()) {
    const rival = peers.slice(0, at).find(({ subnets }) => overlap(subnets, peer.subnets));
    if (rival === undefined) continue;
    throw new FlannelError("engine/table", `subnets of ${rival.endpoint} and ${peer.endpoint} overlap`);
  }
  return {
    carriage: readCarriage(table),
    overlay: table.overlay.map(parsePrefix),
    strict,
    allowSources: table.allowSources.map(parsePrefix),
    peers,
  };
}

function readCarriage(table: ForwardingTable): Carriage {
  if (table.encapsulation === "udp") return { kind: "udp", answerFrom: table.answerFrom.map(parseIpAddress) };
  if (table.encapsulation === "ipip") return { kind: "ipip" };
  const { vni, vtepMac } = table;
  if (vni < 0 || vni >= 2 ** 24) throw new FlannelError("engine/table", `VNI ${vni} is beyond 24 bits`);
  return { kind: "vxlan", vni, vtepMac: macBytes(vtepMac) };
}

/** The peer whose subnets hold `address`. */
export function peerOf({ peers }: Table, address: IpAddress): Peer | undefined {
  return peers.find(({ subnets }) => isWithin(subnets, address));
}

export function isWithin(prefixes: readonly Prefix[], address: IpAddress): boolean {
  return prefixes.some((prefix) => prefix.contains(address));
}

function overlap(some: readonly Prefix[], others: readonly Prefix[]): boolean {
  return some.some((one) => others.some((other) => one.overlaps(other)));
}

function macBytes(text: string): Uint8Array {
  return Uint8Array.from(parseMac(text).split(":"), (byte) => Number.parseInt(byte, 16));
}
