import { afterAll, beforeAll, expect, test } from "bun:test";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { parsePrefix } from "../../src/net/prefix.ts";
import { type EtcdStoreOptions, openEtcdStore } from "../../src/store/etcd/store.ts";
import type { Store } from "../../src/store/store.ts";
import { type Etcd, freePorts, startEtcd } from "../support/etcd.ts";
import { type EtcdV2Keys, etcdV2Keys } from "../support/etcd-v2.ts";
import { recordingLog } from "../support/recording-log.ts";
import { openTcpProxy } from "../support/tcp-proxy.ts";
import { etcdOutageContract } from "./etcd-outage.ts";
import {
  acquired,
  attributesOf as attributesOfToday,
  follow,
  leaseForm,
  never,
  renewal,
  storeContract,
  type StoreWorld,
  updateText,
  valueOf as valueOfToday,
} from "./store.ts";

const form = leaseForm("v2");
const { requestFor, valueOf } = form;

let etcd: Etcd;
let keys: EtcdV2Keys;
let worlds = 0;

beforeAll(async () => {
  etcd = await startEtcd({ v2: true });
  keys = etcdV2Keys(etcd);
});

afterAll(async () => {
  await etcd?.[Symbol.asyncDispose]();
});

function storeOn(at: Etcd, prefix: string, more: Partial<EtcdStoreOptions> = {}): Store {
  const options = { endpoints: [at.endpoint], prefix, log: silentLog, clock: systemClock };
  return openEtcdStore({ ...options, api: "v2", ...more });
}

function freshPrefix(): string {
  return `/test/${worlds++}/network`;
}

storeContract("etcd v2", async () => v2World(), form);
etcdOutageContract("etcd v2", {
  start: () => startEtcd({ v2: true }),
  storeOn,
  put: (at, key, value) => etcdV2Keys(at).put(key, value),
  form,
});

function v2World(): StoreWorld {
  const prefix = freshPrefix();
  const key = (subnet: string) => `${prefix}/subnets/${subnet}`;
  const opened: Store[] = [];
  const get = async (path: string) => {
    const found = await keys.get(path);
    return found === undefined ? undefined : { value: found.value, lapses: found.lapses };
  };
  return {
    open(options = {}) {
      const store = storeOn(etcd, prefix, options);
      opened.push(store);
      return store;
    },
    putConfig: (document) => keys.put(`${prefix}/config`, document),
    put: (subnet, value, ttlSeconds) => keys.put(key(subnet), value, ttlSeconds),
    delete: (subnet) => keys.delete(key(subnet)),
    get: (subnet) => get(key(subnet)),
    getNode: (publicIp) => get(`${prefix}/nodes/${publicIp}`),
    putNode: (publicIp, value, ttlSeconds) => keys.put(`${prefix}/nodes/${publicIp}`, value, ttlSeconds),
    deleteNode: (publicIp) => keys.delete(`${prefix}/nodes/${publicIp}`),
    async putGarbage() {
      await keys.put(key("notes"), "not a lease");
      await keys.put(key("10.3.300.0-24"), valueOf("192.0.2.9"));
      await keys.put(key("10.3.201.7-24"), valueOf("192.0.2.9"));
      await keys.put(key("x10.3.202.0-24"), valueOf("192.0.2.9"));
      await keys.put(key("10.3.203.0-24"), "null");
      await keys.put(key("10.3.204.0-24"), `{"PublicIP":"${"1".repeat(100_000)}"}`);
      await keys.put(key("10.3.205.0-24"), `${"[".repeat(20_000)}`);
      await keys.put(key("10.3.206.0-24"), '{"PublicIP":"2001:db8::1"}');
      await keys.put(`${prefix}/subnets-of-somebody/10.3.207.0-24`, valueOf("192.0.2.9"));
      await keys.put(key("a/directory/10.3.208.0-24"), valueOf("192.0.2.9"));
      await keys.put(key("10.3.209.0-24"), "");
    },
    async [Symbol.asyncDispose]() {
      for (const store of opened) await store[Symbol.asyncDispose]();
    },
  };
}

