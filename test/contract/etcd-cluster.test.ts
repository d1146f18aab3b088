import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { type Clock, systemClock } from "../../src/base/clock.ts";
import { FlannelError } from "../../src/base/error.ts";
import { silentLog } from "../../src/base/log.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { type EtcdStoreOptions, openEtcdStore } from "../../src/store/etcd/store.ts";
import type { Store } from "../../src/store/store.ts";
import { openCertificates } from "../support/certificates.ts";
import { type Etcd, startEtcd, startEtcdCluster } from "../support/etcd.ts";
import { type EtcdTransport, overEachTransport } from "../support/etcd-transports.ts";
import { openTcpProxy } from "../support/tcp-proxy.ts";
import { acquired, follow, never, renewal, requestFor, updateText, valueOf } from "./store.ts";

const prefix = "/coreos.com/network";

/** A cluster of three that only takes clients with a certificate, and stores on all of its members. */
async function openSecureCluster(transport: EtcdTransport) {
  await using opening = new AsyncDisposableStack();
  const certificates = opening.use(openCertificates());
  const ca = certificates.authority("ca");
  const server = certificates.issue("server", { by: "ca", names: "IP:127.0.0.1" });
  const client = certificates.issue("client", { by: "ca", names: "DNS:client" });
  const members = await startEtcdCluster(3, { tls: { ...server, ca } });
  for (const member of members) opening.use(member);
  const tls = { caFile: ca, certFile: client.cert, keyFile: client.key };
  const endpoints = members.map(({ endpoint }) => endpoint);
  const opened = opening.move();
  return {
    members,
    open(more: Partial<EtcdStoreOptions> = {}): Store {
      const common = { endpoints, transport, prefix, tls, log: silentLog, clock: systemClock };
      return openEtcdStore({ ...common, callMsMax: 2_000, ...more });
    },
    [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
  };
}

/** As whoever renews does it: again after a failure that may pass, such as a cluster without a leader. */
async function persistently<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof FlannelError) || !error.retryable || attempt > 50) throw error;
      await Bun.sleep(100);
    }
  }
}

overEachTransport(
  "etcd: of three members with mutual TLS each is killed in turn; leases, renewals and watches go on",
  async (transport) => {
    await using cluster = await openSecureCluster(transport);
    await using store = cluster.open();
    const lease = acquired(await persistently(() => store.acquire(requestFor("192.0.2.1"), never)));
    await using watch = follow(store);
    expect(updateText(await watch.next())).toBe(`snapshot ${leaseKey(lease.subnets)}`);
    const seen = new Set<string>();
    const expected = new Set<string>();
    for (const [at, member] of cluster.members.entries()) {
      await member.kill();
      expect(await persistently(() => store.renew(renewal(lease), never))).toMatchObject({ kind: "renewed" });
      await using other = cluster.open();
      const peer = acquired(await persistently(() => other.acquire(requestFor(`192.0.2.${at + 10}`), never)));
      const wanted = `+${leaseKey(peer.subnets)}`;
      expected.add(wanted);
      const updates = await watch.until((update) => update.includes(wanted));
      for (const change of updates.join(" ").split(" ")) seen.add(change);
      await member.start();
    }
    // What came between were our own renewals: nothing was read anew, so nothing can have been missed.
    expected.add(`+${leaseKey(lease.subnets)}`);
    expect([...seen].sort()).toEqual([...expected].sort());
    expect((await persistently(() => store.list(never))).length).toBe(4);
  },
  120_000,
);

overEachTransport(
  "etcd: with two of three members gone the error says so and may pass, and with one back all goes on",
  async (transport) => {
    await using cluster = await openSecureCluster(transport);
    const [first, second] = cluster.members as [Etcd, Etcd];
    await using store = cluster.open();
    const lease = acquired(await persistently(() => store.acquire(requestFor("192.0.2.1"), never)));
    await using watch = follow(store);
    await watch.next();
    const next = watch.next();
    await Promise.all([first.kill(), second.kill()]);
    await expect(store.renew(renewal(lease), never)).rejects.toMatchObject({
      code: "store/unreachable",
      retryable: true,
    });
    await first.start();
    expect(await persistently(() => store.renew(renewal(lease), never))).toMatchObject({ kind: "renewed" });
    expect(updateText(await next)).toContain(leaseKey(lease.subnets));
  },
  120_000,
);

