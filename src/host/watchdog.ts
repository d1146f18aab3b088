import type { Clock } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import type { ServiceManager } from "./sd-notify.ts";

export interface WatchdogContext {
  readonly service: Pick<ServiceManager, "watchdog">;
  readonly intervalMs: number;
  /** Why nothing gets done any more; undefined while all goes on. */
  readonly stuck: () => string | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Gives systemd a sign of life at every interval, but none while `stuck` gives a reason: then it starts us
 * again. A blocked event loop gives none either.
 */
export function openWatchdog({ service, intervalMs, stuck, clock, log }: WatchdogContext): Disposable {
  const closed = new AbortController();
  const watch = async () => {
    let said: string | undefined;
    while (!closed.signal.aborted) {
      const reason = stuck();
      if (reason === undefined) service.watchdog();
      else if (reason !== said)
        log.error("systemd gets no sign of life any more and will start us again", { reason });
      said = reason;
      await clock.sleep(intervalMs, closed.signal);
    }
  };
  void watch();
  return { [Symbol.dispose]: () => closed.abort() };
}
