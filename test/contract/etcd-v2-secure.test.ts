import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { type EtcdStoreOptions, openEtcdStore } from "../../src/store/etcd/store.ts";
import type { Store } from "../../src/store/store.ts";
import { openCertificates } from "../support/certificates.ts";
import { type Etcd, freePorts, startEtcd } from "../support/etcd.ts";
import { etcdV2Keys } from "../support/etcd-v2.ts";
import { acquired, follow, leaseForm, never, renewal, updateText } from "./store.ts";

const prefix = "/coreos.com/network";
const { requestFor, valueOf } = leaseForm("v2");

function storeOn(endpoints: readonly string[], more: Partial<EtcdStoreOptions> = {}): Store {
  return openEtcdStore({ endpoints, api: "v2", prefix, log: silentLog, clock: systemClock, ...more });
}

/** Switches v2's own authentication on, with a user `flannel` that may use the prefix; guests may nothing. */
async function enableAuth({ endpoint }: Etcd): Promise<void> {
  const put = async (path: string, body: object, asRoot = false) => {
    const response = await fetch(`${endpoint}/v2/auth/${path}`, {
      method: "PUT",
      body: JSON.stringify(body),
      headers: {
        "content-type": "application/json",
        ...(asRoot ? { authorization: `Basic ${btoa("root:root-password")}` } : {}),
      },
      proxy: false,
    });
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  };
  const below = { read: [`${prefix}/*`], write: [`${prefix}/*`] };
  const all = { read: ["/*"], write: ["/*"] };
  await put("users/root", { user: "root", password: "root-password" });
  await put("roles/flannel", { role: "flannel", permissions: { kv: below } });
  await put("users/flannel", { user: "flannel", password: "flannel-password", roles: ["flannel"] });
  await put("enable", {});
  await put("roles/guest", { role: "guest", revoke: { kv: all } }, true);
}

test("etcd v2: user and password reach the leases, wrong or missing ones are named, a file may change", async () => {
  using certificates = openCertificates();
  const passwordFile = join(certificates.directory, "password");
  await using etcd = await startEtcd({ v2: true });
  await enableAuth(etcd);
  for (const credentials of [{}, { username: "flannel", password: "wrong" }]) {
    await using store = storeOn([etcd.endpoint], credentials);
    const refused = await store.acquire(requestFor("192.0.2.1"), never).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "store/unauthorized", retryable: false });
    expect(String(refused)).not.toContain("wrong");
  }
  writeFileSync(passwordFile, "old\n");
  await using store = storeOn([etcd.endpoint], { username: "flannel", passwordFile });
  await expect(store.list(never)).rejects.toMatchObject({ code: "store/unauthorized" });
  writeFileSync(passwordFile, "flannel-password\n");
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot");
  const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
  expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
  expect(updateText(await watch.next())).toBe(`+${leaseKey(lease.subnets)}`);
  await using elsewhere = storeOn([etcd.endpoint], { username: "flannel", passwordFile, prefix: "/other" });
  await expect(elsewhere.list(never)).rejects.toMatchObject({ code: "store/unauthorized" });
}, 60_000);

test("etcd v2: over TLS with client certificates, and never with a server that nobody vouches for", async () => {
  using certificates = openCertificates();
  const ca = certificates.authority("ca");
  const otherCa = certificates.authority("other");
  const server = certificates.issue("server", { by: "ca", names: "IP:127.0.0.1" });
  const client = certificates.issue("client", { by: "ca" });
  await using etcd = await startEtcd({ v2: true, tls: { ...server, ca } });
  const files = { certFile: client.cert, keyFile: client.key };
  await using store = storeOn([etcd.endpoint], { tls: { caFile: ca, ...files } });
  acquired(await store.acquire(requestFor("192.0.2.1"), never));
  await using watch = follow(store);
  expect(updateText(await watch.next())).toMatch(/^snapshot 10\.3\./);
  await using deceived = storeOn([etcd.endpoint], { tls: { caFile: otherCa, ...files } });
  await expect(deceived.list(never)).rejects.toMatchObject({ code: "store/untrusted" });
  await using nameless = storeOn([etcd.endpoint], { tls: { caFile: ca } });
  await expect(nameless.list(never)).rejects.toMatchObject({ code: expect.stringMatching(/^store\//) });
}, 60_000);

test("etcd v2: an endpoint that is gone is passed over, for writes and the watch too", async () => {
  await using etcd = await startEtcd({ v2: true });
  const dead = `http://127.0.0.1:${freePorts(1)[0]}`;
  await using store = storeOn([dead, etcd.endpoint]);
  acquired(await store.acquire(requestFor("192.0.2.1"), never));
  await using watch = follow(store);
  expect(updateText(await watch.next())).toMatch(/^snapshot 10\.3\./);
  await etcdV2Keys(etcd).put(`${prefix}/subnets/10.3.250.0-24`, valueOf("192.0.2.250"));
  expect(updateText(await watch.next())).toBe("+10.3.250.0-24");
});

test("etcd v2: a write whose answer is lost is done once, be it of a new key or of one renewed", async () => {
  await using etcd = await startEtcd({ v2: true });
  let lost = 0;
  const losing = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      const answer = await fetch(`${etcd.endpoint}${pathname}${search}`, {
        method: request.method,
        headers: { "content-type": request.headers.get("content-type") ?? "" },
        ...(request.method === "PUT" ? { body: await request.text() } : {}),
        proxy: false,
      });
      if (request.method === "GET") return answer;
      lost++;
      return new Response("lost", { status: 502 });
    },
  });
  try {
    await using store = storeOn([`http://127.0.0.1:${losing.port}`, etcd.endpoint]);
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    expect(lost).toBeGreaterThan(0);
    expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
    expect(await store.list(never)).toHaveLength(1);
    expect(await etcdV2Keys(etcd).get(`${prefix}/subnets/${leaseKey(lease.subnets)}`)).toMatchObject({
      value: valueOf("192.0.2.1"),
      lapses: true,
    });
  } finally {
    await losing.stop(true);
  }
});
