import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { errorText, FlannelError } from "../../src/base/error.ts";
import { type KubeStoreOptions, openKubeStore, readDocument } from "../../src/store/kube/store.ts";
import { type Certificates, openCertificates } from "../support/certificates.ts";
import { startKubeApi, type TestKubeApiOptions } from "../support/kube-api.ts";
import { kubeOptions } from "../support/kube-world.ts";
import { manualClock } from "../support/manual-clock.ts";
import { acquired, never, requestFor } from "./store.ts";

let certificates: Certificates;
let opened = new AsyncDisposableStack();
let files = 0;

beforeAll(() => {
  certificates = openCertificates();
  certificates.authority("ca");
  certificates.authority("other-ca");
  certificates.issue("server", { by: "ca", names: "IP:127.0.0.1" });
  certificates.issue("renewed", { by: "other-ca", names: "IP:127.0.0.1" });
  certificates.issue("named", { by: "ca", names: "DNS:kubernetes.default" });
  certificates.issue("client", { by: "ca" });
  certificates.issue("rogue", { by: "other-ca" });
});

afterEach(async () => {
  await opened.disposeAsync();
  opened = new AsyncDisposableStack();
});

afterAll(() => certificates[Symbol.dispose]());

const path = (name: string) => join(certificates.directory, name);
const pem = (name: string) => readFileSync(path(name), "utf8");

function start(server: string, options: TestKubeApiOptions & { clientCa?: string } = {}) {
  const { clientCa, ...rest } = options;
  const tls = {
    cert: pem(`${server}.crt`),
    key: pem(`${server}.key`),
    ...(clientCa === undefined ? {} : { clientCa: pem(`${clientCa}.crt`) }),
  };
  const api = opened.use(startKubeApi({ tls, ...rest }));
  api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"] });
  return api;
}

function kubeconfig(url: string, cluster: object, user: object): string {
  const file = path(`kubeconfig-${files++}`);
  const document = {
    "current-context": "x",
    contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
    clusters: [{ name: "c", cluster: { server: url, ...cluster } }],
    users: [{ name: "u", user }],
  };
  writeFileSync(file, JSON.stringify(document));
  return file;
}

function open(options: Partial<KubeStoreOptions>) {
  return opened.use(openKubeStore(kubeOptions("", { apiUrl: undefined, nodeName: "n1", ...options })));
}

/** A store by a kubeconfig, and what comes of asking it. */
function ask(url: string, cluster: object, user: object, more: Partial<KubeStoreOptions> = {}) {
  return open({ kubeconfig: kubeconfig(url, cluster, user), ...more }).acquire(
    requestFor("192.0.2.1"),
    never,
  );
}

const trusting = { "certificate-authority": "ca.crt" };

describe("who the API server is", () => {
  test("one signed by the authority given is believed, from a file or from the kubeconfig itself", async () => {
    const { url } = start("server");
    acquired(await ask(url, trusting, {}));
    acquired(
      await ask(url, { "certificate-authority-data": Buffer.from(pem("ca.crt")).toString("base64") }, {}),
    );
  });

  test.each([
    ["another authority's", { "certificate-authority": "other-ca.crt" }, "server"],
    ["the system's authorities know none of it", {}, "server"],
    ["a certificate for another name", trusting, "named"],
  ])("not believed: %s", async (_, cluster, server) => {
    const api = start(server, { tokens: ["t"] });
    await expect(ask(api.url, cluster, { token: "t" })).rejects.toMatchObject({
      code: "store/untrusted",
      retryable: false,
      remedy: expect.stringContaining("clocks"),
    });
    expect(api.requests).toEqual([]);
  });

  test("tls-server-name is the name that its certificate must have", async () => {
    const { url } = start("named");
    acquired(await ask(url, { ...trusting, "tls-server-name": "kubernetes.default" }, {}));
    const wrong = start("server");
    await expect(
      ask(wrong.url, { ...trusting, "tls-server-name": "kubernetes.default" }, {}),
    ).rejects.toMatchObject({ code: "store/untrusted" });
  });

  test("back with a certificate of another authority it is refused, until that authority is given", async () => {
    const first = start("server");
    writeFileSync(path("rotating.crt"), pem("ca.crt"));
    const store = open({
      kubeconfig: kubeconfig(first.url, { "certificate-authority": "rotating.crt" }, {}),
    });
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const renewal = { lease, node: { id: "n1", name: "n1" } };
    await first[Symbol.asyncDispose]();
    await expect(store.renew(renewal, never)).rejects.toMatchObject({
      code: "store/unreachable",
      retryable: true,
    });
    start("renewed", { port: first.port });
    await expect(store.renew(renewal, never)).rejects.toMatchObject({ code: "store/untrusted" });
    writeFileSync(path("rotating.crt"), `${pem("ca.crt")}${pem("other-ca.crt")}`);
    expect(await store.renew(renewal, never)).toMatchObject({ kind: "renewed" });
  });

  test("a redirect is not followed, and what is no API server is said to be none", async () => {
    for (const answer of [
      () => Response.redirect("http://127.0.0.1:1/", 302),
      () => new Response("<html>login</html>"),
      () => Response.json([]),
      () => Response.json({ metadata: { resourceVersion: "1", continue: "more" }, items: [] }),
    ]) {
      const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: answer });
      opened.defer(() => server.stop(true));
      await expect(open({ apiUrl: `http://127.0.0.1:${server.port}` }).list(never)).rejects.toMatchObject({
        code: "store/protocol",
      });
    }
  });
});

