import type { Clock } from "../../base/clock.ts";
import { errorText } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import type { Addon } from "../../native/ports.ts";
import type { Watch } from "./engine.ts";

/** All chains in which ours stand, or from which they are reached. */
const watchedChains = ["POSTROUTING", "FORWARD", "FLANNEL-POSTRTG", "FLANNEL-FWD", "postrtg", "forward"];

/** How often legacy iptables, which tells nobody of changes, is asked for the shape of its tables. */
const pollMs = 500;

export interface WatchContext {
  readonly addon: Pick<Addon, "openFirewallMonitor" | "legacyTableState">;
  readonly log: Log;
  readonly clock: Clock;
  /** What to watch now. */
  readonly current: () => Watch | undefined;
}

/**
 * Calls `changed` when somebody, we included, has changed what is watched, with the process where the kernel
 * names it. No process is started for it.
 */
export async function watchFirewall(
  context: WatchContext,
  changed: (by: string | undefined) => void,
  stop: AbortSignal,
): Promise<void> {
  await Promise.all([watchNftables(context, changed, stop), pollLegacy(context, changed, stop)]);
}

async function watchNftables(
  { addon, log, current }: WatchContext,
  changed: (by: string | undefined) => void,
  stop: AbortSignal,
): Promise<void> {
  try {
    const monitor = await addon.openFirewallMonitor(watchedChains);
    const close = () => monitor.close();
    stop.addEventListener("abort", close);
    try {
      changed(undefined); // before we listened, too
      while (!stop.aborted) {
        const change = await monitor.next();
        if (change === null) return;
        const watched = current()?.chains ?? [];
        if (watched.length === 0) continue;
        const concerned = change.overrun || change.chains.some((chain) => watched.includes(chain));
        if (concerned) changed(change.pid === 0 ? undefined : `${change.process} (${change.pid})`);
      }
    } finally {
      stop.removeEventListener("abort", close);
      close();
    }
  } catch (error) {
    log.warn("nf_tables notifications ended; changes are found on the timer", { error: errorText(error) });
  }
}

async function pollLegacy(
  { addon, log, clock, current }: WatchContext,
  changed: (by: string | undefined) => void,
  stop: AbortSignal,
): Promise<void> {
  let last = "";
  let failing = false;
  while (!stop.aborted) {
    await clock.sleep(pollMs, stop);
    const tables = current()?.legacyTables ?? [];
    if (stop.aborted || tables.length === 0) continue;
    try {
      const now = tables.map(({ family, table }) => addon.legacyTableState(family, table)).join();
      if (now !== last) changed(undefined);
      last = now;
      failing = false;
    } catch (error) {
      if (!failing) log.warn("legacy iptables could not be asked for changes", { error: errorText(error) });
      failing = true;
    }
  }
}
