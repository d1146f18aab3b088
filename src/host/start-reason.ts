import { existsSync, rmSync } from "node:fs";
import { writeFileAtomic } from "../base/atomic-file.ts";
import type { Log, LogFields } from "../base/log.ts";

/** Beside subnet.env, while there is none: why, one line. The CNI plugin reads it for whoever waits for a pod. */
export function startReasonPath(subnetFile: string): string {
  return `${subnetFile}.reason`;
}

/** No reason needs more. */
const charsMax = 1_000;

export interface StartReason {
  /** As the daemon's, but what it complains of before there is a subnet.env is the reason. */
  readonly log: Log;
  /** What to say from now on, where there is no subnet.env yet. */
  say(reason: string): void;
}

/** Keeps the reason up to date until {@link clearStartReason}. That it cannot be written only costs the hint. */
export function openStartReason(subnetFile: string, log: Log, now: () => Date): StartReason {
  const say = (reason: string) => {
    // One of the run before serves: nobody waits.
    if (existsSync(subnetFile)) return;
    const line = `${reason.replaceAll(/\s+/g, " ").slice(0, charsMax)} (since ${now().toISOString()})\n`;
    try {
      writeFileAtomic(startReasonPath(subnetFile), line, { mode: 0o644, directoryMode: 0o755 });
    } catch (error) {
      log.debug("the reason for the missing subnet file cannot be written", { error: String(error) });
    }
  };
  const complaint = (message: string, fields: LogFields = {}) =>
    say([message, fields["reason"] ?? fields["error"]].filter((part) => typeof part === "string").join(": "));
  return {
    say,
    log: {
      ...log,
      warn(message, fields) {
        log.warn(message, fields);
        complaint(message, fields);
      },
      error(message, fields) {
        log.error(message, fields);
        complaint(message, fields);
      },
    },
  };
}

/** For when subnet.env is there, or nobody will write it any more. */
export function clearStartReason(subnetFile: string): void {
  rmSync(startReasonPath(subnetFile), { force: true });
}
