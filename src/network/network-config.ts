import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import { type DocumentChange, documentChanges, documentDifference } from "../config/document-difference.ts";
import { type NetworkConfig, parseNetworkConfig } from "../config/network.ts";
import type { Store } from "../store/store.ts";

/** As flannel asks again for a missing network configuration. */
const retryMs = 1_000;

/** Once the store has answered, it is asked this often whether its configuration is still the same. */
const lookMs = 60_000;

export interface NetworkConfigContext {
  readonly store: Store;
  /** What to publish where the store has none. */
  readonly own: object | undefined;
  readonly log: Log;
  readonly clock: Clock;
}

export interface FoundNetwork {
  /** As it stands in the store. */
  readonly document: string;
  readonly network: NetworkConfig;
}

/**
 * Waits, as flannel does, until the store has a valid network configuration. Where the store cannot be
 * reached, or has none and we have none to publish (it was emptied, maybe), `fallback` is asked once whether it
 * has something to begin with instead.
 * @returns undefined when stopped
 * @throws FlannelError an error of the store that waiting cannot cure
 */
export async function waitForNetworkConfig<Fallback>(
  { store, own, log, clock }: NetworkConfigContext,
  fallback: () => Fallback | undefined,
  stop: AbortSignal,
): Promise<FoundNetwork | Fallback | undefined> {
  let said = "";
  let asked = false;
  const standIn = (reason: string, why: string): Fallback | undefined => {
    if (asked) return undefined;
    asked = true;
    const instead = fallback();
    if (instead !== undefined) log.warn(`${why}; starting from the leases last seen`, { reason });
    return instead;
  };
  while (!stop.aborted) {
    let trouble: string;
    try {
      const document = await store.readNetworkConfig(stop);
      if (document !== undefined) return { document, network: parseNetworkConfig(document) };
      trouble = `${store.description} has no network configuration`;
      if (own !== undefined) {
        const published = JSON.stringify(own);
        parseNetworkConfig(published);
        try {
          if (await store.createNetworkConfig(published, stop))
            log.info("network configuration published", { document: published });
          continue;
        } catch (error) {
          // We may be let in for leases alone: somebody else has to publish it, which is waited for.
          const refusal = publishRefusal(error, store);
          if (refusal === undefined) throw error;
          trouble = `${trouble}; ${errorText(refusal)}`;
        }
      }
      const instead = standIn(trouble, "the store is empty");
      if (instead !== undefined) return instead;
    } catch (error) {
      if (stop.aborted) return undefined;
      if (!(error instanceof FlannelError)) throw error;
      if (error.exitCode === 2 || (error.code.startsWith("store/") && !error.retryable)) throw error;
      trouble = errorText(error);
      if (error.code.startsWith("store/")) {
        const instead = standIn(trouble, "the store cannot be reached");
        if (instead !== undefined) return instead;
      }
    }
    if (trouble !== said) log.warn("waiting for the network configuration", { reason: trouble });
    said = trouble;
    await clock.sleep(retryMs, stop);
  }
  return undefined;
}

/**
 * What a store means that lets us in, yet not to write the network configuration; undefined for every other
 * error. The embedded store is so to its members, and etcd to a user without that right.
 */
export function publishRefusal(
  error: unknown,
  { description }: { readonly description: string },
): FlannelError | undefined {
  if (!(error instanceof FlannelError) || error.code !== "store/unauthorized") return undefined;
  if (error.fields["rpcCode"] !== permissionDenied) return undefined;
  return new FlannelError(
    "store/unauthorized",
    `we may not write the network configuration in ${description}: ${error.fields["reason"]}`,
    {},
    {
      remedy:
        "Publish it once as the store's administrator: flannel-lite network set FILE, at flannel-lite's own store with the admin certificate that store init made or as a user of role admin, at etcd as a user who may write the prefix's key config",
    },
  );
}

/** gRPC's code. */
const permissionDenied = 7;

/** Looks whether the store still has the configuration that this node goes by. */
export interface NetworkConfigWatch {
  /** What differs in the store: it counts after a restart. Empty while the store has none, or cannot be asked. */
  readonly changes: readonly DocumentChange[];
  /** Looks now. @returns whether the store answered */
  look(stop: AbortSignal): Promise<boolean>;
  /** Looks until the store answers, and now and then from there on. Ends with `stop`. */
  run(stop: AbortSignal): Promise<void>;
}

/** @param started the document that this node goes by */
export function watchNetworkConfig(
  { store, log, clock }: Omit<NetworkConfigContext, "own">,
  started: string,
): NetworkConfigWatch {
  let changes: readonly DocumentChange[] = [];
  let isMissing = false;

  const compare = (document: string | undefined) => {
    if (document === undefined) {
      if (!isMissing) log.warn("the store has no network configuration any more; ours is kept");
      isMissing = true;
      return;
    }
    if (isMissing) log.info("the store has a network configuration again");
    isMissing = false;
    const found = documentChanges(started, document);
    if (JSON.stringify(found) === JSON.stringify(changes)) return;
    changes = found;
    if (found.length === 0) log.info("the network configuration is again the one this node started with");
    else
      log.error("the network configuration is another one than this node started with", {
        changes: documentDifference(started, document),
        remedy: "Restart to go by it",
      });
  };

  const look = async (stop: AbortSignal): Promise<boolean> => {
    try {
      compare(await store.readNetworkConfig(stop));
      return true;
    } catch (error) {
      if (!stop.aborted && !(error instanceof FlannelError)) throw error;
      return false; // the watch of the leases says what is amiss
    }
  };

  return {
    get changes() {
      return isMissing ? [] : changes;
    },
    look,
    async run(stop) {
      for (let answered = false; !stop.aborted;) {
        answered = (await look(stop)) || answered;
        await clock.sleep(answered ? lookMs : retryMs, stop);
      }
    },
  };
}
