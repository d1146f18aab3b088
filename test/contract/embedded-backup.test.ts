import { expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { FlannelError } from "../../src/base/error.ts";
import { silentLog } from "../../src/base/log.ts";
import { backUp, restore } from "../../src/store/embedded/backup.ts";
import { databaseName } from "../../src/store/embedded/database.ts";
import { EtcdClient } from "../../src/store/etcd/client.ts";
import { openEtcdStore } from "../../src/store/etcd/store.ts";
import { transfer } from "../../src/store/etcd/transfer.ts";
import { startEmbedded } from "../support/embedded.ts";
import { startEtcd } from "../support/etcd.ts";
import { follow, never, updateText, valueOf } from "./store.ts";

const prefix = "/coreos.com/network";

function optionsFor(endpoint: string) {
  return { endpoints: [endpoint], prefix, log: silentLog, clock: systemClock };
}

function scratch(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), "fl-backup-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** Every key with its value and the time it has left, to the nearest ten seconds. */
async function contentOf(endpoint: string, before = "/"): Promise<string[]> {
  const client = new EtcdClient(optionsFor(endpoint));
  try {
    const { entries } = await client.list(before, never);
    return await Promise.all(
      entries.map(async ({ key, value, lease }) => {
        const ttl = lease === "0" ? undefined : (await client.timeToLive(lease, never)).ttlSeconds;
        const term = ttl === undefined ? "stays" : `${Math.round(ttl / 10) * 10} s`;
        return `${key} = ${Buffer.from(value).toString()} (${term})`;
      }),
    );
  } finally {
    client.close();
  }
}

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof FlannelError) return error.code;
    throw error;
  }
  return "nothing";
}

test("store backup: made under writes it is one moment's state, and what is restored equals it", async () => {
  using directory = scratch();
  await using store = await startEmbedded();
  await store.put(`${prefix}/config`, '{"Network":"10.3.0.0/16"}');
  await store.put(`${prefix}/subnets/10.3.1.0-24`, valueOf("192.0.2.1"));
  await store.put(`${prefix}/subnets/10.3.2.0-24`, valueOf("192.0.2.2"), 3_600);
  const stop = new AbortController();
  // Two keys that every transaction changes together: a backup has both of one moment.
  const writing = (async () => {
    let count = 0;
    for (; !stop.signal.aborted; count++) {
      const request_put = (key: string) => ({
        request_put: {
          key: Buffer.from(key).toString("base64"),
          value: Buffer.from(`${count}`).toString("base64"),
        },
      });
      await store.call("/v3/kv/txn", { success: [request_put("/left"), request_put("/right")] });
    }
    return count;
  })();
  const files = Array.from({ length: 5 }, (_, at) => join(directory.path, `backup-${at}`));
  for (const file of files) {
    await Bun.sleep(50);
    expect(backUp(store.dataDir, file).keys).toBe(5);
    expect(statSync(file).mode & 0o777).toBe(0o600);
  }
  stop.abort();
  expect(await writing).toBeGreaterThan(5);
  const last = join(directory.path, "last");
  backUp(store.dataDir, last);

  for (const [at, file] of [...files, last].entries()) {
    const dataDir = join(directory.path, `restored-${at}`);
    restore(file, dataDir);
    await using again = await startEmbedded({ dataDir });
    const [left, right] = [await again.get("/left"), await again.get("/right")];
    expect(left?.value).toBeDefined();
    expect(left?.value).toBe(right?.value as string);
    if (file === last) expect(await contentOf(again.endpoint)).toEqual(await contentOf(store.endpoint));
  }
}, 60_000);

test("store restore: a watcher that saw more than the backup holds reads everything anew and misses nothing", async () => {
  using directory = scratch();
  const backup = join(directory.path, "backup");
  await using store = await startEmbedded();
  await store.put(`${prefix}/subnets/10.3.1.0-24`, valueOf("192.0.2.1"));
  backUp(store.dataDir, backup);
  for (let more = 0; more < 10; more++) await store.put("/more", `${more}`);
  const client = new EtcdClient(optionsFor(store.endpoint));
  const { revision } = await client.list("/", never);
  client.close();

  const dataDir = join(directory.path, "restored");
  restore(backup, dataDir);
  await using again = await startEmbedded({ dataDir });
  await again.put(`${prefix}/subnets/10.3.2.0-24`, valueOf("192.0.2.2"));
  const after = new EtcdClient(optionsFor(again.endpoint));
  const kinds: string[] = [];
  for await (const { kind } of after.watch("/", revision + 1n, never)) {
    kinds.push(kind);
    if (kind !== "open") break;
  }
  after.close();
  expect(kinds.at(-1)).toBe("gap");
  await using leases = openEtcdStore(optionsFor(again.endpoint));
  await using watch = follow(leases);
  expect(updateText(await watch.next())).toBe("snapshot 10.3.1.0-24 10.3.2.0-24");
}, 60_000);

