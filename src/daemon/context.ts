import type { Clock } from "../base/clock.ts";
import type { AdjustableLog } from "../base/log.ts";
import type { Loaded } from "../config/load.ts";
import type { Addon } from "../native/ports.ts";

/** What a daemon gets from outside. */
export interface DaemonContext {
  readonly addon: Addon;
  readonly log: AdjustableLog;
  readonly clock: Clock;
  /** Reads the configuration again. @throws FlannelError `config/invalid` */
  readonly reread: () => Pick<Loaded, "config" | "warnings">;
  /** Calls `listener` at each SIGHUP, until disposed. */
  readonly onHangup: (listener: () => void) => Disposable;
  /** NOTIFY_SOCKET and what else systemd tells by variables. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** How often systemd shall get a sign of life; undefined where it waits for none. */
  readonly watchdogMs: number | undefined;
  /** Whether to take over from a daemon that runs. */
  readonly takeOver: boolean;
}
