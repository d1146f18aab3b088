import { asGoObject } from "../../base/go-json.ts";
import type { Json, Lease, LeaseAttributes } from "../../lease/lease.ts";
import type { RenewResult } from "../store.ts";
import { encodeLeaseValue, parseLeaseValue } from "./codec.ts";
import type { EtcdContext } from "./lease-entry.ts";
import { contended, retire, writeLeased, writeReservation } from "./write.ts";

/** How often a key that changes under us is read again. */
const attemptsMax = 5;

/**
 * Extends the lease while its key is ours. A value that nobody can read is nobody's: ours is written back.
 * A key without an etcd lease has become a reservation and stays one.
 */
export async function renewLease(
  context: EtcdContext,
  lease: Lease,
  stop: AbortSignal,
): Promise<RenewResult> {
  const { client, layout, log } = context;
  const { subnets, attributes } = lease;
  const key = layout.leaseKey(subnets);
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const found = await client.get(key, stop);
    if (found === undefined) return { kind: "lost", reason: "the key is gone" };
    const theirs = parseLeaseValue(found.value);
    if (theirs === undefined)
      log.warn("the value of our own key cannot be read and is written anew", { key });
    else if (!isSameNode(theirs, attributes))
      return { kind: "lost", reason: `it belongs to ${nodeText(theirs)}` };

    const reserved = found.lease === "0";
    if (reserved && Buffer.from(found.value).equals(Buffer.from(encodeLeaseValue(attributes)))) {
      return { kind: "renewed", lease: { ...lease, expiresAt: undefined } };
    }
    const write = reserved ? writeReservation : writeLeased;
    const written = await write(context, { key, attributes, ifRevision: found.revision }, stop);
    if (written === undefined) continue;
    await retire(context, found.lease, stop);
    return { kind: "renewed", lease: { ...lease, ...written } };
  }
  throw contended(attemptsMax);
}

/** Deletes the key while it is ours. A reservation is its operator's and stays. */
export async function releaseLease(context: EtcdContext, lease: Lease, stop: AbortSignal): Promise<void> {
  const { client, layout } = context;
  const key = layout.leaseKey(lease.subnets);
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const found = await client.get(key, stop);
    const theirs = found === undefined ? undefined : parseLeaseValue(found.value);
    if (found === undefined || found.lease === "0") return;
    if (theirs === undefined || !isSameNode(theirs, lease.attributes)) return;
    if (!(await client.delete(key, found.revision, stop))) continue;
    return await retire(context, found.lease, stop);
  }
  throw contended(attemptsMax);
}

/** The same public IP and, where both publish one, the same VTEP MAC. */
export function isSameNode(a: LeaseAttributes, b: LeaseAttributes): boolean {
  if (a.publicIp?.toString() !== b.publicIp?.toString()) return false;
  const [left, right] = [macOf(a.backendData), macOf(b.backendData)];
  return left === undefined || right === undefined || left === right;
}

function macOf(backendData: Json | undefined): string | undefined {
  const mac = asGoObject(backendData)?.get("VtepMAC");
  return typeof mac === "string" ? mac.toLowerCase() : undefined;
}

function nodeText({ publicIp, backendData }: LeaseAttributes): string {
  const mac = macOf(backendData)?.slice(0, 32);
  return `${publicIp ?? "a node without public IP"}${mac === undefined ? "" : ` with VTEP MAC ${mac}`}`;
}
