import { randomBytes } from "node:crypto";
import { errorText } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import { type Database, isDiskFull } from "./database.ts";
import { etcdErrors, RpcError } from "./errors.ts";
import { History, type Version } from "./history.ts";
import { LeaseTable, type StoredLease } from "./lease.ts";
import type { ResponseHeader } from "./protocol.ts";
import { WatchHub } from "./watch.ts";

export interface ServiceOptions {
  readonly database: Database;
  readonly log: Log;
  /** Of the program, for Maintenance.Status. */
  readonly version: string;
  /** Monotonic, in ms from anywhere. */
  readonly elapsedMs?: () => number;
  readonly limits?: Partial<ServiceLimits>;
}

export interface ServiceLimits {
  /** Keys and values there are, in bytes. */
  readonly liveBytesMax: number;
  /** What is kept of their past, in bytes and revisions; beyond it is compacted. */
  readonly pastBytesMax: number;
  readonly pastRevisionsMax: number;
  readonly leasesMax: number;
}

const defaultLimits: ServiceLimits = {
  liveBytesMax: 64 * 1024 * 1024,
  pastBytesMax: 32 * 1024 * 1024,
  pastRevisionsMax: 20_000,
  leasesMax: 65_536,
};

/** How often the time served is written down: after a crash leases last at most so much longer. */
const checkpointMs = 10_000;
const tickMs = 1_000;

/**
 * Keys and leases with what keeps them: one writer, whose writes are on disk before they are answered. Writes
 * that arrive together share one disk write, each being a revision of its own. Reads never touch the disk.
 */
export class StoreService {
  readonly history: History;
  readonly leases: LeaseTable;
  readonly watches: WatchHub;
  /** The API that is answered, and by whom. */
  readonly version: string;
  readonly #database: Database;
  readonly #log: Log;
  readonly #limits: ServiceLimits;
  readonly #elapsedMs: () => number;
  readonly #startedMs: number;
  #queue: QueuedWrite[] = [];
  #expiry: ReturnType<typeof setTimeout> | undefined;
  readonly #ticker: ReturnType<typeof setInterval>;
  #checkpointDueMs: number;
  #trouble: string | undefined;
  #closed = false;

  constructor(options: ServiceOptions) {
    const { database, log, version, elapsedMs = () => performance.now(), limits = {} } = options;
    const { state } = database;
    this.version = `3.4.0+flannel-lite.${version}`;
    this.#database = database;
    this.#log = log;
    this.#limits = { ...defaultLimits, ...limits };
    this.#elapsedMs = elapsedMs;
    this.#startedMs = elapsedMs() - state.servedMs;
    this.history = new History(state);
    this.leases = new LeaseTable(state.leases);
    this.watches = new WatchHub({ history: this.history, header: (revision) => this.header(revision) });
    this.#checkpointDueMs = state.servedMs + checkpointMs;
    this.#ticker = setInterval(() => this.#tick(), tickMs);
    this.#armExpiry();
  }

  /** How long the store has served in all its life. */
  get servedMs(): number {
    return this.#elapsedMs() - this.#startedMs;
  }

  get clusterId(): bigint {
    return this.#database.state.clusterId;
  }

  get memberId(): bigint {
    return this.#database.state.memberId;
  }

  /** Why writes fail at present. */
  get trouble(): string | undefined {
    return this.#trouble;
  }

  sizeBytes(): number {
    return this.#database.sizeBytes();
  }

  /** Of an answer; a nested one brings the revision along. */
  header(revision = this.history.revision): ResponseHeader {
    return { cluster_id: this.clusterId, member_id: this.memberId, revision, raft_term: 1 };
  }

