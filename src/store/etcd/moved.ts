import type { Lease } from "../../lease/lease.ts";
import type { AcquireRequest } from "../store.ts";
import type { EtcdContext, LeaseEntry } from "./lease-entry.ts";
import { type NodeEntry, readNodeEntry } from "./node-entry.ts";
import { isSameNode } from "./renew.ts";
import { retire } from "./write.ts";

/** Two ends that one write gave are this far apart at most: etcd tells whole seconds, and answers take time. */
const sameEndMsMax = 5_000;

/** The lease that this host held under another address, and what stands beside it. */
export interface MovedLease {
  readonly entry: LeaseEntry;
  readonly nodeEntry: NodeEntry;
}

/**
 * The lease this host held before its address changed, where it provably still is this host's: it stands as it
 * was saved here, nobody else says that the old address is his, and nobody has written it since. That is told
 * by its end: with what still stands beside it, or, after an orderly stop, with the end that was saved. Node
 * ids alone prove nothing: clones may share one.
 */
export async function findMoved(
  context: EtcdContext,
  leases: readonly LeaseEntry[],
  { remembered, publicIp, node, exactly }: AcquireRequest,
  stop: AbortSignal,
): Promise<MovedLease | undefined> {
  const before = remembered?.attributes.publicIp;
  if (remembered === undefined || before === undefined || exactly !== undefined) return undefined;
  if (publicIp?.equals(before) === true) return undefined;
  const key = context.layout.leaseKey(remembered.subnets);
  const entry = leases.find((lease) => lease.key === key);
  if (entry?.attributes?.publicIp?.equals(before) !== true) return undefined;
  const nodeEntry = await readNodeEntry(context, before, stop);
  const why = await whyNotOurs(context, { entry, nodeEntry }, remembered, node.id, stop);
  if (why === undefined) return { entry, nodeEntry };
  context.log.info("the lease of our address before is left to its end", { key, was: `${before}`, why });
  return undefined;
}

async function whyNotOurs(
  context: EtcdContext,
  { entry, nodeEntry }: MovedLease,
  remembered: Lease,
  nodeId: string,
  stop: AbortSignal,
): Promise<string | undefined> {
  const { holder } = nodeEntry;
  if (entry.leaseId === "0") return "it is a reservation";
  if (entry.attributes === undefined || !isSameNode(entry.attributes, remembered.attributes))
    return "another VTEP MAC stands in it";
  if (holder !== undefined && holder.id !== nodeId)
    return `its address belongs to the node with id ${holder.id.slice(0, 64)}`;
  if (holder === undefined && nodeEntry.revision !== 0n) return "what stands beside it cannot be read";
  if (holder !== undefined && nodeEntry.leaseId === entry.leaseId) return undefined;
  const [end, wanted] = await Promise.all([
    endMsOf(context, entry.leaseId, stop),
    holder === undefined ? remembered.expiresAt?.getTime() : endMsOf(context, nodeEntry.leaseId, stop),
  ]);
  if (end === undefined || wanted === undefined || Math.abs(end - wanted) > sameEndMsMax)
    return "somebody has written it since";
  return undefined;
}

async function endMsOf(
  { client, clock }: EtcdContext,
  leaseId: string,
  stop: AbortSignal,
): Promise<number | undefined> {
  if (leaseId === "0") return undefined;
  const { ttlSeconds } = await client.timeToLive(leaseId, stop);
  return clock.now().getTime() + ttlSeconds * 1_000;
}

/** Gives back what a move left: the lease where another is held now, and who held it. Tells whether it is gone. */
export async function releaseMoved(
  context: EtcdContext,
  { entry, nodeEntry }: MovedLease,
  what: "lease" | "holder",
  stop: AbortSignal,
): Promise<boolean> {
  const keys = [
    ...(what === "lease" ? [{ key: entry.key, ifRevision: entry.revision }] : []),
    ...(nodeEntry.holder === undefined ? [] : [{ key: nodeEntry.key, ifRevision: nodeEntry.revision }]),
  ];
  const gone = keys.length === 0 || (await context.client.delete(keys, stop));
  if (gone) await retire(context, [entry.leaseId, nodeEntry.leaseId], stop);
  return gone;
}
