import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import { runGroup } from "../base/group.ts";
import type { Log } from "../base/log.ts";
import type { Backend } from "../backend/backend.ts";
import type { RefusedPeer } from "../backend/peers.ts";
import type { Reconciler } from "../datapath/reconcile.ts";
import { createLeaseGuard, type HeldPeer, type LeaseGuard } from "../lease/guard.ts";
import { type Lease, leaseKey, type LeaseUpdate } from "../lease/lease.ts";
import { createLeaseTable, type LeaseTable, sameAttributes } from "../lease/table.ts";
import type { Store } from "../store/store.ts";
import type { Reach } from "../net/reach.ts";
import type { Keeper } from "./keeper.ts";

/** A list that is to confirm what is held is asked for again after this long. */
const confirmRetryMs = 10_000;

/** How often our lease may be given another VTEP MAC: more is somebody's game. */
const republishMax = 8;

export interface NetworkContext {
  readonly store: Store;
  readonly keeper: Keeper;
  readonly backend: Backend;
  readonly reach: { readonly current: Reach };
  readonly reconciler: Reconciler;
  readonly log: Log;
  readonly clock: Clock;
  /** Peers remembered from an earlier run, to begin with before the store tells. */
  readonly remembered?: readonly Lease[];
  /** Called when the first leases have become a plan, before it is made true. */
  readonly onFirstPlan: () => void;
  /** Called after the leases that we go by changed; `renewed` where only the end of some did. */
  readonly onLeases?: (how: "changed" | "renewed") => void;
}

/** What the watch has told: whole lists, and single leases that came or changed, or went. */
export type LeaseUpdates = Readonly<Record<"snapshot" | "put" | "delete", number>>;

/** The loop: leases as they change become plans. */
export interface Network {
  /** Leases of others that we go by, those held included. */
  readonly peers: readonly Lease[];
  /** Leases of others that are not used, with the reason. */
  readonly refused: readonly RefusedPeer[];
  /** Peers that the store no longer shows and that are believed all the same. */
  readonly held: readonly HeldPeer[];
  readonly updates: LeaseUpdates;
  /** Plans anew, since our own lease or a conflict about it changed. */
  ownChanged(): void;
  /** Plans anew, since others are one hop away than before. */
  reachChanged(): void;
  run(stop: AbortSignal): Promise<void>;
}

