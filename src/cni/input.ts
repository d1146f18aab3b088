import { readSync } from "node:fs";
import { CniError, cniErrors } from "./error.ts";

/** A runtime's configuration has some kilobytes. */
const inputBytesMax = 1024 * 1024;

/** How long to wait for input on a descriptor that does not block. */
const pollMs = 2;

/**
 * All of standard input.
 * @throws CniError 5 where it cannot be read, 6 where it is longer than {@link inputBytesMax}
 */
export function readInput(descriptor = 0): string {
  const buffer = Buffer.allocUnsafe(64 * 1024);
  const parts: Buffer[] = [];
  for (let total = 0; ;) {
    const count = readSome(descriptor, buffer);
    if (count === 0) return Buffer.concat(parts).toString("utf8");
    total += count;
    if (total > inputBytesMax)
      throw new CniError(cniErrors.decoding, `network config is longer than ${inputBytesMax} bytes`);
    parts.push(Buffer.from(buffer.subarray(0, count)));
  }
}

function readSome(descriptor: number, buffer: Buffer): number {
  for (;;) {
    try {
      return readSync(descriptor, buffer);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === "EOF") return 0;
      if (code !== "EAGAIN") throw new CniError(cniErrors.io, `error reading from stdin: ${message}`);
      Bun.sleepSync(pollMs);
    }
  }
}
