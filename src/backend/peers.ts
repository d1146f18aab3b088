import { type Lease, leaseKey, type LeaseSubnets, publicAddress, subnetsOf } from "../lease/lease.ts";
import type { Family, IpAddress } from "../net/address.ts";
import { Prefix } from "../net/prefix.ts";

/** A peer's lease that this node does not use, and why. */
export interface RefusedPeer extends Refusal {
  readonly lease: Lease;
  /** Its subnet of the other family is used. */
  readonly partly?: true;
}

export interface Refusal {
  /** For people. */
  readonly reason: string;
  /** What `reason` is a case of, for counting; unset: other. */
  readonly kind?: RefusalKind;
}

export type RefusalKind =
  | "backend-type"
  | "public-ip"
  | "outside-overlay"
  | "overlaps-own"
  | "overlaps-peer"
  | "vtep-mac"
  | "unreachable";

export interface PeerSelection {
  readonly usable: readonly Lease[];
  readonly refused: readonly RefusedPeer[];
}

export interface PeerContext {
  readonly own: Lease;
  /** The overlay networks; a lease reaching outside them could pull in traffic that is none of the overlay's. */
  readonly overlay: readonly Prefix[];
  /** The length of the subnets that nodes allocate, by family. */
  readonly subnetLengths: Readonly<Partial<Record<Family, number>>>;
  /** The type a peer's lease must carry; undefined: any. */
  readonly backendType: string | undefined;
  /** Only subnets and addresses of this family count, and leases without such a subnet are passed over. */
  readonly family?: Family;
}

/**
 * Sorts out leases that must not become routes, whoever wrote them: those of another backend, outside the
 * overlay, overlapping ours or one another, or with an address no host can have. The result does not depend on the order of `leases`; `usable` is sorted by subnet.
 */
export function selectPeers(all: readonly Lease[], context: PeerContext): PeerSelection {
  const leases = all.filter(({ subnets }) => subnetsIn(subnets, context).length > 0);
  const usable: Lease[] = [];
  const refused: RefusedPeer[] = [];
  const overlapping = findOverlapping(
    leases.filter((lease) => ownReason(lease, context) === undefined),
    context,
  );
  for (const lease of [...leases].sort((a, b) => compareSubnets(a.subnets, b.subnets))) {
    const refusal = ownReason(lease, context) ?? overlapping.get(lease);
    if (refusal === undefined) usable.push(lease);
    else refused.push({ lease, ...refusal });
  }
  return { usable, refused };
}

/** What is wrong with a lease taken by itself. */
function ownReason(lease: Lease, context: PeerContext): Refusal | undefined {
  const { own, overlay, backendType } = context;
  // Nodes are known by their IPv4 address, but in a network of IPv6 alone.
  const family = context.family ?? (overlay.some((network) => network.family === 4) ? 4 : 6);
  const { backendType: type } = lease.attributes;
  if (backendType !== undefined && type !== backendType)
    return {
      kind: "backend-type",
      reason: `backend type ${JSON.stringify(type)} is not ${JSON.stringify(backendType)}`,
    };
  const address = addressReason(lease, own, family);
  if (address !== undefined) return { kind: "public-ip", reason: address };
  const ownSubnets = subnetsIn(own.subnets, context);
  for (const subnet of subnetsIn(lease.subnets, context)) {
    if (!overlay.some((network) => network.contains(subnet)))
      return { kind: "outside-overlay", reason: `${subnet} is outside the overlay network` };
    const mine = ownSubnets.find((candidate) => candidate.overlaps(subnet));
    if (mine !== undefined) return { kind: "overlaps-own", reason: `${subnet} overlaps our own ${mine}` };
  }
  return undefined;
}

function addressReason(lease: Lease, own: Lease, family: Family): string | undefined {
  const name = family === 4 ? "PublicIP" : "PublicIPv6";
  const address = publicAddress(lease.attributes, family);
  const ours = publicAddress(own.attributes, family);
  if (address === undefined) return `it has no ${name}`;
  if (!isHostAddress(address)) return `${name} ${address} is no host's address`;
  if (isLinkLocalIpv6(address)) return `${name} ${address} means a host on one link only`;
  if (address.family !== ours?.family) return `${name} ${address} is of another family than ours`;
  if (address.equals(ours)) return `${name} ${address} is our own`;
  return undefined;
}

