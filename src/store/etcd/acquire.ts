import { FlannelError } from "../../base/error.ts";
import { allocateSubnets, isCompatible, subnetsOverlap } from "../../lease/allocate.ts";
import { type Lease, type LeaseSubnets, leaseKey } from "../../lease/lease.ts";
import type { IpAddress } from "../../net/address.ts";
import type { AcquireRequest, AcquireResult } from "../store.ts";
import { parseSubnetKey } from "./codec.ts";
import { type EtcdContext, type LeaseEntry, leaseOf, parseLeaseEntry, readExpiries } from "./lease-entry.ts";
import { findMoved, type MovedLease, releaseMoved } from "./moved.ts";
import { holderText, type NodeEntry, readNodeEntry } from "./node-entry.ts";
import { ownerText, releaseLease } from "./renew.ts";
import type { KeyValue } from "./wire.ts";
import { contended, retire, writeLease } from "./write.ts";

/** Lost races before the call fails; each is followed by a longer random wait. */
const attemptsMax = 32;
const raceWaitMs = 20;
const raceWaitMsMax = 500;

/** Takes a lease as Store says, in flannel's order; every write depends on what was read being still so. */
export async function acquireLease(
  context: EtcdContext,
  request: AcquireRequest,
  stop: AbortSignal,
): Promise<AcquireResult> {
  const publicIp = requirePublicIp(request);
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const result = await tryAcquire(context, { ...request, publicIp }, stop);
    if (result !== undefined) return result;
    const waitMs = Math.min(raceWaitMs * 2 ** attempt, raceWaitMsMax) * context.random();
    await context.clock.sleep(waitMs, stop);
    stop.throwIfAborted();
  }
  throw contended(attemptsMax);
}

interface NamedRequest extends AcquireRequest {
  readonly publicIp: IpAddress;
}

/** One attempt; undefined when what it had read changed under it. */
async function tryAcquire(
  context: EtcdContext,
  request: NamedRequest,
  stop: AbortSignal,
): Promise<AcquireResult | undefined> {
  const { client, layout, log } = context;
  const { network, node, publicIp, exactly } = request;
  const [{ entries: stored }, nodeEntry] = await Promise.all([
    client.list(layout.subnets, stop),
    readNodeEntry(context, publicIp, stop),
  ]);
  refuseOwned(request, nodeEntry);
  const leases = stored
    .map((entry) => parseLeaseEntry(context, entry))
    .filter((lease) => lease !== undefined);
  const own = leases.filter(({ attributes }) => attributes?.publicIp?.equals(publicIp) === true);
  const fitting = own.find(({ subnets }) =>
    exactly === undefined ? isCompatible(network, subnets) : leaseKey(subnets) === leaseKey(exactly),
  );
  const moved = await findMoved(context, leases, request, stop);
  const movable = moved !== undefined && isCompatible(network, moved.entry.subnets) ? moved : undefined;
  const existing = fitting ?? movable?.entry ?? own[0];
  const attributes = request.attributes(await readLease(context, existing, stop));
  const acquire = async (
    how: "own" | "moved" | "previous" | "allocated",
    write: { subnets: LeaseSubnets; ifRevision: bigint; reserved: boolean; asItStands?: boolean },
    outdated: readonly string[],
  ): Promise<AcquireResult | undefined> => {
    const written = await writeLease(context, { ...write, attributes, node, nodeEntry }, stop);
    if (written === undefined) return undefined;
    await retire(context, [...outdated, nodeEntry.leaseId], stop);
    const { expiresAt, heldUntil } = written;
    return { kind: "acquired", lease: { subnets: write.subnets, attributes, expiresAt }, how, heldUntil };
  };

  if (fitting !== undefined) {
    const { subnets, revision: ifRevision, leaseId } = fitting;
    const reserved = leaseId === "0"; // it stays one
    const asItStands =
      reserved &&
      fitting.attributes !== undefined &&
      context.encodeValue(fitting.attributes) === context.encodeValue(attributes);
    const result = await acquire("own", { subnets, ifRevision, reserved, asItStands }, [leaseId]);
    if (result !== undefined && moved !== undefined) await giveBack(context, moved, stop);
    return result;
  }
  if (exactly !== undefined) {
    const blocker = stored.find(({ key }) => {
      const subnets = parseSubnetKey(key);
      return subnets !== undefined && subnetsOverlap(subnets, exactly);
    });
    if (blocker === undefined)
      return acquire("previous", { subnets: exactly, ifRevision: 0n, reserved: false }, []);
    const theirs = leases.find(({ key }) => key === blocker.key)?.attributes;
    const owner = theirs === undefined ? "a key that cannot be read" : await ownerText(context, theirs, stop);
    return { kind: "taken", owner: `${owner} by ${blocker.key.slice(0, 200)}` };
  }

  const deleted = new Set<string>();
  const outdated: string[] = [];
  for (const { key, revision, leaseId } of own) {
    if (leaseId === "0") {
      log.warn("a reservation for this node does not fit the network and is left alone", { key });
      continue;
    }
    log.warn("our lease does not fit the network any more and is given back", { key });
    if (!(await client.delete([{ key, ifRevision: revision }], stop))) return undefined;
    deleted.add(key);
    outdated.push(leaseId);
  }

  if (movable !== undefined) {
    const { subnets, revision: ifRevision, leaseId, attributes: was } = movable.entry;
    const result = await acquire("moved", { subnets, ifRevision, reserved: false }, [...outdated, leaseId]);
    if (result === undefined) return undefined;
    log.info("our address has changed: our lease goes with it", {
      ...{ subnet: leaseKey(subnets), was: `${was?.publicIp}`, is: `${publicIp}` },
    });
    await releaseMoved(context, movable, "holder", stop);
    return result;
  }
  if (moved !== undefined) {
    // It does not fit the network any more.
    if (!(await giveBack(context, moved, stop))) return undefined;
    deleted.add(moved.entry.key);
  }

  const taken = takenSubnets(stored.filter(({ key }) => !deleted.has(key)));
  const previous = usablePrevious(request, taken);
  const subnets = previous ?? allocateSubnets(network, taken, context.random);
  if (subnets === undefined) {
    await retire(context, outdated, stop);
    return { kind: "exhausted", leased: taken.length };
  }
  const how = previous === undefined ? "allocated" : "previous";
  const result = await acquire(how, { subnets, ifRevision: 0n, reserved: false }, outdated);
  if (result?.kind !== "acquired" || (await isFirst(context, result.lease, stop))) return result;
  log.info("another node was faster with a part of our subnets; picking again", {
    subnet: leaseKey(subnets),
  });
  await releaseLease(context, result.lease, stop);
  return undefined;
}

