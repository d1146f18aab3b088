import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import { type Lease, leaseKey } from "../lease/lease.ts";
import type { AcquireRequest, Store } from "../store/store.ts";

/** A renewal that failed is tried again after this long, until it succeeds. */
const renewRetryMs = 10_000;

/** Store errors while acquiring are waited out, doubling from here to the maximum. */
const acquireRetryMs = 500;
const acquireRetryMsMax = 10_000;

export interface KeeperContext {
  readonly store: Store;
  readonly request: AcquireRequest;
  /** How long before expiry a lease is renewed. */
  readonly renewMarginMs: number;
  readonly log: Log;
  readonly clock: Clock;
}

/** Takes and keeps our own lease. */
export interface Keeper {
  readonly lease: Lease;
  /** Why the last renewal failed; undefined while all is well. */
  readonly trouble: string | undefined;
  /** Looks at once, for instance because our key was seen to vanish. */
  wake(): void;
  run(stop: AbortSignal): Promise<void>;
}

/**
 * Acquires our lease, waiting while the store cannot be reached.
 * @returns undefined when `stop` aborted first
 * @throws FlannelError `lease/exhausted`, or an error of the store that waiting cannot cure
 */
export async function openKeeper(context: KeeperContext, stop: AbortSignal): Promise<Keeper | undefined> {
  const first = await acquire(context, stop);
  return first === undefined ? undefined : keep(context, first);
}

function keep(context: KeeperContext, first: Lease): Keeper {
  const { store, request, renewMarginMs, log, clock } = context;
  let lease = first;
  let trouble: string | undefined;
  let wake = Promise.withResolvers<void>();

  /** Renews, or takes the same subnet again where the key is gone. Tells how long to wait until the next time. */
  const tend = async (stop: AbortSignal): Promise<void> => {
    const result = await store.renew(lease, stop);
    if (result.kind === "renewed") {
      lease = result.lease;
      log.info("lease renewed", { subnet: leaseKey(lease.subnets), expires: expiryText(lease) });
      return;
    }
    log.warn("our lease is gone; taking the same subnet again", {
      subnet: leaseKey(lease.subnets),
      reason: result.reason,
    });
    const again = await acquire({ ...context, request: { ...request, previous: lease.subnets } }, stop);
    if (again === undefined) return;
    if (leaseKey(again.subnets) !== leaseKey(lease.subnets)) {
      await store.release(again, stop);
      throw new FlannelError(
        "lease/lost",
        `our subnet ${leaseKey(lease.subnets)} belongs to another node now`,
        {},
        { remedy: "Restart to take a new subnet; pods on this host must be made anew then" },
      );
    }
    lease = again;
  };

  return {
    get lease() {
      return lease;
    },
    get trouble() {
      return trouble;
    },
    wake: () => wake.resolve(),
    async run(stop) {
      while (!stop.aborted) {
        const dueMs =
          trouble !== undefined
            ? renewRetryMs
            : lease.expiresAt === undefined
              ? Number.POSITIVE_INFINITY
              : lease.expiresAt.getTime() - clock.now().getTime() - renewMarginMs;
        wake = Promise.withResolvers();
        const timer = new AbortController();
        await Promise.race([wake.promise, clock.sleep(dueMs, AbortSignal.any([stop, timer.signal]))]);
        timer.abort();
        if (stop.aborted) return;
        try {
          await tend(stop);
          trouble = undefined;
        } catch (error) {
          if (stop.aborted) return;
          if (!(error instanceof FlannelError) || error.code === "lease/lost") throw error;
          trouble = errorText(error);
          log.error("lease not renewed; trying again", { error: trouble, expires: expiryText(lease) });
        }
      }
    },
  };
}

async function acquire(context: KeeperContext, stop: AbortSignal): Promise<Lease | undefined> {
  const { store, request, log, clock } = context;
  for (let waitMs = acquireRetryMs; ; waitMs = Math.min(waitMs * 2, acquireRetryMsMax)) {
    try {
      const result = await store.acquire(request, stop);
      if (result.kind === "exhausted") {
        throw new FlannelError(
          "lease/exhausted",
          `out of subnets: all of the network's subnets are leased (${result.leased})`,
          {},
          { remedy: "Widen Network or SubnetMax, or delete leases of hosts that are gone" },
        );
      }
      const { lease, how } = result;
      log.info("lease acquired", { subnet: leaseKey(lease.subnets), how, expires: expiryText(lease) });
      return lease;
    } catch (error) {
      if (stop.aborted) return undefined;
      if (!(error instanceof FlannelError) || !error.retryable) throw error;
      log.warn("no lease yet; trying again", { error: errorText(error), waitMs });
      await clock.sleep(waitMs, stop);
      if (stop.aborted) return undefined;
    }
  }
}

function expiryText({ expiresAt }: Lease): string {
  return expiresAt === undefined ? "never (a reservation)" : expiresAt.toISOString();
}
