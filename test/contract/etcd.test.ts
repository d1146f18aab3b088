import { afterAll, beforeAll, expect, test } from "bun:test";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { parseNetworkConfig } from "../../src/config/network.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { type EtcdStoreOptions, openEtcdStore } from "../../src/store/etcd/store.ts";
import type { Store } from "../../src/store/store.ts";
import { type Etcd, freePorts, startEtcd } from "../support/etcd.ts";
import { openEtcdFront } from "../support/etcd-front.ts";
import { type EtcdTransport, etcdTransports, overEachTransport } from "../support/etcd-transports.ts";
import { etcdWorld } from "../support/etcd-world.ts";
import { recordingLog } from "../support/recording-log.ts";
import { openTcpProxy } from "../support/tcp-proxy.ts";
import { etcdOutageContract } from "./etcd-outage.ts";
import { acquired, follow, never, renewal, requestFor, storeContract, updateText, valueOf } from "./store.ts";

let etcd: Etcd;
let worlds = 0;

beforeAll(async () => {
  etcd = await startEtcd();
});

afterAll(async () => {
  await etcd?.[Symbol.asyncDispose]();
});

type StoreOn = (at: Etcd, prefix: string, more?: Partial<EtcdStoreOptions>) => Store;

const storeOver =
  (transport: EtcdTransport): StoreOn =>
  (at, prefix, more = {}) =>
    openEtcdStore({
      endpoints: [at.endpoint],
      transport,
      prefix,
      log: silentLog,
      clock: systemClock,
      ...more,
    });

/** For tests of what only the gateway has, or what no transport can change. */
const storeOn = storeOver("gateway");

function overEach(
  name: string,
  body: (storeOn: StoreOn, transport: EtcdTransport) => Promise<void>,
  msMax?: number,
): void {
  overEachTransport(name, (transport) => body(storeOver(transport), transport), msMax);
}

function freshPrefix(): string {
  return `/test/${worlds++}/network`;
}

for (const transport of etcdTransports) {
  const storeOn = storeOver(transport);
  storeContract(`etcd over ${transport}`, async () => etcdWorld(etcd, freshPrefix(), storeOn));
  etcdOutageContract(`etcd over ${transport}`, {
    start: startEtcd,
    storeOn,
    put: (at, key, value) => at.put(key, value),
    form: { requestFor, valueOf },
  });
}

overEach(
  "etcd: what happened behind the compaction shows in a fresh snapshot, changed attributes too",
  async (storeOn) => {
    const prefix = freshPrefix();
    const put = (subnet: string, publicIp: string) =>
      etcd.put(`${prefix}/subnets/${subnet}`, valueOf(publicIp));
    await put("10.3.5.0-24", "192.0.2.5");
    await put("10.3.6.0-24", "192.0.2.6");
    await put("10.3.7.0-24", "192.0.2.7");
    await using proxy = await openTcpProxy(etcd.endpoint);
    await using store = storeOn(etcd, prefix, { endpoints: [`http://${proxy.address}`] });
    await using watch = follow(store);
    expect(updateText(await watch.next())).toBe("snapshot 10.3.5.0-24 10.3.6.0-24 10.3.7.0-24");
    const next = watch.next();
    proxy.cut();
    await put("10.3.5.0-24", "192.0.2.55");
    await etcd.delete(`${prefix}/subnets/10.3.6.0-24`);
    await etcd.put(`${prefix}/subnets/10.3.7.0-24`, "{unreadable");
    await put("10.3.8.0-24", "192.0.2.8");
    await etcd.compact();
    proxy.heal();
    const update = await next;
    expect(updateText(update)).toBe("snapshot 10.3.5.0-24 10.3.7.0-24 10.3.8.0-24");
    expect("replaced" in update).toBe(false);
    const leases = update.kind === "snapshot" ? update.leases : [];
    expect(leases.map(({ attributes }) => `${attributes.publicIp}`).sort()).toEqual(
      ["192.0.2.55", "192.0.2.7", "192.0.2.8"].sort(),
    );
    await put("10.3.9.0-24", "192.0.2.9");
    expect(updateText(await watch.next())).toBe("+10.3.9.0-24");
  },
);

overEach("etcd: compacting while a watch is connected disturbs it in nothing", async (storeOn) => {
  const prefix = freshPrefix();
  await etcd.put(`${prefix}/subnets/10.3.5.0-24`, valueOf("192.0.2.5"));
  await using store = storeOn(etcd, prefix);
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot 10.3.5.0-24");
  await etcd.put(`${prefix}/subnets/10.3.6.0-24`, valueOf("192.0.2.6"));
  expect(updateText(await watch.next())).toBe("+10.3.6.0-24");
  await etcd.compact();
  await etcd.put(`${prefix}/subnets/10.3.7.0-24`, valueOf("192.0.2.7"));
  expect(updateText(await watch.next())).toBe("+10.3.7.0-24");
});