test("etcd v2: what we publish is written as flannel 0.11 writes it, and 0.11's own leases are ours to read", async () => {
  const prefix = freshPrefix();
  await using store = storeOn(etcd, prefix);
  const attributes = () => attributesOfToday("192.0.2.1");
  const lease = acquired(await store.acquire({ ...requestFor("192.0.2.1"), attributes }, never));
  const key = `${prefix}/subnets/${leaseKey(lease.subnets)}`;
  const value =
    '{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"c6:d2:32:6f:8f:44"}}';
  expect((await keys.get(key))?.value).toBe(value);
  expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
  expect((await keys.get(key))?.value).toBe(value);
  await keys.put(`${prefix}/subnets/10.3.5.0-24`, valueOfToday("192.0.2.5"), 100);
  expect((await store.list(never)).map((one) => `${one.attributes.publicIp}`).sort()).toEqual([
    "192.0.2.1",
    "192.0.2.5",
  ]);
});

test("etcd v2: a lease and what stands beside it have the same term, a day unless it is set", async () => {
  const prefix = freshPrefix();
  for (const [at, ttlSeconds] of [86_400, 500].entries()) {
    await using store = storeOn(etcd, prefix, at === 0 ? {} : { ttlSeconds });
    const lease = acquired(await store.acquire(requestFor(`192.0.2.${at}`), never));
    for (const key of [`subnets/${leaseKey(lease.subnets)}`, `nodes/192.0.2.${at}`]) {
      const left = (await keys.get(`${prefix}/${key}`))?.ttlSeconds ?? 0;
      expect(left).toBeGreaterThan(ttlSeconds - 20);
      expect(left).toBeLessThanOrEqual(ttlSeconds);
    }
  }
});

test("etcd v2: a write that finds one of its two keys changed leaves none of its own behind", async () => {
  const prefix = freshPrefix();
  // All of them look before one of them writes.
  const results = await Promise.all(
    Array.from({ length: 8 }, async (_, at) => {
      await using other = storeOn(etcd, prefix);
      return await other.acquire(
        { ...requestFor(`192.0.2.${at + 10}`), exactly: { ipv4: parsePrefix("10.3.0.0/16") } },
        never,
      );
    }),
  );
  expect(results.filter(({ kind }) => kind === "acquired")).toHaveLength(1);
  const winner = results.findIndex(({ kind }) => kind === "acquired");
  for (let at = 0; at < 8; at++) {
    expect((await keys.get(`${prefix}/nodes/192.0.2.${at + 10}`)) !== undefined).toBe(at === winner);
  }
});

test("etcd v2: what happened behind the cleared history shows in a fresh snapshot", async () => {
  const prefix = freshPrefix();
  const put = (subnet: string, publicIp: string) =>
    keys.put(`${prefix}/subnets/${subnet}`, valueOf(publicIp));
  await put("10.3.5.0-24", "192.0.2.5");
  await put("10.3.6.0-24", "192.0.2.6");
  await using proxy = await openTcpProxy(etcd.endpoint);
  await using store = storeOn(etcd, prefix, { endpoints: [`http://${proxy.address}`] });
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot 10.3.5.0-24 10.3.6.0-24");
  const next = watch.next();
  proxy.cut();
  await put("10.3.5.0-24", "192.0.2.55");
  await keys.delete(`${prefix}/subnets/10.3.6.0-24`);
  // etcd remembers a thousand events.
  for (let at = 0; at < 1_100; at++) await keys.put("/somebody/else", String(at));
  proxy.heal();
  const update = await next;
  expect(updateText(update)).toBe("snapshot 10.3.5.0-24");
  expect("replaced" in update).toBe(false);
  expect(update.kind === "snapshot" && `${update.leases[0]?.attributes.publicIp}`).toBe("192.0.2.55");
  await put("10.3.9.0-24", "192.0.2.9");
  expect(updateText(await watch.next())).toBe("+10.3.9.0-24");
}, 60_000);

test("etcd v2: the directory of all leases removed at one stroke shows in a fresh snapshot", async () => {
  const prefix = freshPrefix();
  await keys.put(`${prefix}/subnets/10.3.5.0-24`, valueOf("192.0.2.5"));
  await using store = storeOn(etcd, prefix);
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot 10.3.5.0-24");
  await keys.delete(`${prefix}/subnets`);
  expect(updateText(await watch.next())).toBe("snapshot");
  await keys.put(`${prefix}/subnets/10.3.6.0-24`, valueOf("192.0.2.6"));
  expect(updateText(await watch.next())).toBe("+10.3.6.0-24");
});

