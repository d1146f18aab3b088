import type { NetworkConfig } from "../config/network.ts";
import { isCompatible, subnetsOverlap } from "./allocate.ts";
import { type Lease, type LeaseAttributes, type LeaseSubnets, leaseKey, subnetsOf } from "./lease.ts";

/** A lease as somebody else has it; attributes are undefined where they cannot be read. */
export interface TakenLease {
  readonly subnets: LeaseSubnets;
  readonly attributes: LeaseAttributes | undefined;
  /** Undefined for a reservation. */
  readonly expiresAt: Date | undefined;
}

/** A reservation to make. `vtepMac` as it stands in its attributes. */
export interface WantedReservation extends Pick<Lease, "subnets" | "attributes"> {
  readonly vtepMac: string | undefined;
}

export type ReservationProblem<Taken> =
  | { readonly kind: "outside"; readonly subnet: string; readonly network: string }
  | { readonly kind: "taken"; readonly by: Taken }
  | { readonly kind: "same-public-ip"; readonly by: Taken }
  | { readonly kind: "same-mac"; readonly by: Taken };

/**
 * Why the reservation cannot be made. A gateway may have several reservations, but a node has one lease, and
 * a VTEP MAC one place where frames for it go.
 */
export function reservationProblem<Taken extends TakenLease>(
  network: NetworkConfig,
  wanted: WantedReservation,
  leases: readonly Taken[],
  macOf: (lease: Taken) => string | undefined,
): ReservationProblem<Taken> | undefined {
  for (const subnet of subnetsOf(wanted.subnets)) {
    const range = subnet.family === 4 ? network.ipv4 : network.ipv6;
    if (range?.network.contains(subnet) !== true)
      return { kind: "outside", subnet: `${subnet}`, network: `${range?.network ?? "none of that family"}` };
  }
  const overlapping = leases.find(({ subnets }) => subnetsOverlap(subnets, wanted.subnets));
  if (overlapping !== undefined) return { kind: "taken", by: overlapping };
  const { publicIp } = wanted.attributes;
  const sameIp = ({ attributes }: Taken) => attributes?.publicIp?.equals(publicIp) === true;
  const node = leases.find((lease) => lease.expiresAt !== undefined && sameIp(lease));
  if (node !== undefined) return { kind: "same-public-ip", by: node };
  const { vtepMac } = wanted;
  const sameMac = leases.find((lease) => vtepMac !== undefined && macOf(lease) === vtepMac && !sameIp(lease));
  return sameMac === undefined ? undefined : { kind: "same-mac", by: sameMac };
}

/** A lease that a network configuration has no place for, and why. */
export interface StrandedLease<Taken> {
  readonly lease: Taken;
  readonly reason: string;
}

/**
 * Leases that would be worth nothing under `network`: nodes give theirs up at their next start and draw anew,
 * which cuts their pods off; reservations are left alone and no longer used.
 */
export function strandedLeases<Taken extends TakenLease>(
  network: NetworkConfig,
  leases: readonly Taken[],
): StrandedLease<Taken>[] {
  return leases.flatMap((lease) => {
    const reason = strandedReason(network, lease);
    return reason === undefined ? [] : [{ lease, reason }];
  });
}

function strandedReason(
  network: NetworkConfig,
  { subnets, attributes, expiresAt }: TakenLease,
): string | undefined {
  if (attributes === undefined) return undefined; // of no use before either
  for (const subnet of subnetsOf(subnets)) {
    const range = subnet.family === 4 ? network.ipv4 : network.ipv6;
    if (range === undefined) return `${subnet}: the network has no IPv${subnet.family} any more`;
    if (!range.network.contains(subnet)) return `${subnet} is outside of ${range.network}`;
  }
  if (expiresAt !== undefined && !isCompatible(network, subnets))
    return `${leaseKey(subnets)} is not what nodes are given: a subnet too few, of another length, or outside of SubnetMin to SubnetMax`;
  const { backendType } = attributes;
  const { type } = network.backend;
  return publishesType(backendType) && publishesType(type) && backendType !== type
    ? `it is published for backend ${backendType}`
    : undefined;
}

/** Some backends publish no type, so that nothing can be said of their leases. */
function publishesType(type: string): boolean {
  return !["", "udp", "alloc"].includes(type);
}
