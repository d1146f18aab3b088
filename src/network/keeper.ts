import { openBrake } from "../base/brake.ts";
import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import { type Lease, type LeaseAttributes, leaseKey } from "../lease/lease.ts";
import { sameAttributes } from "../lease/table.ts";
import type { AcquireRequest, AcquireResult, Store } from "../store/store.ts";

/** A renewal that failed is tried again after this long, until it succeeds; so is a look at a conflict. */
const retryMs = 10_000;

/** Between two renewals there is at least this long, however short the term. */
const renewMsMin = 1_000;

/** Between renewals the store is asked this often whether it still says who we are: nobody tells when not. */
const lookMs = 30_000;

/** Store errors while acquiring are waited out, doubling from here to the maximum. */
const acquireRetryMs = 500;
const acquireRetryMsMax = 10_000;

export interface KeeperContext {
  readonly store: Store;
  readonly request: AcquireRequest;
  /** How long before expiry a lease is renewed. Read each time, as is `onConflict`. */
  readonly renewMarginMs: number;
  /** What to do once another node has our subnet; see `store.on_conflict`. */
  readonly onConflict: "stop" | "new-subnet";
  readonly log: Log;
  readonly clock: Clock;
}

/** How often each befell our own lease; `failed`: the store did not answer or refused. */
export type LeaseEvents = Readonly<Record<"acquired" | "renewed" | "lost" | "conflict" | "failed", number>>;

/** Takes and keeps our own lease. */
export interface Keeper {
  readonly lease: Lease;
  /** When the store last wrote it for us; undefined while it is only remembered from an earlier run. */
  readonly confirmedAt: Date | undefined;
  /** Why the store does not confirm the lease; undefined while all is well. */
  readonly trouble: string | undefined;
  /** Who has our subnet in our place; then nothing may be sent for it. Undefined while it is ours. */
  readonly conflict: string | undefined;
  /** Somebody keeps changing what it says, so that it is put back more slowly. */
  readonly contested: boolean;
  readonly events: LeaseEvents;
  /** Looks at once, for instance because our key was seen to vanish; more and more slowly where that does not end. */
  wake(): void;
  /** Changes what our lease publishes, at once. */
  publish(attributes: LeaseAttributes): void;
  /** @param onChange called after the lease or the conflict changed */
  run(stop: AbortSignal, onChange: () => void): Promise<void>;
}

/**
 * Acquires our lease, waiting while the store cannot be reached.
 * @returns undefined when `stop` aborted first
 * @throws FlannelError `lease/exhausted`, `lease/owned`, or an error of the store that waiting cannot cure
 */
export async function openKeeper(context: KeeperContext, stop: AbortSignal): Promise<Keeper | undefined> {
  const first = await acquirePatiently(context, stop);
  return first === undefined ? undefined : keep(context, { ...first, trouble: undefined });
}

/**
 * Goes on with a lease remembered from an earlier run, which is still to be confirmed by the store. Publishes what a
 * start publishes: where the store assigns subnets, our address may be another one by now.
 */
export function resumeKeeper(context: KeeperContext, lease: Lease): Keeper {
  const wanted = context.request.attributes(lease);
  const trouble = "not confirmed by the store yet";
  return keep(context, { lease, heldUntil: context.clock.now(), trouble, wanted });
}

/** A lease, and until when it and what stands beside it must be renewed. */
interface Holding {
  readonly lease: Lease;
  readonly heldUntil: Date;
}