describe("who we are", () => {
  test("a client certificate from files; one of another authority, or none, is refused", async () => {
    const { url } = start("server", { clientCa: "ca" });
    const certificate = (name: string) => ({
      "client-certificate": `${name}.crt`,
      "client-key": path(`${name}.key`),
    });
    acquired(await ask(url, trusting, certificate("client")));
    await expect(ask(url, trusting, certificate("rogue"))).rejects.toThrow();
    await expect(ask(url, trusting, {})).rejects.toThrow();
  });

  test("a key that is missing, or is none, is named by its file and not quoted", async () => {
    const { url } = start("server");
    writeFileSync(path("bad.key"), "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n");
    for (const user of [
      { "client-certificate": "client.crt", "client-key": "bad.key" },
      { "client-certificate": "client.crt", "client-key": "gone.key" },
      { "client-certificate": "client.crt" },
    ]) {
      const error: unknown = await ask(url, trusting, user).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "store/untrusted" });
      expect(errorText(error)).not.toContain("c2VjcmV0");
    }
  });

  test("as a pod: the service account's token is read anew for each call, and its authority believed alone", async () => {
    const api = start("server", { tokens: ["first"] });
    const serviceAccountDir = path(`account-${files++}`);
    mkdirSync(serviceAccountDir);
    writeFileSync(join(serviceAccountDir, "token"), "first\n");
    writeFileSync(join(serviceAccountDir, "ca.crt"), pem("ca.crt"));
    const env = { KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: String(api.port) };
    const store = open({ env, serviceAccountDir });
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const renewal = { lease, node: { id: "n1", name: "n1" } };
    api.setTokens(["second"]);
    await expect(store.renew(renewal, never)).rejects.toMatchObject({
      code: "store/unauthorized",
      retryable: false,
    });
    writeFileSync(join(serviceAccountDir, "token"), "second");
    expect(await store.renew(renewal, never)).toMatchObject({ kind: "renewed" });
    writeFileSync(join(serviceAccountDir, "token"), "two\nlines");
    await expect(store.renew(renewal, never)).rejects.toMatchObject({ code: "store/unauthorized" });
    writeFileSync(join(serviceAccountDir, "ca.crt"), pem("other-ca.crt"));
    writeFileSync(join(serviceAccountDir, "token"), "second");
    await expect(store.renew(renewal, never)).rejects.toMatchObject({ code: "store/untrusted" });
  });

  test.each([["sesame\nx"], ["sesame with blanks"], ["sesame€"], ["sesame\0"]])(
    "what cannot be sent as a token is said to be none, and not quoted: %j",
    async (token) => {
      const { url } = start("server");
      const error: unknown = await ask(url, trusting, { token }).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "store/unauthorized" });
      expect(errorText(error)).toContain("what should be a token is none");
      expect(errorText(error)).not.toContain("sesame");
    },
  );

  test("a token with a newline behind it, as files have it, is sent without", async () => {
    const { url } = start("server", { tokens: ["t"] });
    acquired(await ask(url, trusting, { token: "t\n" }));
  });

  test.each([
    ["a pipe", (file: string) => void Bun.spawnSync(["mkfifo", file])],
    ["a directory", (file: string) => mkdirSync(file)],
    ["a device", (file: string) => symlinkSync("/dev/zero", file)],
  ])("%s in place of a file is refused, and nobody waits for it", async (_name, make) => {
    const { url } = start("server");
    const file = path(`odd-${files++}`);
    make(file);
    for (const asked of [
      () => open({ kubeconfig: file }).list(never),
      () => ask(url, trusting, { tokenFile: file }),
      () => ask(url, { "certificate-authority": file }, {}),
    ]) {
      const error: unknown = await asked().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(FlannelError);
    }
    expect(() => readDocument(file)).toThrow("failed to read net conf");
  });

  test("no pod and no kubeconfig is a mistake that says what to set", async () => {
    await expect(open({}).list(never)).rejects.toMatchObject({
      code: "store/kubeconfig",
      exitCode: 2,
      remedy: expect.stringContaining("kubernetes.kubeconfig"),
    });
  });

  test("rights that are missing are told in the server's words, with what to grant", async () => {
    const api = start("server");
    api.deny(({ method }) => method === "PATCH");
    const error: unknown = await ask(api.url, trusting, {}).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "store/unauthorized", retryable: false });
    expect(errorText(error)).toContain('User "flannel" cannot PATCH');
    expect(errorText(error)).toContain("nodes/status: patch");
  });

  test("what the server says steers no terminal, and is cut", async () => {
    const message = `no\u001b[31m\n\u009b2J\u202e${"x".repeat(5_000)}`;
    const server = Bun.serve({ port: 0, fetch: () => Response.json({ message }, { status: 403 }) });
    opened.defer(() => server.stop(true));
    const error: unknown = await open({ apiUrl: `http://127.0.0.1:${server.port}` })
      .list(never)
      .catch((thrown: unknown) => thrown);
    expect(errorText(error)).toContain("reason=no?[31m??2J?xxx");
    expect(errorText(error)).toMatch(/^\P{C}{1,600}$/u);
  });

  test.each([429, 500, 503])("HTTP %d is worth another try", async (status) => {
    const api = start("server");
    api.deny(() => true, status);
    await expect(ask(api.url, trusting, {})).rejects.toMatchObject({
      code: "store/unreachable",
      retryable: true,
    });
  });

  test("a clock a year off changes nothing but what it stamps", async () => {
    const api = start("server", { tokens: ["t"] });
    const clock = { ...manualClock(Date.now() + 366 * 86_400_000), sleep: systemClock.sleep };
    acquired(await ask(api.url, trusting, { token: "t" }, { clock }));
  });
});