test("etcd v2: killed and restarted, no event is lost, and the log says so once each way", async () => {
  await using own = await startEtcd({ v2: true });
  const ownKeys = etcdV2Keys(own);
  const prefix = freshPrefix();
  const log = recordingLog();
  await using store = storeOn(own, prefix, { log });
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot");
  for (let round = 1; round <= 2; round++) {
    const key = `10.3.${round}.0-24`;
    const next = watch.until((text) => text.includes(key));
    await own.kill();
    await own.start();
    await ownKeys.put(`${prefix}/subnets/${key}`, valueOf(`192.0.2.${round}`));
    await next;
  }
  expect(log.messages.filter((message) => message.startsWith("etcd is lost")).length).toBe(
    log.messages.filter((message) => message === "etcd is back").length,
  );
}, 60_000);

test("etcd v2: where etcd does not serve it, that is what is said", async () => {
  await using own = await startEtcd();
  await using store = storeOn(own, freshPrefix());
  await expect(store.readNetworkConfig(never)).rejects.toMatchObject({
    code: "store/protocol",
    message: "the endpoint does not serve etcd's API v2",
    remedy: expect.stringContaining("--enable-v2"),
  });
  await using nowhere = storeOn(own, "/x", { endpoints: [`http://127.0.0.1:${freePorts(1)[0]}`] });
  await expect(nowhere.readNetworkConfig(never)).rejects.toMatchObject({ code: "store/unreachable" });
});

const documentOf = (third: number) => `{"Network":"10.${third}.0.0/16"}`;

test("etcd api auto: v3's configuration, else v2's, else it waits and names both places", async () => {
  const prefix = freshPrefix();
  await using store = storeOn(etcd, prefix, { api: "auto" });
  expect(await store.readNetworkConfig(never)).toBeUndefined();
  expect(store.description).toContain(`key ${prefix}/config by API v3, /v2/keys${prefix}/config by API v2`);
  await expect(store.list(never)).rejects.toMatchObject({ code: "network/absent", retryable: true });
  await expect(store.acquire(requestFor("192.0.2.1"), never)).rejects.toMatchObject({ retryable: true });
  await using watch = follow(store);
  const first = watch.next();
  await keys.put(`${prefix}/config`, documentOf(3));
  expect(await store.readNetworkConfig(never)).toBe(documentOf(3));
  expect(updateText(await first)).toBe("snapshot");
  const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
  expect(await keys.get(`${prefix}/subnets/${leaseKey(lease.subnets)}`)).toBeDefined();
  // Our lease is in v2: there it stays, for as long as this store is open.
  await etcd.put(`${prefix}/config`, documentOf(4));
  expect(await store.readNetworkConfig(never)).toBe(documentOf(3));
  expect(store.description).toStartWith("etcd v2 ");
  await using later = storeOn(etcd, prefix, { api: "auto" });
  expect(await later.readNetworkConfig(never)).toBe(documentOf(4));
  expect(await later.list(never)).toEqual([]);
});

test("etcd api auto: a first configuration is published by API v3, where etcd serves no v2 too", async () => {
  await using own = await startEtcd();
  for (const at of [etcd, own]) {
    const prefix = freshPrefix();
    await using store = storeOn(at, prefix, { api: "auto" });
    expect(await store.readNetworkConfig(never)).toBeUndefined();
    expect(await store.createNetworkConfig(documentOf(3), never)).toBe(true);
    expect((await at.get(`${prefix}/config`))?.value).toBe(documentOf(3));
    expect(await store.readNetworkConfig(never)).toBe(documentOf(3));
  }
});

test.each([
  ["cannot be asked", 503, { code: "store/unreachable" }],
  [
    "is not served",
    404,
    { code: "store/protocol", remedy: expect.stringContaining('store.etcd.api = "v2"') },
  ],
])("etcd api auto: v2 is not believed where v3 %s", async (_, status, refusal) => {
  const prefix = freshPrefix();
  await keys.put(`${prefix}/config`, documentOf(3));
  const front = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      if (pathname.startsWith("/v3/")) return new Response("no", { status });
      return await fetch(`${etcd.endpoint}${pathname}${search}`, { proxy: false });
    },
  });
  try {
    await using store = storeOn(etcd, prefix, { api: "auto", endpoints: [`http://127.0.0.1:${front.port}`] });
    await expect(store.readNetworkConfig(never)).rejects.toMatchObject(refusal);
  } finally {
    await front.stop(true);
  }
});
