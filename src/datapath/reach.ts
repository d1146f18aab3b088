import type { Clock } from "../base/clock.ts";
import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Kernel } from "../native/ports.ts";
import { tryParsePrefix } from "../net/prefix.ts";
import type { Reach } from "../net/reach.ts";
import { type Uplink, uplinkInterface } from "../net/uplink.ts";
import { routeProtocol } from "./kernel.ts";

/** Notifications are gathered for this long, so that a burst is one reading. */
const foldMs = 50;

/** Without notifications routes are read this often. */
const resyncMs = 30_000;

/**
 * Who is one hop away over the uplink. Routes of the main table decide, as they do for `ip route get` on a host
 * without rules of its own; ours do not count, since what they say follows from this.
 */
export async function readReach(kernel: Pick<Kernel, "routes">, uplink: Uplink): Promise<Reach> {
  const routes = (await kernel.routes())
    .filter(({ protocol }) => protocol !== routeProtocol)
    .flatMap(({ to: text, via, linkIndex, type, multipath, metric }) => {
      const to = tryParsePrefix(text);
      if (to === undefined) return [];
      const isUplink = linkIndex === uplinkInterface(uplink, to.family).index;
      const direct = isUplink && via === "" && type === "unicast" && !multipath;
      return [{ to, direct, metric }];
    })
    .sort((a, b) => a.to.compare(b.to) || a.metric - b.metric);
  const direct = routes.filter((route) => route.direct);
  // Of the others only those matter that take something out of these.
  return {
    routes: routes
      .filter((route) => route.direct || direct.some(({ to }) => to.contains(route.to)))
      .map(({ to, direct: isDirect }) => ({ to, direct: isDirect })),
  };
}

/** Who is one hop away, kept current. */
export interface ReachWatch {
  readonly current: Reach;
  /** Reads again when links, addresses or routes change, until `stop` aborts. */
  run(stop: AbortSignal): Promise<void>;
}

export interface ReachContext {
  readonly kernel: Pick<Kernel, "routes">;
  /** Opens what tells of changes; {@link ReachWatch.run} closes it. */
  readonly openMonitor: () => Promise<Pick<Kernel, "nextEvents" | "close">>;
  readonly uplink: Uplink;
  readonly log: Log;
  readonly clock: Clock;
  readonly onChange: () => void;
}

/** Reads once; {@link ReachWatch.run} goes on. */
export async function openReach(context: ReachContext): Promise<ReachWatch> {
  const { kernel, openMonitor, uplink, log, clock, onChange } = context;
  let current = await readReach(kernel, uplink);
  const refresh = async () => {
    try {
      const next = await readReach(kernel, uplink);
      if (JSON.stringify(next) === JSON.stringify(current)) return;
      current = next;
      onChange();
    } catch (error) {
      log.warn("routes could not be read", { error: errorText(error) });
    }
  };
  const follow = async (stop: AbortSignal): Promise<void> => {
    const monitor = await openMonitor();
    const close = () => monitor.close();
    stop.addEventListener("abort", close);
    try {
      await refresh(); // what changed between the first reading and the monitor
      while (!stop.aborted) {
        const events = await monitor.nextEvents();
        if (events === null) break;
        // What we made ourselves says nothing of who is near, and may be thousands of routes.
        if (events.changes.length === 0 && !events.unnamed && !events.overrun) continue;
        await clock.sleep(foldMs, stop);
        if (!stop.aborted) await refresh();
      }
    } finally {
      stop.removeEventListener("abort", close);
      close();
    }
  };
  return {
    get current() {
      return current;
    },
    async run(stop) {
      try {
        await follow(stop);
      } catch (error) {
        log.warn("kernel notifications ended; routes are read on a timer", { error: errorText(error) });
      }
      while (!stop.aborted) {
        await clock.sleep(resyncMs, stop);
        if (!stop.aborted) await refresh();
      }
    },
  };
}