async function giveBack(context: EtcdContext, moved: MovedLease, stop: AbortSignal): Promise<boolean> {
  const { key, attributes } = moved.entry;
  context.log.info("the lease of our address before is given back", { key, was: `${attributes?.publicIp}` });
  return await releaseMoved(context, moved, "lease", stop);
}

/**
 * Whether no other lease that was there first overlaps a new one. The key's creation settles who has the pair of
 * subnets, but two nodes may have drawn one IPv6 subnet beside different IPv4 subnets; the later one yields.
 */
async function isFirst({ client, layout }: EtcdContext, lease: Lease, stop: AbortSignal): Promise<boolean> {
  const { ipv4, ipv6 } = lease.subnets;
  if (ipv4 === undefined || ipv6 === undefined) return true;
  const { entries } = await client.list(layout.subnets, stop);
  const ours = entries.find(({ key }) => key === layout.leaseKey(lease.subnets));
  return !entries.some(({ key, created }) => {
    const subnets = key === ours?.key ? undefined : parseSubnetKey(key);
    return (
      subnets !== undefined &&
      subnetsOverlap(subnets, lease.subnets) &&
      created < (ours?.created ?? created + 1n)
    );
  });
}

/** @throws FlannelError `lease/owned` where another node says that our public IP is its */
function refuseOwned({ node, publicIp, previous, exactly }: NamedRequest, { key, holder }: NodeEntry): void {
  if (holder === undefined || holder.id === node.id) return;
  const subnets = exactly ?? previous;
  const us = holderText({ ...node, subnet: subnets === undefined ? "none yet" : leaseKey(subnets) });
  throw new FlannelError(
    "lease/owned",
    `our public IP ${publicIp} belongs to ${holderText(holder)}, which is alive; we are ${us}`,
    {},
    {
      remedy:
        "Stop the other node, or give one of the two another address (uplink.public_ip). If the other is gone " +
        `for good, delete the key ${key}; if both are this machine, set the same host.node_id`,
    },
  );
}

/** Every subnet that a key names, be the key or its value otherwise unusable: somebody may be using it. */
function takenSubnets(stored: readonly KeyValue[]): LeaseSubnets[] {
  return stored.map(({ key }) => parseSubnetKey(key)).filter((subnets) => subnets !== undefined);
}

function usablePrevious(
  { network, previous }: AcquireRequest,
  taken: readonly LeaseSubnets[],
): LeaseSubnets | undefined {
  if (previous === undefined || !isCompatible(network, previous)) return undefined;
  return taken.some((subnets) => subnetsOverlap(subnets, previous)) ? undefined : previous;
}

async function readLease(
  context: EtcdContext,
  entry: LeaseEntry | undefined,
  stop: AbortSignal,
): Promise<Lease | undefined> {
  if (entry === undefined) return undefined;
  return leaseOf(entry, (await readExpiries(context, [entry], stop))(entry));
}

/** flannel's keys begin with an IPv4 subnet, and nodes are told apart by their IPv4 public address. */
function requirePublicIp({ network, publicIp }: AcquireRequest): IpAddress {
  if (network.ipv4 === undefined) {
    throw new FlannelError(
      "network/ipv6-only",
      "etcd has no form for leases without an IPv4 subnet",
      { network: network.ipv6 === undefined ? "none" : `${network.ipv6.network}` },
      { exitCode: 2, remedy: "Make the network dual-stack: set EnableIPv4 and Network beside IPv6Network." },
    );
  }
  if (publicIp?.family !== 4) {
    throw new FlannelError(
      "network/no-public-ipv4",
      "nodes are told apart in etcd by their public IPv4 address, and this one has none",
      { subnet: leaseKey({ ipv4: network.ipv4.network }) },
      { exitCode: 2, remedy: "Set uplink.public_ip." },
    );
  }
  return publicIp;
}
