import { expect, test } from "bun:test";
import { systemClock } from "../../../../src/base/clock.ts";
import { silentLog } from "../../../../src/base/log.ts";
import { hostAndPort } from "../../../../src/store/etcd/endpoint.ts";
import { EtcdClient } from "../../../../src/store/etcd/client.ts";
import { Cluster, type ClusterOptions } from "../../../../src/store/etcd/cluster.ts";
import { GatewayTransport } from "../../../../src/store/etcd/gateway.ts";
import { freePorts } from "../../../support/etcd.ts";
import { openEtcdFront, rpcErrorResponse } from "../../../support/etcd-front.ts";
import { openTcpProxy } from "../../../support/tcp-proxy.ts";

const stop = new AbortController().signal;
const ok = () => Response.json({ header: { revision: "1" } });

function clusterTo(endpoints: readonly string[], more: Partial<ClusterOptions> = {}): Cluster {
  return new Cluster(
    { endpoints, log: silentLog, clock: systemClock, ...more },
    (tls) => new GatewayTransport(tls),
  );
}

function deadEndpoint(): string {
  return `http://127.0.0.1:${freePorts(1)[0]}`;
}

const call = (cluster: Cluster, repeatable = true) => cluster.call("range", {}, { stop, repeatable });

const answers: [what: string, answer: () => Response, code: string, retryable: boolean][] = [
  ["a page", () => new Response("<html>"), "store/protocol", false],
  ["404", () => new Response("Not Found", { status: 404 }), "store/protocol", false],
  ["a redirect", () => Response.redirect("http://127.0.0.1:1/"), "store/protocol", false],
  ["503 of a proxy", () => new Response("busy", { status: 503 }), "store/unreachable", true],
  ["no leader", () => rpcErrorResponse(503, 14, "etcdserver: no leader"), "store/unreachable", true],
  [
    "database full",
    () => rpcErrorResponse(429, 8, "etcdserver: mvcc: database space exceeded"),
    "store/unreachable",
    true,
  ],
  [
    "permission denied",
    () => rpcErrorResponse(403, 7, "etcdserver: permission denied"),
    "store/unauthorized",
    false,
  ],
  [
    "login wanted",
    () => rpcErrorResponse(400, 3, "etcdserver: user name is empty"),
    "store/unauthorized",
    false,
  ],
  ["an unknown error", () => rpcErrorResponse(400, 3, "etcdserver: whatever"), "store/protocol", false],
  [
    "an error with a broken body",
    () => Response.json({ error: {} }, { status: 400 }),
    "store/protocol",
    false,
  ],
];

test.each(answers)("etcd cluster: %s is an error with a remedy", async (_, answer, code, retryable) => {
  await using front = openEtcdFront(answer);
  const cluster = clusterTo([front.endpoint]);
  await expect(call(cluster)).rejects.toMatchObject({
    code,
    retryable,
    fields: { endpoint: front.endpoint },
    remedy: expect.any(String),
  });
});

test("etcd cluster: nobody there is unreachable, and names every endpoint tried", async () => {
  const endpoints = [deadEndpoint(), deadEndpoint()];
  await expect(call(clusterTo(endpoints))).rejects.toMatchObject({
    code: "store/unreachable",
    retryable: true,
    fields: { endpoint: endpoints.join(",") },
  });
});

test("etcd cluster: the endpoint that answered is asked first the next time", async () => {
  await using sick = openEtcdFront(() => new Response("busy", { status: 503 }));
  await using well = openEtcdFront(ok);
  const cluster = clusterTo([deadEndpoint(), sick.endpoint, well.endpoint]);
  for (let round = 0; round < 3; round++) await call(cluster);
  expect([sick.calls.length, well.calls.length]).toEqual([1, 3]);
});

test("etcd cluster: a silent endpoint is given up after the deadline, and the next one asked", async () => {
  await using silent = openEtcdFront(() => new Promise(() => {}));
  await using well = openEtcdFront(ok);
  const cluster = clusterTo([silent.endpoint, well.endpoint], { callMsMax: 50 });
  await call(cluster);
  await call(cluster);
  expect([silent.calls.length, well.calls.length]).toEqual([1, 2]);
  await expect(call(clusterTo([silent.endpoint], { callMsMax: 50 }))).rejects.toMatchObject({
    code: "store/unreachable",
    fields: { reason: "no answer within 50 ms" },
  });
});

test("etcd cluster: a call that may have been applied is repeated only where it says it can be", async () => {
  await using well = openEtcdFront(ok);
  await using proxy = await openTcpProxy(well.endpoint);
  const cluster = clusterTo([`http://${proxy.address}`, well.endpoint]);
  proxy.loseAnswerTo("/v3/kv/range");
  await expect(call(cluster, false)).rejects.toMatchObject({ code: "store/unreachable", retryable: true });
  expect(well.calls.length).toBe(1);
  const again = clusterTo([`http://${proxy.address}`, well.endpoint]);
  proxy.loseAnswerTo("/v3/kv/range");
  await call(again, true);
  expect(well.calls.length).toBe(3);
});

test("etcd cluster: a call that cannot have been sent goes to the next endpoint whatever it is", async () => {
  await using well = openEtcdFront(ok);
  await call(clusterTo([deadEndpoint(), well.endpoint]), false);
  expect(well.calls.length).toBe(1);
});

/** Hands out tokens t1, t2 …; only the newest is good. */
function tokenServer(more: { acceptAll?: boolean } = {}) {
  let issued = 0;
  const forget = () => issued++;
  const front = openEtcdFront(({ path, authorization }) => {
    if (path === "/v3/auth/authenticate") return Response.json({ token: `t${++issued}` });
    return more.acceptAll === true || authorization === `t${issued}`
      ? ok()
      : rpcErrorResponse(401, 16, "etcdserver: invalid auth token");
  });
  return { front, forget };
}

