import { FlannelError } from "../../base/error.ts";
import { createOutageLog } from "../outage.ts";
import type { Lease, LeaseChange, LeaseUpdate } from "../../lease/lease.ts";
import { type EtcdContext, type LeaseEntry, leaseOf, parseLeaseEntry, readExpiries } from "./lease-entry.ts";
import type { WatchEvent } from "./wire.ts";

/** Between two tries to reach etcd: doubling from here to the maximum, each shortened by up to half. */
const backoffMs = 100;
const backoffMsMax = 5_000;

/**
 * Watches all leases as Store says. A put that cannot be read changes nothing: its key keeps the last lease
 * that could be read, through snapshots too, until it is deleted or readable again.
 */
export async function* watchLeases(context: EtcdContext, stop: AbortSignal): AsyncGenerator<LeaseUpdate> {
  const { client, layout, clock, random } = context;
  const outage = createOutageLog("etcd", context);
  const reader = createReader(context);
  /** Where the next connection goes on; undefined when everything must be read again. */
  let next: bigint | undefined;
  /** The last revision that anything was told of. */
  let seen = 0n;
  let waitMs = backoffMs;
  for (let connections = 0; !stop.aborted; connections++) {
    const connectedAt = clock.now().getTime();
    try {
      if (connections > 0 && (await lostOurLease(context, stop))) {
        reader.distrust("it lost our lease before its time");
        next = undefined;
      }
      if (next === undefined) {
        const snapshot = await reader.snapshot(seen, stop);
        next = snapshot.next;
        seen = next - 1n;
        outage.over();
        yield snapshot.update;
      }
      for await (const message of client.watch(layout.subnets, next, stop)) {
        outage.over();
        if (message.kind === "gap") {
          context.log.info("reading all leases again", { reason: message.reason });
          // A token made before the users changed shows as a cancelled watch.
          client.forgetToken();
          next = undefined;
          break;
        }
        if (message.kind === "open") continue;
        const changes = message.kind === "events" ? await reader.changes(message.events, stop) : [];
        next = message.next;
        seen = next - 1n;
        waitMs = backoffMs;
        if (changes.length > 0) yield { kind: "changes", changes };
      }
    } catch (error) {
      if (stop.aborted) return;
      if (!(error instanceof FlannelError)) throw error;
      if (error.code === "store/closed") return;
      outage.met(error);
    }
    // A connection that lasted, or told something, was no part of a series of failures.
    if (clock.now().getTime() - connectedAt > backoffMsMax) waitMs = backoffMs;
    await clock.sleep(waitMs * (1 - random() / 2), stop);
    waitMs = Math.min(waitMs * 2, backoffMsMax);
  }
}

/** Turns what etcd tells into updates, remembering the last readable lease of every key. */
function createReader(context: EtcdContext) {
  const { client, layout, log } = context;
  let known = new Map<string, Lease>();
  let clusterId: string | undefined;
  let replaced = false;
  return {
    /** The next snapshot does not speak for the store as it was. */
    distrust(reason: string) {
      if (!replaced) log.warn("etcd was wiped or restored", { reason });
      replaced = true;
    },

    async snapshot(seen: bigint, stop: AbortSignal): Promise<{ update: LeaseUpdate; next: bigint }> {
      const answer = await client.list(layout.subnets, stop);
      const isOther = clusterId !== undefined && clusterId !== answer.clusterId;
      if (isOther) log.warn("another etcd cluster answers", { before: clusterId, now: answer.clusterId });
      // Linearizable reads of one cluster never go back; one wiped on the same members keeps its cluster id.
      if (answer.revision < seen) this.distrust(`its revision went back from ${seen} to ${answer.revision}`);
      clusterId = answer.clusterId;
      const entries = answer.entries
        .map((entry) => parseLeaseEntry(context, entry))
        .filter((entry) => entry !== undefined);
      const expiryOf = await readExpiries(context, entries, stop);
      const current = new Map<string, Lease>();
      for (const entry of entries) {
        const lease = leaseOf(entry, expiryOf(entry)) ?? known.get(entry.key);
        if (lease !== undefined) current.set(entry.key, lease);
      }
      known = current;
      const distrusted = isOther || replaced ? { replaced: true } : {};
      replaced = false;
      const update: LeaseUpdate = { kind: "snapshot", leases: [...current.values()], ...distrusted };
      return { update, next: answer.revision + 1n };
    },

    async changes(events: readonly WatchEvent[], stop: AbortSignal): Promise<LeaseChange[]> {
      const entries = events.map((event) => {
        return event.kind === "put" ? parseLeaseEntry(context, event.entry) : undefined;
      });
      const expiryOf = await readExpiries(context, entries.filter(isReadable), stop);
      const changes: LeaseChange[] = [];
      events.forEach((event, at) => {
        const entry = entries[at];
        if (event.kind === "delete") {
          const gone = known.get(event.key);
          if (gone !== undefined) changes.push({ kind: "delete", subnets: gone.subnets });
          known.delete(event.key);
        } else if (entry !== undefined) {
          const lease = leaseOf(entry, expiryOf(entry));
          if (lease === undefined) return;
          known.set(entry.key, lease);
          changes.push({ kind: "put", lease });
        }
      });
      return changes;
    },
  };
}

/**
 * Whether etcd has forgotten the lease that our keys hang on. A store that was wiped may have come past the
 * revision we saw last before we are connected again, and then nothing else tells.
 */
async function lostOurLease({ client, own, clock }: EtcdContext, stop: AbortSignal): Promise<boolean> {
  const { grant } = own;
  if (grant === undefined || clock.now() >= grant.until) return false;
  const { ttlSeconds } = await client.timeToLive(grant.id, stop);
  if (ttlSeconds >= 0 || own.grant !== grant) return false;
  own.grant = undefined;
  return true;
}

function isReadable(entry: LeaseEntry | undefined): entry is LeaseEntry {
  return entry?.attributes !== undefined;
}