/** @param first `wanted`: what it is to publish, where that differs */
function keep(
  context: KeeperContext,
  first: Holding & { trouble: string | undefined; wanted?: LeaseAttributes },
): Keeper {
  const { store, request, log, clock } = context;
  const { node } = request;
  let { lease, heldUntil, trouble } = first;
  let confirmedAt = trouble === undefined ? clock.now() : undefined;
  let conflict: string | undefined;
  let wanted =
    first.wanted === undefined || sameAttributes(first.wanted, lease.attributes) ? undefined : first.wanted;
  const brake = openBrake(clock);
  /** The store was seen to say something else than we do. */
  let woken = false;
  /** There is something to be said that does not wait. */
  let urgent = trouble !== undefined;
  let rouse = () => {};
  const events = { acquired: trouble === undefined ? 1 : 0, renewed: 0, lost: 0, conflict: 0, failed: 0 };

  const hold = (held: Holding) => {
    if (lease.expiresAt !== undefined && held.lease.expiresAt === undefined)
      log.info("the term of our lease was taken away: it is a reservation now", {
        subnet: leaseKey(lease.subnets),
      });
    if (conflict !== undefined)
      log.info("our subnet is ours alone", { subnet: leaseKey(held.lease.subnets) });
    ({ lease, heldUntil } = held);
    confirmedAt = clock.now();
    if (wanted !== undefined && sameAttributes(wanted, lease.attributes)) wanted = undefined;
    conflict = undefined;
  };

  /** Renews, or takes the same subnet again where the key is gone, or finds that it is another's. */
  const tend = async (stop: AbortSignal): Promise<void> => {
    const subnet = leaseKey(lease.subnets);
    const result = await store.renew({ lease, node, ...(wanted && { attributes: wanted }) }, stop);
    if (result.kind === "renewed") {
      hold(result);
      events.renewed++;
      log.info("lease renewed", { subnet, expires: expiryText(lease) });
    } else if (result.kind === "conflict") {
      await meetConflict(result.owner, stop);
    } else {
      events.lost++;
      log.warn("our lease is gone; taking the same subnet again", { subnet, reason: result.reason });
      await retake(stop);
    }
  };

  const retake = async (stop: AbortSignal): Promise<void> => {
    const attributes = wanted ?? lease.attributes;
    const same = { ...request, attributes: () => attributes, exactly: lease.subnets };
    const result = await acquireUnlessOwned(store, same, stop);
    if (result.kind === "taken") return await meetConflict(result.owner, stop);
    hold(acquiredOf(result, log));
    events.acquired++;
  };

  const meetConflict = async (owner: string, stop: AbortSignal): Promise<void> => {
    if (conflict !== owner) {
      events.conflict++;
      log.error("another node has our subnet: nothing is sent for it any more", {
        subnet: leaseKey(lease.subnets),
        owner,
        remedy:
          context.onConflict === "stop"
            ? 'Stop the other node, or set store.on_conflict = "new-subnet"'
            : "A new subnet is taken; pods of the old one must be made anew",
      });
    }
    conflict = owner;
    if (context.onConflict === "stop") return;
    const result = await acquireUnlessOwned(store, { ...request, previous: undefined }, stop);
    if (result.kind === "taken") return;
    hold(acquiredOf(result, log));
    events.acquired++;
  };

  /** What says who has our public IP may be deleted alone, which the watch of the leases does not tell. */
  const isAttested = async (stop: AbortSignal): Promise<boolean> => {
    const { publicIp } = lease.attributes;
    if (publicIp === undefined) return true;
    try {
      if (await store.attests(publicIp, node, stop)) return true;
    } catch (error) {
      if (!stop.aborted && !(error instanceof FlannelError)) throw error;
      return true; // the next renewal says what is amiss
    }
    log.warn("the store no longer says that we have our public IP: renewing", { publicIp: `${publicIp}` });
    return false;
  };

  return {
    get lease() {
      return lease;
    },
    get confirmedAt() {
      return confirmedAt;
    },
    get trouble() {
      return trouble;
    },
    get conflict() {
      return conflict;
    },
    get contested() {
      return brake.contested;
    },
    events,
    wake() {
      if (woken) return;
      woken = true;
      rouse();
    },
    publish(attributes) {
      wanted = attributes;
      urgent = true;
      rouse();
    },
    async run(stop, onChange) {
      while (!stop.aborted) {
        const untilDueMs = heldUntil.getTime() - clock.now().getTime() - context.renewMarginMs;
        const isWell = trouble === undefined && conflict === undefined;
        const onlyLooks = isWell && untilDueMs > lookMs;
        const waitMs = onlyLooks ? lookMs : isWell ? Math.max(untilDueMs, renewMsMin) : retryMs;
        const timer = new AbortController();
        rouse = () => timer.abort();
        const pauseMs = urgent ? 0 : woken ? brake.waitMs : waitMs;
        if (pauseMs > 0) await clock.sleep(pauseMs, AbortSignal.any([stop, timer.signal]));
        if (stop.aborted) return;
        if (woken && !urgent && brake.waitMs > 0) continue;
        if (onlyLooks && !woken && !urgent && (await isAttested(stop))) continue;
        if (woken && !urgent && trouble === undefined && brake.repaired())
          log.warn("our lease is changed by somebody else again and again; it is put back slower", {
            subnet: leaseKey(lease.subnets),
          });
        woken = false;
        urgent = false;
        const before = { lease, conflict };
        try {
          await tend(stop);
          if (trouble !== undefined) log.info("the store confirms our lease again");
          trouble = undefined;
        } catch (error) {
          if (stop.aborted) return;
          if (!(error instanceof FlannelError)) throw error;
          const text = errorText(error);
          if (text !== trouble)
            log.error("lease not renewed; trying again", { error: text, expires: expiryText(lease) });
          trouble = text;
          events.failed++;
        }
        if (before.lease !== lease || before.conflict !== conflict) onChange();
      }
    },
  };
}

async function acquirePatiently(context: KeeperContext, stop: AbortSignal): Promise<Holding | undefined> {
  const { store, request, log, clock } = context;
  for (let waitMs = acquireRetryMs; ; waitMs = Math.min(waitMs * 2, acquireRetryMsMax)) {
    try {
      return acquiredOf(await store.acquire(request, stop), log);
    } catch (error) {
      if (stop.aborted) return undefined;
      if (!(error instanceof FlannelError) || !error.retryable) throw error;
      log.warn("no lease yet; trying again", { error: errorText(error), waitMs });
      await clock.sleep(waitMs, stop);
      if (stop.aborted) return undefined;
    }
  }
}

/** Once we run, another node with our public IP is a conflict like any other. */
async function acquireUnlessOwned(
  store: Store,
  request: AcquireRequest,
  stop: AbortSignal,
): Promise<AcquireResult> {
  try {
    return await store.acquire(request, stop);
  } catch (error) {
    if (!(error instanceof FlannelError) || error.code !== "lease/owned") throw error;
    return { kind: "taken", owner: error.message };
  }
}

/** @throws FlannelError `lease/exhausted` */
function acquiredOf(result: AcquireResult, log: Log): Holding {
  if (result.kind === "exhausted") {
    throw new FlannelError(
      "lease/exhausted",
      `out of subnets: all of the network's subnets are leased (${result.leased})`,
      {},
      { remedy: "Widen Network or SubnetMax, or delete leases of hosts that are gone" },
    );
  }
  if (result.kind === "taken") throw new Error(`no exact subnet was asked for: ${result.owner}`);
  const { lease, how, heldUntil } = result;
  log.info("lease acquired", { subnet: leaseKey(lease.subnets), how, expires: expiryText(lease) });
  return { lease, heldUntil };
}

function expiryText({ expiresAt }: Lease): string {
  return expiresAt === undefined ? "never (a reservation)" : expiresAt.toISOString();
}
