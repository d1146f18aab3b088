import { asGoObject } from "../../base/go-json.ts";
import {
  type Json,
  type Lease,
  type LeaseAttributes,
  leaseKey,
  type NodeIdentity,
} from "../../lease/lease.ts";
import type { IpAddress } from "../../net/address.ts";
import type { RenewRequest, RenewResult } from "../store.ts";
import { parseLeaseValue } from "./codec.ts";
import type { EtcdContext } from "./lease-entry.ts";
import { holderText, type NodeEntry, readNodeEntry } from "./node-entry.ts";
import { contended, retire, writeLease } from "./write.ts";

/** How often a key that changes under us is read again. */
const attemptsMax = 5;

/** Where a lease has no public IP there is nothing beside it. */
const noNodeEntry: NodeEntry = { key: "", holder: undefined, revision: 0n, leaseId: "0" };

/**
 * Extends the lease while its key is ours. A value that nobody can read is nobody's: ours is written back.
 * A key without an etcd lease has become a reservation and stays one.
 */
export async function renewLease(
  context: EtcdContext,
  { lease, node, attributes = lease.attributes }: RenewRequest,
  stop: AbortSignal,
): Promise<RenewResult> {
  const { client, layout, log } = context;
  const { subnets } = lease;
  const { publicIp } = lease.attributes;
  const key = layout.leaseKey(subnets);
  if (publicIp === undefined) throw new Error(`our own lease ${key} has no public IP`);
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const [found, nodeEntry] = await Promise.all([
      client.get(key, stop),
      readNodeEntry(context, publicIp, stop),
    ]);
    if (found === undefined) return { kind: "lost", reason: "the key is gone" };
    const theirs = parseLeaseValue(found.value);
    if (theirs !== undefined && !isSameNode(theirs, lease.attributes)) {
      return { kind: "conflict", owner: await ownerText(context, theirs, stop) };
    }
    if (nodeEntry.holder !== undefined && nodeEntry.holder.id !== node.id) {
      return { kind: "conflict", owner: `${publicIp}, ${holderText(nodeEntry.holder)}` };
    }
    if (theirs === undefined)
      log.warn("the value of our own key cannot be read and is written anew", { key });

    const reserved = found.lease === "0";
    const asItStands =
      reserved && Buffer.from(found.value).equals(Buffer.from(context.encodeValue(attributes)));
    const write = { subnets, attributes, ifRevision: found.revision, node, nodeEntry, reserved, asItStands };
    const written = await writeLease(context, write, stop);
    if (written === undefined) continue;
    await retire(context, [found.lease, nodeEntry.leaseId], stop);
    const { expiresAt, heldUntil } = written;
    return { kind: "renewed", lease: { subnets, attributes, expiresAt }, heldUntil };
  }
  throw contended(attemptsMax);
}

/** Deletes the key while it is ours, and what says so beside it. A reservation is its operator's and stays. */
export async function releaseLease(context: EtcdContext, lease: Lease, stop: AbortSignal): Promise<void> {
  const { client, layout } = context;
  const { publicIp } = lease.attributes;
  const key = layout.leaseKey(lease.subnets);
  context.own.grant = undefined;
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const found = await client.get(key, stop);
    const theirs = found === undefined ? undefined : parseLeaseValue(found.value);
    if (found === undefined || found.lease === "0") return;
    if (theirs === undefined || !isSameNode(theirs, lease.attributes)) return;
    const nodeEntry = publicIp === undefined ? noNodeEntry : await readNodeEntry(context, publicIp, stop);
    const ofThisLease = nodeEntry.holder?.subnet === leaseKey(lease.subnets);
    const keys = [{ key, ifRevision: found.revision }];
    if (ofThisLease) keys.push({ key: nodeEntry.key, ifRevision: nodeEntry.revision });
    if (!(await client.delete(keys, stop))) continue;
    return await retire(context, [found.lease, ...(ofThisLease ? [nodeEntry.leaseId] : [])], stop);
  }
  throw contended(attemptsMax);
}

/** Deletes the key while it is this node's, and its etcd lease with it where nothing else hangs on that. */
export async function signOff(
  context: EtcdContext,
  { publicIp, node }: { readonly publicIp: IpAddress; readonly node: NodeIdentity },
  stop: AbortSignal,
): Promise<void> {
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const { key, holder, revision, leaseId } = await readNodeEntry(context, publicIp, stop);
    if (holder?.id !== node.id) return;
    if (!(await context.client.delete([{ key, ifRevision: revision }], stop))) continue;
    return await retire(context, leaseId, stop);
  }
  throw contended(attemptsMax);
}

/** The same public IP and, where both publish one, the same VTEP MAC. */
export function isSameNode(a: LeaseAttributes, b: LeaseAttributes): boolean {
  if (a.publicIp?.toString() !== b.publicIp?.toString()) return false;
  const [left, right] = [macOf(a.backendData), macOf(b.backendData)];
  return left === undefined || right === undefined || left === right;
}

/** Who holds a lease with these attributes, for people. */
export async function ownerText(
  context: EtcdContext,
  { publicIp, backendData }: LeaseAttributes,
  stop: AbortSignal,
): Promise<string> {
  if (publicIp === undefined) return "a node without public IP";
  const mac = macOf(backendData)?.slice(0, 32);
  const address = `${publicIp}${mac === undefined ? "" : ` with VTEP MAC ${mac}`}`;
  const { holder } = await readNodeEntry(context, publicIp, stop);
  return holder === undefined ? address : `${address}, ${holderText(holder)}`;
}

function macOf(backendData: Json | undefined): string | undefined {
  const mac = asGoObject(backendData)?.get("VtepMAC");
  return typeof mac === "string" ? mac.toLowerCase() : undefined;
}