const user = { username: "flannel", password: async () => "secret" };

test("etcd cluster: an outdated token is replaced by a login that does not carry it", async () => {
  const { front, forget } = tokenServer();
  await using server = front;
  const cluster = clusterTo([server.endpoint], user);
  await call(cluster, false);
  forget();
  await call(cluster, false);
  expect(server.calls.map(({ path, authorization }) => [path.split("/").at(-1), authorization])).toEqual([
    ["authenticate", null],
    ["range", "t1"],
    ["range", "t1"],
    ["authenticate", null],
    ["range", "t3"],
  ]);
});

test("etcd cluster: calls at the same time share one login", async () => {
  const { front } = tokenServer();
  await using server = front;
  const cluster = clusterTo([server.endpoint], user);
  await Promise.all(Array.from({ length: 10 }, () => call(cluster)));
  expect(server.paths.filter((path) => path === "auth/authenticate").length).toBe(1);
});

test("etcd cluster: a server that refuses every token is not asked again and again", async () => {
  await using server = openEtcdFront(({ path }) => {
    if (path === "/v3/auth/authenticate") return Response.json({ token: "t" });
    return rpcErrorResponse(401, 16, "etcdserver: invalid auth token");
  });
  await expect(call(clusterTo([server.endpoint], user))).rejects.toMatchObject({
    code: "store/unauthorized",
  });
  expect(server.paths).toEqual(["auth/authenticate", "kv/range", "auth/authenticate", "kv/range"]);
});

test("etcd cluster: a server without authentication is used without a token", async () => {
  await using server = openEtcdFront(({ path }) =>
    path === "/v3/auth/authenticate"
      ? rpcErrorResponse(412, 9, "etcdserver: authentication is not enabled")
      : ok(),
  );
  const cluster = clusterTo([server.endpoint], user);
  await call(cluster);
  await call(cluster);
  expect(server.calls.map(({ authorization }) => authorization)).toEqual([null, null, null]);
  expect(server.paths).toEqual(["auth/authenticate", "kv/range", "kv/range"]);
});

test.each([
  [],
  [""],
  ["unix:///run/etcd.sock"],
  ["ftp://host"],
  ["http://user:pass@host:2379"],
  ["http://host:2379/path"],
  ["http://host:99999"],
])("etcd cluster: %p is no endpoint", (...endpoints) => {
  const refused = expect.objectContaining({ code: "store/endpoint", exitCode: 2 });
  expect(() => clusterTo(endpoints)).toThrow(refused);
  expect(() => clusterTo(endpoints)).not.toThrow(/pass/);
});

test("etcd cluster: without a scheme TLS is used where there is a client certificate", () => {
  expect(clusterTo(["etcd.example:2379"]).endpoints).toEqual(["http://etcd.example:2379"]);
  const tls = { certFile: "/c.pem", keyFile: "/k.pem" };
  expect(clusterTo(["etcd.example:2379", "http://[::1]:2379"], { tls }).endpoints).toEqual([
    "https://etcd.example:2379",
    "http://[::1]:2379",
  ]);
});

test("etcd endpoint: host and port, the port of the scheme where there is none", () => {
  const of = (endpoint: string) => Object.values(hostAndPort(endpoint));
  expect(of("http://etcd.example:2379")).toEqual(["etcd.example", 2379]);
  expect(of("https://[fd00::1]:2379")).toEqual(["fd00::1", 2379]);
  expect(of("http://192.0.2.1")).toEqual(["192.0.2.1", 80]);
  expect(of("https://dns")).toEqual(["dns", 443]);
});

function watchClient(endpoint: string, more: object): EtcdClient {
  return new EtcdClient({ endpoints: [endpoint], log: silentLog, clock: systemClock, ...more });
}

const created = `${JSON.stringify({ result: { header: { revision: "9" }, created: true } })}\n`;

/** A response that sends `text` and then stays open. */
function openEnded(text: string): Response {
  return new Response(
    new ReadableStream({ start: (controller) => controller.enqueue(new TextEncoder().encode(text)) }),
  );
}

test("etcd watch: one that stays silent for long ends without an error, to be opened again", async () => {
  await using front = openEtcdFront(({ path }) => (path === "/v3/watch" ? openEnded(created) : ok()));
  const client = watchClient(front.endpoint, { probeMs: 5, silenceMsMax: 20 });
  expect(await Array.fromAsync(client.watch("/p", 10n, stop))).toEqual([{ kind: "open" }]);
});

test("etcd watch: one whose server stops answering fails", async () => {
  await using front = openEtcdFront(({ path }) => {
    return path === "/v3/watch" ? openEnded(created) : new Promise(() => {});
  });
  const client = watchClient(front.endpoint, { probeMs: 5, callMsMax: 20 });
  await expect(Array.fromAsync(client.watch("/p", 10n, stop))).rejects.toMatchObject({
    code: "store/unreachable",
    retryable: true,
  });
});

test("etcd watch: an error inside the stream, a broken line and a wrong shape are errors, not the end", async () => {
  const error = { error: { grpc_code: 14, message: "etcdserver: no leader" } };
  const cases = [
    [`${JSON.stringify(error)}\n`, "store/unreachable"],
    ["nonsense\n", "store/protocol"],
    ['{"result":7}\n', "store/protocol"],
  ] as const;
  for (const [text, code] of cases) {
    await using front = openEtcdFront(() => openEnded(created + text));
    const watch = watchClient(front.endpoint, {}).watch("/p", 10n, stop);
    await expect(Array.fromAsync(watch)).rejects.toMatchObject({ code });
  }
});
