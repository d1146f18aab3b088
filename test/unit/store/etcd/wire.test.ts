import { expect, test } from "bun:test";
import { parseLease, parseRange, parseTxn, parseWatchMessage } from "../../../../src/store/etcd/wire.ts";

const header = { cluster_id: "7", revision: "40" };
const base64 = (text: string) => Buffer.from(text).toString("base64");

test("etcd wire: zero values that the gateway leaves out are zero, empty or none", () => {
  expect(parseRange({ header: {} })).toEqual({ revision: 0n, clusterId: "", entries: [] });
  expect(parseRange({ header, kvs: [{ key: base64("a") }] }).entries).toEqual([
    { key: "a", value: Buffer.alloc(0), revision: 0n, created: 0n, lease: "0" },
  ]);
  expect(parseTxn({ header })).toEqual({ succeeded: false, found: [] });
  expect(parseLease({ header, ID: "5", TTL: "-1" })).toEqual({ id: "5", ttlSeconds: -1, keyCount: 0 });
});

test("etcd wire: revisions beyond the exact numbers of JavaScript stay exact", () => {
  const revision = "9223372036854775807";
  expect(parseRange({ header: { revision } }).revision).toBe(9223372036854775807n);
});

test("etcd wire: after events a watch goes on behind the last of them, not behind the header", () => {
  const kv = { key: base64("a"), value: base64("v"), create_revision: "5", mod_revision: "12", lease: "9" };
  const events = [{ kv }, { type: "DELETE", kv: { key: base64("b"), mod_revision: "13" } }];
  expect(parseWatchMessage({ header, events }, 10n)).toEqual({
    kind: "events",
    events: [
      { kind: "put", entry: { key: "a", value: Buffer.from("v"), revision: 12n, created: 5n, lease: "9" } },
      { kind: "delete", key: "b" },
    ],
    next: 14n,
  });
});

test("etcd wire: a progress notification moves the watch on to its header's revision", () => {
  expect(parseWatchMessage({ header }, 10n)).toEqual({ kind: "progress", next: 41n });
});

test("etcd wire: compaction, cancellation and a store that went back are gaps", () => {
  const gap = (result: object, from = 10n) => parseWatchMessage(result, from);
  expect(gap({ header, canceled: true, compact_revision: "30" })).toMatchObject({ kind: "gap" });
  expect(gap({ header, canceled: true, cancel_reason: "permission denied" })).toEqual({
    kind: "gap",
    reason: "permission denied",
  });
  expect(gap({ header, canceled: true })).toEqual({ kind: "gap", reason: "cancelled" });
  expect(gap({ header, created: true }, 41n)).toEqual({ kind: "open" });
  expect(gap({ header, created: true }, 42n)).toMatchObject({ kind: "gap" });
});

test.each([
  null,
  7,
  "text",
  {},
  { header: null },
  { header: [] },
  { header: { revision: "x" } },
  { header: { revision: {} } },
  { header, kvs: {} },
  { header, kvs: [7] },
  { header, kvs: [{ key: 7 }] },
  { header, kvs: [{ key: "YQ==", lease: "1.5" }] },
])("etcd wire: an answer of another shape is store/protocol (%#)", (answer) => {
  expect(() => parseRange(answer)).toThrow(expect.objectContaining({ code: "store/protocol" }));
});

test.each([null, {}, { header: null }, { header, events: [{}] }, { header, events: 7 }])(
  "etcd wire: a watch message of another shape is store/protocol (%#)",
  (message) => {
    expect(() => parseWatchMessage(message, 1n)).toThrow(expect.objectContaining({ code: "store/protocol" }));
  },
);
