import { afterAll, beforeAll, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { errorText, FlannelError } from "../../src/base/error.ts";
import { silentLog } from "../../src/base/log.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { openAddon } from "../../src/native/addon.ts";
import {
  certificatePaths,
  initCertificates,
  renewCertificates,
} from "../../src/store/embedded/certificates.ts";
import type { StoreServer } from "../../src/store/embedded/serve.ts";
import { hashPassword } from "../../src/store/embedded/users.ts";
import { type EtcdStoreOptions, openEtcdStore } from "../../src/store/etcd/store.ts";
import type { TlsFiles } from "../../src/store/etcd/tls-files.ts";
import { keysBy } from "../support/etcd.ts";
import { type EtcdTransport, etcdTransports, overEachTransport } from "../support/etcd-transports.ts";
import { etcdWorld } from "../support/etcd-world.ts";
import { etcdctl, openStoreSite, sitePrefix, type StoreSite } from "../support/secure-embedded.ts";
import { acquired, follow, never, renewal, requestFor, storeContract, updateText } from "./store.ts";

const config = '{"Network":"10.3.0.0/16"}';
const password = "correct-horse-battery";

let site: StoreSite;
let server: StoreServer;

beforeAll(async () => {
  site = openStoreSite([["127.0.0.1"], ["192.0.2.11"]]);
  const usersFile = join(site.dataDir, "users");
  const hash = await hashPassword(password);
  writeFileSync(usersFile, `# who may log in\nflannel:member:${hash}\nroot:admin:${hash}\n`, { mode: 0o600 });
  server = await site.serve({ usersFile });
});

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  site?.[Symbol.dispose]();
});

function storeOn(endpoint: string, transport: EtcdTransport, more: Partial<EtcdStoreOptions>) {
  const base = { endpoints: [endpoint], transport, prefix: sitePrefix, log: silentLog, clock: systemClock };
  return openEtcdStore({ ...base, ...more });
}

/** Calls of the gateway with a client certificate. */
function callerWith(endpoint: string, { caFile, certFile, keyFile }: TlsFiles) {
  const pem = (path = "") => Bun.file(path);
  return async (path: string, body: object): Promise<Record<string, unknown>> => {
    const tls = { ca: pem(caFile), cert: pem(certFile), key: pem(keyFile) };
    const request = { method: "POST", body: JSON.stringify(body), tls, proxy: false as const };
    const response = await fetch(`${endpoint}${path}`, { ...request, signal: AbortSignal.timeout(10_000) });
    if (response.status !== 200) throw new Error(`${path}: HTTP ${response.status} ${await response.text()}`);
    return (await response.json()) as Record<string, unknown>;
  };
}

async function failureOf(work: Promise<unknown>): Promise<{ code: string; text: string }> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof FlannelError)) throw error;
    return { code: error.code, text: errorText(error) };
  }
  throw new Error("it did not fail");
}

let worlds = 0;
for (const transport of etcdTransports) {
  storeContract(`embedded with TLS and client certificates over ${transport}`, async () => {
    // Networks of other prefixes are an administrator's.
    const hand = { ...keysBy(callerWith(server.endpoint, site.admin)), endpoint: server.endpoint };
    return etcdWorld(hand, `/test/${worlds++}/network`, ({ endpoint }, prefix, options) =>
      storeOn(endpoint, transport, { prefix, tls: site.admin, ...options }),
    );
  });
}