export function openNetwork(context: NetworkContext): Network {
  const { store, keeper, backend, reach, reconciler, log, clock, remembered, onFirstPlan, onLeases } =
    context;
  const table = createLeaseTable();
  const guard = createLeaseGuard();
  const holds = createHoldReport(log);
  let refused: readonly RefusedPeer[] = [];
  let planned = false;
  let republished = 0;
  let ownSeen: Lease | undefined;
  let updates = 0;
  const told = { snapshot: 0, put: 0, delete: 0 };
  const reported = new Map<string, string>();
  let rouse = () => {};

  const replan = () => {
    // Who has no subnet must not send for it, nor to anybody; the device and its address harm nobody.
    const peers = keeper.conflict === undefined ? guard.believed : [];
    const result = backend.plan(keeper.lease, peers, reach.current);
    refused = result.refused;
    reportRefused(refused, reported, log);
    reconciler.want(result.plan);
    if (!planned) onFirstPlan();
    planned = true;
    if (result.republish === undefined || keeper.conflict !== undefined) return;
    republished++;
    if (republished <= republishMax) {
      log.warn("a peer has our VTEP MAC and the lower subnet: we take another", {
        subnet: leaseKey(keeper.lease.subnets),
      });
      keeper.publish(result.republish);
    } else if (republished === republishMax + 1) {
      log.error("peers take our VTEP MAC again and again: we keep it", { times: republishMax });
    }
  };

  /** Passes what the table shows through the guard. Plans anew where `changed`, or where the guard let go. */
  const observe = (changed: boolean, outage: boolean) => {
    const before = new Set(guard.held);
    guard.observe(table.peers(keeper.lease.subnets), outage, clock.now());
    const heldChanged = guard.held.length !== before.size || guard.held.some((peer) => !before.has(peer));
    holds.tell(guard.held);
    if (changed || heldChanged || !planned) replan();
    if (heldChanged) rouse();
    onLeases?.(changed || heldChanged ? "changed" : "renewed");
  };

  /** Our own lease as the store shows it is what the keeper must know of, once for each change. */
  const lookAtOwn = (isSnapshot: boolean) => {
    const own = ownIn(table, keeper.lease);
    const isOurs = own !== undefined && isSameLease(own, keeper.lease);
    const isNews = own === undefined || ownSeen === undefined || !isSameLease(own, ownSeen);
    if ((!isOurs && isNews) || (isSnapshot && keeper.trouble !== undefined)) keeper.wake();
    ownSeen = own;
  };

  const take = (update: LeaseUpdate) => {
    updates++;
    if (update.kind === "snapshot") told.snapshot++;
    else for (const { kind } of update.changes) told[kind]++;
    const changed = table.apply(update);
    const isSnapshot = update.kind === "snapshot";
    observe(changed, table.leases.length === 0 || (isSnapshot && update.replaced === true));
    lookAtOwn(isSnapshot);
  };

  const follow = async (stop: AbortSignal): Promise<void> => {
    for await (const update of store.watch(stop)) take(update);
  };

  /** Lists all leases; those of them that were held come back, the rest of the held is confirmed to be gone. */
  const confirm = async (stop: AbortSignal): Promise<void> => {
    const at = updates;
    const leases = await store.list(stop);
    if (at !== updates) return; // the watch has told more meanwhile, maybe of later things
    const missing = new Set(guard.held.map(({ lease }) => leaseKey(lease.subnets)));
    const back = leases.filter(({ subnets }) => missing.has(leaseKey(subnets)));
    if (back.length > 0) {
      take({ kind: "changes", changes: back.map((lease) => ({ kind: "put", lease })) });
    }
    guard.confirm();
  };

  const tendHeld = async (stop: AbortSignal): Promise<void> => {
    while (!stop.aborted) {
      const timer = new AbortController();
      rouse = () => timer.abort();
      const dueMs = heldDueMs(guard, clock.now().getTime());
      if (dueMs > 0) await clock.sleep(dueMs, AbortSignal.any([stop, timer.signal]));
      if (stop.aborted) return;
      let unanswered = false;
      if (guard.held.some(({ confirmed }) => !confirmed)) {
        try {
          await confirm(stop);
        } catch (error) {
          if (stop.aborted) return;
          if (!(error instanceof FlannelError)) throw error;
          log.debug("what is held could not be confirmed", { error: errorText(error) });
        }
        unanswered = guard.held.some(({ confirmed }) => !confirmed);
      }
      if (guard.expire(clock.now())) {
        holds.tell(guard.held);
        replan();
        onLeases?.("changed");
      }
      if (unanswered) await clock.sleep(confirmRetryMs, stop);
    }
  };

  return {
    get peers() {
      return keeper.conflict === undefined ? guard.believed : [];
    },
    get refused() {
      return refused;
    },
    get held() {
      return guard.held;
    },
    updates: told,
    ownChanged() {
      // A lease of ours with other subnets makes a peer of who has the old ones.
      if (updates > 0) observe(true, false);
      else if (planned) replan();
    },
    reachChanged() {
      if (planned) replan();
    },
    async run(stop) {
      if (remembered !== undefined) {
        guard.observe(remembered, false, clock.now());
        replan();
      }
      await runGroup(stop, [follow, tendHeld]);
    },
  };
}

/** When the guard is next to be looked after; at once where something is to be confirmed. */
function heldDueMs({ held }: LeaseGuard, nowMs: number): number {
  if (held.some(({ confirmed }) => !confirmed)) return 0;
  return firstEndMs(held) - nowMs;
}

function firstEndMs(held: readonly HeldPeer[]): number {
  return held.reduce((first, { until }) => Math.min(first, until.getTime()), Number.POSITIVE_INFINITY);
}

function ownIn({ leases }: LeaseTable, own: Lease): Lease | undefined {
  const key = leaseKey(own.subnets);
  return leases.find((lease) => leaseKey(lease.subnets) === key);
}

function isSameLease(a: Lease, b: Lease): boolean {
  return (
    sameAttributes(a.attributes, b.attributes) && (a.expiresAt === undefined) === (b.expiresAt === undefined)
  );
}

/** Says when peers begin to be held, and when none is any more. */
function createHoldReport(log: Log) {
  let said = new Set<string>();
  return {
    tell(held: readonly HeldPeer[]) {
      const keys = new Set(held.map(({ lease }) => leaseKey(lease.subnets)));
      const [first] = held.filter(({ lease }) => !said.has(leaseKey(lease.subnets)));
      if (first !== undefined) {
        log.warn("peers that the store no longer shows are kept until their leases end", {
          peers: held.length,
          reason: first.reason,
          firstEnds: new Date(firstEndMs(held)).toISOString(),
        });
      } else if (said.size > 0 && keys.size === 0) {
        log.info("every peer that was kept is back or has reached its end");
      }
      said = keys;
    },
  };
}

function reportRefused(refused: readonly RefusedPeer[], reported: Map<string, string>, log: Log): void {
  const present = new Set<string>();
  for (const { lease, reason } of refused) {
    const key = leaseKey(lease.subnets);
    present.add(key);
    if (reported.get(key) === reason) continue;
    reported.set(key, reason);
    log.warn("a lease is not used", { subnet: key, peer: `${lease.attributes.publicIp ?? ""}`, reason });
  }
  for (const key of reported.keys()) if (!present.has(key)) reported.delete(key);
}
