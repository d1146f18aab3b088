import { familyBits, IpAddress } from "../net/address.ts";
import { Prefix } from "../net/prefix.ts";
import type { LeaseSubnets } from "./lease.ts";

/** The part of one family's network that may be leased; `subnetMin` and `subnetMax` are both inclusive. */
export interface SubnetRange {
  readonly subnetLength: number;
  readonly subnetMin: IpAddress;
  readonly subnetMax: IpAddress;
}

/** A range for each family the network has. */
export interface SubnetRanges {
  readonly ipv4?: SubnetRange;
  readonly ipv6?: SubnetRange;
}

/** How many free subnets are looked for before one is drawn, as in flannel. */
export const candidatesMax = 100;

/**
 * Draws one of the first 100 free subnets of each family, independently and uniformly. A subnet is free when
 * it overlaps none of `taken`. Undefined when a family has no free subnet left, or there is no family.
 * @param random gives a number of [0, 1)
 */
export function allocateSubnets(
  ranges: SubnetRanges,
  taken: readonly LeaseSubnets[],
  random: () => number,
): LeaseSubnets | undefined {
  const picked: { ipv4?: Prefix; ipv6?: Prefix } = {};
  for (const family of ["ipv4", "ipv6"] as const) {
    const range = ranges[family];
    if (range === undefined) continue;
    const free = freeSubnets(
      range,
      taken.map((subnets) => subnets[family]).filter((subnet) => subnet !== undefined),
    );
    const choice = free[Math.floor(random() * free.length)];
    if (choice === undefined) return undefined;
    picked[family] = choice;
  }
  return picked.ipv4 === undefined && picked.ipv6 === undefined ? undefined : picked;
}

/** The first `limit` subnets of the range that overlap none of `taken`, ascending. */
export function freeSubnets(range: SubnetRange, taken: readonly Prefix[], limit = candidatesMax): Prefix[] {
  const { subnetLength, subnetMin, subnetMax } = range;
  const { family } = subnetMin;
  const size = 1n << BigInt(familyBits(family) - subnetLength);
  const occupied = taken.filter((subnet) => subnet.family === family).sort((a, b) => a.compare(b));
  const free: Prefix[] = [];
  let at = subnetMin.value;
  let next = 0;
  while (at <= subnetMax.value && free.length < limit) {
    const subnet = occupied[next];
    if (subnet !== undefined && subnet.last.value < at) {
      next++;
    } else if (subnet !== undefined && subnet.address.value < at + size) {
      // Jump behind it in one step: one lease may cover more subnets than could ever be walked.
      at += ((subnet.last.value - at) / size + 1n) * size;
      next++;
    } else {
      free.push(new Prefix(new IpAddress(family, at), subnetLength));
      at += size;
    }
  }
  return free;
}

/** Whether a lease of these subnets could have been drawn from these ranges: same families, lengths, bounds. */
export function isCompatible(ranges: SubnetRanges, subnets: LeaseSubnets): boolean {
  return (["ipv4", "ipv6"] as const).every((family) => fits(ranges[family], subnets[family]));
}

/** Whether a subnet of either family is shared, in whole or in part. */
export function subnetsOverlap(a: LeaseSubnets, b: LeaseSubnets): boolean {
  return (["ipv4", "ipv6"] as const).some((family) => {
    const [left, right] = [a[family], b[family]];
    return left !== undefined && right !== undefined && left.overlaps(right);
  });
}

function fits(range: SubnetRange | undefined, subnet: Prefix | undefined): boolean {
  if (range === undefined || subnet === undefined) return range === undefined && subnet === undefined;
  return (
    subnet.length === range.subnetLength &&
    subnet.address.compare(range.subnetMin) >= 0 &&
    subnet.address.compare(range.subnetMax) <= 0
  );
}
