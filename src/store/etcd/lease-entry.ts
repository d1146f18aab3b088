import type { Clock } from "../../base/clock.ts";
import type { Log } from "../../base/log.ts";
import type { Lease, LeaseAttributes, LeaseSubnets } from "../../lease/lease.ts";
import { type EtcdLayout, parseLeaseValue } from "./codec.ts";
import type { EtcdKeys } from "./keys.ts";
import type { KeyValue } from "./wire.ts";

/** A lease's key as it stands in etcd. */
export interface LeaseEntry {
  readonly key: string;
  readonly subnets: LeaseSubnets;
  /** Undefined where the value cannot be read. */
  readonly attributes: LeaseAttributes | undefined;
  readonly revision: bigint;
  /** The etcd lease it hangs on; `0` makes it a reservation. */
  readonly leaseId: string;
}

/** What the parts of the etcd store share. */
export interface EtcdContext {
  readonly api: "v3" | "v2";
  readonly client: EtcdKeys;
  readonly layout: EtcdLayout;
  /** The value that stock nodes of this API write for a lease. */
  readonly encodeValue: (attributes: LeaseAttributes) => string;
  readonly log: Log;
  readonly clock: Clock;
  /** Of [0, 1). */
  readonly random: () => number;
  /** Term of a lease. */
  readonly ttlSeconds: number;
  /** The etcd lease that we last hung our keys on; a store that lost it before its time was wiped. */
  readonly own: { grant: { readonly id: string; readonly until: Date } | undefined };
  /** Says that a key is of no use, once for each key and reason. */
  readonly complain: (key: string, reason: string) => void;
}

/** How many TTL queries are under way at once. */
const queriesMax = 8;

/** How many keys are remembered as complained about. */
const complaintsMax = 1_000;

/** The lease of a key; undefined, and said once, where the key names no subnets. */
export function parseLeaseEntry(context: EtcdContext, entry: KeyValue): LeaseEntry | undefined {
  const { key, value, revision, lease: leaseId } = entry;
  const subnets = context.layout.parseLeaseKey(key);
  if (subnets === undefined) {
    context.complain(key, "not a subnet as flannel writes it");
    return undefined;
  }
  const attributes = parseLeaseValue(value);
  if (attributes === undefined) context.complain(key, "its value cannot be read");
  return { key, subnets, attributes, revision, leaseId };
}

/**
 * When the leases of `entries` lapse: one query for each etcd lease, some at a time. Once a query fails the
 * rest is taken to have a full term left: no peer is lost because a clock could not be read.
 */
export async function readExpiries(
  { client, clock, log, ttlSeconds }: EtcdContext,
  entries: readonly LeaseEntry[],
  stop: AbortSignal,
): Promise<(entry: LeaseEntry) => Date | undefined> {
  const after = (seconds: number) => new Date(clock.now().getTime() + Math.max(seconds, 0) * 1_000);
  const expiries = new Map<string, Date>();
  const waiting = new Set(entries.map((entry) => entry.leaseId).filter((id) => id !== "0")).values();
  let failed = false;
  const work = async () => {
    for (const id of waiting) {
      if (failed) return;
      try {
        expiries.set(id, after((await client.timeToLive(id, stop)).ttlSeconds));
      } catch (error) {
        stop.throwIfAborted();
        if (!failed) log.debug("cannot read how long etcd leases last", { error: String(error) });
        failed = true;
      }
    }
  };
  await Promise.all(Array.from({ length: queriesMax }, work));
  const assumed = after(ttlSeconds);
  return ({ leaseId }) => (leaseId === "0" ? undefined : (expiries.get(leaseId) ?? assumed));
}

/** The entry as a lease, where its value can be read. */
export function leaseOf(entry: LeaseEntry, expiresAt: Date | undefined): Lease | undefined {
  const { subnets, attributes } = entry;
  return attributes === undefined ? undefined : { subnets, attributes, expiresAt };
}

/** A complaint for each key and reason, until a thousand later ones have been made. */
export function complainOnce(log: Log): EtcdContext["complain"] {
  const said = new Set<string>();
  return (key, reason) => {
    const complaint = `${reason}\n${key}`;
    if (said.has(complaint)) return;
    if (said.size >= complaintsMax) for (const oldest of said.values().take(1)) said.delete(oldest);
    said.add(complaint);
    log.warn("a key in etcd is ignored", { key: key.slice(0, 200), reason });
  };
}