/** Waits between tries are cut short, deadlines are not. */
const impatientClock: Clock = {
  now: systemClock.now,
  sleep: (ms, stop) => systemClock.sleep(ms < 1_000 ? ms / 50 : ms, stop),
};

/** They lose their connections together: a watch that catches up takes etcd a tenth of a second. */
const clients = 10;

/** Bytes that two hundred reconnects may leave to the garbage collector: ten times what was seen. */
const growthBytesMax = 48 * 1024 * 1024;

overEachTransport(
  "etcd: two hundred reconnects lose no event and leave memory and descriptors as they were",
  async (transport) => {
    using certificates = openCertificates();
    const ca = certificates.authority("ca");
    const server = certificates.issue("server", { by: "ca", names: "IP:127.0.0.1" });
    await using etcd = await startEtcd({ tls: { ...server, ca } });
    await using proxy = await openTcpProxy(etcd.endpoint);
    await using opened = new AsyncDisposableStack();
    const watches = Array.from({ length: clients }, () => {
      const store = openEtcdStore({
        endpoints: [`https://${proxy.address}`],
        transport,
        prefix,
        tls: { caFile: ca, certFile: server.cert, keyFile: server.key },
        log: silentLog,
        clock: impatientClock,
      });
      opened.use(store);
      return opened.use(follow(store));
    });
    const nextOfAll = async () =>
      new Set((await Promise.all(watches.map((watch) => watch.next()))).map(updateText));
    expect(await nextOfAll()).toEqual(new Set(["snapshot"]));
    const reconnect = async (rounds: number) => {
      for (let round = 0; round < rounds; round++) {
        proxy.cut();
        proxy.heal();
        const key = `10.3.${round}.0-24`;
        await etcd.put(`${prefix}/subnets/${key}`, valueOf("192.0.2.5"));
        expect(await nextOfAll()).toEqual(new Set([`+${key}`]));
      }
      Bun.gc(true);
      return { descriptors: readdirSync("/proc/self/fd").length, bytes: process.memoryUsage.rss() };
    };
    const before = await reconnect(8);
    const connections = proxy.connections;
    const after = await reconnect(200 / clients);
    expect(proxy.connections - connections).toBeGreaterThanOrEqual(200);
    expect(after.descriptors - before.descriptors).toBeLessThanOrEqual(8);
    expect(after.bytes - before.bytes).toBeLessThan(growthBytesMax);
  },
  120_000,
);

test("etcd: a store closed while its cluster is away leaves no descriptor behind, over grpc", async () => {
  await using etcd = await startEtcd();
  await using proxy = await openTcpProxy(etcd.endpoint);
  const openAndClose = async () => {
    await using store = openEtcdStore({
      endpoints: [`http://${proxy.address}`],
      transport: "grpc",
      prefix,
      log: silentLog,
      clock: systemClock,
      callMsMax: 50,
    });
    await using watch = follow(store);
    expect(updateText(await watch.next())).toBe("snapshot");
    proxy.stall();
    await expect(store.list(never)).rejects.toMatchObject({ code: "store/unreachable" });
    await store[Symbol.asyncDispose]();
    await expect(store.list(never)).rejects.toMatchObject({ code: "store/closed" });
    proxy.heal();
  };
  await openAndClose();
  const before = readdirSync("/proc/self/fd").length;
  for (let round = 0; round < 20; round++) await openAndClose();
  for (let tries = 0; tries < 100 && readdirSync("/proc/self/fd").length > before; tries++)
    await Bun.sleep(20);
  expect(readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(before);
}, 60_000);
