import type { Clock } from "../base/clock.ts";
import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Lease, NodeIdentity } from "../lease/lease.ts";
import type { Store } from "../store/store.ts";

/** A store that does not answer holds a stop up for no longer. */
const waitMsMax = 2_000;

export interface SignOffContext {
  readonly store: Store;
  readonly node: NodeIdentity;
  readonly log: Log;
  readonly clock: Clock;
}

/** At an orderly stop: lets another node take over our address at once. Never rejects. */
export async function signOff(
  { attributes: { publicIp } }: Lease,
  { store, node, log, clock }: SignOffContext,
): Promise<void> {
  if (publicIp === undefined) return;
  const limit = new AbortController();
  const answered = new AbortController();
  void clock.sleep(waitMsMax, answered.signal).then(() => limit.abort());
  try {
    await store.signOff(publicIp, node, limit.signal);
  } catch (error) {
    log.debug("the store was not told that this node stops", { error: errorText(error) });
  } finally {
    answered.abort();
  }
}
