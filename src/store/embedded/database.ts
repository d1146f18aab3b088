import { Database as Sqlite, type Statement } from "bun:sqlite";
import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { FlannelError } from "../../base/error.ts";
import type { Version } from "./history.ts";
import type { StoredLease } from "./lease.ts";

/** The database file in the data directory. */
export const databaseName = "leases.db";

/** Says that a file is ours: "flll". */
const applicationId = 0x666c6c6c;
/** Of the tables below; a file of a higher one was written by a later release. */
const schemaVersion = 1;

const schema = `
  CREATE TABLE meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE version (
    revision INTEGER NOT NULL, sub INTEGER NOT NULL, key BLOB NOT NULL, value BLOB,
    created INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL,
    PRIMARY KEY (revision, sub)) WITHOUT ROWID;
  CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl_seconds INTEGER NOT NULL, deadline_ms INTEGER NOT NULL);
`;

/** All that is kept. */
export interface StoredState {
  readonly clusterId: bigint;
  readonly memberId: bigint;
  readonly revision: number;
  readonly compacted: number;
  /** How long the store has served in all its life, in ms; what lease deadlines are counted in. */
  readonly servedMs: number;
  readonly versions: readonly Version[];
  readonly leases: readonly StoredLease[];
}

/** What is written at once, or not at all. */
export interface WriteBatch {
  readonly revision: number;
  readonly servedMs: number;
  /** The changes of new revisions, in order. */
  readonly versions: readonly Version[];
  /** Leases that are new or changed, and ids of those that are gone. */
  readonly leases: ReadonlyMap<bigint, StoredLease | undefined>;
  readonly compaction?: { readonly revision: number; readonly superseded: readonly Version[] };
}

/** The file behind the store; one process at a time has it open. */
export interface Database {
  readonly state: StoredState;
  /** On disk when it returns. @throws FlannelError `store/disk`; then nothing is written */
  write(batch: WriteBatch): void;
  /** Size of the file with its log. */
  sizeBytes(): number;
  close(): void;
}

/**
 * Opens the database, or makes it where there is none; the directory is made for its owner only.
 * @throws FlannelError `store/in-use`, `store/corrupt`, `store/newer`, `store/disk`; the file is as it was
 */
export function openDatabase(directory: string): Database {
  const path = join(directory, databaseName);
  const lock = takeLock(directory);
  try {
    const isNew = !existsSync(path);
    const db = guarded(path, () => new Sqlite(path, { create: true, strict: true, safeIntegers: true }));
    try {
      guarded(path, () => db.run("PRAGMA busy_timeout = 2000"));
      if (!isNew) checkFile(db, path);
      return guarded(path, () => prepare(db, path, lock));
    } catch (error) {
      db.close();
      throw error;
    }
  } catch (error) {
    lock.close();
    throw error;
  }
}

/** A lock that ends with the process, however it ends; backups may read the database beside it. */
function takeLock(directory: string): Sqlite {
  const path = join(directory, "lock");
  return guarded(path, () => {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const lock = new Sqlite(path, { create: true });
    try {
      lock.run("PRAGMA locking_mode = EXCLUSIVE");
      lock.run("BEGIN EXCLUSIVE");
      return lock;
    } catch (error) {
      lock.close();
      throw error;
    }
  });
}

/**
 * Looks at a database file without changing it. @throws FlannelError `store/corrupt`, `store/newer`
 */
export function checkFile(db: Sqlite, path: string): void {
  guarded(path, () => db.run("PRAGMA query_only = ON"));
  const pragma = (name: string) =>
    guarded(path, () => Object.values((db.query(`PRAGMA ${name}`).get() ?? {}) as object)[0] as unknown);
  const [owner, version] = [Number(pragma("application_id")), Number(pragma("user_version"))];
  // A start that was killed before its first write leaves an empty file.
  if (owner !== 0 || version !== 0 || Number(pragma("page_count")) > 0) {
    if (owner !== applicationId) throw corrupt(path, "it is no lease store");
    if (version > schemaVersion) {
      throw new FlannelError(
        "store/newer",
        "the lease store was written by a later release",
        { path, version, known: schemaVersion },
        { exitCode: 2, remedy: "Run the release that wrote it, or restore a backup made before it." },
      );
    }
    const found = String(pragma("integrity_check(1)"));
    if (found !== "ok") throw corrupt(path, found.slice(0, 200));
  }
  guarded(path, () => db.run("PRAGMA query_only = OFF"));
}

function prepare(db: Sqlite, path: string, lock: Sqlite): Database {
  chmodSync(path, 0o600);
  db.run("PRAGMA auto_vacuum = INCREMENTAL");
  db.run("PRAGMA journal_mode = WAL");
  db.run("PRAGMA synchronous = FULL");
  db.run("PRAGMA journal_size_limit = 4194304");
  const tables = db.query("SELECT count(*) AS number FROM sqlite_schema").get() as { number: bigint };
  if (tables.number === 0n) create(db);
  const state = load(db, path);
  const statements = {
    version: db.query("INSERT INTO version VALUES (?, ?, ?, ?, ?, ?, ?)"),
    forget: db.query("DELETE FROM version WHERE revision = ? AND sub = ?"),
    lease: db.query("INSERT OR REPLACE INTO lease VALUES (?, ?, ?)"),
    forgetLease: db.query("DELETE FROM lease WHERE id = ?"),
    meta: db.query("INSERT OR REPLACE INTO meta VALUES (?, ?)"),
  };
  const apply = db.transaction((batch: WriteBatch) => applyBatch(statements, batch));
  return {
    state,
    write(batch) {
      guarded(path, () => {
        apply.immediate(batch);
        if (batch.compaction !== undefined) db.run("PRAGMA incremental_vacuum(1000)");
      });
    },
    sizeBytes: () =>
      [path, `${path}-wal`].reduce(
        (sum, one) => sum + (statSync(one, { throwIfNoEntry: false })?.size ?? 0),
        0,
      ),
    close() {
      db.close();
      lock.close();
    },
  };
}

