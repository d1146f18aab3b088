import { etcdErrors } from "./errors.ts";
import { type History, inRange, type KeyRange, keyRange, type Version } from "./history.ts";
import type {
  Compare,
  DeleteRangeRequest,
  DeleteRangeResponse,
  KeyValue,
  PutRequest,
  PutResponse,
  RangeRequest,
  RangeResponse,
  RequestOp,
  ResponseOp,
  TxnRequest,
  TxnResponse,
} from "./protocol.ts";

/** As etcd's --max-txn-ops. */
const opsMax = 128;

/** What a request writes to; nothing of it counts before History.commit. */
export interface WriteContext {
  readonly history: History;
  readonly hasLease: (id: bigint) => boolean;
}

/** @throws RpcError for a range that cannot be read, before anything is done */
export function range(history: History, request: RangeRequest): RangeResponse {
  if (request.key === "") throw etcdErrors.emptyKey();
  const now = history.readRevision;
  checkRevision(history, request.revision, now);
  const revision = request.revision > 0 ? request.revision : now;
  const all = history.range(keyRange(request.key, request.range_end), revision);
  const found = request.count_only ? [] : select(all, request);
  const more = request.limit > 0 && found.length > request.limit;
  const kvs = (more ? found.slice(0, request.limit) : found).map((version) =>
    toKeyValue(version, { keyOnly: request.keys_only }),
  );
  return { header: { revision: now }, kvs, more, count: all.length };
}

/** Filtered and in the order asked for. Without an order but a target etcd sorts only what the limit left. */
function select(all: readonly Version[], request: RangeRequest): Version[] {
  const { limit, sort_order, sort_target } = request;
  const isFiltered =
    request.min_mod_revision !== 0 ||
    request.max_mod_revision !== 0 ||
    request.min_create_revision !== 0 ||
    request.max_create_revision !== 0;
  const cut = sort_order === "NONE" && !isFiltered && limit > 0;
  const kept = (cut ? all.slice(0, limit + 1) : all).filter(
    ({ modified, created }) =>
      (request.max_mod_revision === 0 || modified <= request.max_mod_revision) &&
      (request.min_mod_revision === 0 || modified >= request.min_mod_revision) &&
      (request.max_create_revision === 0 || created <= request.max_create_revision) &&
      (request.min_create_revision === 0 || created >= request.min_create_revision),
  );
  if (sort_order === "NONE" && sort_target === "KEY") return kept;
  const compare = comparators[sort_target];
  return kept.sort(sort_order === "DESCEND" ? (a, b) => compare(b, a) : compare);
}

const comparators: Readonly<Record<RangeRequest["sort_target"], (a: Version, b: Version) => number>> = {
  KEY: (a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0),
  VERSION: (a, b) => a.version - b.version,
  CREATE: (a, b) => a.created - b.created,
  MOD: (a, b) => a.modified - b.modified,
  VALUE: (a, b) => compareBytes(a.value, b.value),
};

export function put(context: WriteContext, request: PutRequest): PutResponse {
  checkPut(request);
  checkLease(context, request);
  checkKeyExpected(context, request);
  return applyPut(context.history, request);
}

export function deleteRange({ history }: WriteContext, request: DeleteRangeRequest): DeleteRangeResponse {
  checkDelete(request);
  return applyDelete(history, request);
}

/** All of its comparisons see the state before it. @throws RpcError before anything is written */
export function transact(context: WriteContext, request: TxnRequest): TxnResponse {
  checkShape(request, opsMax);
  checkOverlaps(request.success);
  checkOverlaps(request.failure);
  const chosen = choose(context.history, request);
  checkState(context, chosen);
  const answer = applyTxn(context.history, chosen);
  return { ...answer, header: { revision: context.history.readRevision } };
}

/** A transaction whose branches are decided. */
interface Chosen {
  readonly succeeded: boolean;
  readonly ops: readonly (RequestOp | { readonly chosen: Chosen })[];
}

function choose(history: History, { compare, success, failure }: TxnRequest): Chosen {
  const succeeded = compare.every((one) => holds(history, one));
  const ops = (succeeded ? success : failure).map((op) =>
    op.request_txn === undefined ? op : { chosen: choose(history, op.request_txn) },
  );
  return { succeeded, ops };
}

