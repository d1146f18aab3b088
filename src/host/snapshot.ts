import { createHash } from "node:crypto";
import { readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../base/atomic-file.ts";
import type { Clock } from "../base/clock.ts";
import { errorText } from "../base/error.ts";
import { type GoObject, asGoObject, parseGoObject } from "../base/go-json.ts";
import type { Log } from "../base/log.ts";
import { type Json, type Lease, type LeaseAttributes, subnetsOf } from "../lease/lease.ts";
import { tryParseIpAddress } from "../net/address.ts";
import { tryParsePrefix } from "../net/prefix.ts";

/** What this node knew when all was well: enough to carry traffic without the store. */
export interface Snapshot {
  readonly savedAt: Date;
  /** Id of the node that saved it. */
  readonly nodeId: string;
  /** The network configuration as it stood in the store. */
  readonly document: string;
  readonly own: Lease;
  readonly peers: readonly Lease[];
}

/** The first word of the file, and the version of what follows. */
const magic = "flannel-lite-snapshot 1";

/** Five thousand peers take about 1.5 MB. */
const fileBytesMax = 64 * 1024 * 1024;

/** Between two writes, where leases changed and where only their ends did. */
const writeMsMin = 5_000;
const renewedWriteMsMin = 10 * 60_000;

/** One file for each network, since several daemons may share a directory. */
export function snapshotPath(stateDir: string, prefix: string): string {
  const hash = createHash("sha256").update(prefix).digest("hex");
  return join(stateDir, `leases-${hash.slice(0, 16)}.snapshot`);
}

/** A line with a checksum, then one JSON object. */
export function encodeSnapshot({ savedAt, nodeId, document, own, peers }: Snapshot): string {
  const body = JSON.stringify({
    savedAt: savedAt.toISOString(),
    nodeId,
    document,
    own: leaseMembers(own),
    peers: peers.map(leaseMembers),
  });
  return `${magic} ${checksum(body)}\n${body}\n`;
}

/** @throws Error with the reason, for anything that {@link encodeSnapshot} did not make */
export function parseSnapshot(content: string): Snapshot {
  const lineEnd = content.indexOf("\n");
  const body = content.slice(lineEnd + 1).replace(/\n$/, "");
  const head = content.slice(0, Math.max(lineEnd, 0));
  if (!head.startsWith(`${magic} `)) throw new Error("it is of another version, or no snapshot");
  if (head !== `${magic} ${checksum(body)}`) throw new Error("its checksum does not fit");
  const members = parseGoObject(body);
  const peers = members.get("peers");
  if (!Array.isArray(peers)) throw new Error("peers is no list");
  return {
    savedAt: dateOf(members.get("savedAt")),
    nodeId: textOf(members.get("nodeId")),
    document: textOf(members.get("document")),
    own: leaseOf(members.get("own")),
    peers: peers.map(leaseOf),
  };
}

/** The snapshot at `path`; undefined where there is none, or, with a warning, none that can be used. */
export function readSnapshot(path: string, log: Log): Snapshot | undefined {
  try {
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat === undefined) return undefined;
    if (!stat.isFile() || stat.size > fileBytesMax) throw new Error("it is no file, or far too long");
    return parseSnapshot(readFileSync(path, "utf8"));
  } catch (error) {
    log.warn("the saved leases are ignored", { path, reason: errorText(error) });
    return undefined;
  }
}

export interface SnapshotWriter {
  /** What is to be saved changed: it is written soon, or later where only the ends of leases did. */
  touch(how: "changed" | "renewed"): void;
  /** Removes the file: what it says must not be started from. Until the next `touch` nothing is written. */
  forget(): void;
  /** Writes at most once every few seconds, and a last time when `stop` aborts. */
  run(stop: AbortSignal): Promise<void>;
}

export interface SnapshotWriterContext {
  readonly path: string;
  /** Asked when it is time to write. */
  readonly current: () => Snapshot;
  readonly log: Log;
  readonly clock: Clock;
}

export function openSnapshotWriter({ path, current, log, clock }: SnapshotWriterContext): SnapshotWriter {
  let dirty: "changed" | "renewed" | undefined;
  let writtenMs = Number.NEGATIVE_INFINITY;
  let failed = "";
  let rouse = () => {};

  const write = () => {
    dirty = undefined;
    writtenMs = clock.now().getTime();
    try {
      writeFileAtomic(path, encodeSnapshot(current()), { mode: 0o600, directoryMode: 0o700 });
      failed = "";
    } catch (error) {
      const reason = errorText(error);
      if (reason !== failed)
        log.warn("the leases cannot be saved for a start without store", { path, reason });
      failed = reason;
    }
  };

  return {
    touch(how) {
      if (dirty !== "changed") dirty = how;
      rouse();
    },
    forget() {
      dirty = undefined;
      rmSync(path, { force: true });
    },
    async run(stop) {
      while (!stop.aborted) {
        const pauseMs = dirty === "changed" ? writeMsMin : renewedWriteMsMin;
        const dueMs =
          dirty === undefined ? Number.POSITIVE_INFINITY : writtenMs + pauseMs - clock.now().getTime();
        const timer = new AbortController();
        rouse = () => timer.abort();
        if (dueMs > 0) await clock.sleep(dueMs, AbortSignal.any([stop, timer.signal]));
        else write();
      }
      if (dirty !== undefined) write();
    },
  };
}

function leaseMembers({ subnets, attributes, expiresAt }: Lease): object {
  return { subnets: subnetsOf(subnets), attributes, expiresAt: expiresAt?.toISOString() ?? null };
}

function leaseOf(value: unknown): Lease {
  const members = objectOf(value);
  const list = members.get("subnets");
  const prefixes = (Array.isArray(list) ? list : []).map((text) => tryParsePrefix(textOf(text)));
  const ipv4 = prefixes.find((prefix) => prefix?.family === 4);
  const ipv6 = prefixes.find((prefix) => prefix?.family === 6);
  if (ipv4 === undefined && ipv6 === undefined) throw new Error("a lease has no subnet");
  const expiresAt = members.get("expiresAt");
  return {
    subnets: { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) },
    attributes: attributesOf(objectOf(members.get("attributes"))),
    expiresAt: expiresAt === null ? undefined : dateOf(expiresAt),
  };
}

function attributesOf(members: GoObject): LeaseAttributes {
  const address = (name: string) => {
    const text = members.get(name);
    if (text === undefined) return undefined;
    const parsed = tryParseIpAddress(textOf(text));
    if (parsed === undefined) throw new Error(`${name} is no address`);
    return parsed;
  };
  const [publicIp, publicIpv6] = [address("publicIp"), address("publicIpv6")];
  const backendData = members.get("backendData") as Json | undefined;
  const backendV6Data = members.get("backendV6Data") as Json | undefined;
  return {
    ...(publicIp && { publicIp }),
    ...(publicIpv6 && { publicIpv6 }),
    backendType: textOf(members.get("backendType")),
    ...(backendData === undefined ? {} : { backendData }),
    ...(backendV6Data === undefined ? {} : { backendV6Data }),
  };
}

function objectOf(value: unknown): GoObject {
  const members = asGoObject(value);
  if (members === undefined) throw new Error("a member is no object");
  return members;
}

function textOf(value: unknown): string {
  if (typeof value !== "string") throw new Error("a member is no text");
  return value;
}

function dateOf(value: unknown): Date {
  const date = new Date(textOf(value));
  if (Number.isNaN(date.getTime())) throw new Error("a member is no time");
  return date;
}

function checksum(body: string): string {
  return createHash("sha256").update(body).digest("hex");
}
