import { randomBytes } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { FlannelError } from "../base/error.ts";

/** Whose a file is that `install` would write. */
export type Presence = "absent" | "own" | "foreign";

/** Undefined where there is no regular file. */
export function fileText(path: string): string | undefined {
  const isFile = lstatSync(path, { throwIfNoEntry: false })?.isFile() === true;
  return isFile ? readFileSync(path, "utf8") : undefined;
}

export function linkAtomic(to: string, path: string): void {
  putAtomic(path, (temporary) => symlinkSync(to, temporary));
}

/** Lets `make` make a file beside `path` and moves it there; after a failure nothing is left. */
export function putAtomic(path: string, make: (temporary: string) => void): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  removeTorn(path);
  const temporary = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    make(temporary);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** Removes what a run left that was killed: a copy of the program is large. One that may still run keeps its own. */
function removeTorn(path: string): void {
  const pattern = /^[0-9a-f]{12}$/;
  const prefix = `${basename(path)}.`;
  for (const name of readdirSync(dirname(path))) {
    if (!name.startsWith(prefix) || !pattern.test(name.slice(prefix.length))) continue;
    const torn = join(dirname(path), name);
    const stat = lstatSync(torn, { throwIfNoEntry: false });
    if (stat !== undefined && Date.now() - stat.mtimeMs > tornAfterMs) rmSync(torn, { force: true });
  }
}

/** No run takes that long. */
const tornAfterMs = 3_600_000;

/** @throws FlannelError `install/write` */
export function attempt(path: string, change: () => void): void {
  try {
    change();
  } catch (error) {
    throw new FlannelError("install/write", `cannot change ${path}`, {}, { cause: error });
  }
}

/** @throws FlannelError `install/foreign` unless there is none, or they may be overwritten */
export function refuseForeign(paths: readonly string[], force: boolean): void {
  if (paths.length === 0 || force) return;
  throw new FlannelError(
    "install/foreign",
    `${paths.join(", ")}: not written by this command, or changed since`,
    {},
    { remedy: "Move it away, or overwrite it with -force" },
  );
}
