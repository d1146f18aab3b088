import { writeSync } from "node:fs";

/**
 * Writes all of it: on a pipe, an exit right after an asynchronous write would cut it. Never throws.
 * @returns whether all of it was taken: not where nobody reads any more, or the disk is full
 */
export function print(descriptor: 1 | 2, text: string | Uint8Array): boolean {
  const bytes = Buffer.from(text);
  for (let done = 0; done < bytes.length;) {
    try {
      done += writeSync(descriptor, bytes, done);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") continue;
      return false;
    }
  }
  return true;
}