  /**
   * Does `work` when its turn comes; its result counts once it is on disk.
   * @throws RpcError what `work` throws, which must then have written nothing; unavailable or
   * resourceExhausted where the disk refuses
   */
  write<T>(work: (write: Write) => T): Promise<T> {
    if (this.#closed) return Promise.reject(new RpcError("unavailable", "the store is closed"));
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    if (this.#queue.length === 0) setImmediate(() => this.#flush());
    this.#queue.push({ work, resolve: resolve as (value: unknown) => void, reject });
    return promise;
  }

  /** @throws RpcError where the store may not grow */
  checkSpace(): void {
    if (this.history.liveBytes > this.#limits.liveBytesMax) throw etcdErrors.noSpace();
  }

  grant(id: bigint, ttlSeconds: number): Promise<StoredLease> {
    return this.write((write) => {
      this.checkSpace();
      if (this.leases.size >= this.#limits.leasesMax) throw etcdErrors.noSpace();
      const lease = this.leases.plan(id === 0n ? this.#freeLeaseId() : id, ttlSeconds, this.servedMs);
      write.setLease(lease.id, lease);
      return lease;
    });
  }

  /** Ends a lease; its keys go in one revision. */
  revoke(id: bigint): Promise<void> {
    return this.write((write) => this.#revoke(write, id));
  }

  /** Gives the term, 0 where there is no such lease. */
  async keepAlive(id: bigint): Promise<number> {
    if (!this.leases.has(id)) return 0;
    return await this.write((write) => {
      const lease = this.leases.get(id);
      if (lease === undefined) return 0;
      write.setLease(id, { ...lease, deadlineMs: this.servedMs + lease.ttlSeconds * 1000 });
      return lease.ttlSeconds;
    });
  }

  /** @throws RpcError for a revision that is compacted already or yet to come */
  async compact(revision: number): Promise<void> {
    // After the writes that came before it.
    await this.write(() => {
      if (revision <= this.history.compacted) throw etcdErrors.compacted();
      if (revision > this.history.revision) throw etcdErrors.futureRevision();
    });
    if (revision > this.history.compacted) this.#compactNow(revision);
  }

  /** Ends all streams; what was acknowledged is on disk already. */
  close(): void {
    if (this.#closed) return;
    this.#flush();
    this.#closed = true;
    clearInterval(this.#ticker);
    clearTimeout(this.#expiry);
    this.watches.close();
    this.#checkpoint();
    this.#database.close();
  }

  #flush(): void {
    const queue = this.#queue;
    this.#queue = [];
    if (queue.length === 0 || this.#closed) return;
    const write = new Write(this.history, this.leases);
    const done = queue.flatMap(({ work, resolve, reject }) => {
      try {
        const result = work(write);
        write.commit();
        return [{ settle: () => resolve(result), reject }];
      } catch (error) {
        this.history.rollback();
        reject(error);
        return [];
      }
    });
    try {
      if (!write.isEmpty) this.#persist(write);
    } catch (error) {
      write.undo();
      for (const { reject } of done) reject(error);
      return;
    }
    for (const { settle } of done) settle();
    if (write.leases.size > 0) this.#armExpiry();
    if (write.versions.length > 0) {
      this.watches.publish();
      this.#boundPast();
    }
  }

  /** @throws RpcError where the disk refuses */
  #persist(write: Pick<Write, "versions" | "leases">, compaction?: Compaction): void {
    const { revision } = this.history;
    try {
      this.#database.write({
        revision,
        servedMs: this.servedMs,
        versions: write.versions,
        leases: write.leases,
        ...(compaction && { compaction }),
      });
    } catch (error) {
      const text = errorText(error);
      if (this.#trouble === undefined) this.#log.error("the lease store takes no writes", { error: text });
      this.#trouble = text;
      throw isDiskFull(error) ? etcdErrors.noSpace() : new RpcError("unavailable", text);
    }
    if (this.#trouble !== undefined) this.#log.info("the lease store takes writes again");
    this.#trouble = undefined;
    this.#checkpointDueMs = this.servedMs + checkpointMs;
  }

  #compactNow(revision: number): void {
    const superseded = this.history.superseded(revision);
    this.#persist({ versions: [], leases: new Map() }, { revision, superseded });
    this.history.compact(revision);
    this.watches.publish();
  }

  /** Watches that are further behind than this are cancelled. */
  #boundPast(): void {
    const { pastBytesMax, pastRevisionsMax } = this.#limits;
    for (let rounds = 0; rounds < 32; rounds++) {
      const { revision, compacted, bytes, liveBytes } = this.history;
      const kept = revision - Math.max(compacted, 1);
      if ((kept <= pastRevisionsMax && bytes - liveBytes <= pastBytesMax) || kept < 1) return;
      try {
        this.#compactNow(revision - Math.floor(kept / 2));
      } catch (error) {
        if (!(error instanceof RpcError)) throw error;
        return; // said already; tried again after the next write
      }
    }
  }

  #revoke(write: Write, id: bigint): void {
    if (!this.leases.has(id)) throw etcdErrors.leaseNotFound();
    for (const key of this.history.attached(id)) this.history.delete(key);
    write.setLease(id, undefined);
  }

  #armExpiry(): void {
    clearTimeout(this.#expiry);
    const next = this.leases.nextDeadlineMs();
    if (next === undefined || this.#closed) return;
    const delayMs = Math.min(
      Math.max(next - this.servedMs, this.#trouble === undefined ? 0 : tickMs),
      2 ** 30,
    );
    this.#expiry = setTimeout(() => void this.#expire(), delayMs);
  }

  async #expire(): Promise<void> {
    const ended = this.leases.ended(this.servedMs);
    const revoked = ended.map((id) =>
      this.write((write) => {
        const lease = this.leases.get(id);
        if (lease !== undefined && lease.deadlineMs <= this.servedMs) this.#revoke(write, id);
      }),
    );
    // A disk that refuses was complained of.
    await Promise.allSettled(revoked);
    this.#armExpiry();
  }

  #tick(): void {
    this.watches.tick(this.servedMs);
    if (this.leases.size > 0 && this.servedMs >= this.#checkpointDueMs) this.#checkpoint();
  }

  #checkpoint(): void {
    try {
      this.#persist({ versions: [], leases: new Map() });
    } catch (error) {
      if (!(error instanceof RpcError)) throw error;
    }
  }

  #freeLeaseId(): bigint {
    for (;;) {
      const id = randomBytes(8).readBigUInt64BE() >> 1n;
      if (id !== 0n && !this.leases.has(id)) return id;
    }
  }
}

interface QueuedWrite {
  readonly work: (write: Write) => unknown;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

interface Compaction {
  readonly revision: number;
  readonly superseded: readonly Version[];
}

/** What goes to disk at once. Keys are written through the history, leases through this. */
export class Write {
  readonly versions: Version[] = [];
  readonly leases = new Map<bigint, StoredLease | undefined>();
  readonly #history: History;
  readonly #table: LeaseTable;
  readonly #undo: (() => void)[] = [];

  constructor(history: History, table: LeaseTable) {
    this.#history = history;
    this.#table = table;
  }

  get isEmpty(): boolean {
    return this.versions.length === 0 && this.leases.size === 0;
  }

  /** After this the work may not fail. */
  setLease(id: bigint, lease: StoredLease | undefined): void {
    const before = this.#table.set(id, lease);
    this.leases.set(id, lease);
    this.#undo.push(() => this.#table.set(id, before));
  }

  /** Makes a revision of what was written since the last. */
  commit(): void {
    const changes = this.#history.commit();
    if (changes.length === 0) return;
    this.versions.push(...changes);
    this.#undo.push(() => this.#history.undo());
  }

  /** Takes everything back. */
  undo(): void {
    for (const one of this.#undo.reverse()) one();
  }
}