function create(db: Sqlite): void {
  const meta = { cluster_id: randomId(), member_id: randomId(), revision: 1n, compacted: -1n, served_ms: 0n };
  db.transaction(() => {
    db.run(schema);
    for (const [name, number] of Object.entries(meta))
      db.query("INSERT INTO meta VALUES (?, ?)").run(name, number);
    db.run(`PRAGMA application_id = ${applicationId}`);
    db.run(`PRAGMA user_version = ${schemaVersion}`);
  }).immediate();
}

/** Positive, so that it is the same as int64 and as uint64; never 0. */
function randomId(): bigint {
  return (randomBytes(8).readBigUInt64BE() >> 1n) | 1n;
}

interface VersionRow {
  readonly revision: bigint;
  readonly sub: bigint;
  readonly key: Uint8Array;
  readonly value: Uint8Array | null;
  readonly created: bigint;
  readonly version: bigint;
  readonly lease: bigint;
}

function load(db: Sqlite, path: string): StoredState {
  const meta = new Map(
    (db.query("SELECT name, number FROM meta").all() as { name: string; number: bigint }[]).map(
      ({ name, number }) => [name, number] as const,
    ),
  );
  const named = (name: string): bigint => {
    const number = meta.get(name);
    if (number === undefined) throw corrupt(path, `it does not say its ${name}`);
    return number;
  };
  const rows = db.query("SELECT * FROM version ORDER BY revision, sub").all() as VersionRow[];
  const leases = db.query("SELECT * FROM lease").all() as {
    id: bigint;
    ttl_seconds: bigint;
    deadline_ms: bigint;
  }[];
  const revision = Number(named("revision"));
  const last = rows.at(-1);
  if (last !== undefined && Number(last.revision) > revision)
    throw corrupt(path, "it is behind its own keys");
  return {
    clusterId: named("cluster_id"),
    memberId: named("member_id"),
    revision,
    compacted: Number(named("compacted")),
    servedMs: Number(named("served_ms")),
    versions: rows.map((row) => ({
      key: Buffer.from(row.key).toString("latin1"),
      value: row.value ?? undefined,
      created: Number(row.created),
      modified: Number(row.revision),
      sub: Number(row.sub),
      version: Number(row.version),
      lease: row.lease,
    })),
    leases: leases.map((row) => ({
      id: row.id,
      ttlSeconds: Number(row.ttl_seconds),
      deadlineMs: Number(row.deadline_ms),
    })),
  };
}

type Statements = Readonly<Record<"version" | "forget" | "lease" | "forgetLease" | "meta", Statement>>;

function applyBatch(statements: Statements, batch: WriteBatch): void {
  for (const { key, value, created, modified, sub, version, lease } of batch.versions) {
    const keyBytes = Buffer.from(key, "latin1");
    statements.version.run(modified, sub, keyBytes, value ?? null, created, version, lease);
  }
  for (const [id, lease] of batch.leases) {
    if (lease === undefined) statements.forgetLease.run(id);
    else statements.lease.run(id, lease.ttlSeconds, Math.round(lease.deadlineMs));
  }
  if (batch.compaction !== undefined) {
    for (const { modified, sub } of batch.compaction.superseded) statements.forget.run(modified, sub);
    statements.meta.run("compacted", batch.compaction.revision);
  }
  statements.meta.run("revision", batch.revision);
  statements.meta.run("served_ms", Math.round(batch.servedMs));
}

/** Does it, and says for people what SQLite's error means. */
export function guarded<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (cause instanceof FlannelError) throw cause;
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
    if (code.startsWith("SQLITE_BUSY")) {
      throw new FlannelError(
        "store/in-use",
        "another process serves this lease store",
        { path },
        { cause, exitCode: 1, remedy: "Stop it, or give this one another data directory." },
      );
    }
    if (code.startsWith("SQLITE_CORRUPT") || code.startsWith("SQLITE_NOTADB"))
      throw corrupt(path, code, cause);
    throw new FlannelError(
      "store/disk",
      "the lease store's disk refuses",
      { path, code },
      { cause, retryable: true, remedy: "Check free space, mount options and permissions of the directory." },
    );
  }
}

export function corrupt(path: string, reason: string, cause?: unknown): FlannelError {
  return new FlannelError(
    "store/corrupt",
    "the lease store's file is damaged",
    { path, reason },
    { cause, remedy: "It was left as it is: move it away and restore a backup, or start anew without it." },
  );
}

/** Whether a failure is a full disk, which SQLite tells from all others. */
export function isDiskFull(error: unknown): boolean {
  return error instanceof FlannelError && error.fields["code"] === "SQLITE_FULL";
}
