import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { errorText, FlannelError } from "../../src/base/error.ts";
import { silentLog } from "../../src/base/log.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { type EtcdStoreOptions, openEtcdStore } from "../../src/store/etcd/store.ts";
import type { TlsFiles } from "../../src/store/etcd/tls-files.ts";
import type { Store } from "../../src/store/store.ts";
import { type Certificates, openCertificates } from "../support/certificates.ts";
import { type Etcd, startEtcd } from "../support/etcd.ts";
import { type EtcdTransport, overEachTransport } from "../support/etcd-transports.ts";
import { recordingLog } from "../support/recording-log.ts";
import { acquired, follow, never, renewal, requestFor, updateText, valueOf } from "./store.ts";

const prefix = "/coreos.com/network";
const password = "correct-horse-battery";

type StoreOn = (etcd: { readonly endpoint: string }, more: Partial<EtcdStoreOptions>) => Store;

const storeOver =
  (transport: EtcdTransport): StoreOn =>
  (etcd, more) =>
    openEtcdStore({
      endpoints: [etcd.endpoint],
      transport,
      prefix,
      log: silentLog,
      clock: systemClock,
      ...more,
    });

function overEach(name: string, body: (storeOn: StoreOn) => Promise<void>): void {
  overEachTransport(name, (transport) => body(storeOver(transport)), 60_000);
}

interface Failed {
  readonly code: string;
  readonly retryable: boolean;
  readonly text: string;
}

const untrusted = { code: "store/untrusted", retryable: false };
const unauthorized = { code: "store/unauthorized", retryable: false };

async function failureOf(work: Promise<unknown>): Promise<Failed> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof FlannelError)) throw error;
    const { code, retryable } = error;
    return { code, retryable, text: errorText(error) };
  }
  throw new Error("it did not fail");
}

