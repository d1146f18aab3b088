import { readFileSync } from "node:fs";

/** More than this of a command line or an environment is not looked at. */
const charsMax = 1024 * 1024;

/** A file of words that end with a zero byte each; undefined where it cannot be read. */
export function wordsOf(path: string): string[] | undefined {
  return tryRead(() => readFileSync(path, "utf8").slice(0, charsMax).split("\0").slice(0, -1));
}

/** Processes end while they are looked at. */
export function tryRead<Value>(read: () => Value): Value | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