overEach(
  "etcd: killed and restarted, no event is lost, and the log says so once each way",
  async (storeOn) => {
    await using own = await startEtcd();
    const prefix = freshPrefix();
    const log = recordingLog();
    await using store = storeOn(own, prefix, { log });
    await using watch = follow(store);
    expect(updateText(await watch.next())).toBe("snapshot");
    for (let round = 1; round <= 3; round++) {
      const key = `10.3.${round}.0-24`;
      const next = watch.next();
      await own.kill();
      await own.start();
      await own.put(`${prefix}/subnets/${key}`, valueOf(`192.0.2.${round}`));
      expect(updateText(await next)).toBe(`+${key}`);
    }
    const lost = log.messages.filter((message) => message.startsWith("etcd is lost"));
    const back = log.messages.filter((message) => message === "etcd is back");
    expect(lost.length).toBe(back.length);
    expect(lost.length).toBeLessThanOrEqual(3);
  },
  60_000,
);

overEach(
  "etcd: two nodes that draw one IPv6 subnet beside different IPv4 subnets do not both keep it",
  async (storeOn) => {
    const dual = parseNetworkConfig(
      '{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:3::/48","Backend":{"Type":"vxlan"}}',
    );
    for (let round = 0; round < 5; round++) {
      const prefix = freshPrefix();
      const draws = [0.1, 0.9, 0.4].map((first) => {
        const drawn = [first, 0.5];
        return () => drawn.shift() ?? Math.random();
      });
      const leases = await Promise.all(
        draws.map(async (random, at) => {
          await using store = storeOn(etcd, prefix, { random });
          const request = { ...requestFor(`192.0.2.${at + 1}`), network: dual };
          return acquired(await store.acquire(request, never));
        }),
      );
      expect(new Set(leases.map(({ subnets }) => `${subnets.ipv6}`)).size).toBe(3);
      await using store = storeOn(etcd, prefix);
      expect(await store.list(never)).toHaveLength(3);
    }
  },
);

overEach("etcd: with one endpoint of three dead, then another, calls and watch go on", async (storeOn) => {
  const prefix = freshPrefix();
  const [closed = 0] = freePorts(1);
  await using first = await openTcpProxy(etcd.endpoint);
  const endpoints = [`http://127.0.0.1:${closed}`, `http://${first.address}`, etcd.endpoint];
  await using store = storeOn(etcd, prefix, { endpoints });
  const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
  expect(first.connections).toBeGreaterThan(0);
  await using watch = follow(store);
  await watch.next();
  const next = watch.next();
  first.cut();
  await etcd.put(`${prefix}/subnets/10.4.5.0-24`, valueOf("192.0.2.5"));
  expect(updateText(await next)).toBe("+10.4.5.0-24");
  expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
});

