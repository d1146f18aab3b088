import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Kernel, KernelEvents } from "../native/ports.ts";
import type { Plan } from "../plan/plan.ts";
import type { KernelState } from "./kernel.ts";

/** Where the kernel tells of changes. */
export type Monitor = Pick<Kernel, "nextEvents" | "watchNeighbours" | "close">;

/** Tells of changes to links, addresses, neighbours and routes, ours or not: a pass finds out. */
export async function watchKernel(
  { openMonitor, log }: { openMonitor: () => Promise<Monitor>; log: Log },
  { opened, heard }: { opened: (monitor: Monitor) => void; heard: (events: KernelEvents) => void },
  stop: AbortSignal,
): Promise<void> {
  try {
    // A handle of its own, since closing it ends the wait while the other one is still to remove things.
    const monitor = await openMonitor();
    const close = () => monitor.close();
    stop.addEventListener("abort", close);
    try {
      opened(monitor);
      while (!stop.aborted) {
        const events = await monitor.nextEvents();
        if (events === null) break;
        heard(events);
      }
    } finally {
      stop.removeEventListener("abort", close);
      close();
    }
  } catch (error) {
    log.warn("kernel notifications ended; changes are found on the timer", { error: errorText(error) });
  }
}

/** The vxlan links whose neighbours and forwarding entries are ours. */
export function vxlanIndexes({ links }: Plan, { linkIndex }: KernelState): number[] {
  return links.filter(({ kind }) => kind === "vxlan").flatMap(({ name }) => linkIndex.get(name) ?? []);
}
