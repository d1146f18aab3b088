import { chmodSync, closeSync, constants, copyFileSync, fsyncSync, openSync, statSync } from "node:fs";
import { FlannelError } from "../base/error.ts";
import { attempt, putAtomic } from "./install-file.ts";

/** Under this name the program is the one of flannel's image that its manifests call (v0.28.6 and later). */
export const installConfProgram = "install-conf";

/**
 * `install-conf SOURCE DESTINATION`: copies a file with its mode, at once, over whatever stands there, as
 * flannel's does. `install cni` is the careful one.
 * @throws FlannelError `command/usage`, `install/read`, `install/write`, all with exit code 1
 */
export function installConf(words: readonly string[]): void {
  const [source, destination] = words;
  if (source === undefined || destination === undefined || words.length !== 2)
    throw new FlannelError("command/usage", `usage: ${installConfProgram} <src> <dest>`);
  const mode = modeOf(source);
  attempt(destination, () =>
    putAtomic(destination, (temporary) => {
      copyFileSync(source, temporary, constants.COPYFILE_EXCL);
      chmodSync(temporary, mode);
      const descriptor = openSync(temporary, "r");
      try {
        fsyncSync(descriptor);
      } finally {
        closeSync(descriptor);
      }
    }),
  );
}

function modeOf(source: string): number {
  try {
    return statSync(source).mode & 0o777;
  } catch (error) {
    throw new FlannelError("install/read", `cannot read ${source}`, {}, { cause: error });
  }
}
