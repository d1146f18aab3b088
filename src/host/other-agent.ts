import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { basename, join, posix } from "node:path";
import { tryRead, wordsOf } from "./proc.ts";

/** What tells one flannel network's daemon on a host from another's. */
export interface AgentNetwork {
  /** Prefix of the keys in etcd. */
  readonly prefix: string;
  readonly subnetFile: string;
}

/** A flanneld that runs. */
export interface OtherAgent {
  readonly pid: number;
  /** Whether it serves another network beyond doubt. */
  readonly servesAnother: boolean;
}

/** flanneld as it is installed: releases carry the architecture in the name, operators add the version. */
const agentName = /^flanneld(-v?\d[\w.]*)?(-(amd64|arm|arm64|386|ppc64le|s390x|riscv64|mips64le|loong64))?$/;

/** flanneld's own defaults. */
const defaults: AgentNetwork = { prefix: "/coreos.com/network", subnetFile: "/run/flannel/subnet.env" };

/**
 * The flannelds in this network namespace, as far as `/proc` shows them: those of another pid namespace are not in
 * it. flannel-lite started under that name is none. What cannot be read counts against a process: it is then
 * taken to be in this namespace, and to serve this network.
 */
export function findFlanneld(own: AgentNetwork, proc = "/proc"): OtherAgent[] {
  return readdirSync(proc)
    .filter((entry) => /^\d+$/.test(entry))
    .map((entry) => join(proc, entry))
    .filter((process) => isFlanneld(process) && !isOurProgram(process, proc) && sharesNetwork(process, proc))
    .map((process) => ({
      pid: Number(basename(process)),
      servesAnother: servesAnother(process, own),
    }));
}

function isFlanneld(process: string): boolean {
  const names = [
    tryRead(() => readFileSync(join(process, "comm"), "utf8").trim()),
    tryRead(() => readlinkSync(join(process, "exe")).replace(/ \(deleted\)$/, "")),
    wordsOf(join(process, "cmdline"))?.[0],
  ];
  // One that has ended and waits for its parent has neither program nor arguments.
  if (names[1] === undefined && (names[2] ?? "") === "") return false;
  // An older one of ours, replaced on disk, that a link named so started.
  if (basename(names[1] ?? "") === "flannel-lite") return false;
  return names.some((name) => name !== undefined && agentName.test(basename(name)));
}

/** Our own claim on the device settles what two of us do to each other. */
function isOurProgram(process: string, proc: string): boolean {
  const file = (path: string) => tryRead(() => statSync(join(path, "exe"), { bigint: true }));
  const [theirs, ours] = [file(process), file(join(proc, "self"))];
  return theirs !== undefined && theirs.dev === ours?.dev && theirs.ino === ours.ino;
}

/**
 * Without CAP_SYS_PTRACE the namespace of a process with more capabilities is hidden. The list of its unix sockets
 * is not, and holds our claim where it is ours.
 */
function sharesNetwork(process: string, proc: string): boolean {
  const self = join(proc, "self");
  const namespace = (path: string) => tryRead(() => readlinkSync(join(path, "ns/net")));
  const [theirs, ours] = [namespace(process), namespace(self)];
  if (theirs !== undefined && ours !== undefined) return theirs === ours;
  const sockets = (path: string) => socketInodes(tryRead(() => readFileSync(join(path, "net/unix"), "utf8")));
  const [seen, known] = [sockets(process), sockets(self)];
  if (seen === undefined || known === undefined || known.size === 0) return true;
  return [...known].some((inode) => seen.has(inode));
}

/** The seventh column of /proc/net/unix. */
function socketInodes(table: string | undefined): ReadonlySet<string> | undefined {
  if (table === undefined) return undefined;
  const rows = table.split("\n").slice(1);
  return new Set(rows.flatMap((row) => row.split(/ +/)[6] ?? []));
}

/** Both its keys and its subnet.env are others: flannel runs several daemons on a host so. */
function servesAnother(process: string, own: AgentNetwork): boolean {
  const words = wordsOf(join(process, "cmdline"));
  if (words === undefined) return false;
  const variables = wordsOf(join(process, "environ"));
  /** As its flags give it; null where it cannot be known. */
  const setting = (flag: string): string | null | undefined => {
    const given = flagValue(words.slice(1), flag);
    if (given !== undefined) return given;
    if (variables === undefined) return null;
    const name = `FLANNELD_${flag.toUpperCase().replaceAll("-", "_")}=`;
    return variables.find((line) => line.startsWith(name))?.slice(name.length) || undefined;
  };
  const prefix = setting("etcd-prefix");
  const subnetFile = setting("subnet-file");
  const inKubernetes = setting("kube-subnet-mgr");
  if (prefix === null || subnetFile === null) return false;
  const samePrefix = pathOf(prefix ?? defaults.prefix) === pathOf(own.prefix);
  const sameFile = pathOf(subnetFile ?? defaults.subnetFile) === pathOf(own.subnetFile);
  const isKubernetes = inKubernetes === "" || /^(1|t|true)$/i.test(inKubernetes ?? "false");
  return !sameFile && (isKubernetes || !samePrefix);
}

function pathOf(text: string): string {
  return posix.resolve("/", text);
}

/** The last `-flag=value` or `-flag value`, with one dash or two; a flag alone is the empty text. */
function flagValue(words: readonly string[], flag: string): string | undefined {
  let value: string | undefined;
  for (const [at, word] of words.entries()) {
    const [, name, given] = /^--?([^=]+)(?:=(.*))?$/s.exec(word) ?? [];
    if (name !== flag) continue;
    const next = words[at + 1] ?? "";
    value = given ?? (next.startsWith("-") ? "" : next);
  }
  return value;
}