test("store backup and restore: nothing is written over, and what is no backup is refused with no trace", async () => {
  using directory = scratch();
  const path = (name: string) => join(directory.path, name);
  await using store = await startEmbedded();
  await store.put("/x", "y");
  backUp(store.dataDir, path("good"));
  const good = readFileSync(path("good"));
  expect(codeOf(() => backUp(store.dataDir, path("good")))).toBe("store/backup");
  expect(readFileSync(path("good")).equals(good)).toBe(true);
  expect(codeOf(() => backUp(path("nowhere"), path("none")))).toBe("store/backup");
  expect(codeOf(() => backUp(store.dataDir, path("no/such/directory")))).toBe("store/disk");

  writeFileSync(path("text"), "not a database, but long enough to be looked at".repeat(200));
  writeFileSync(path("empty"), "");
  writeFileSync(path("cut"), good.subarray(0, good.length / 2));
  const holed = Buffer.from(good);
  holed.fill(0xa5, 8192 + 16); // behind the first page and the map of pages
  writeFileSync(path("holed"), holed);
  for (const bad of ["text", "empty", "cut", "holed"]) {
    expect(`${bad}: ${codeOf(() => restore(path(bad), path(`from-${bad}`)))}`).toBe(`${bad}: store/corrupt`);
    expect(existsSync(path(`from-${bad}`)) ? readdirSync(path(`from-${bad}`)) : []).toEqual([]);
  }
  restore(path("good"), path("restored"));
  const restored = readFileSync(join(path("restored"), databaseName));
  expect(codeOf(() => restore(path("good"), path("restored")))).toBe("store/backup");
  expect(readFileSync(join(path("restored"), databaseName)).equals(restored)).toBe(true);
  expect(codeOf(() => restore(path("missing"), path("new")))).toBe("store/backup");
  copyFileSync(path("good"), path("other"));
  expect(codeOf(() => restore(path("other"), directory.path))).toBe("store/backup");
}, 60_000);

test("store migrate: to a real etcd and back with values, terms and reservations; leases of one lease stay on one", async () => {
  await using embedded = await startEmbedded();
  await using etcd = await startEtcd();
  await embedded.put(`${prefix}/config`, '{"Network":"10.3.0.0/16"}');
  await embedded.put(`${prefix}/subnets/10.3.1.0-24`, valueOf("192.0.2.1"));
  await embedded.put(`${prefix}/subnets/10.3.2.0-24`, valueOf("192.0.2.2"), 7_200);
  const { ID: shared } = await embedded.call("/v3/lease/grant", { TTL: "1800" });
  for (const key of ["subnets/10.3.3.0-24", "nodes/192.0.2.3"]) {
    const [base64Key, value] = [`${prefix}/${key}`, "{}"].map((text) => Buffer.from(text).toString("base64"));
    await embedded.call("/v3/kv/put", { key: base64Key, value, lease: shared });
  }
  await embedded.put("/elsewhere", "is not of this network");
  const [here, there] = [optionsFor(embedded.endpoint), optionsFor(etcd.endpoint)];

  const done = await transfer(here, there, never);
  expect(done.copied.length).toBe(5);
  expect(done.copied.at(-1)?.key).toBe(`${prefix}/config`);
  expect(done.soonestLapseSeconds).toBeGreaterThan(1_700);
  const content = await contentOf(embedded.endpoint, prefix);
  expect(await contentOf(etcd.endpoint, prefix)).toEqual(content);
  expect(await etcd.get("/elsewhere")).toBeUndefined();
  const leases = await Promise.all(
    ["subnets/10.3.3.0-24", "nodes/192.0.2.3"].map(
      async (key) => (await etcd.get(`${prefix}/${key}`))?.lease,
    ),
  );
  expect(new Set(leases).size).toBe(1);

  expect((await transfer(here, there, never)).copied).toEqual([]);
  // A host renews in the old store, another has changed over and renews in the new one.
  await embedded.put(`${prefix}/subnets/10.3.2.0-24`, valueOf("192.0.2.2"), 9_000);
  await etcd.put(`${prefix}/subnets/10.3.3.0-24`, "{}", 20_000);
  expect((await transfer(here, there, never)).copied.map(({ key }) => key)).toEqual([
    `${prefix}/subnets/10.3.2.0-24`,
  ]);
  const after = (await contentOf(etcd.endpoint, prefix)).join("\n");
  expect(after).toMatch(/10\.3\.2\.0-24 = .* \(9000 s\)/);
  expect(after).toMatch(/10\.3\.3\.0-24 = .* \((19990|20000) s\)/);

  await using back = await startEmbedded();
  await transfer(there, optionsFor(back.endpoint), never);
  expect(await contentOf(back.endpoint, prefix)).toEqual(await contentOf(etcd.endpoint, prefix));
}, 90_000);

test("store migrate: a target that holds something else is left as it is, and what differs is named", async () => {
  await using source = await startEmbedded();
  await using target = await startEmbedded();
  const [here, there] = [optionsFor(source.endpoint), optionsFor(target.endpoint)];
  const codeOfTransfer = () =>
    transfer(here, there, never).then(
      () => "done",
      (error: FlannelError) => `${error.code} ${error.message}`,
    );
  expect(await codeOfTransfer()).toStartWith("migrate/nothing");
  await source.put(`${prefix}/config`, '{"Network":"10.3.0.0/16"}');
  await source.put(`${prefix}/subnets/10.3.1.0-24`, valueOf("192.0.2.1"), 600);
  const different = [
    [`${prefix}/config`, '{"Network":"10.9.0.0/16"}', "another value"],
    [`${prefix}/subnets/10.3.7.0-24`, "{}", "not in the source"],
    [`${prefix}/subnets/10.3.1.0-24`, valueOf("192.0.2.1"), "another term"],
  ] as const;
  for (const [key, value, reason] of different) {
    await target.put(key, value);
    const text = await codeOfTransfer();
    expect(text).toStartWith("migrate/different");
    expect(text).toContain(reason);
    expect((await contentOf(target.endpoint)).length).toBe(1);
    await target.delete(key);
  }
  const binary = Buffer.from([0xff, 0xfe]).toString("base64");
  await source.call("/v3/kv/put", { key: Buffer.from(`${prefix}/raw`).toString("base64"), value: binary });
  expect(await codeOfTransfer()).toStartWith("migrate/failed");
  expect(await contentOf(target.endpoint)).toEqual([]);
}, 60_000);