/** Of a range each key must hold. A value of a key that is not there equals nothing, nor differs. */
function holds(history: History, compare: Compare): boolean {
  const found = history.range(keyRange(compare.key, compare.range_end), history.revision);
  if (found.length === 0) return compare.target !== "VALUE" && compares(compare, undefined);
  return found.every((version) => compares(compare, version));
}

function compares(compare: Compare, version: Version | undefined): boolean {
  const difference = differenceOf(compare, version);
  switch (compare.result) {
    case "EQUAL":
      return difference === 0;
    case "NOT_EQUAL":
      return difference !== 0;
    case "GREATER":
      return difference > 0;
    case "LESS":
      return difference < 0;
  }
}

function differenceOf(compare: Compare, version: Version | undefined): number {
  switch (compare.target) {
    case "VERSION":
      return (version?.version ?? 0) - compare.version;
    case "CREATE":
      return (version?.created ?? 0) - compare.create_revision;
    case "MOD":
      return (version?.modified ?? 0) - compare.mod_revision;
    case "VALUE":
      return compareBytes(version?.value, compare.value);
    case "LEASE": {
      const lease = version?.lease ?? 0n;
      return lease < compare.lease ? -1 : lease > compare.lease ? 1 : 0;
    }
  }
}

function applyTxn(history: History, { succeeded, ops }: Chosen): TxnResponse {
  const responses = ops.map((op): ResponseOp => {
    if ("chosen" in op) return { response_txn: applyTxn(history, op.chosen) };
    const { request_range, request_put, request_delete_range } = op;
    if (request_range !== undefined) return { response_range: range(history, request_range) };
    if (request_put !== undefined) return { response_put: applyPut(history, request_put) };
    if (request_delete_range === undefined) throw etcdErrors.keyNotFound();
    return { response_delete_range: applyDelete(history, request_delete_range) };
  });
  return { header: {}, succeeded, responses };
}

function applyPut(history: History, request: PutRequest): PutResponse {
  const { key, prev_kv, ignore_value, ignore_lease } = request;
  const before = history.at(key, history.readRevision);
  // A copy: the request's bytes are a view of all that came with it.
  const value = ignore_value ? (before?.value ?? new Uint8Array()) : new Uint8Array(request.value);
  history.put(key, value, ignore_lease ? (before?.lease ?? 0n) : request.lease);
  const header = { revision: history.readRevision };
  return prev_kv && before !== undefined ? { header, prev_kv: toKeyValue(before) } : { header };
}

function applyDelete(history: History, { key, range_end, prev_kv }: DeleteRangeRequest): DeleteRangeResponse {
  const found = history.range(keyRange(key, range_end), history.readRevision);
  for (const version of found) history.delete(version.key);
  const header = { revision: history.readRevision };
  return {
    header,
    deleted: found.length,
    ...(prev_kv ? { prev_kvs: found.map((version) => toKeyValue(version)) } : {}),
  };
}

export function toKeyValue(
  { key, value, created, modified, version, lease }: Version,
  { keyOnly = false } = {},
): KeyValue {
  if (value === undefined) return { key, mod_revision: modified };
  const all = { key, create_revision: created, mod_revision: modified, version, lease };
  return keyOnly ? all : { ...all, value };
}

/** Whether it may write at all, whatever its comparisons say. */
export function writes({ success, failure }: TxnRequest): boolean {
  return [...success, ...failure].some(
    ({ request_put, request_delete_range, request_txn }) =>
      request_put !== undefined ||
      request_delete_range !== undefined ||
      (request_txn !== undefined && writes(request_txn)),
  );
}

/** Whether it may make the store grow. */
export function puts({ success, failure }: TxnRequest): boolean {
  return [...success, ...failure].some(
    ({ request_put, request_txn }) =>
      request_put !== undefined || (request_txn !== undefined && puts(request_txn)),
  );
}

// What is wrong with a request by itself.

