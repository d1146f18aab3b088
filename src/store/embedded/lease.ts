import { etcdErrors } from "./errors.ts";

/** A lease as it is kept. */
export interface StoredLease {
  readonly id: bigint;
  readonly ttlSeconds: number;
  /** When it ends, in ms of the store's time of service: while the store is down no lease can be renewed, nor ends. */
  readonly deadlineMs: number;
}

/** etcd's shortest term with its default election timeout, and its longest (lease/lessor.go). */
const ttlSecondsMin = 2;
const ttlSecondsMax = 9_000_000_000;

/** The leases there are, by id. Keeps no time: each question brings it along. */
export class LeaseTable {
  readonly #leases = new Map<bigint, StoredLease>();

  constructor(leases: Iterable<StoredLease>) {
    for (const lease of leases) this.#leases.set(lease.id, lease);
  }

  get size(): number {
    return this.#leases.size;
  }

  has(id: bigint): boolean {
    return this.#leases.has(id);
  }

  get(id: bigint): StoredLease | undefined {
    return this.#leases.get(id);
  }

  /** All leases, the one that ends first before the others. */
  all(): StoredLease[] {
    return [...this.#leases.values()].sort((a, b) => a.deadlineMs - b.deadlineMs);
  }

  /** What a new lease would be. @throws RpcError for an id that is taken, a term too long */
  plan(id: bigint, ttlSeconds: number, nowMs: number): StoredLease {
    if (ttlSeconds > ttlSecondsMax) throw etcdErrors.leaseTtlTooLarge();
    if (this.#leases.has(id)) throw etcdErrors.leaseExists();
    const granted = Math.max(ttlSeconds, ttlSecondsMin);
    return { id, ttlSeconds: granted, deadlineMs: nowMs + granted * 1000 };
  }

  /** Puts a lease there, or with undefined takes it away; gives what was there. */
  set(id: bigint, lease: StoredLease | undefined): StoredLease | undefined {
    const before = this.#leases.get(id);
    if (lease === undefined) this.#leases.delete(id);
    else this.#leases.set(id, lease);
    return before;
  }

  /** Ids of those that have ended. */
  ended(nowMs: number): bigint[] {
    return this.all().flatMap(({ id, deadlineMs }) => (deadlineMs <= nowMs ? [id] : []));
  }

  /** When the next one ends; undefined where there is none. */
  nextDeadlineMs(): number | undefined {
    let next: number | undefined;
    for (const { deadlineMs } of this.#leases.values()) next = Math.min(next ?? deadlineMs, deadlineMs);
    return next;
  }
}
