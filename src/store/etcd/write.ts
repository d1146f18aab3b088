import { FlannelError } from "../../base/error.ts";
import type { LeaseAttributes } from "../../lease/lease.ts";
import { encodeLeaseValue } from "./codec.ts";
import type { EtcdContext } from "./lease-entry.ts";

/** A lease's key to write, as it was last seen. */
export interface LeaseWrite {
  readonly key: string;
  readonly attributes: LeaseAttributes;
  /** Revision at which it was read; 0: it must not exist. */
  readonly ifRevision: bigint;
}

/** `undefined` says that the key changed in between and nothing was written. */
export type LeaseWritten = { readonly expiresAt: Date | undefined } | undefined;

/** Writes the key with a new etcd lease of a full term. */
export async function writeLeased(
  context: EtcdContext,
  { key, attributes, ifRevision }: LeaseWrite,
  stop: AbortSignal,
): Promise<LeaseWritten> {
  const { client, clock, ttlSeconds } = context;
  const askedAt = clock.now().getTime();
  const grant = await client.grant(ttlSeconds, stop);
  // Should the put fail without an answer, the grant is left to lapse: the key may hang on it.
  const value = encodeLeaseValue(attributes);
  const { done } = await client.put({ key, value, lease: grant.id, ifRevision }, stop);
  if (!done) {
    await retire(context, grant.id, stop);
    return undefined;
  }
  return { expiresAt: new Date(askedAt + grant.ttlSeconds * 1_000) };
}

/** Writes the key without an etcd lease, as a reservation is. */
export async function writeReservation(
  { client }: EtcdContext,
  { key, attributes, ifRevision }: LeaseWrite,
  stop: AbortSignal,
): Promise<LeaseWritten> {
  const value = encodeLeaseValue(attributes);
  const { done } = await client.put({ key, value, lease: "0", ifRevision }, stop);
  return done ? { expiresAt: undefined } : undefined;
}

/**
 * Ends an etcd lease that none of our keys hangs on any more, if no other key does: an operator may have put
 * several on one. A failure is none of ours: the lease lapses by itself, as flannel lets it.
 */
export async function retire(
  { client, log }: EtcdContext,
  leaseId: string,
  stop: AbortSignal,
): Promise<void> {
  if (leaseId === "0") return;
  try {
    const { ttlSeconds, keyCount } = await client.timeToLive(leaseId, stop, true);
    if (ttlSeconds >= 0 && keyCount === 0) await client.revoke(leaseId, stop);
  } catch (error) {
    stop.throwIfAborted();
    if (!(error instanceof FlannelError)) throw error;
    log.debug("an unused etcd lease is left to lapse", { lease: leaseId, error: error.message });
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