function checkPut({ key, value, lease, ignore_value, ignore_lease }: PutRequest): void {
  if (key === "") throw etcdErrors.emptyKey();
  if (ignore_value && value.length > 0) throw etcdErrors.valueProvided();
  if (ignore_lease && lease !== 0n) throw etcdErrors.leaseProvided();
}

function checkDelete({ key }: DeleteRangeRequest): void {
  if (key === "") throw etcdErrors.emptyKey();
}

function checkShape({ compare, success, failure }: TxnRequest, opsLeft: number): void {
  const ops = Math.max(compare.length, success.length, failure.length);
  if (ops > opsLeft) throw etcdErrors.tooManyOps();
  if (compare.some(({ key }) => key === "")) throw etcdErrors.emptyKey();
  for (const { request_range, request_put, request_delete_range, request_txn } of [...success, ...failure]) {
    if (request_range !== undefined) {
      if (request_range.key === "") throw etcdErrors.emptyKey();
    } else if (request_put !== undefined) checkPut(request_put);
    else if (request_delete_range !== undefined) checkDelete(request_delete_range);
    else if (request_txn !== undefined) checkShape(request_txn, opsLeft - ops);
    else throw etcdErrors.keyNotFound();
  }
}

interface Touched {
  readonly puts: Set<string>;
  readonly deletes: KeyRange[];
}

/** No key may be put twice, or put and deleted, by what can come to pass together (etcd's checkIntervals). */
function checkOverlaps(ops: readonly RequestOp[]): Touched {
  const deletes = ops.flatMap(({ request_delete_range: one }) =>
    // Unlike everywhere else an end of one zero byte is taken as it is, and so is before every key.
    one === undefined ? [] : [{ key: one.key, end: one.range_end === "" ? undefined : one.range_end }],
  );
  const puts = new Set<string>();
  const add = (key: string, also?: Set<string>) => {
    if (puts.has(key) && also?.has(key) !== true) throw etcdErrors.duplicateKey();
    if (deletes.some((one) => inRange(one, key))) throw etcdErrors.duplicateKey();
    puts.add(key);
  };
  for (const { request_txn } of ops) {
    if (request_txn === undefined) continue;
    const success = checkOverlaps(request_txn.success);
    const failure = checkOverlaps(request_txn.failure);
    for (const key of success.puts) add(key);
    // Only one of the two branches is taken: they may put the same.
    for (const key of failure.puts) add(key, success.puts);
    deletes.push(...success.deletes, ...failure.deletes);
  }
  for (const { request_put } of ops) if (request_put !== undefined) add(request_put.key);
  return { puts, deletes };
}

// What is wrong with it as things stand.

/** Of several mistakes etcd names those of puts first. */
function checkState(context: WriteContext, chosen: Chosen): void {
  const ops = flattened(chosen);
  for (const { request_put } of ops) {
    if (request_put === undefined) continue;
    checkKeyExpected(context, request_put);
    checkLease(context, request_put);
  }
  const { revision: now, compacted } = context.history;
  for (const { request_range } of ops) {
    const revision = request_range?.revision ?? 0;
    if (revision > now) throw etcdErrors.futureRevision();
    // By itself a range takes a negative revision for none; in a transaction it does not.
    if (revision !== 0 && revision < compacted) throw etcdErrors.compacted();
  }
}

function flattened({ ops }: Chosen): RequestOp[] {
  return ops.flatMap((op) => ("chosen" in op ? flattened(op.chosen) : [op]));
}

function checkLease({ hasLease }: WriteContext, { lease }: PutRequest): void {
  if (lease !== 0n && !hasLease(lease)) throw etcdErrors.leaseNotFound();
}

function checkKeyExpected({ history }: WriteContext, { key, ignore_value, ignore_lease }: PutRequest): void {
  if (!ignore_value && !ignore_lease) return;
  if (history.at(key, history.revision) === undefined) throw etcdErrors.keyNotFound();
}

function checkRevision(history: History, revision: number, now: number): void {
  if (revision > now) throw etcdErrors.futureRevision();
  if (revision > 0 && revision < history.compacted) throw etcdErrors.compacted();
}

function compareBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): number {
  return Buffer.compare(a ?? new Uint8Array(), b ?? new Uint8Array());
}
