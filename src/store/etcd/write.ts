import { FlannelError } from "../../base/error.ts";
import type { LeaseAttributes, LeaseSubnets, NodeIdentity } from "../../lease/lease.ts";
import type { EtcdContext } from "./lease-entry.ts";
import { encodeNodeValue, type NodeEntry } from "./node-entry.ts";

/** A lease to write, its key and the one beside it as they were last seen. */
export interface LeaseWrite {
  readonly subnets: LeaseSubnets;
  readonly attributes: LeaseAttributes;
  /** Revision at which the lease's key was read; 0: it must not exist. */
  readonly ifRevision: bigint;
  readonly node: NodeIdentity;
  readonly nodeEntry: NodeEntry;
  /** Without an etcd lease, as a reservation is. */
  readonly reserved: boolean;
  /** Nothing in the lease changes: only who holds it is written. */
  readonly asItStands?: boolean;
}

/** `undefined` says that a key changed in between and nothing was written. */
export type LeaseWritten = { readonly expiresAt: Date | undefined; readonly heldUntil: Date } | undefined;

/** Writes both keys in one transaction, with a new etcd lease of a full term. */
export async function writeLease(
  context: EtcdContext,
  { subnets, attributes, ifRevision, node, nodeEntry, reserved, asItStands = false }: LeaseWrite,
  stop: AbortSignal,
): Promise<LeaseWritten> {
  const { client, layout, clock, ttlSeconds, encodeValue } = context;
  const askedAt = clock.now().getTime();
  const grant = await client.grant(ttlSeconds, stop);
  // Should the put fail without an answer, the grant is left to lapse: the keys may hang on it.
  const lease = {
    key: layout.leaseKey(subnets),
    value: encodeValue(attributes),
    lease: reserved ? "0" : grant.id,
    ifRevision,
  };
  const holder = {
    key: nodeEntry.key,
    value: encodeNodeValue(node, subnets),
    lease: grant.id,
    ifRevision: nodeEntry.revision,
  };
  if (!(await client.put(asItStands ? [holder] : [lease, holder], stop))) {
    await retire(context, grant.id, stop);
    return undefined;
  }
  const heldUntil = new Date(askedAt + grant.ttlSeconds * 1_000);
  context.own.grant = { id: grant.id, until: heldUntil };
  return { expiresAt: reserved ? undefined : heldUntil, heldUntil };
}

/**
 * Ends etcd leases that none of our keys hangs on any more, if no other key does: an operator may have put
 * several on one. A failure is none of ours: a lease lapses by itself, as flannel lets it.
 */
export async function retire(
  { client, log }: EtcdContext,
  leaseIds: string | readonly string[],
  stop: AbortSignal,
): Promise<void> {
  for (const id of new Set([leaseIds].flat())) {
    if (id === "0") continue;
    try {
      const { ttlSeconds, keyCount } = await client.timeToLive(id, stop, true);
      if (ttlSeconds >= 0 && keyCount === 0) await client.revoke(id, stop);
    } catch (error) {
      stop.throwIfAborted();
      if (!(error instanceof FlannelError)) throw error;
      log.debug("an unused etcd lease is left to lapse", { lease: id, error: error.message });
    }
  }
}

/** Others changed the same key or took the same subnets again and again. */
export function contended(attempts: number): FlannelError {
  return new FlannelError(
    "store/contended",
    "other nodes were faster each time",
    { attempts },
    { retryable: true },
  );
}
