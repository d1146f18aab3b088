import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../base/atomic-file.ts";
import { isIdentifier } from "./call.ts";
import { type Attachment, isJsonObject, type JsonObject } from "./config.ts";
import { sortedJson } from "./delegate-config.ts";
import { CniError, cniErrors } from "./error.ts";

/** The interface that every runtime gives a pod first: its state has the name that the stock plugin gives it. */
const firstInterface = "eth0";

/** A file larger than this is none of ours. */
const bytesMax = 1024 * 1024;

/** A delegate's configuration, kept from ADD to DEL. */
export interface SavedState {
  readonly file: string;
  /** Tells the file from one that is put in its place. */
  readonly inode: number;
  readonly config: JsonObject;
}

/** What is known about an attachment: its state, that there is none, or that it cannot be read. */
export type FoundState = SavedState | "absent" | { readonly unreadable: string };

/**
 * Keeps a delegate's configuration, so that DEL undoes what ADD did, whatever is configured by then.
 * @throws CniError 999
 */
export function saveState(dataDir: string, attachment: Attachment, config: JsonObject): void {
  const fault = directoryFault(dataDir);
  if (fault !== undefined) throw new CniError(cniErrors.other, fault, "Make it root's, mode 0700");
  try {
    writeFileAtomic(join(dataDir, fileName(attachment)), sortedJson(config), {
      mode: 0o600,
      directoryMode: 0o700,
      exactMode: true,
    });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CniError(cniErrors.other, `failed to save the delegate's config in ${dataDir}: ${why}`);
  }
}

/**
 * What ADD kept for this attachment. Where a second interface has no state of its own it may be one that the stock
 * plugin added, which keeps one file for all interfaces of a container.
 */
export function readState(dataDir: string, attachment: Attachment): FoundState {
  const fault = directoryFault(dataDir);
  if (fault !== undefined) return { unreadable: fault };
  const own = readStateFile(join(dataDir, fileName(attachment)));
  return own === "absent" && attachment.interfaceName !== firstInterface
    ? readStateFile(join(dataDir, attachment.containerId))
    : own;
}

/** Whether the file is this attachment's alone. */
export function isOwnState(state: SavedState, attachment: Attachment): boolean {
  return state.file.endsWith(`/${fileName(attachment)}`);
}

/** Repeating it changes nothing; what an ADD has kept since stays, for a DEL of its own. */
export function removeState({ file, inode }: SavedState): void {
  if (lstatSync(file, { throwIfNoEntry: false })?.ino === inode) rmSync(file, { force: true });
}

/** All attachments with state in the directory; a name that is none of ours is passed over. */
export function listState(dataDir: string): readonly { attachment: Attachment; state: FoundState }[] {
  if (directoryFault(dataDir) !== undefined) return [];
  let names: string[];
  try {
    names = readdirSync(dataDir);
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    const [containerId = "", interfaceName = firstInterface, more] = name.split(":");
    if (!isIdentifier(containerId) || more !== undefined) return [];
    return [{ attachment: { containerId, interfaceName }, state: readStateFile(join(dataDir, name)) }];
  });
}

/** Neither part has a colon, and neither is a path: see parseCall. */
function fileName({ containerId, interfaceName }: Attachment): string {
  return interfaceName === firstInterface ? containerId : `${containerId}:${interfaceName}`;
}

function readStateFile(file: string): FoundState {
  try {
    const descriptor = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const stat = fstatSync(descriptor);
      if (!stat.isFile() || stat.size > bytesMax) return { unreadable: `${file} is no state of ours` };
      const config: unknown = JSON.parse(readFileSync(descriptor, "utf8"));
      if (isJsonObject(config) && typeof config["type"] === "string")
        return { file, inode: stat.ino, config };
      return { unreadable: `${file} has no delegate in it` };
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === "ENOENT" || code === "ENOTDIR"
      ? "absent"
      : { unreadable: `${file} cannot be read: ${message}` };
  }
}

/** Why the directory is not used; undefined where it may be. Whoever can write there chooses what runs as root. */
function directoryFault(dataDir: string): string | undefined {
  const fault = faultOf(dataDir);
  return fault === undefined ? undefined : `dataDir ${dataDir} is not used: ${fault}`;
}

function faultOf(dataDir: string): string | undefined {
  try {
    const stat = lstatSync(dataDir, { throwIfNoEntry: false });
    if (stat === undefined) return undefined;
    if (!stat.isDirectory()) return "it is no directory";
    if (stat.uid !== process.geteuid?.()) return `it belongs to user ${stat.uid}`;
    return (stat.mode & 0o022) !== 0 ? "others may write there" : undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code; // below a file, or longer than a path may be
  }
}
