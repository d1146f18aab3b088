import { readFileSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../base/atomic-file.ts";
import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import { type Mac, parseMac } from "../net/mac.ts";

/** Longer files are none of ours. */
const fileBytesMax = 64;

/** Where the MAC of a device is remembered: one file for each, since several daemons may share a directory. */
export function macPath(stateDir: string, device: string): string {
  return join(stateDir, `${device}.mac`);
}

/** The MAC that our VTEP had last; undefined where none is saved, or with a warning where it is no MAC. */
export function readSavedMac(stateDir: string, device: string, log: Log): Mac | undefined {
  const path = macPath(stateDir, device);
  let text: string;
  try {
    text = readFileSync(path, "latin1");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    log.warn("the saved VTEP MAC cannot be read", { path, error: errorText(error) });
    return undefined;
  }
  try {
    return parseMac(text.slice(0, fileBytesMax).trim());
  } catch (error) {
    log.warn("the saved VTEP MAC is ignored", { path, error: errorText(error) });
    return undefined;
  }
}

/** Remembers the MAC, where another one or none is remembered. A failure is a warning: the lease has it too. */
export function saveMac(stateDir: string, device: string, mac: Mac, log: Log): void {
  const path = macPath(stateDir, device);
  const content = `${mac}\n`;
  try {
    if (readIfThere(path) === content) return;
    writeFileAtomic(path, content, { mode: 0o600, directoryMode: 0o700 });
  } catch (error) {
    log.warn("the VTEP MAC cannot be saved", { path, error: errorText(error) });
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return undefined;
  }
}
