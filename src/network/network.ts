import type { Log } from "../base/log.ts";
import type { Backend } from "../backend/backend.ts";
import type { RefusedPeer } from "../backend/peers.ts";
import type { Reconciler } from "../datapath/reconcile.ts";
import { type Lease, leaseKey } from "../lease/lease.ts";
import type { LeaseTable } from "../lease/table.ts";
import type { Store } from "../store/store.ts";
import type { Keeper } from "./keeper.ts";

export interface NetworkContext {
  readonly store: Store;
  readonly keeper: Keeper;
  readonly backend: Backend;
  readonly reconciler: Reconciler;
  readonly table: LeaseTable;
  readonly log: Log;
  /** Called when the first snapshot has become a plan, before it is made true. */
  readonly onFirstPlan: () => void;
}

/** The loop: leases as they change become plans. */
export interface Network {
  /** Leases of others that are not used, with the reason. */
  readonly refused: readonly RefusedPeer[];
  run(stop: AbortSignal): Promise<void>;
}

export function openNetwork(context: NetworkContext): Network {
  const { store, keeper, backend, reconciler, table, log, onFirstPlan } = context;
  let refused: readonly RefusedPeer[] = [];
  let planned = false;
  const reported = new Map<string, string>();

  const replan = () => {
    const result = backend.plan(keeper.lease, table.peers(keeper.lease.subnets));
    refused = result.refused;
    reportRefused(refused, reported, log);
    reconciler.want(result.plan);
    if (!planned) onFirstPlan();
    planned = true;
  };

  return {
    get refused() {
      return refused;
    },
    async run(stop) {
      for await (const update of store.watch(stop)) {
        const changed = table.apply(update);
        if (changed || !planned) replan();
        if (!holdsOwn(table.leases, keeper.lease)) keeper.wake();
      }
    },
  };
}

function holdsOwn(leases: readonly Lease[], own: Lease): boolean {
  const key = leaseKey(own.subnets);
  return leases.some((lease) => leaseKey(lease.subnets) === key);
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
