import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { errorText } from "../../src/base/error.ts";
import { silentLog } from "../../src/base/log.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { type EtcdStoreOptions, openEtcdStore } from "../../src/store/etcd/store.ts";
import type { Store } from "../../src/store/store.ts";
import { type Certificates, openCertificates } from "../support/certificates.ts";
import { type Etcd, startEtcd } from "../support/etcd.ts";
import { recordingLog } from "../support/recording-log.ts";
import { acquired, follow, never, requestFor, updateText, valueOf } from "./store.ts";

const prefix = "/coreos.com/network";
const password = "correct-horse-battery";

function storeOn(etcd: Etcd, more: Partial<EtcdStoreOptions>): Store {
  return openEtcdStore({ endpoints: [etcd.endpoint], prefix, log: silentLog, clock: systemClock, ...more });
}

async function failureOf(work: Promise<unknown>): Promise<{ code: string; text: string }> {
  try {
    await work;
  } catch (error) {
    return { code: (error as { code: string }).code, text: errorText(error) };
  }
  throw new Error("it did not fail");
}

/** Switches authentication on, with a user `flannel` that may use all below the prefix and nothing else. */
async function enableAuth(etcd: Etcd): Promise<void> {
  const [from, to] = [`${prefix}/`, `${prefix}0`].map((key) => Buffer.from(key).toString("base64"));
  await etcd.call("/v3/auth/user/add", { name: "root", password: "root-password" });
  await etcd.call("/v3/auth/user/grant", { user: "root", role: "root" });
  await etcd.call("/v3/auth/role/add", { name: "flannel" });
  await etcd.call("/v3/auth/role/grant", {
    name: "flannel",
    perm: { permType: "READWRITE", key: from, range_end: to },
  });
  await etcd.call("/v3/auth/user/add", { name: "flannel", password });
  await etcd.call("/v3/auth/user/grant", { user: "flannel", role: "flannel" });
  await etcd.call("/v3/auth/enable", {});
}

test("etcd: user and password reach exactly what flannel's role allows, also after etcd forgot its tokens", async () => {
  await using etcd = await startEtcd();
  await using before = storeOn(etcd, { username: "flannel", password });
  await before.createNetworkConfig('{"Network":"10.3.0.0/16"}', never);
  await enableAuth(etcd);
  await using store = storeOn(etcd, { username: "flannel", password });
  const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe(`snapshot ${leaseKey(lease.subnets)}`);
  expect(await before.readNetworkConfig(never)).toBe('{"Network":"10.3.0.0/16"}');

  const next = watch.next();
  await etcd.kill();
  await etcd.start({ open: false });
  expect(await store.renew(lease, never)).toMatchObject({ kind: "renewed" });
  // The renewal, or all leases anew: a watch with a forgotten token is cancelled for want of permission.
  expect(["+", "snapshot "].map((start) => `${start}${leaseKey(lease.subnets)}`)).toContain(
    updateText(await next),
  );

  await using elsewhere = storeOn(etcd, { username: "flannel", password, prefix: "/other" });
  expect(await failureOf(elsewhere.list(never))).toMatchObject({ code: "store/unauthorized" });
}, 60_000);

test("etcd: refused credentials name the remedy and never the password", async () => {
  await using etcd = await startEtcd();
  await enableAuth(etcd);
  const log = recordingLog();
  const wrong = "wrong-password-9182";
  const cases: Partial<EtcdStoreOptions>[] = [
    {},
    { username: "flannel", password: wrong },
    { username: "nobody", password: wrong },
    { username: "flannel", passwordFile: "/nonexistent/password" },
  ];
  for (const credentials of cases) {
    await using store = storeOn(etcd, { ...credentials, log });
    const { code, text } = await failureOf(store.readNetworkConfig(never));
    expect(code).toBe("store/unauthorized");
    expect(text).toMatch(/password/);
    expect(text).not.toContain(wrong);
  }
  expect(log.lines.join("\n")).not.toContain(wrong);
}, 60_000);

test("etcd: a password that was changed in its file is used at the next login", async () => {
  await using etcd = await startEtcd();
  await enableAuth(etcd);
  using certificates = openCertificates();
  const passwordFile = join(certificates.directory, "password");
  writeFileSync(passwordFile, "not yet\n");
  await using store = storeOn(etcd, { username: "flannel", passwordFile });
  expect(await failureOf(store.list(never))).toMatchObject({ code: "store/unauthorized" });
  writeFileSync(passwordFile, `${password}\n`);
  expect(await store.list(never)).toEqual([]);
}, 60_000);

