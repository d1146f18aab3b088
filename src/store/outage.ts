import type { Clock } from "../base/clock.ts";
import type { FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";

/** While a store stays away, the log says so again after this long. */
const reminderMs = 60_000;

/** Tells of a store's outages: `store`, as the log calls it, is lost, still lost, and back. */
export function createOutageLog(store: string, { log, clock }: { readonly log: Log; readonly clock: Clock }) {
  let sinceMs: number | undefined;
  let saidMs = 0;
  return {
    met(error: FlannelError) {
      const nowMs = clock.now().getTime();
      if (sinceMs !== undefined && nowMs - saidMs < reminderMs) return;
      sinceMs ??= nowMs;
      saidMs = nowMs;
      const { code, message, fields, remedy } = error;
      log.warn(`${store} is lost; leases are kept as they were`, { ...fields, code, error: message, remedy });
    },
    over() {
      if (sinceMs === undefined) return;
      log.info(`${store} is back`, { lostMs: clock.now().getTime() - sinceMs });
      sinceMs = undefined;
    },
  };
}