describe("credentials by a plugin", () => {
  const v1 = "client.authentication.k8s.io/v1";

  /** A plugin that notes how it was called. */
  const plugin = (script: string): { exec: object; calls: () => string[] } => {
    const name = `plugin-${files++}`;
    const log = path(`${name}.log`);
    writeFileSync(log, "");
    writeFileSync(path(name), `#!/bin/sh\necho "$1 $KUBERNETES_EXEC_INFO" >> ${log}\n${script}\n`);
    chmodSync(path(name), 0o755);
    const calls = () =>
      readFileSync(log, "utf8")
        .split("\n")
        .filter((line) => line !== "");
    // With a slash it is found beside the kubeconfig; what it is given is no shell's to read.
    return { exec: { apiVersion: v1, command: `./${name}`, args: ["$(id); a b"] }, calls };
  };
  const credential = (status: object) =>
    `printf '%s' '${JSON.stringify({ kind: "ExecCredential", apiVersion: v1, status })}'`;

  test("its token is used until it ends, and asked for again when it is refused", async () => {
    const api = start("server", { tokens: ["t1"] });
    const { exec, calls } = plugin(
      `n=$(wc -l < "$0.log"); printf '%s' '{"kind":"ExecCredential","apiVersion":"${v1}","status":{"token":"t'"$n"'"}}'`,
    );
    const store = open({ kubeconfig: kubeconfig(api.url, trusting, { exec }) });
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    expect(calls()).toEqual([
      `$(id); a b {"kind":"ExecCredential","apiVersion":"${v1}","spec":{"interactive":false}}`,
    ]);
    api.setTokens(["t2"]);
    expect(await store.renew({ lease, node: { id: "n1", name: "n1" } }, never)).toMatchObject({
      kind: "renewed",
    });
    expect(calls()).toHaveLength(2);
  });

  test("one that has ended is not shown", async () => {
    const api = start("server", { tokens: ["t"] });
    const { exec, calls } = plugin(credential({ token: "t", expirationTimestamp: "2020-01-01T00:00:00Z" }));
    acquired(await ask(api.url, trusting, { exec }));
    expect(calls()).toHaveLength(2); // once for each call
  });

  test("it may give a certificate with its key", async () => {
    const { url } = start("server", { clientCa: "ca" });
    const status = { clientCertificateData: pem("client.crt"), clientKeyData: pem("client.key") };
    const file = path(`credential-${files++}`);
    writeFileSync(file, JSON.stringify({ kind: "ExecCredential", apiVersion: v1, status }));
    const { exec } = plugin(`cat ${file}`);
    acquired(await ask(url, trusting, { exec }));
  });

  test.each([
    ["fails", "echo no login >&2; exit 3", "exit code 3: no login"],
    ["says nothing", "true", "no ExecCredential"],
    ["prints rubbish", "echo secret-rubbish", "no ExecCredential"],
    ["speaks another version", `echo '{"kind":"ExecCredential","apiVersion":"v9"}'`, "no ExecCredential"],
    ["gives nothing", credential({}), "neither a token nor a certificate"],
    ["gives an end that is none", credential({ token: "t", expirationTimestamp: "soon" }), "is no time"],
    ["never stops writing", "exec cat /dev/zero", "wrote too much"],
  ])("one that %s is retried later and told with its reason", async (_, script, reason) => {
    const { url } = start("server");
    const error: unknown = await ask(url, trusting, { exec: plugin(script).exec }).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toMatchObject({ code: "store/exec-plugin", retryable: true });
    expect(errorText(error)).toContain(reason);
    expect(errorText(error)).not.toContain("secret-rubbish");
  });

  test("one that leaves a process with its output open is not waited for", async () => {
    const { url } = start("server", { tokens: ["t"] });
    const pid = path(`pid-${files++}`);
    const { exec } = plugin(`sleep 1000 & echo $! > ${pid}; ${credential({ token: "t" })}`);
    opened.defer(() => void process.kill(Number(readFileSync(pid, "utf8"))));
    acquired(await ask(url, trusting, { exec }));
  });

  test("a stop ends it with all it started, and whoever waits for it", async () => {
    const { url } = start("server");
    const pid = path(`pid-${files++}`);
    const { exec, calls } = plugin(`sleep 1000 & echo $! > ${pid}.new; mv ${pid}.new ${pid}; wait`);
    const store = open({ kubeconfig: kubeconfig(url, trusting, { exec }) });
    const stops = [new AbortController(), new AbortController()];
    const asked = stops.map(({ signal }) =>
      store.acquire(requestFor("192.0.2.1"), signal).catch((error: unknown) => error),
    );
    for (let tries = 0; tries < 400 && !existsSync(pid); tries++) await Bun.sleep(10);
    const stat = `/proc/${readFileSync(pid, "utf8").trim()}/stat`;
    const isRunning = () => existsSync(stat) && !readFileSync(stat, "utf8").includes(") Z ");
    stops[0]?.abort(new Error("stopped"));
    expect(await asked[0]).toEqual(new Error("stopped"));
    expect(isRunning()).toBe(true); // another call waits for it
    stops[1]?.abort(new Error("stopped"));
    expect(await asked[1]).toEqual(new Error("stopped"));
    for (let tries = 0; tries < 400 && isRunning(); tries++) await Bun.sleep(10);
    expect(isRunning()).toBe(false);
    expect(calls()).toHaveLength(1);
  });

  test("one that is not there is named", async () => {
    const { url } = start("server");
    const exec = { apiVersion: v1, command: "./no-such-plugin" };
    await expect(ask(url, trusting, { exec })).rejects.toMatchObject({
      code: "store/exec-plugin",
      fields: { program: path("no-such-plugin") },
    });
  });
});