function subnetsIn(subnets: LeaseSubnets, { family }: Pick<PeerContext, "family">): Prefix[] {
  return subnetsOf(subnets).filter((subnet) => family === undefined || subnet.family === family);
}

/**
 * Leases that overlap another which goes before them: one of the network's own subnet length, as every node
 * allocates it, before any other, so that nobody takes a piece out of a node's subnet; then the more specific.
 */
function findOverlapping(leases: readonly Lease[], context: PeerContext): Map<Lease, Refusal> {
  const { subnetLengths } = context;
  const rank = ({ family, length }: Prefix) => (length === subnetLengths[family] ? 0 : 1);
  const entries = leases
    .flatMap((lease) =>
      subnetsIn(lease.subnets, context).map((subnet) => ({ subnet, lease, key: leaseKey(lease.subnets) })),
    )
    .sort(
      (a, b) =>
        rank(a.subnet) - rank(b.subnet) ||
        b.subnet.length - a.subnet.length ||
        (a.key < b.key ? -1 : a.key > b.key ? 1 : 0),
    );
  const lengths = [...new Set(entries.map(({ subnet }) => subnet.length))];
  const taken = new Map<string, string>();
  const enclosing = new Map<string, string>();
  const reasons = new Map<Lease, Refusal>();
  for (const { subnet, lease, key } of entries) {
    // Prefixes nest or are disjoint: whoever overlaps encloses this one, equals it, or is enclosed by it.
    const ancestors = lengths
      .filter((length) => length <= subnet.length)
      .map((length) => `${new Prefix(subnet.address, length)}`);
    const other =
      ancestors.map((text) => taken.get(text)).find((one) => one !== undefined) ?? enclosing.get(`${subnet}`);
    if (other !== undefined && other !== key)
      reasons.set(lease, { kind: "overlaps-peer", reason: `${subnet} overlaps the lease ${other}` });
    if (other !== undefined) continue;
    taken.set(`${subnet}`, key);
    for (const text of ancestors) enclosing.set(text, key);
  }
  return reasons;
}

/** The peer's own address that a plain route to its `subnet` goes by: of the same family. */
export function nextHop({ attributes }: Lease, { family }: Prefix): IpAddress | undefined {
  return publicAddress(attributes, family);
}

export function compareSubnets(a: LeaseSubnets, b: LeaseSubnets): number {
  const [firstA, firstB] = [a.ipv4 ?? a.ipv6, b.ipv4 ?? b.ipv6];
  if (firstA === undefined || firstB === undefined)
    return firstA === firstB ? 0 : firstA === undefined ? -1 : 1;
  return firstA.compare(firstB) || (leaseKey(a) < leaseKey(b) ? -1 : leaseKey(a) > leaseKey(b) ? 1 : 0);
}

/** One list of what several selections refused: a line a lease, partly so where it is among `used` all the same. */
export function mergeRefused(refused: readonly RefusedPeer[], used: ReadonlySet<Lease>): RefusedPeer[] {
  const byLease = new Map<Lease, RefusedPeer>();
  for (const { lease, reason, kind } of refused) {
    const other = byLease.get(lease);
    const reasons = new Set([...(other === undefined ? [] : [other.reason]), reason]);
    const first = other?.kind ?? kind;
    byLease.set(lease, {
      lease,
      ...(first === undefined ? {} : { kind: first }),
      reason: [...reasons].join("; "),
      ...(used.has(lease) ? { partly: true } : {}),
    });
  }
  return [...byLease.values()];
}

/** fe80::/10: it takes an interface to say which host is meant. */
function isLinkLocalIpv6({ family, value }: IpAddress): boolean {
  return family === 6 && value >> 118n === 0x3fan;
}

/** Not unspecified, loopback, multicast, reserved or link-scoped multicast. */
function isHostAddress(address: IpAddress): boolean {
  if (address.family === 4) {
    const first = Number(address.value >> 24n);
    return first !== 0 && first !== 127 && first < 224;
  }
  return address.value > 1n && address.value >> 120n !== 0xffn;
}
