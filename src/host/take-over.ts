import { chmodSync, lstatSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Addon, Descriptors, NamedDescriptor } from "../native/ports.ts";

/** What a running daemon does for a successor. */
export interface Offer {
  /** Stops reading, with nothing lost. @returns what the successor goes on with */
  pause(): readonly NamedDescriptor[];
  /** The successor has died: all goes on as before. */
  resume(): void;
  /** The successor has them: ours are closed, for good. */
  release(): void;
}

/**
 * Waits for a successor (`run --take-over`) and hands over to it; only a process of our own user can ask.
 * @returns its pid, undefined when `stop` aborted first
 */
export async function awaitSuccessor(
  { addon, runDir, log }: { addon: Pick<Addon, "openDoor">; runDir: string; log: Log },
  offer: Offer,
  stop: AbortSignal,
): Promise<number | undefined> {
  const door = addon.openDoor(doorPath(runDir));
  const close = () => door.close();
  stop.addEventListener("abort", close);
  try {
    while (!stop.aborted) {
      const visitor = await door.next();
      if (visitor === null) break;
      log.info("handing over", { successor: visitor.pid });
      if (await granted(() => door.grant([...offer.pause()]), log)) {
        offer.release();
        return visitor.pid;
      }
      log.warn("the successor is gone: going on", { successor: visitor.pid });
      offer.resume();
    }
    return undefined;
  } finally {
    stop.removeEventListener("abort", close);
    // This is what lets the successor begin.
    close();
  }
}

async function granted(grant: () => Promise<boolean>, log: Log): Promise<boolean> {
  try {
    return await grant();
  } catch (error) {
    log.error("handing over failed", { error: errorText(error) });
    return false;
  }
}

/**
 * Takes over from the daemon that holds `runDir`; afterwards it has let go of everything and ends.
 * @returns undefined where there is none any more
 * @throws FlannelError `daemon/not-taken-over`: it goes on
 */
export async function takeOver(
  addon: Pick<Addon, "takeOver">,
  runDir: string,
): Promise<Descriptors | undefined> {
  let answer: Descriptors | string;
  try {
    answer = await addon.takeOver(doorPath(runDir));
  } catch (error) {
    const errno = error instanceof FlannelError ? error.fields["errno"] : undefined;
    if (errno === "ENOENT" || errno === "ECONNREFUSED") return undefined;
    throw notTakenOver(errorText(error));
  }
  if (typeof answer === "string") throw notTakenOver(answer);
  return answer;
}

function notTakenOver(reason: string): FlannelError {
  return new FlannelError(
    "daemon/not-taken-over",
    "the running flannel-lite does not hand over",
    { reason },
    { remedy: "It goes on as it was; ask again, or stop it first" },
  );
}

/** In a directory of its own that only we can enter: `run_dir` may be open to others. */
function doorPath(runDir: string): string {
  const directory = join(runDir, "hand-over");
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const { uid } = lstatSync(directory);
  if (uid !== process.geteuid?.())
    throw new FlannelError("host/run-dir", `${directory} belongs to another user`, { uid });
  chmodSync(directory, 0o700);
  return join(directory, "socket");
}