overEach(
  "etcd: when the answer to a write is lost, the lease is ours all the same and lives",
  async (storeOn, transport) => {
    const prefix = freshPrefix();
    await using proxy = await openTcpProxy(etcd.endpoint);
    const endpoints = [`http://${proxy.address}`, etcd.endpoint];
    await using store = storeOn(etcd, prefix, { endpoints });
    proxy.loseAnswerTo(transport === "grpc" ? "PublicIP" : "/v3/kv/txn");
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const key = `${prefix}/subnets/${leaseKey(lease.subnets)}`;
    const written = await etcd.get(key);
    expect(written).toMatchObject({ value: valueOf("192.0.2.1") });
    expect(written?.lease).not.toBe("0");

    await using renewing = storeOn(etcd, prefix, { endpoints });
    proxy.loseAnswerTo(transport === "grpc" ? "PublicIP" : "/v3/kv/txn");
    expect(await renewing.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
    const renewed = await etcd.get(key);
    expect(renewed?.lease).not.toBe("0");
    expect(renewed?.lease).not.toBe(written?.lease);
  },
);

overEach(
  "etcd: renewing moves the key to a new etcd lease and ends the old one, unless others hang on it",
  async (storeOn) => {
    const prefix = freshPrefix();
    await using store = storeOn(etcd, prefix);
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const key = `${prefix}/subnets/${leaseKey(lease.subnets)}`;
    const leaseIdOf = async () => (await etcd.get(key))?.lease ?? "0";
    const ttlOf = async (ID: string) => (await etcd.call("/v3/lease/timetolive", { ID }))["TTL"];
    const first = await leaseIdOf();
    await store.renew(renewal(lease), never);
    const second = await leaseIdOf();
    expect(second).not.toBe(first);
    expect(await ttlOf(first)).toBe("-1");
    const shared = Buffer.from(`${prefix}/notes`).toString("base64");
    await etcd.call("/v3/kv/put", { key: shared, value: "", lease: second });
    await store.renew(renewal(lease), never);
    expect(await leaseIdOf()).not.toBe(second);
    expect(await ttlOf(second)).not.toBe("-1");
    expect(await etcd.get(`${prefix}/notes`)).toBeDefined();
  },
);

overEach(
  "etcd: a node that reserved its lease by taking the term away keeps it so when it renews",
  async (storeOn) => {
    const prefix = freshPrefix();
    await using store = storeOn(etcd, prefix);
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    await etcd.put(`${prefix}/subnets/${leaseKey(lease.subnets)}`, valueOf("192.0.2.1", "c6:d2:32:6f:8f:44"));
    expect(await store.renew(renewal(lease), never)).toMatchObject({ lease: { expiresAt: undefined } });
  },
);

overEach(
  "etcd: five thousand leases are listed, and allocation finds the one free subnet",
  async (storeOn) => {
    await using own = await startEtcd();
    const prefix = "/many";
    const key = (at: number) => `${prefix}/subnets/10.${at >> 8}.${at & 255}.0-24`;
    const from = 256;
    const count = 5_000;
    const free = from + 3_333;
    const puts = Array.from({ length: count }, (_, at) => from + at)
      .filter((at) => at !== free)
      .map((at) => ({
        request_put: {
          key: Buffer.from(key(at)).toString("base64"),
          value: Buffer.from(valueOf(`172.16.${at >> 8}.${at & 255}`)).toString("base64"),
        },
      }));
    for (let at = 0; at < puts.length; at += 100) {
      await own.call("/v3/kv/txn", { success: puts.slice(at, at + 100) });
    }
    await using store = storeOn(own, prefix);
    expect((await store.list(never)).length).toBe(count - 1);
    const document = `{"Network":"10.0.0.0/8","SubnetMin":"10.1.0.0","SubnetMax":"10.${(from + count - 1) >> 8}.${(from + count - 1) & 255}.0"}`;
    const request = requestFor("192.0.2.1", { network: parseNetworkConfig(document) });
    const lease = acquired(await store.acquire(request, never));
    expect(`${lease.subnets.ipv4}`).toBe(`10.${free >> 8}.${free & 255}.0/24`);
  },
  60_000,
);

overEach("etcd: a closed store ends its watch quietly and refuses calls", async (storeOn) => {
  const store = storeOn(etcd, freshPrefix());
  await using watch = follow(store);
  await watch.next();
  const waiting = watch.updates.next();
  await store[Symbol.asyncDispose]();
  expect(await waiting).toEqual({ done: true, value: undefined });
  await expect(store.list(never)).rejects.toMatchObject({ code: "store/closed" });
});

test("etcd: one TTL query for each etcd lease, none for a reservation", async () => {
  const prefix = freshPrefix();
  await using front = openEtcdFront(() => undefined, etcd.endpoint);
  const { ID } = await etcd.call("/v3/lease/grant", { TTL: "100" });
  for (let at = 1; at <= 5; at++) {
    const key = Buffer.from(`${prefix}/subnets/10.3.${at}.0-24`).toString("base64");
    await etcd.call("/v3/kv/put", {
      key,
      value: Buffer.from(valueOf(`192.0.2.${at}`)).toString("base64"),
      lease: ID,
    });
  }
  await etcd.put(`${prefix}/subnets/10.3.6.0-24`, valueOf("192.0.2.6"));
  await using store = storeOn(etcd, prefix, { endpoints: [front.endpoint] });
  const leases = await store.list(never);
  expect(leases.filter(({ expiresAt }) => expiresAt === undefined).length).toBe(1);
  expect(leases.length).toBe(6);
  expect(front.paths).toEqual(["kv/range", "lease/timetolive"]);
});

test("etcd: a TTL query that fails drops no lease, neither from a list nor from a watch", async () => {
  const prefix = freshPrefix();
  const log = recordingLog();
  await using front = openEtcdFront(({ path }) => {
    return path === "/v3/lease/timetolive" ? new Response("broken", { status: 503 }) : undefined;
  }, etcd.endpoint);
  await etcd.put(`${prefix}/subnets/10.3.5.0-24`, valueOf("192.0.2.5"), 100);
  await using store = storeOn(etcd, prefix, { endpoints: [front.endpoint], log });
  expect(await store.list(never)).toMatchObject([{ expiresAt: expect.any(Date) }]);
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot 10.3.5.0-24");
  await etcd.put(`${prefix}/subnets/10.3.6.0-24`, valueOf("192.0.2.6"), 100);
  expect(updateText(await watch.next())).toBe("+10.3.6.0-24");
});

overEach("etcd: a key that is no lease is named in the log, once", async (storeOn) => {
  const prefix = freshPrefix();
  const log = recordingLog();
  await etcd.put(`${prefix}/subnets/notes`, "");
  await etcd.put(`${prefix}/subnets/10.3.5.0-24`, "{");
  await using store = storeOn(etcd, prefix, { log });
  for (let round = 0; round < 3; round++) expect(await store.list(never)).toEqual([]);
  expect(log.lines.length).toBe(2);
  expect(log.lines.join()).toContain(`${prefix}/subnets/notes`);
  expect(log.lines.join()).toContain(`${prefix}/subnets/10.3.5.0-24`);
});

/** Runs `meanwhile` once, between what a store read and its first write. */
function meanwhileFront(meanwhile: (key: string) => Promise<void>) {
  let done = false;
  return openEtcdFront(async ({ path, body }) => {
    if (path !== "/v3/kv/txn" || done) return undefined;
    done = true;
    const [compare] = (body as { compare: { key: string }[] }).compare;
    await meanwhile(Buffer.from(compare?.key ?? "", "base64").toString());
    return undefined;
  }, etcd.endpoint);
}

async function leaseCount(): Promise<number> {
  const { leases = [] } = (await etcd.call("/v3/lease/leases", {})) as { leases?: unknown[] };
  return leases.length;
}

test("etcd: a lost create race picks again, and leaves no etcd lease behind", async () => {
  const prefix = freshPrefix();
  let lostKey = "";
  await using front = meanwhileFront(async (key) => {
    lostKey = key;
    await etcd.put(key, valueOf("192.0.2.99"));
  });
  const before = await leaseCount();
  await using store = storeOn(etcd, prefix, { endpoints: [front.endpoint] });
  const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
  expect(`${prefix}/subnets/${leaseKey(lease.subnets)}`).not.toBe(lostKey);
  expect((await etcd.get(lostKey))?.value).toBe(valueOf("192.0.2.99"));
  expect((await leaseCount()) - before).toBe(1);
});

test("etcd: a key of ours that another node takes meanwhile is not overwritten", async () => {
  const prefix = freshPrefix();
  const key = `${prefix}/subnets/10.3.5.0-24`;
  await etcd.put(key, valueOf("192.0.2.1"), 100);
  await using front = meanwhileFront((at) => etcd.put(at, valueOf("192.0.2.99"), 100));
  await using store = storeOn(etcd, prefix, { endpoints: [front.endpoint] });
  const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
  expect(leaseKey(lease.subnets)).not.toBe("10.3.5.0-24");
  expect((await etcd.get(key))?.value).toBe(valueOf("192.0.2.99"));
});

test("etcd: a key that does not fit the network is not deleted once another node has taken it", async () => {
  const prefix = freshPrefix();
  const key = `${prefix}/subnets/10.99.5.0-24`;
  await etcd.put(key, valueOf("192.0.2.1"), 100);
  await using front = meanwhileFront((at) => etcd.put(at, valueOf("192.0.2.99"), 100));
  await using store = storeOn(etcd, prefix, { endpoints: [front.endpoint] });
  acquired(await store.acquire(requestFor("192.0.2.1"), never));
  expect((await etcd.get(key))?.value).toBe(valueOf("192.0.2.99"));
});

test("etcd: renewing over another node's write says whose it is and leaves it", async () => {
  const prefix = freshPrefix();
  await using direct = storeOn(etcd, prefix);
  const lease = acquired(await direct.acquire(requestFor("192.0.2.1"), never));
  await using front = meanwhileFront((key) => etcd.put(key, valueOf("192.0.2.99"), 100));
  await using store = storeOn(etcd, prefix, { endpoints: [front.endpoint] });
  expect(await store.renew(renewal(lease), never)).toEqual({
    kind: "conflict",
    owner: "192.0.2.99 with VTEP MAC c6:d2:32:6f:8f:44",
  });
  expect((await etcd.get(`${prefix}/subnets/${leaseKey(lease.subnets)}`))?.value).toBe(valueOf("192.0.2.99"));
});

test("etcd: losing every race ends with an error that says to try again", async () => {
  const prefix = freshPrefix();
  await using front = openEtcdFront(async ({ path, body }) => {
    if (path !== "/v3/kv/txn") return undefined;
    const [compare] = (body as { compare: { key: string }[] }).compare;
    await etcd.put(Buffer.from(compare?.key ?? "", "base64").toString(), valueOf("192.0.2.99"));
    return undefined;
  }, etcd.endpoint);
  await using store = storeOn(etcd, prefix, { endpoints: [front.endpoint], random: () => 0 });
  await expect(store.acquire(requestFor("192.0.2.1"), never)).rejects.toMatchObject({
    code: "store/contended",
    retryable: true,
  });
});
