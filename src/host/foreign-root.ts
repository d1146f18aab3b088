import { lstatSync, readlinkSync } from "node:fs";
import { join, posix } from "node:path";

/** As many links as Linux follows in a path. */
const linksMax = 40;

/**
 * Where the file that a process with the root directory `root` calls `path` is seen from here. Links are followed
 * below `root`, as that process would, never out of it. Undefined where there is no such file.
 * @param path absolute
 */
export function pathInRoot(root: string, path: string): string | undefined {
  let ahead = path.split("/");
  let at = "/";
  let links = 0;
  while (ahead.length > 0) {
    const [name = "", ...rest] = ahead;
    ahead = rest;
    if (name === "" || name === ".") continue;
    const next = posix.join(at, name); // ".." at the top stays there
    const seen = join(root, next);
    try {
      if (name === ".." || !lstatSync(seen).isSymbolicLink()) {
        at = next;
        continue;
      }
      if (++links > linksMax) return undefined;
      const target = readlinkSync(seen);
      if (target.startsWith("/")) at = "/";
      ahead = [...target.split("/"), ...rest];
    } catch {
      return undefined;
    }
  }
  return join(root, at);
}
