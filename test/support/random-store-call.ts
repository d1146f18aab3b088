import type { Random } from "./random.ts";

/** A call of the JSON gateway. */
export interface StoreCall {
  readonly path: string;
  readonly body: object;
}

/** So few that calls meet; no more than six, since etcd's sorting leaves equals of more in any order. */
const keys = ["a", "a/b", "a/c", "b", "\xff", "\xff\xff"];
const rangeEnds = ["\0", "a0", "b", "c", "\xff", "a/c", "a", ""];
/** etcd dies of a put that ignores a value which its transaction deleted, and only "\0" gets past its check. */
const boundedEnds = rangeEnds.filter((end) => end !== "\0");
const leaseIds = ["1", "2", "3", "4", "9223372036854775807"];

interface Known {
  readonly revision: number;
  readonly compacted: number;
}

/** Any call that etcd's answer to does not depend on time: right ones mostly, and every kind of mistake. */
export function randomStoreCall(random: Random, known: Known): StoreCall {
  const draw = new Draw(random, known);
  const [path, body] = draw.pick<readonly [string, () => object]>([
    ["/v3/kv/put", () => draw.put()],
    ["/v3/kv/put", () => draw.put()],
    ["/v3/kv/put", () => draw.put()],
    ["/v3/kv/range", () => draw.range()],
    ["/v3/kv/range", () => draw.range()],
    ["/v3/kv/deleterange", () => draw.deleteRange()],
    ["/v3/kv/txn", () => draw.txn(2)],
    ["/v3/kv/txn", () => draw.txn(2)],
    ["/v3/kv/txn", () => draw.txn(2)],
    ["/v3/kv/compaction", () => draw.compaction()],
    ["/v3/lease/grant", () => ({ ID: draw.pick(leaseIds), TTL: draw.pick(["60", "300", "9000000001"]) })],
    ["/v3/lease/revoke", () => ({ ID: draw.pick(leaseIds) })],
    ["/v3/lease/timetolive", () => ({ ID: draw.pick(leaseIds), keys: draw.chance(0.7) })],
    ["/v3/lease/keepalive", () => ({ ID: draw.pick(leaseIds) })],
    ["/v3/lease/leases", () => ({})],
    ["/v3/watch", () => draw.watch()],
  ]);
  return { path, body: body() };
}

class Draw {
  readonly #random: Random;
  readonly #known: Known;

  constructor(random: Random, known: Known) {
    this.#random = random;
    this.#known = known;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.#random.below(from.length)] as T;
  }

  chance(probability: number): boolean {
    return this.#random.below(1_000_000) < probability * 1_000_000;
  }

  put(): object {
    const ignores = this.chance(0.1);
    return {
      key: this.#key(),
      ...(ignores ? {} : { value: base64(this.pick(["", "1", "2", "\0\xff", "x".repeat(50)])) }),
      ...(this.chance(0.3) ? { lease: this.pick(leaseIds) } : {}),
      prev_kv: this.chance(0.4),
      ignore_value: ignores || this.chance(0.03),
      ignore_lease: this.chance(0.1),
    };
  }

