import { FlannelError } from "../../base/error.ts";
import { allocateSubnets, isCompatible, subnetsOverlap } from "../../lease/allocate.ts";
import { type Lease, type LeaseSubnets, leaseKey } from "../../lease/lease.ts";
import type { AcquireRequest, AcquireResult } from "../store.ts";
import { encodeLeaseValue, parseSubnetKey } from "./codec.ts";
import { type EtcdContext, type LeaseEntry, leaseOf, parseLeaseEntry, readExpiries } from "./lease-entry.ts";
import type { KeyValue } from "./wire.ts";
import { contended, retire, writeLeased, writeReservation } from "./write.ts";

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
  refuseIpv6Only(request);
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const result = await tryAcquire(context, request, stop);
    if (result !== undefined) return result;
    const waitMs = Math.min(raceWaitMs * 2 ** attempt, raceWaitMsMax) * context.random();
    await context.clock.sleep(waitMs, stop);
    stop.throwIfAborted();
  }
  throw contended(attemptsMax);
}

/** One attempt; undefined when what it had read changed under it. */
async function tryAcquire(
  context: EtcdContext,
  request: AcquireRequest,
  stop: AbortSignal,
): Promise<AcquireResult | undefined> {
  const { client, layout, log } = context;
  const { network } = request;
  const { entries: stored } = await client.list(layout.subnets, stop);
  const leases = stored
    .map((entry) => parseLeaseEntry(context, entry))
    .filter((lease) => lease !== undefined);
  const own = leases.filter(({ attributes }) => attributes?.publicIp?.equals(request.publicIp) === true);
  const fitting = own.find(({ subnets }) => isCompatible(network, subnets));
  const existing = fitting ?? own[0];
  const attributes = request.attributes(await readLease(context, existing, stop));
  const acquired = (lease: Lease, how: "own" | "previous" | "allocated") =>
    ({ kind: "acquired", lease, how }) as const;

  if (fitting !== undefined) {
    const lease = await takeOver(context, fitting, attributes, stop);
    return lease === undefined ? undefined : acquired(lease, "own");
  }

  const deleted = new Set<string>();
  for (const entry of own) {
    if (entry.leaseId === "0") {
      log.warn("a reservation for this node does not fit the network and is left alone", { key: entry.key });
      continue;
    }
    log.warn("our lease does not fit the network any more and is given back", { key: entry.key });
    if (!(await client.delete(entry.key, entry.revision, stop))) return undefined;
    deleted.add(entry.key);
    await retire(context, entry.leaseId, stop);
  }

  const taken = takenSubnets(stored.filter(({ key }) => !deleted.has(key)));
  const previous = usablePrevious(request, taken);
  const subnets = previous ?? allocateSubnets(network, taken, context.random);
  if (subnets === undefined) return { kind: "exhausted", leased: taken.length };
  const write = { key: layout.leaseKey(subnets), attributes, ifRevision: 0n };
  const written = await writeLeased(context, write, stop);
  if (written === undefined) return undefined;
  return acquired({ subnets, attributes, ...written }, previous === undefined ? "allocated" : "previous");
}

/** Puts our attributes on a key that carries our public IP; a reservation stays one. */
async function takeOver(
  context: EtcdContext,
  entry: LeaseEntry,
  attributes: Lease["attributes"],
  stop: AbortSignal,
): Promise<Lease | undefined> {
  const { key, subnets, revision: ifRevision, leaseId } = entry;
  const reserved = leaseId === "0";
  if (reserved && entry.attributes !== undefined) {
    const unchanged = encodeLeaseValue(entry.attributes) === encodeLeaseValue(attributes);
    if (unchanged) return { subnets, attributes, expiresAt: undefined };
  }
  const write = reserved ? writeReservation : writeLeased;
  const written = await write(context, { key, attributes, ifRevision }, stop);
  if (written === undefined) return undefined;
  await retire(context, leaseId, stop);
  return { subnets, attributes, ...written };
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
function refuseIpv6Only({ network, publicIp }: AcquireRequest): void {
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
}