overEachTransport(
  "embedded: a member takes, renews and watches leases, and may not write the network's configuration",
  async (transport) => {
    await using fresh = await freshServer();
    const { endpoint, certificates } = fresh;
    await using admin = storeOn(endpoint, transport, { tls: certificates.admin });
    await using member = storeOn(endpoint, transport, { tls: certificates.member("127.0.0.1") });
    expect(await failureOf(member.createNetworkConfig(config, never))).toMatchObject({
      code: "store/unauthorized",
    });
    expect(await admin.createNetworkConfig(config, never)).toBe(true);
    expect(await member.readNetworkConfig(never)).toBe(config);
    await using watch = follow(member);
    expect(updateText(await watch.next())).toBe("snapshot");
    const lease = acquired(await member.acquire(requestFor("192.0.2.1"), never));
    expect(updateText(await watch.next())).toBe(`+${leaseKey(lease.subnets)}`);
    expect(await member.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
  },
  60_000,
);

/** A site of its own, served. */
async function freshServer(options: Parameters<StoreSite["serve"]>[0] = {}) {
  const certificates = openStoreSite();
  try {
    const served = await certificates.serve(options);
    return {
      endpoint: served.endpoint,
      certificates,
      async [Symbol.asyncDispose]() {
        await served[Symbol.asyncDispose]();
        certificates[Symbol.dispose]();
      },
    };
  } catch (error) {
    certificates[Symbol.dispose]();
    throw error;
  }
}

overEachTransport(
  "embedded: a login does what a member's certificate does, a wrong one nothing",
  async (transport) => {
    const tls = { caFile: site.ca };
    await using user = storeOn(server.endpoint, transport, { tls, username: "flannel", password });
    const lease = acquired(await user.acquire(requestFor("192.0.2.77"), never));
    expect(await user.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
    expect(await failureOf(user.createNetworkConfig("{}", never))).toMatchObject({
      code: "store/unauthorized",
    });
    const wrong = [
      {},
      { username: "flannel", password: "wrong-password-1" },
      { username: "nobody", password },
      { username: "root", password: "" },
    ];
    for (const login of wrong) {
      await using store = storeOn(server.endpoint, transport, { tls, ...login });
      const failure = await failureOf(store.list(never));
      expect(failure.code).toBe("store/unauthorized");
      expect(failure.text).not.toContain("wrong-password-1");
    }
  },
  60_000,
);

overEachTransport(
  "embedded: a client certificate that is missing or of another authority gets nowhere",
  async (transport) => {
    await using fresh = await freshServer();
    using strangers = openStoreSite();
    const { endpoint, certificates } = fresh;
    const foreign = { ...strangers.admin, caFile: certificates.ca };
    for (const tls of [{ caFile: certificates.ca }, foreign, strangers.admin]) {
      await using store = storeOn(endpoint, transport, { tls });
      const { code } = await failureOf(store.list(never));
      expect(["store/untrusted", "store/unreachable"]).toContain(code);
    }
    await using good = storeOn(endpoint, transport, { tls: certificates.admin });
    expect(await good.list(never)).toEqual([]);
  },
  60_000,
);

test("embedded: beside users a foreign certificate is refused, not taken for none", async () => {
  using strangers = openStoreSite();
  const tls = { ...strangers.admin, caFile: site.ca };
  await using store = storeOn(server.endpoint, "gateway", { tls, username: "flannel", password });
  const { code } = await failureOf(store.list(never));
  expect(["store/untrusted", "store/unreachable"]).toContain(code);
}, 60_000);

test("embedded: etcdctl with certificates, logins and wrong ones, in etcd's words", async () => {
  const ctl = (tls: TlsFiles, ...args: string[]) => etcdctl(server.endpoint, tls, ...args);
  const [member, ca] = [site.member("192.0.2.11"), { caFile: site.ca }];
  const key = `${sitePrefix}/subnets/10.3.9.0-24`;
  expect((await ctl(member, "put", key, "by a member")).out).toBe("OK\n");
  expect((await ctl(member, "get", "--print-value-only", key)).out).toBe("by a member\n");
  expect((await ctl(site.admin, "put", `${sitePrefix}/config`, config)).out).toBe("OK\n");
  const { out } = await ctl(member, "lease", "grant", "60");
  expect(out).toMatch(/^lease [0-9a-f]+ granted with TTL\(60s\)/);
  const user = (login: string, ...args: string[]) => ctl(ca, "--user", login, ...args);
  expect((await user(`flannel:${password}`, "put", key, "by a user")).out).toBe("OK\n");
  expect((await user(`root:${password}`, "del", key)).out).toBe("1\n");

  const refused = [
    [await ctl(member, "put", `${sitePrefix}/config`, "{}"), "etcdserver: permission denied"],
    [await ctl(member, "del", "--prefix", sitePrefix), "etcdserver: permission denied"],
    [await user(`flannel:${password}`, "put", "/x", "y"), "etcdserver: permission denied"],
    [
      await user("flannel:wrong", "put", key, "y"),
      "etcdserver: authentication failed, invalid user ID or password",
    ],
    [
      await user(`nobody:${password}`, "get", key),
      "etcdserver: authentication failed, invalid user ID or password",
    ],
    [await ctl(ca, "get", key), "etcdserver: user name is empty"],
    [await ctl(member, "snapshot", "save", join(site.dataDir, "snap")), "use flannel-lite store backup"],
  ] as const;
  for (const [{ code, err }, text] of refused) {
    expect(err).toContain(text);
    expect(code).not.toBe(0);
  }
  expect((await ctl({}, "get", key)).code).not.toBe(0); // the authority is not known to the system
}, 120_000);

test("embedded: a change of the users' file counts at once, for those who are logged in too", async () => {
  using certificates = openStoreSite();
  const usersFile = join(certificates.dataDir, "users");
  const [first, second] = await Promise.all([hashPassword("first"), hashPassword("second")]);
  const write = (...lines: string[]) => writeFileSync(usersFile, `${lines.join("\n")}\n`, { mode: 0o600 });
  write(`a:admin:${first}`, `b:admin:${first}`);
  await using served = await certificates.serve({ usersFile, clientCaFile: null });
  const tls = { caFile: certificates.ca };
  const login = (username: string, password: string) =>
    storeOn(served.endpoint, "gateway", { tls, username, password });
  await using a = login("a", "first");
  await using b = login("b", "first");
  expect([await a.list(never), await b.list(never)]).toEqual([[], []]);
  write(`a:admin:${second}`, `b:admin:${first}`);
  await until(() =>
    a.list(never).then(
      () => false,
      () => true,
    ),
  );
  expect(await b.list(never)).toEqual([]);
  await using again = login("a", "second");
  expect(await again.list(never)).toEqual([]);
  write("nonsense"); // the last good file stays in use
  await Bun.sleep(2_500);
  expect(await again.list(never)).toEqual([]);
}, 60_000);

test("embedded: certificates renewed on disk are used without a restart, under a watch that goes on", async () => {
  await using fresh = await freshServer();
  const { endpoint, certificates } = fresh;
  const { dataDir } = certificates;
  await using admin = storeOn(endpoint, "gateway", { tls: certificates.admin });
  await using watch = follow(admin);
  expect(updateText(await watch.next())).toBe("snapshot");
  const before = await serialOf(endpoint);
  renewCertificates(openAddon(), { dataDir, now: new Date() });
  await until(async () => (await serialOf(endpoint)) !== before);
  await using member = storeOn(endpoint, "gateway", { tls: certificates.member("127.0.0.1") });
  await admin.createNetworkConfig(config, never);
  const lease = acquired(await member.acquire(requestFor("192.0.2.1"), never));
  expect(updateText(await watch.next())).toBe(`+${leaseKey(lease.subnets)}`);

  // A pair that does not fit is not used, and is once it does.
  const paths = certificatePaths(dataDir);
  using other = openStoreSite();
  const kept = await serialOf(endpoint);
  copyFileSync(certificatePaths(other.dataDir).server.key, paths.server.key);
  await Bun.sleep(2_500);
  expect(await serialOf(endpoint)).toBe(kept);
  renewCertificates(openAddon(), { dataDir, now: new Date() });
  await until(async () => (await serialOf(endpoint)) !== kept);
}, 60_000);

test("embedded: a host added later is let in", async () => {
  await using fresh = await freshServer();
  const { endpoint, certificates } = fresh;
  const hosts = [["127.0.0.1"], ["late.example", "192.0.2.50"]];
  initCertificates(openAddon(), { dataDir: certificates.dataDir, hosts, now: new Date() });
  await using late = storeOn(endpoint, "gateway", { tls: certificates.member("late.example") });
  expect(await late.list(never)).toEqual([]);
}, 60_000);

/** Of the certificate that the service shows now. */
async function serialOf(endpoint: string): Promise<string> {
  const { port } = new URL(endpoint);
  const child = Bun.spawn(["openssl", "s_client", "-connect", `127.0.0.1:${port}`], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
    timeout: 10_000,
  });
  const shown = await new Response(child.stdout).text();
  const [pem = ""] = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/.exec(shown) ?? [];
  return new X509Certificate(pem).serialNumber;
}

async function until(isSo: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 20_000; !(await isSo()); await Bun.sleep(200)) {
    if (Date.now() > deadline) throw new Error("it did not come to be so");
  }
}

test("embedded: curl, which speaks both versions of HTTP, reaches the gateway", async () => {
  const { caFile = "", certFile = "", keyFile = "" } = site.admin;
  const files = ["--cacert", caFile, "--cert", certFile, "--key", keyFile];
  const command = ["curl", "-sS", "-m", "10", ...files, `${server.endpoint}/health`];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit", timeout: 20_000 });
  expect(await new Response(child.stdout).text()).toBe('{"health":"true"}');
});
