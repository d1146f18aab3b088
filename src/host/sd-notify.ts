import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Addon } from "../native/ports.ts";

/** Tells systemd where the daemon stands (sd_notify(3)); does nothing when not started by it. */
export interface ServiceManager {
  ready(status: string): void;
  status(status: string): void;
  stopping(): void;
}

export function openServiceManager(
  addon: Pick<Addon, "notify">,
  socket: string | undefined,
  log: Log,
): ServiceManager {
  const send = (...lines: string[]) => {
    if (socket === undefined || socket === "") return;
    try {
      addon.notify(socket, lines.join("\n"));
    } catch (error) {
      log.warn("systemd could not be notified", { error: errorText(error) });
    }
  };
  return {
    ready: (status) => send("READY=1", `STATUS=${status}`),
    status: (status) => send(`STATUS=${status}`),
    stopping: () => send("STOPPING=1"),
  };
}
