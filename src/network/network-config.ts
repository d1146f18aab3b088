import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import { type NetworkConfig, parseNetworkConfig } from "../config/network.ts";
import type { Store } from "../store/store.ts";

/** As flannel asks again for a missing network configuration. */
const retryMs = 1_000;

/** No timer waits for longer than 24 days. */
const idleMs = 24 * 60 * 60_000;

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
 * reached, `fallback` is asked once whether it has something to begin with instead.
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
  while (!stop.aborted) {
    let trouble: string;
    try {
      const document = await store.readNetworkConfig(stop);
      if (document !== undefined) return { document, network: parseNetworkConfig(document) };
      trouble = `${store.description} has no network configuration`;
      if (own !== undefined) {
        const published = JSON.stringify(own);
        parseNetworkConfig(published);
        if (await store.createNetworkConfig(published, stop))
          log.info("network configuration published", { document: published });
        continue;
      }
    } catch (error) {
      if (stop.aborted) return undefined;
      if (!(error instanceof FlannelError)) throw error;
      if (error.exitCode === 2 || (error.code.startsWith("store/") && !error.retryable)) throw error;
      trouble = errorText(error);
      if (!asked && error.code.startsWith("store/")) {
        asked = true;
        const instead = fallback();
        if (instead !== undefined) {
          log.warn("the store cannot be reached; starting from the leases last seen", { reason: trouble });
          return instead;
        }
      }
    }
    if (trouble !== said) log.warn("waiting for the network configuration", { reason: trouble });
    said = trouble;
    await clock.sleep(retryMs, stop);
  }
  return undefined;
}

/** Says, once the store can be asked, whether it still has the configuration we began with. Ends with `stop`. */
export async function compareNetworkConfig(
  { store, log, clock }: Omit<NetworkConfigContext, "own">,
  remembered: string,
  stop: AbortSignal,
): Promise<void> {
  for (let answered = false; !stop.aborted; await clock.sleep(answered ? idleMs : retryMs, stop)) {
    if (answered) continue;
    try {
      const document = await store.readNetworkConfig(stop);
      answered = true;
      if (document === undefined) log.warn("the store has no network configuration any more; ours is kept");
      else if (document !== remembered)
        log.error("the network configuration is another one than this node started with", {
          remedy: "Restart to go by it",
        });
    } catch (error) {
      if (stop.aborted) return;
      if (!(error instanceof FlannelError)) throw error;
    }
  }
}
