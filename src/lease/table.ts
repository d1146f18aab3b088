import type { Json, Lease, LeaseAttributes, LeaseSubnets, LeaseUpdate } from "./lease.ts";
import { leaseKey } from "./lease.ts";

/** The leases of the network as the updates so far tell. */
export interface LeaseTable {
  /** Every lease, our own included, ordered by subnet. */
  readonly leases: readonly Lease[];
  /**
   * Folds an update in. True when a lease came, went, or has other attributes; a lease that was only
   * renewed is kept with its new expiry and is no change.
   */
  apply(update: LeaseUpdate): boolean;
  /** Every lease but the one for exactly our own subnets. */
  peers(own: LeaseSubnets | undefined): readonly Lease[];
}

/** An empty table. Its content depends on the updates only, not on the order of leases inside a snapshot. */
export function createLeaseTable(): LeaseTable {
  let held = new Map<string, Lease>();
  let ordered: readonly Lease[] | undefined;
  const current = () => (ordered ??= [...held.values()].sort(bySubnets));

  const put = (lease: Lease): boolean => {
    const key = leaseKey(lease.subnets);
    const before = held.get(key);
    held.set(key, lease);
    return before === undefined || !sameAttributes(before.attributes, lease.attributes);
  };

  const replace = (leases: readonly Lease[]): boolean => {
    const before = held;
    held = new Map(before);
    const changed = leases.map(put).includes(true);
    const named = new Set(leases.map((lease) => leaseKey(lease.subnets)));
    for (const key of before.keys()) if (!named.has(key)) held.delete(key);
    return changed || held.size !== before.size;
  };

  return {
    get leases() {
      return current();
    },
    apply(update) {
      ordered = undefined;
      if (update.kind === "snapshot") return replace(update.leases);
      let changed = false;
      for (const change of update.changes) {
        const one = change.kind === "put" ? put(change.lease) : held.delete(leaseKey(change.subnets));
        changed ||= one;
      }
      return changed;
    },
    peers(own) {
      const ownKey = own === undefined ? undefined : leaseKey(own);
      return current().filter((lease) => leaseKey(lease.subnets) !== ownKey);
    },
  };
}

/** Whether two nodes publish the same; the order of members inside the backend's data does not matter. */
export function sameAttributes(a: LeaseAttributes, b: LeaseAttributes): boolean {
  return (
    a.backendType === b.backendType &&
    a.publicIp?.toString() === b.publicIp?.toString() &&
    a.publicIpv6?.toString() === b.publicIpv6?.toString() &&
    sameJson(a.backendData, b.backendData) &&
    sameJson(a.backendV6Data, b.backendV6Data)
  );
}

function bySubnets(a: Lease, b: Lease): number {
  const [left, right] = [a.subnets, b.subnets];
  return byPrefix(left.ipv4, right.ipv4) || byPrefix(left.ipv6, right.ipv6);
}

function byPrefix(a: LeaseSubnets["ipv4"], b: LeaseSubnets["ipv4"]): number {
  if (a === undefined || b === undefined) return Number(a !== undefined) - Number(b !== undefined);
  return a.compare(b);
}

function sameJson(a: Json | undefined, b: Json | undefined): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const [left, right] = [new Map(Object.entries(a)), new Map(Object.entries(b))];
  return (
    left.size === right.size &&
    [...left].every(([name, value]) => right.has(name) && sameJson(value, right.get(name)))
  );
}
