import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Addon } from "../native/ports.ts";

/** Tells systemd where the daemon stands (sd_notify(3)); does nothing when not started by it. */
export interface ServiceManager {
  ready(status: string): void;
  status(status: string): void;
  /** A reload begins; `reloaded` must follow. Only for a daemon that was ready once. */
  reloading(): void;
  reloaded(status: string): void;
  stopping(): void;
  /** From now on `pid` is the service. */
  handedOver(pid: number): void;
  /** A sign of life, for WatchdogSec=. */
  watchdog(): void;
}

/** Half of WATCHDOG_USEC, as sd_watchdog_enabled(3) advises; undefined where no watchdog waits for `pid`. */
export function watchdogIntervalMs(
  env: Readonly<Record<string, string | undefined>>,
  pid: number,
): number | undefined {
  const usec = env["WATCHDOG_USEC"] ?? "";
  const forPid = env["WATCHDOG_PID"] ?? "";
  if (!/^[1-9]\d{0,17}$/.test(usec) || (forPid !== "" && forPid !== `${pid}`)) return undefined;
  return Number(usec) / 2_000;
}

export function openServiceManager(
  addon: Pick<Addon, "notify" | "notifyTimed">,
  socket: string | undefined,
  log: Log,
): ServiceManager {
  const deliver = (send: (socket: string) => void) => {
    if (socket === undefined || socket === "") return;
    try {
      send(socket);
    } catch (error) {
      log.warn("systemd could not be notified", { error: errorText(error) });
    }
  };
  const send = (...lines: string[]) => deliver((to) => addon.notify(to, lines.join("\n")));
  return {
    reloading: () => deliver((to) => addon.notifyTimed(to, "RELOADING=1")),
    reloaded: (status) => send("READY=1", `STATUS=${status}`),
    ready: (status) => send("READY=1", `STATUS=${status}`),
    status: (status) => send(`STATUS=${status}`),
    stopping: () => send("STOPPING=1"),
    watchdog: () => send("WATCHDOG=1"),
    handedOver: (pid) => send(`MAINPID=${pid}`),
  };
}
