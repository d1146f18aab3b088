import { Database as Sqlite } from "bun:sqlite";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { FlannelError } from "../../base/error.ts";
import { certificateEntries } from "./certificates.ts";
import { checkFile, corrupt, databaseName, guarded } from "./database.ts";

/** What a backup holds. */
export interface BackupSummary {
  readonly path: string;
  readonly bytes: number;
  readonly revision: number;
  readonly keys: number;
  readonly leases: number;
}

/**
 * How far a restored store's revision jumps: what clients saw after the backup was made must lie behind it, else
 * they would take new events for ones they know (etcd's snapshot restore --bump-revision, with its figure).
 */
const revisionJump = 1_000_000_000;

/**
 * Writes what the store in `dataDir` holds at this moment to a new file, while it is served or not.
 * @throws FlannelError `store/backup` for a file that is there or no store, `store/corrupt`, `store/newer`, `store/disk`
 */
export function backUp(dataDir: string, file: string): BackupSummary {
  const source = join(dataDir, databaseName);
  const target = resolve(file);
  if (!existsSync(source)) throw refused("there is no lease store to back up", source);
  if (existsSync(target)) throw refused("the file is there already and stays as it is", target);
  const temporary = `${target}.${randomBytes(6).toString("hex")}`;
  try {
    // Made here, so that nobody else can read it at any time.
    const made = guarded(target, () => openSync(temporary, "wx", 0o600));
    closeSync(made);
    const db = guarded(source, () => new Sqlite(source, { readwrite: true, strict: true }));
    try {
      guarded(source, () => db.run("PRAGMA busy_timeout = 10000"));
      checkFile(db, source);
      guarded(target, () => db.query("VACUUM INTO ?").run(temporary));
    } finally {
      db.close();
    }
    const summary = summaryOf(temporary);
    guarded(target, () => {
      sync(temporary);
      linkSync(temporary, target); // unlike a rename, never over another file
      rmSync(temporary);
      sync(dirname(target));
    });
    return { ...summary, path: target };
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/**
 * Makes a store in `dataDir` of a backup, checked first. Leases have the time left that they had.
 * @throws FlannelError `store/backup` where there is something but certificates already, `store/corrupt`,
 * `store/newer`, `store/disk`; then there is no store
 */
export function restore(file: string, dataDir: string): BackupSummary {
  const source = resolve(file);
  const target = join(dataDir, databaseName);
  if (!existsSync(source)) throw refused("there is no such backup", source);
  const certificates: readonly string[] = certificateEntries;
  const present = existsSync(dataDir)
    ? readdirSync(dataDir).filter((entry) => !certificates.includes(entry))
    : [];
  if (present.length > 0) {
    throw refused("the directory is not empty and stays as it is", join(dataDir, present[0] ?? ""));
  }
  const temporary = join(dataDir, `.${databaseName}.${randomBytes(6).toString("hex")}`);
  try {
    guarded(target, () => {
      mkdirSync(dataDir, { recursive: true, mode: 0o700 });
      copyFileSync(source, temporary);
      chmodSync(temporary, 0o600);
    });
    const summary = summaryOf(temporary, source);
    const revision = summary.revision + revisionJump;
    guarded(target, () => {
      const db = new Sqlite(temporary, { readwrite: true, strict: true });
      try {
        // A backup of several files would be none.
        db.run("PRAGMA journal_mode = DELETE");
        db.transaction(() => {
          const set = db.query("UPDATE meta SET number = ? WHERE name = ?");
          set.run(revision, "revision");
          set.run(revision, "compacted");
        }).immediate();
      } finally {
        db.close();
      }
      sync(temporary);
      renameSync(temporary, target);
      sync(dataDir);
    });
    return { ...summary, path: target, revision };
  } catch (error) {
    for (const end of ["", "-wal", "-shm", "-journal"]) rmSync(`${temporary}${end}`, { force: true });
    throw error;
  }
}

/** Checks a file that nobody else has open, and counts. */
function summaryOf(path: string, named = path): BackupSummary {
  const db = guarded(named, () => new Sqlite(path, { readwrite: true, strict: true }));
  try {
    checkFile(db, named);
    return guarded(named, () => {
      const count = (sql: string) => Number(Object.values(db.query(sql).get() as object)[0]);
      const tables = count("SELECT count(*) FROM sqlite_schema WHERE name IN ('meta', 'version', 'lease')");
      if (tables !== 3) throw corrupt(named, "it is no lease store");
      return {
        path,
        bytes: statSync(path).size,
        revision: count("SELECT number FROM meta WHERE name = 'revision'"),
        keys: count(
          "SELECT count(*) FROM version AS one WHERE value IS NOT NULL AND NOT EXISTS (SELECT 1 FROM version AS later WHERE later.key = one.key AND later.revision > one.revision)",
        ),
        leases: count("SELECT count(*) FROM lease"),
      };
    });
  } finally {
    db.close();
  }
}

function sync(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function refused(message: string, path: string): FlannelError {
  return new FlannelError("store/backup", message, { path });
}