  range(): object {
    return {
      ...this.#keyRange(),
      ...(this.chance(0.3) ? { limit: this.pick(["0", "1", "2", "3", "-1"]) } : {}),
      ...(this.chance(0.4) ? { revision: this.#revision() } : {}),
      ...(this.chance(0.4) ? { sort_order: this.pick(["NONE", "ASCEND", "DESCEND"]) } : {}),
      ...(this.chance(0.4) ? { sort_target: this.pick(["KEY", "VERSION", "CREATE", "MOD", "VALUE"]) } : {}),
      keys_only: this.chance(0.2),
      count_only: this.chance(0.2),
      serializable: this.chance(0.2),
      ...(this.chance(0.1) ? { min_mod_revision: this.#revision() } : {}),
      ...(this.chance(0.1) ? { max_mod_revision: this.#revision() } : {}),
      ...(this.chance(0.1) ? { min_create_revision: this.#revision() } : {}),
      ...(this.chance(0.1) ? { max_create_revision: this.#revision() } : {}),
    };
  }

  deleteRange(ends: readonly string[] = rangeEnds): object {
    return { ...this.#keyRange(ends), prev_kv: this.chance(0.5) };
  }

  txn(depth: number): object {
    const some = <T>(most: number, make: () => T): T[] =>
      Array.from({ length: this.#random.below(most + 1) }, make);
    const op = (): object => {
      const kind = this.#random.below(100) / 100;
      if (kind < 0.02) return {};
      if (kind < 0.4) return { request_put: this.put() };
      if (kind < 0.65) return { request_range: this.range() };
      if (kind < 0.85 || depth === 0) return { request_delete_range: this.deleteRange(boundedEnds) };
      return { request_txn: this.txn(depth - 1) };
    };
    if (this.chance(0.01))
      return { success: Array.from({ length: 129 }, () => ({ request_put: this.put() })) };
    return { compare: some(2, () => this.#compare()), success: some(4, op), failure: some(4, op) };
  }

  compaction(): object {
    const { revision, compacted } = this.#known;
    const near = [compacted, compacted + 1, Math.floor((revision + compacted) / 2), revision, revision + 1];
    // Rarely all of it, so that there is a past to read.
    return {
      revision: String(this.chance(0.7) ? Math.floor((revision + 3 * compacted) / 4) : this.pick(near)),
    };
  }

  watch(): object {
    const { revision, compacted } = this.#known;
    // From the compacted revision itself etcd 3.4 may tell of deletions or not.
    const revisions = [
      0,
      revision + 1,
      revision + 3,
      revision,
      Math.max(compacted + 1, revision - 20),
      Math.max(compacted - 1, 1),
    ];
    const startRevision = this.pick(revisions);
    const range = this.#keyRange();
    // Nobody can wait until etcd has told the past of an empty key: it has none.
    const isPast = startRevision > 0 && startRevision <= revision;
    return {
      create_request: {
        ...(isPast && range.key === "" ? { ...range, key: base64("a") } : range),
        start_revision: String(startRevision),
        prev_kv: this.chance(0.5),
        ...(this.chance(0.3) ? { filters: [this.pick(["NOPUT", "NODELETE"])] } : {}),
        ...(this.chance(0.2) ? { watch_id: "7" } : {}),
      },
    };
  }

  #compare(): object {
    const { revision } = this.#known;
    const target = this.pick(["VERSION", "CREATE", "MOD", "VALUE", "LEASE"] as const);
    const near = String(Math.max(0, revision - this.#random.below(10)));
    const union = {
      VERSION: { version: this.pick(["0", "1", "2"]) },
      CREATE: { create_revision: this.pick(["0", near]) },
      MOD: { mod_revision: this.pick(["0", near]) },
      VALUE: { value: base64(this.pick(["", "1", "2"])) },
      LEASE: { lease: this.pick(["0", ...leaseIds]) },
    }[target];
    return {
      key: this.#key(),
      ...(this.chance(0.2) ? { range_end: base64(this.pick(rangeEnds)) } : {}),
      target,
      result: this.pick(["EQUAL", "GREATER", "LESS", "NOT_EQUAL"]),
      ...(this.chance(0.95) ? union : {}),
    };
  }

  #key(): string {
    return this.chance(0.02) ? "" : base64(this.pick(keys));
  }

  #keyRange(ends: readonly string[] = rangeEnds): { key: string; range_end?: string } {
    return { key: this.#key(), ...(this.chance(0.6) ? { range_end: base64(this.pick(ends)) } : {}) };
  }

  #revision(): string {
    const { revision, compacted } = this.#known;
    const inPast = compacted + this.#random.below(revision - compacted + 1);
    return String(this.pick([inPast, inPast, revision, revision + 1, compacted, -1, 0]));
  }
}

function base64(text: string): string {
  return Buffer.from(text, "latin1").toString("base64");
}
