import { Database as Sqlite } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../../../src/base/log.ts";
import { databaseName, openDatabase } from "../../../../src/store/embedded/database.ts";
import { type ServiceLimits, StoreService } from "../../../../src/store/embedded/service.ts";

let directory: string;
let nowMs = 0;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "fl-store-"));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

const path = () => join(directory, databaseName);

function openService(at = directory, limits: Partial<ServiceLimits> = {}): StoreService {
  const database = openDatabase(at);
  return new StoreService({ database, log: silentLog, version: "test", elapsedMs: () => nowMs, limits });
}

const put = (service: StoreService, key: string, value: string | Buffer, lease = 0n) =>
  service.write(() => service.history.put(key, Buffer.from(value), lease));

const valueOf = (service: StoreService, key: string) =>
  Buffer.from(service.history.at(key, service.history.revision)?.value ?? "").toString();

test("database: keys, history, leases and ids are as they were after a stop, and as of the last write after a crash", async () => {
  const service = openService();
  const lease = await service.grant(0n, 100);
  await put(service, "a", "1", lease.id);
  await put(service, "a", "2", lease.id);
  await service.compact(2);
  nowMs += 40_000;
  await put(service, "b", "3");
  const crashed = join(directory, "crashed");
  mkdirSync(crashed);
  for (const name of [databaseName, `${databaseName}-wal`])
    cpSync(join(directory, name), join(crashed, name));
  service.close();
  nowMs += 3_600_000; // nobody can renew a lease while it is away
  for (const at of [directory, crashed]) {
    const again = openService(at);
    expect([again.clusterId, again.history.revision, again.history.compacted]).toEqual([
      service.clusterId,
      4,
      2,
    ]);
    expect([valueOf(again, "a"), valueOf(again, "b")]).toEqual(["2", "3"]);
    expect(again.history.at("a", 2)?.version).toBe(1);
    expect(again.history.attached(lease.id)).toEqual(["a"]);
    expect((again.leases.get(lease.id)?.deadlineMs ?? 0) - again.servedMs).toBe(60_000);
    again.close();
  }
});

test("database: its directory and file are their owner's only", () => {
  const inner = join(directory, "made");
  openDatabase(inner).close();
  expect(statSync(inner).mode & 0o777).toBe(0o700);
  expect(statSync(join(inner, databaseName)).mode & 0o777).toBe(0o600);
});

test("database: a second process is told that the first one serves", () => {
  const first = openDatabase(directory);
  expect(() => openDatabase(directory)).toThrow(expect.objectContaining({ code: "store/in-use" }));
  first.close();
  openDatabase(directory).close();
});

test("database: a file that is damaged, somebody else's or newer is refused by name and left as it was", async () => {
  const service = openService();
  for (let at = 0; at < 200; at++) await put(service, `k${at}`, "x".repeat(500));
  service.close();
  const good = readFileSync(path());
  const damaged = Buffer.from(good);
  damaged.fill(0x5a, 8_192, 20_000);
  const foreign = join(directory, "foreign");
  const other = new Sqlite(foreign);
  other.run("CREATE TABLE x (y)");
  other.close();
  const newer = join(directory, "newer");
  writeFileSync(newer, good);
  const later = new Sqlite(newer);
  later.run("PRAGMA user_version = 2");
  later.close();
  const cases = [
    [damaged, "store/corrupt"],
    [
      Buffer.from(
        "not a database at all, but long enough to be taken for a header of one, in 100 bytes or so...",
      ),
      "store/corrupt",
    ],
    [readFileSync(foreign), "store/corrupt"],
    [readFileSync(newer), "store/newer"],
  ] as const;
  for (const [content, code] of cases) {
    writeFileSync(path(), content);
    expect(() => openDatabase(directory)).toThrow(expect.objectContaining({ code }));
    expect(readFileSync(path()).equals(content)).toBe(true);
  }
});

test("database: a start that was killed before it made its tables is started anew", () => {
  writeFileSync(path(), "");
  openDatabase(directory).close();
  openDatabase(directory).close();
});

test("service: a write that the disk refuses is answered so and never was; reads and later writes go on", async () => {
  const service = openService();
  await put(service, "a", "1");
  const blocker = new Sqlite(path());
  blocker.run("BEGIN IMMEDIATE");
  const refused = await Promise.allSettled([
    put(service, "a", "2"),
    put(service, "b", "3"),
    service.grant(7n, 60),
  ]);
  expect(refused.map((result) => result.status === "rejected" && result.reason.status)).toEqual([
    "unavailable",
    "unavailable",
    "unavailable",
  ]);
  expect([
    service.history.revision,
    valueOf(service, "a"),
    valueOf(service, "b"),
    service.leases.size,
  ]).toEqual([2, "1", "", 0]);
  expect(service.trouble).toContain("another process");
  blocker.close();
  await put(service, "a", "4");
  expect([service.history.revision, valueOf(service, "a"), service.trouble]).toEqual([3, "4", undefined]);
  service.close();
}, 20_000);

test("service: keys beyond its size are refused as etcd refuses them, until something is deleted", async () => {
  const service = openService(directory, { liveBytesMax: 10_000 });
  await put(service, "a", "x".repeat(9_000));
  await put(service, "b", "x".repeat(2_000));
  expect(() => service.checkSpace()).toThrow("etcdserver: mvcc: database space exceeded");
  await expect(service.grant(1n, 60)).rejects.toMatchObject({ status: "resourceExhausted" });
  await service.write(() => service.history.delete("a"));
  service.checkSpace();
  service.close();
});

test("service: its past is bounded in revisions and bytes, on disk too", async () => {
  const service = openService(directory, { pastRevisionsMax: 50, pastBytesMax: 100_000 });
  for (let at = 0; at < 300; at++) {
    await put(service, "a", `${at}`);
    expect(service.history.revision - Math.max(service.history.compacted, 1)).toBeLessThanOrEqual(50);
  }
  for (let at = 0; at < 60; at++) {
    await put(service, "a", "x".repeat(10_000));
    expect(service.history.bytes - service.history.liveBytes).toBeLessThanOrEqual(100_000);
  }
  const { compacted } = service.history;
  service.close();
  const rows = new Sqlite(path(), { readonly: true });
  expect(
    (rows.query("SELECT min(revision) AS first FROM version").get() as { first: number }).first,
  ).toBeGreaterThanOrEqual(compacted);
  rows.close();
});

test("service: leases end by its own time, all that have ended at once, each with its keys", async () => {
  const service = openService();
  await service.grant(1n, 2);
  await service.grant(2n, 1_000);
  await put(service, "a", "1", 1n);
  await put(service, "b", "1", 2n);
  nowMs += 2_000;
  for (const deadline = Date.now() + 10_000; service.leases.has(1n) && Date.now() < deadline;)
    await Bun.sleep(20);
  expect([
    service.leases.has(1n),
    service.leases.has(2n),
    valueOf(service, "a"),
    valueOf(service, "b"),
  ]).toEqual([false, true, "", "1"]);
  expect(await service.keepAlive(2n)).toBe(1_000);
  expect(await service.keepAlive(1n)).toBe(0);
  service.close();
}, 20_000);
