import {
  closeSync,
  fsyncSync,
  fchmodSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";

/** How {@link writeFileAtomic} leaves the file. */
export interface AtomicFileOptions {
  /** Permission bits of a new file, whatever the umask; a regular file that exists keeps its own. */
  readonly mode: number;
  /** Permission bits of directories that had to be made. */
  readonly directoryMode: number;
  /** Whether a file that exists gets `mode` too. */
  readonly exactMode?: boolean;
}

/**
 * Replaces `path` by `content`: a reader sees the old bytes or the new ones, also after a power cut.
 * @throws the error of the system call; then `path` is as it was and no temporary file is left
 */
export function writeFileAtomic(path: string, content: string, options: AtomicFileOptions): void {
  const directory = dirname(path);
  mkdirSync(directory, { recursive: true, mode: options.directoryMode });
  // Not by node:crypto, which takes a millisecond to load: the CNI plugin writes a file for each pod.
  const temporary = join(directory, `.${basename(path)}${crypto.randomUUID()}`);
  const fd = openSync(temporary, "wx", 0o600);
  try {
    try {
      const bytes = Buffer.from(content);
      for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done);
      fchmodSync(fd, (options.exactMode ? undefined : presentMode(path)) ?? options.mode);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
  syncDirectory(directory);
}

function presentMode(path: string): number | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat?.isFile() === true ? stat.mode & 0o7777 : undefined;
}

function syncDirectory(directory: string): void {
  const fd = openSync(directory, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
