import { readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { tryRead, wordsOf } from "./proc.ts";

/** What `/proc` shows of a flanneld that runs. */
export interface FlanneldProcess {
  readonly pid: number;
  /** Its program's file, as it names it. */
  readonly program: string | undefined;
  /** Behind the program's name. */
  readonly argv: readonly string[];
  /** The variables that flanneld heeds, and no others; undefined where its environment is hidden. */
  readonly env: Readonly<Record<string, string>> | undefined;
  /** Who started it, as far as its control group tells: a systemd unit's name, or `a pod`. */
  readonly startedBy: string | undefined;
  /** Where its files are seen from here, when it has a mount namespace of its own. */
  readonly root: string | undefined;
}

const heeded =
  /^(FLANNELD_\w+|NODE_NAME|POD_NAME|POD_NAMESPACE|KUBERNETES_SERVICE_(HOST|PORT)|EVENT_QUEUE_DEPTH|CONT_WHEN_CACHE_NOT_READY)$/;

/** Undefined where the process is gone, or its arguments are hidden. */
export function readFlanneldProcess(pid: number, proc = "/proc"): FlanneldProcess | undefined {
  const process = join(proc, String(pid));
  const words = wordsOf(join(process, "cmdline"));
  if (words === undefined || words.length === 0) return undefined;
  const variables = wordsOf(join(process, "environ"));
  const groups = tryRead(() => readFileSync(join(process, "cgroup"), "utf8"));
  return {
    pid,
    program: tryRead(() => readlinkSync(join(process, "exe"))),
    argv: words.slice(1),
    env: variables && heededOf(variables),
    startedBy: starterOf(groups ?? ""),
    root: hasOwnFiles(process, proc) ? join(process, "root") : undefined,
  };
}

/** The first of a name counts, as for getenv; an empty one is as good as none. */
function heededOf(variables: readonly string[]): Record<string, string> {
  const found = new Map<string, string>();
  for (const line of variables) {
    const [, name, value = ""] = /^(\w+)=(.*)$/s.exec(line) ?? [];
    if (name !== undefined && heeded.test(name) && !found.has(name)) found.set(name, value);
  }
  return Object.fromEntries([...found].filter(([, value]) => value !== ""));
}

/** From lines such as `0::/system.slice/flanneld.service`. */
function starterOf(groups: string): string | undefined {
  if (/\bkubepods\b/.test(groups)) return "a pod";
  return /\/([\w@.:\\-]+\.service)$/m.exec(groups)?.[1];
}

function hasOwnFiles(process: string, proc: string): boolean {
  const namespace = (path: string) => tryRead(() => readlinkSync(join(path, "ns/mnt")));
  const [theirs, ours] = [namespace(process), namespace(join(proc, "self"))];
  return theirs !== undefined && theirs !== ours;
}
