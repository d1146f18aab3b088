import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";

/** Gives the first `bytesMax` bytes of a file. Failures are errors with a `code` as of node:fs. */
export type ReadFile = (path: string, bytesMax: number) => Uint8Array;

/** Reads a regular file; a directory is EISDIR, a device or pipe is refused without waiting for it. */
export const readConfigFile: ReadFile = (path, bytesMax) => {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stat = fstatSync(descriptor);
    if (stat.isDirectory()) throw Object.assign(new Error("is a directory"), { code: "EISDIR" });
    if (!stat.isFile()) throw Object.assign(new Error("is not a regular file"), { code: "EINVAL" });
    const bytes = new Uint8Array(Math.min(bytesMax, stat.size + 1));
    let filled = 0;
    for (;;) {
      const count = readSync(descriptor, bytes, filled, bytes.length - filled, null);
      filled += count;
      if (count === 0 || filled === bytes.length) return bytes.subarray(0, filled);
    }
  } finally {
    closeSync(descriptor);
  }
};
