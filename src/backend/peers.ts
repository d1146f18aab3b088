import { type Lease, leaseKey, type LeaseSubnets, subnetsOf } from "../lease/lease.ts";
import type { IpAddress } from "../net/address.ts";
import type { Prefix } from "../net/prefix.ts";

/** A peer's lease that this node does not use, and why. */
export interface RefusedPeer {
  readonly lease: Lease;
  readonly reason: string;
}

export interface PeerSelection {
  readonly usable: readonly Lease[];
  readonly refused: readonly RefusedPeer[];
}

export interface PeerContext {
  readonly own: Lease;
  /** The overlay networks; a lease reaching outside them could pull in traffic that is none of the overlay's. */
  readonly overlay: readonly Prefix[];
  /** The type a peer's lease must carry. */
  readonly backendType: string;
}

/**
 * Sorts out leases that must not become routes, whoever wrote them: those of another backend, outside the
 * overlay, overlapping ours or one another (the more specific lease wins), or with an address no host can
 * have. The result does not depend on the order of `leases`; `usable` is sorted by subnet.
 */
export function selectPeers(leases: readonly Lease[], context: PeerContext): PeerSelection {
  const usable: Lease[] = [];
  const refused: RefusedPeer[] = [];
  const overlapping = findOverlapping(leases.filter((lease) => ownReason(lease, context) === undefined));
  for (const lease of [...leases].sort((a, b) => compareSubnets(a.subnets, b.subnets))) {
    const reason = ownReason(lease, context) ?? overlapping.get(lease);
    if (reason === undefined) usable.push(lease);
    else refused.push({ lease, reason });
  }
  return { usable, refused };
}

/** What is wrong with a lease taken by itself. */
function ownReason(lease: Lease, { own, overlay, backendType }: PeerContext): string | undefined {
  const { publicIp, backendType: type } = lease.attributes;
  if (type !== backendType)
    return `backend type ${JSON.stringify(type)} is not ${JSON.stringify(backendType)}`;
  if (publicIp === undefined) return "it has no PublicIP";
  if (!isHostAddress(publicIp)) return `PublicIP ${publicIp} is no host's address`;
  if (publicIp.family !== own.attributes.publicIp?.family)
    return `PublicIP ${publicIp} is of another family than ours`;
  if (publicIp.equals(own.attributes.publicIp)) return `PublicIP ${publicIp} is our own`;
  const ownSubnets = subnetsOf(own.subnets);
  for (const subnet of subnetsOf(lease.subnets)) {
    if (!overlay.some((network) => network.contains(subnet)))
      return `${subnet} is outside the overlay network`;
    const mine = ownSubnets.find((candidate) => candidate.overlaps(subnet));
    if (mine !== undefined) return `${subnet} overlaps our own ${mine}`;
  }
  return undefined;
}

/**
 * Leases that overlap a more specific or equal one. Prefixes nest or are disjoint, so in the order
 * (first address, length) whoever encloses the next one stands on the stack.
 */
function findOverlapping(leases: readonly Lease[]): Map<Lease, string> {
  const entries = leases
    .flatMap((lease) => subnetsOf(lease.subnets).map((subnet) => ({ subnet, lease })))
    .sort(
      (a, b) =>
        a.subnet.compare(b.subnet) || (leaseKey(a.lease.subnets) < leaseKey(b.lease.subnets) ? 1 : -1),
    );
  const reasons = new Map<Lease, string>();
  const enclosing: typeof entries = [];
  for (const entry of entries) {
    while (enclosing.length > 0 && !enclosing[enclosing.length - 1]?.subnet.overlaps(entry.subnet))
      enclosing.pop();
    for (const outer of enclosing) {
      if (outer.lease !== entry.lease) {
        reasons.set(outer.lease, `${outer.subnet} overlaps the lease ${leaseKey(entry.lease.subnets)}`);
      }
    }
    // The stack is at most one entry deep per prefix length, so the inner loop is bounded by 128.
    enclosing.push(entry);
  }
  return reasons;
}

export function compareSubnets(a: LeaseSubnets, b: LeaseSubnets): number {
  const [firstA, firstB] = [a.ipv4 ?? a.ipv6, b.ipv4 ?? b.ipv6];
  if (firstA === undefined || firstB === undefined)
    return firstA === firstB ? 0 : firstA === undefined ? -1 : 1;
  return firstA.compare(firstB) || (leaseKey(a) < leaseKey(b) ? -1 : leaseKey(a) > leaseKey(b) ? 1 : 0);
}

/** Not unspecified, loopback, multicast, reserved or link-scoped multicast. */
function isHostAddress(address: IpAddress): boolean {
  if (address.family === 4) {
    const first = Number(address.value >> 24n);
    return first !== 0 && first !== 127 && first < 224;
  }
  return address.value > 1n && address.value >> 120n !== 0xffn;
}