let certificates: Certificates;
let ca: string;
let otherCa: string;

beforeAll(() => {
  certificates = openCertificates();
  ca = certificates.authority("ca");
  otherCa = certificates.authority("other");
});

afterAll(() => certificates?.[Symbol.dispose]());

test("etcd: a server's certificate must be signed by the authority given and name the endpoint", async () => {
  const server = certificates.issue("server", { by: "ca", names: "IP:127.0.0.1,DNS:localhost" });
  await using etcd = await startEtcd({ tls: server });
  await using store = storeOn(etcd, { tls: { caFile: ca } });
  expect(await store.list(never)).toEqual([]);
  await using byName = storeOn(etcd, {
    endpoints: [etcd.endpoint.replace("127.0.0.1", "localhost")],
    tls: { caFile: ca },
  });
  expect(await byName.list(never)).toEqual([]);
  for (const tls of [{}, { caFile: otherCa }]) {
    await using distrustful = storeOn(etcd, { tls });
    expect(await failureOf(distrustful.list(never))).toMatchObject({ code: "store/untrusted" });
  }
  const wrongName = certificates.issue("wrong-name", { by: "ca", names: "DNS:elsewhere.invalid" });
  await using misnamed = await startEtcd({ tls: wrongName });
  await using refusing = storeOn(misnamed, { tls: { caFile: ca } });
  expect(await failureOf(refusing.list(never))).toMatchObject({ code: "store/untrusted" });
}, 60_000);

test("etcd: client certificates are used, refused by name, and read again when they are replaced", async () => {
  const server = certificates.issue("server2", { by: "ca", names: "IP:127.0.0.1" });
  const good = certificates.issue("client", { by: "ca", names: "DNS:client" });
  const rogue = certificates.issue("rogue", { by: "other", names: "DNS:client" });
  await using etcd = await startEtcd({ tls: { ...server, ca } });
  await using store = storeOn(etcd, { tls: { caFile: ca, certFile: good.cert, keyFile: good.key } });
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot");
  await etcd.put(`${prefix}/subnets/10.3.5.0-24`, valueOf("192.0.2.5"));
  expect(updateText(await watch.next())).toBe("+10.3.5.0-24");

  await using anonymous = storeOn(etcd, { tls: { caFile: ca } });
  expect(await failureOf(anonymous.list(never))).toMatchObject({ code: "store/untrusted" });

  const inUse = {
    certFile: join(certificates.directory, "use.crt"),
    keyFile: join(certificates.directory, "use.key"),
  };
  copyFileSync(rogue.cert, inUse.certFile);
  copyFileSync(rogue.key, inUse.keyFile);
  await using rotating = storeOn(etcd, { tls: { caFile: ca, ...inUse } });
  // A server may also just close the connection on a certificate it does not like.
  expect((await failureOf(rotating.list(never))).code).toMatch(/^store\/(untrusted|unreachable)$/);
  copyFileSync(good.cert, inUse.certFile);
  copyFileSync(good.key, inUse.keyFile);
  expect((await rotating.list(never)).length).toBe(1);
}, 60_000);

test("etcd: TLS files that are missing, no PEM or do not fit together are named", async () => {
  const one = certificates.issue("one", { by: "ca", names: "DNS:one" });
  const two = certificates.issue("two", { by: "ca", names: "DNS:two" });
  const cases = [
    [{ caFile: "/nonexistent/ca.pem" }, "/nonexistent/ca.pem"],
    [{ caFile: one.key }, one.key],
    [{ caFile: ca, certFile: one.cert, keyFile: two.key }, two.key],
    [{ caFile: ca, certFile: one.key, keyFile: one.key }, one.key],
    [{ caFile: ca, certFile: one.cert }, one.cert],
  ] as const;
  for (const [tls, path] of cases) {
    await using store = openEtcdStore({
      endpoints: ["https://127.0.0.1:1"],
      prefix,
      tls,
      log: silentLog,
      clock: systemClock,
    });
    const { code, text } = await failureOf(store.list(never));
    expect(code).toBe("store/untrusted");
    expect(text).toContain(path);
    expect(text).not.toContain("PRIVATE KEY-----");
  }
});
