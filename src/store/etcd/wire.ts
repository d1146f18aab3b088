import { FlannelError } from "../../base/error.ts";

/** A key as etcd holds it. */
export interface KeyValue {
  /** As text; bytes that are no UTF-8 are replaced, so that such a key equals none of ours. */
  readonly key: string;
  readonly value: Uint8Array;
  readonly revision: bigint;
  /** Revision at which the key came into being; of two keys the one that was there first has the lower. */
  readonly created: bigint;
  /** Id of the etcd lease it hangs on, `0` for none. */
  readonly lease: string;
}

export interface RangeAnswer {
  /** The store's revision that this is the state at. */
  readonly revision: bigint;
  readonly clusterId: string;
  readonly entries: readonly KeyValue[];
}

export interface TxnAnswer {
  readonly succeeded: boolean;
  /** Where it did not succeed: each key as it stands, in the order asked. */
  readonly found: readonly (KeyValue | undefined)[];
}

export interface LeaseAnswer {
  readonly id: string;
  /** Seconds left; -1 where there is no such lease. */
  readonly ttlSeconds: number;
  readonly keyCount: number;
}

export type WatchEvent =
  { readonly kind: "put"; readonly entry: KeyValue } | { readonly kind: "delete"; readonly key: string };

/** `next` is the revision to go on from after this message. */
export type WatchMessage =
  | { readonly kind: "open" }
  | { readonly kind: "progress"; readonly next: bigint }
  | { readonly kind: "events"; readonly events: readonly WatchEvent[]; readonly next: bigint }
  /** Events were missed or may have been: everything must be read again. */
  | { readonly kind: "gap"; readonly reason: string };

// Readers of what a transport answers: int64 as text, bytes as they are or as base64, zero values or nothing.

export function parseRange(answer: unknown): RangeAnswer {
  const members = object(answer, "answer");
  const header = object(members["header"], "header");
  return {
    revision: int64(header["revision"], "revision"),
    clusterId: text(header["cluster_id"], "cluster_id"),
    entries: list(members["kvs"], "kvs").map(keyValue),
  };
}

export function parseTxn(answer: unknown): TxnAnswer {
  const members = object(answer, "answer");
  const succeeded = members["succeeded"] === true;
  const found = list(members["responses"], "responses").map((response) => {
    const range = object(response, "response")["response_range"];
    const [entry] = range === undefined ? [] : list(object(range, "response_range")["kvs"], "kvs");
    return entry === undefined ? undefined : keyValue(entry);
  });
  return { succeeded, found };
}

export function parseLease(answer: unknown): LeaseAnswer {
  const members = object(answer, "answer");
  return {
    id: String(int64(members["ID"], "ID")),
    ttlSeconds: Number(int64(members["TTL"], "TTL")),
    keyCount: list(members["keys"], "keys").length,
  };
}

/** @param from the revision the watch was asked to begin at */
export function parseWatchMessage(message: unknown, from: bigint): WatchMessage {
  const result = object(message, "message");
  if (int64(result["compact_revision"], "compact_revision") > 0n) {
    return { kind: "gap", reason: "the history was compacted" };
  }
  if (result["canceled"] === true) {
    return {
      kind: "gap",
      reason: text(result["cancel_reason"], "cancel_reason").slice(0, 200) || "cancelled",
    };
  }
  const header = object(result["header"], "header");
  const revision = int64(header["revision"], "revision");
  if (result["created"] === true) {
    // A store that has not come as far as what we saw was wiped or restored, or lags behind its peers.
    return revision + 1n < from
      ? { kind: "gap", reason: "the store's revision went back" }
      : { kind: "open" };
  }
  const events = list(result["events"], "events").map(watchEvent);
  const last = events.at(-1);
  // Without events it is a progress notification: everything up to its header's revision has been sent.
  // With events it is not so: the header may be ahead of them while a watch catches up.
  return last === undefined
    ? { kind: "progress", next: revision + 1n }
    : { kind: "events", events: events.map(({ event }) => event), next: last.revision + 1n };
}

function watchEvent(value: unknown): { event: WatchEvent; revision: bigint } {
  const members = object(value, "event");
  const entry = keyValue(members["kv"]);
  const deleted = text(members["type"], "type").toUpperCase() === "DELETE"; // "Delete" in etcd3's protocol
  return {
    event: deleted ? { kind: "delete", key: entry.key } : { kind: "put", entry },
    revision: entry.revision,
  };
}

function keyValue(value: unknown): KeyValue {
  const members = object(value, "kv");
  return {
    key: Buffer.from(bytes(members["key"], "key")).toString("utf8"),
    value: bytes(members["value"], "value"),
    revision: int64(members["mod_revision"], "mod_revision"),
    created: int64(members["create_revision"], "create_revision"),
    lease: String(int64(members["lease"], "lease")),
  };
}

function object(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw malformed(name);
  return value as Record<string, unknown>;
}

function list(value: unknown, name: string): readonly unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw malformed(name);
  return value;
}

function text(value: unknown, name: string): string {
  if (value === undefined) return "";
  if (typeof value !== "string") throw malformed(name);
  return value;
}

function bytes(value: unknown, name: string): Uint8Array {
  return value instanceof Uint8Array ? value : Buffer.from(text(value, name), "base64");
}

function int64(value: unknown, name: string): bigint {
  if (value === undefined) return 0n;
  const digits = typeof value === "number" ? String(value) : value;
  if (typeof digits !== "string" || !/^-?\d{1,19}$/.test(digits)) throw malformed(name);
  return BigInt(digits);
}

function malformed(name: string): FlannelError {
  return new FlannelError(
    "store/protocol",
    "etcd's answer is not as expected",
    { member: name },
    { remedy: "Check that the endpoint is etcd 3.4 or later." },
  );
}
