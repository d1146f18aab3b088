import { FlannelError } from "../../../base/error.ts";
import type { KeyValue, WatchMessage } from "../wire.ts";

/** An answer of the keys API: the store's index as its header tells, and the body, an error's included. */
export interface KeysAnswer {
  readonly index: bigint;
  readonly clusterId: string;
  /** Undefined where only the headers are there yet. */
  readonly body: unknown;
}

/** The errors of the keys API (etcd, client/keys.go and v2error) that tell what is so. */
export const errorCode = {
  keyNotFound: 100,
  compareFailed: 101,
  nodeExists: 105,
  eventIndexCleared: 401,
} as const;

/** An error inside an answer; made by {@link parseKeysError}, so that no body can be taken for one. */
export class KeysError {
  readonly code: number;
  readonly message: string;
  constructor(code: number, message: string) {
    this.code = code;
    this.message = message;
  }
}

/** The error in the body of an answer; code 0 where it has only a text. */
export function parseKeysError(body: string): KeysError | undefined {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { errorCode: code, message, cause } = value as Record<string, unknown>;
  if (typeof message !== "string") return undefined;
  const detail = typeof cause === "string" && cause !== "" ? `: ${cause}` : "";
  return new KeysError(typeof code === "number" ? code : 0, `${message}${detail}`.slice(0, 300));
}

/** Directories within directories beyond which an answer is refused; flannel's have one level. */
const depthMax = 16;

/**
 * The keys of an answer, a directory's below it in key order. What v3 calls an etcd lease is here the
 * moment a key lapses: `until:` and milliseconds, by our clock; `0` for never.
 */
export function parseKeys({ body }: KeysAnswer, nowMs: number): KeyValue[] {
  const node = object(object(body, "answer")["node"], "node");
  const found: KeyValue[] = [];
  collect(node, nowMs, found, 0);
  return found.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
}

/**
 * What one answer of a long poll says about the keys below the directory `prefix`.
 * @param from the index the watch was asked to begin at
 */
export function parsePoll(answer: KeysAnswer, prefix: string, from: bigint, nowMs: number): WatchMessage {
  const { index, body } = answer;
  if (body instanceof KeysError) return { kind: "gap", reason: "the history was cleared" };
  if (body === undefined) {
    // A store that has not come as far as what we saw was wiped or restored, or lags behind its peers.
    return index + 1n < from ? { kind: "gap", reason: "the store's index went back" } : { kind: "open" };
  }
  const members = object(body, "answer");
  const action = text(members["action"], "action");
  const node = object(members["node"], "node");
  const key = text(node["key"], "key");
  // Removing a directory is one event, whatever was in it.
  if (node["dir"] === true) return { kind: "gap", reason: `a directory changed: ${key.slice(0, 200)}` };
  const next = count(node["modifiedIndex"], "modifiedIndex") + 1n;
  if (next <= from) throw malformed("modifiedIndex");
  if (!key.startsWith(`${prefix}/`)) return { kind: "progress", next };
  const event = removals.has(action)
    ? ({ kind: "delete", key } as const)
    : ({ kind: "put", entry: keyValue(node, nowMs) } as const);
  return { kind: "events", events: [event], next };
}

const removals: ReadonlySet<string> = new Set(["delete", "expire", "compareAndDelete"]);

function collect(node: Record<string, unknown>, nowMs: number, found: KeyValue[], depth: number): void {
  if (node["dir"] !== true) {
    found.push(keyValue(node, nowMs));
    return;
  }
  if (depth > depthMax) throw malformed("nodes");
  const nodes = node["nodes"] ?? [];
  if (!Array.isArray(nodes)) throw malformed("nodes");
  for (const one of nodes) collect(object(one, "node"), nowMs, found, depth + 1);
}

function keyValue(node: Record<string, unknown>, nowMs: number): KeyValue {
  return {
    key: text(node["key"], "key"),
    value: Buffer.from(text(node["value"], "value"), "utf8"),
    revision: count(node["modifiedIndex"], "modifiedIndex"),
    created: count(node["createdIndex"], "createdIndex"),
    lease: termOf(node, nowMs),
  };
}

/** In its last second a key has an expiration and no `ttl`, which Go leaves out when it is 0. */
function termOf({ ttl, expiration }: Record<string, unknown>, nowMs: number): string {
  if (ttl === undefined && expiration === undefined) return "0";
  const seconds = ttl ?? 0;
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) throw malformed("ttl");
  return untilTerm(nowMs + Math.max(seconds, 0) * 1_000);
}

const untilPrefix = "until:";

function untilTerm(ms: number): string {
  return `${untilPrefix}${Math.round(ms)}`;
}

/** When a key of this term lapses; undefined for another kind of term. */
export function termEndMs(term: string): number | undefined {
  return term.startsWith(untilPrefix) ? Number(term.slice(untilPrefix.length)) : undefined;
}

function object(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw malformed(name);
  return value as Record<string, unknown>;
}

function text(value: unknown, name: string): string {
  if (value === undefined) return "";
  if (typeof value !== "string") throw malformed(name);
  return value;
}

function count(value: unknown, name: string): bigint {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw malformed(name);
  return BigInt(value);
}

function malformed(name: string): FlannelError {
  return new FlannelError(
    "store/protocol",
    "etcd's answer is not as expected",
    { member: name },
    { remedy: "Check that the endpoint is etcd, 3.5 or earlier, with --enable-v2." },
  );
}