function codeOf(error: unknown): string {
  if (error instanceof FlannelError) return error.code;
  throw error;
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

overEach(
  "etcd: user and password reach exactly what flannel's role allows, also after etcd forgot its tokens",
  async (storeOn) => {
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
    expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
    // The renewal, or all leases anew: a watch with a forgotten token is cancelled for want of permission.
    expect(["+", "snapshot "].map((start) => `${start}${leaseKey(lease.subnets)}`)).toContain(
      updateText(await next),
    );

    await using elsewhere = storeOn(etcd, { username: "flannel", password, prefix: "/other" });
    expect(await failureOf(elsewhere.list(never))).toMatchObject({ code: "store/unauthorized" });
  },
);

overEach("etcd: refused credentials name the remedy and never the password", async (storeOn) => {
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
});

overEach("etcd: a password that was changed in its file is used at the next login", async (storeOn) => {
  await using etcd = await startEtcd();
  await enableAuth(etcd);
  using certificates = openCertificates();
  const passwordFile = join(certificates.directory, "password");
  writeFileSync(passwordFile, "not yet\n");
  await using store = storeOn(etcd, { username: "flannel", passwordFile });
  expect(await failureOf(store.list(never))).toMatchObject({ code: "store/unauthorized" });
  writeFileSync(passwordFile, `${password}\n`);
  expect(await store.list(never)).toEqual([]);
});

let certificates: Certificates;
let ca: string;
let otherCa: string;

beforeAll(() => {
  certificates = openCertificates();
  ca = certificates.authority("ca");
  otherCa = certificates.authority("other");
});

afterAll(() => certificates?.[Symbol.dispose]());

overEach("etcd: a server's certificate must be signed by the authority given", async (storeOn) => {
  const server = certificates.issue("server", { by: "ca", names: "IP:127.0.0.1" });
  await using etcd = await startEtcd({ tls: server });
  await using store = storeOn(etcd, { tls: { caFile: ca } });
  expect(await store.list(never)).toEqual([]);
  for (const tls of [{}, { caFile: otherCa }]) {
    await using distrustful = storeOn(etcd, { tls });
    expect(await failureOf(distrustful.list(never))).toMatchObject(untrusted);
  }
});

overEach("etcd: an environment that says not to verify certificates is not heeded", async (storeOn) => {
  const server = certificates.issue("server5", { by: "ca", names: "DNS:elsewhere.invalid" });
  await using etcd = await startEtcd({ tls: server });
  const before = process.env["NODE_TLS_REJECT_UNAUTHORIZED"];
  process.env["NODE_TLS_REJECT_UNAUTHORIZED"] = "0";
  try {
    for (const caFile of [ca, otherCa]) {
      await using store = storeOn(etcd, { tls: { caFile } });
      expect(await failureOf(store.list(never))).toMatchObject(untrusted);
    }
  } finally {
    if (before === undefined) delete process.env["NODE_TLS_REJECT_UNAUTHORIZED"];
    else process.env["NODE_TLS_REJECT_UNAUTHORIZED"] = before;
  }
});

overEach(
  "etcd: a server's certificate must have the endpoint's name, be that a DNS name or an IP",
  async (storeOn) => {
    const accepted = async (names: string) => {
      await using etcd = await startEtcd({ tls: certificates.issue("named", { by: "ca", names }) });
      const outcomes: string[] = [];
      for (const name of ["127.0.0.1", "localhost"]) {
        const endpoint = etcd.endpoint.replace("127.0.0.1", name);
        await using store = storeOn({ endpoint }, { tls: { caFile: ca } });
        const outcome = await store.list(never).then(() => name, codeOf);
        outcomes.push(outcome);
      }
      return outcomes;
    };
    expect(await accepted("IP:127.0.0.1,DNS:localhost")).toEqual(["127.0.0.1", "localhost"]);
    expect(await accepted("IP:127.0.0.1")).toEqual(["127.0.0.1", "store/untrusted"]);
    expect(await accepted("DNS:localhost")).toEqual(["store/untrusted", "localhost"]);
    expect(await accepted("DNS:elsewhere.invalid")).toEqual(["store/untrusted", "store/untrusted"]);
    // A name that looks like the address is not the address.
    expect(await accepted("DNS:127.0.0.1")).toEqual(["store/untrusted", "store/untrusted"]);
  },
);

overEach("etcd: an expired certificate of the server is refused and named as that", async (storeOn) => {
  const server = certificates.issue("stale", { by: "ca", names: "IP:127.0.0.1", days: -1 });
  await using etcd = await startEtcd({ tls: server });
  await using store = storeOn(etcd, { tls: { caFile: ca } });
  const failure = await failureOf(store.list(never));
  expect(failure).toMatchObject(untrusted);
  expect(failure.text).toMatch(/expired/i);
});

overEach(
  "etcd: a client certificate that is missing, expired or another authority's is refused",
  async (storeOn) => {
    const server = certificates.issue("server2", { by: "ca", names: "IP:127.0.0.1" });
    const issue = (by: string, days: number) => {
      const { cert, key } = certificates.issue("client", { by, names: "DNS:client", days });
      return { caFile: ca, certFile: cert, keyFile: key };
    };
    await using etcd = await startEtcd({ tls: { ...server, ca } });
    const ask = async (tls: TlsFiles) => {
      await using store = storeOn(etcd, { tls });
      return await store.list(never);
    };
    expect(await ask(issue("ca", 2))).toEqual([]);
    for (const tls of [{ caFile: ca }, issue("ca", -1), issue("other", 2)]) {
      // etcd may also have closed the connection before what it says about it is read.
      const failures = [await failureOf(ask(tls))];
      while (failures.at(-1)?.code === "store/unreachable" && failures.length < 50) {
        failures.push(await failureOf(ask(tls)));
      }
      expect(failures.at(-1)).toMatchObject(untrusted);
      expect(failures.at(-1)?.text).toMatch(/certfile.*expired/);
    }
  },
);

overEach(
  "etcd: certificates, keys and authorities replaced on disk are used without a restart",
  async (storeOn) => {
    const path = (file: string) => join(certificates.directory, file);
    const inUse = { cert: path("in-use.crt"), key: path("in-use.key"), ca: path("in-use-ca.crt") };
    const client = { caFile: path("our-ca.crt"), certFile: path("our.crt"), keyFile: path("our.key") };
    const replaceBy = (authority: string) => {
      const server = certificates.issue(`server-by-${authority}`, { by: authority, names: "IP:127.0.0.1" });
      copyFileSync(server.cert, inUse.cert);
      copyFileSync(server.key, inUse.key);
      copyFileSync(path(`${authority}.crt`), inUse.ca);
      const ours = certificates.issue(`ours-by-${authority}`, { by: authority, names: "DNS:client" });
      copyFileSync(path(`${authority}.crt`), client.caFile);
      copyFileSync(ours.cert, client.certFile);
      copyFileSync(ours.key, client.keyFile);
    };
    replaceBy("ca");
    await using etcd = await startEtcd({ tls: inUse });
    await using store = storeOn(etcd, { tls: client });
    await using watch = follow(store);
    expect(updateText(await watch.next())).toBe("snapshot");
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    expect(updateText(await watch.next())).toBe(`+${leaseKey(lease.subnets)}`);

    const next = watch.next();
    replaceBy("other");
    await etcd.kill();
    await etcd.start();
    await etcd.put(`${prefix}/subnets/10.4.5.0-24`, valueOf("192.0.2.5"));
    expect(updateText(await next)).toBe("+10.4.5.0-24");
    expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
  },
);

test("etcd: the Common Name of a client certificate is a user over grpc, and the gateway's error says so", async () => {
  const server = certificates.issue("server3", { by: "ca", names: "IP:127.0.0.1" });
  const issue = (name: string) => certificates.issue(name, { by: "ca", names: "DNS:client" });
  const tlsOf = ({ cert, key }: { cert: string; key: string }) => ({
    caFile: ca,
    certFile: cert,
    keyFile: key,
  });
  await using etcd = await startEtcd({ tls: { ...server, ca } });
  await enableAuth(etcd);
  const [known, unknown] = [tlsOf(issue("flannel")), tlsOf(issue("nobody"))];

  await using store = storeOver("grpc")(etcd, { tls: known });
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot");
  const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
  expect(updateText(await watch.next())).toBe(`+${leaseKey(lease.subnets)}`);
  expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
  await using elsewhere = storeOver("grpc")(etcd, { tls: known, prefix: "/other" });
  expect(await failureOf(elsewhere.list(never))).toMatchObject(unauthorized);

  // A password does not help: etcd's gateway refuses the certificate before it looks for one.
  for (const login of [{}, { username: "flannel", password }]) {
    await using gateway = storeOver("gateway")(etcd, { tls: known, ...login });
    const failure = await failureOf(gateway.list(never));
    expect(failure).toMatchObject(unauthorized);
    expect(failure.text).toContain('store.etcd.transport = "grpc"');
    await using direct = storeOver("grpc")(etcd, { tls: unknown, ...login });
    expect(await direct.list(never).then(() => "listed", codeOf)).toBe(
      "username" in login ? "listed" : "store/unauthorized",
    );
  }
}, 60_000);

test("etcd: with its gateway switched off grpc works, and the gateway's error says so", async () => {
  await using etcd = await startEtcd({ gateway: false });
  await using store = storeOver("grpc")(etcd, {});
  const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe(`snapshot ${leaseKey(lease.subnets)}`);

  await using gateway = storeOver("gateway")(etcd, {});
  const failure = await failureOf(gateway.list(never));
  expect(failure).toMatchObject({ code: "store/protocol", retryable: false });
  expect(failure.text).toContain('store.etcd.transport = "grpc"');
}, 60_000);

overEach("etcd: http where etcd has TLS, and https where it has none, never get through", async (storeOn) => {
  await using plain = await startEtcd();
  const server = certificates.issue("server4", { by: "ca", names: "IP:127.0.0.1" });
  await using secure = await startEtcd({ tls: server });
  for (const endpoint of [
    plain.endpoint.replace("http:", "https:"),
    secure.endpoint.replace("https:", "http:"),
  ]) {
    await using store = storeOn({ endpoint }, { tls: { caFile: ca } });
    expect((await failureOf(store.list(never))).text).toMatch(/https:\/\//);
  }
});

overEach("etcd: TLS files that are missing, no PEM or do not fit together are named", async (storeOn) => {
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
    await using store = storeOn({ endpoint: "https://127.0.0.1:1" }, { tls });
    const { code, text } = await failureOf(store.list(never));
    expect(code).toBe("store/untrusted");
    expect(text).toContain(path);
    expect(text).not.toContain("PRIVATE KEY-----");
  }
});
