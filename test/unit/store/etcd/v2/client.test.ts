import { expect, test } from "bun:test";
import { systemClock } from "../../../../../src/base/clock.ts";
import { silentLog } from "../../../../../src/base/log.ts";
import { EtcdV2Client } from "../../../../../src/store/etcd/v2/client.ts";

const stop = new AbortController().signal;
const index = { "x-etcd-index": "7", "x-etcd-cluster-id": "c" };

interface Call {
  readonly method: string;
  readonly url: string;
  readonly body: string;
  readonly authorization: string | null;
}

/** An HTTP server on loopback that answers as told, and the client of it. */
function serverThat(
  answer: (call: Call, count: number) => Response,
  more: Partial<ConstructorParameters<typeof EtcdV2Client>[0]> = {},
) {
  const calls: Call[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      const authorization = request.headers.get("authorization");
      const call = {
        method: request.method,
        url: `${pathname}${search}`,
        body: await request.text(),
        authorization,
      };
      calls.push(call);
      return answer(call, calls.length);
    },
  });
  const endpoints = [`http://127.0.0.1:${server.port}`];
  const client = new EtcdV2Client({ endpoints, log: silentLog, clock: systemClock, ...more });
  return {
    calls,
    client,
    async [Symbol.asyncDispose]() {
      client.close();
      await server.stop(true);
    },
  };
}

const answered = (body: unknown, status = 200, headers: Record<string, string> = index) =>
  new Response(typeof body === "string" ? body : JSON.stringify(body), { status, headers });
const node = (more: object) => ({
  action: "get",
  node: { key: "/a", value: "x", modifiedIndex: 5, createdIndex: 5, ...more },
});

let deep: object = { key: "/a/b", value: "" };
for (let depth = 0; depth < 40; depth++) deep = { key: "/a", dir: true, nodes: [deep] };

const hostile: [what: string, answer: () => Response, code: string][] = [
  ["a page", () => answered("<html>"), "store/protocol"],
  ["no index", () => answered(node({}), 200, {}), "store/protocol"],
  ["an index that is none", () => answered(node({}), 200, { "x-etcd-index": "-1" }), "store/protocol"],
  ["a list", () => answered([]), "store/protocol"],
  ["null", () => answered("null"), "store/protocol"],
  ["no node", () => answered({ action: "get" }), "store/protocol"],
  ["a value that is no text", () => answered(node({ value: {} })), "store/protocol"],
  ["an index of text", () => answered(node({ modifiedIndex: "5" })), "store/protocol"],
  ["a fraction for an index", () => answered(node({ createdIndex: 1.5 })), "store/protocol"],
  ["a term of text", () => answered(node({ ttl: "100" })), "store/protocol"],
  ["nodes that are no list", () => answered(node({ dir: true, nodes: 5 })), "store/protocol"],
  ["directories without end", () => answered({ node: deep }), "store/protocol"],
  ["404 of something else", () => answered("not found", 404), "store/protocol"],
  ["a redirect", () => Response.redirect("http://127.0.0.1:1/"), "store/protocol"],
  ["503 of a proxy", () => answered("busy", 503), "store/unreachable"],
  ["an election", () => answered({ errorCode: 301, message: "election" }, 500), "store/unreachable"],
  ["a refusal", () => answered({ message: "Insufficient credentials" }, 401), "store/unauthorized"],
  ["a key that is a directory", () => answered({ errorCode: 102, message: "x" }, 403), "store/unauthorized"],
  ["an error without number", () => answered({ message: "x" }, 400), "store/protocol"],
];

test.each(hostile)("etcd v2 client: %s is an error with a remedy", async (_, answer, code) => {
  await using server = serverThat(answer);
  for (const call of [
    () => server.client.get("/a", stop),
    () => server.client.list("/a", stop),
    () => server.client.put([{ key: "/a", value: "x", lease: "0", ifRevision: 0n }], stop),
  ]) {
    await expect(call()).rejects.toMatchObject({ code, remedy: expect.any(String) });
  }
});

test("etcd v2 client: names with odd characters travel as one path segment each", async () => {
  await using server = serverThat(() => answered(node({})));
  await server.client.get("/a/10.3.1.0-24&fd00::-64/ ?#%", stop);
  expect(server.calls[0]?.url).toBe("/v2/keys/a/10.3.1.0-24%26fd00%3A%3A-64/%20%3F%23%25?quorum=true");
});

test("etcd v2 client: only the key asked for is an answer", async () => {
  await using server = serverThat(() => answered(node({ key: "/b" })));
  expect(await server.client.get("/a", stop)).toBeUndefined();
  expect((await server.client.list("/a", stop)).entries).toEqual([]);
});

test("etcd v2 client: name and password go with every request, read again once they are refused", async () => {
  const passwords = ["old", "new"];
  await using server = serverThat(
    ({ authorization }) =>
      authorization === `Basic ${btoa("flannel:new")}`
        ? answered(node({}))
        : answered({ message: "Insufficient credentials" }, 401),
    { username: "flannel", password: async () => passwords.shift() ?? "new" },
  );
  expect(await server.client.get("/a", stop)).toBeDefined();
  expect(await server.client.get("/a", stop)).toBeDefined();
  expect(server.calls.map(({ authorization }) => atob(authorization?.slice(6) ?? ""))).toEqual([
    "flannel:old",
    "flannel:new",
    "flannel:new",
  ]);
});

test("etcd v2 client: a key without term is `0`, one in its last second is not", async () => {
  const terms: object[] = [
    {},
    { expiration: "2026-01-01T00:00:00Z" },
    { ttl: 9, expiration: "x" },
    { ttl: -5 },
  ];
  await using server = serverThat((_, count) => answered(node(terms[count - 1] ?? {})));
  const leases = [];
  for (const _ of terms) leases.push((await server.client.get("/a", stop))?.lease ?? "");
  expect(leases[0]).toBe("0");
  const left = await Promise.all(leases.slice(1).map((lease) => server.client.timeToLive(lease, stop)));
  expect(left.map(({ ttlSeconds }) => Math.ceil(ttlSeconds))).toEqual([0, 9, 0]);
});

const exists = () => answered({ errorCode: 105, message: "Key already exists", cause: "/a", index: 7 }, 412);

test.each([
  ["ours, with the term we gave", { ttl: 100 }, true],
  ["of the same value, but about to lapse", { ttl: 20 }, false],
  ["of the same value, without term", {}, false],
  ["another's", { ttl: 100, value: "y" }, false],
])("etcd v2 client: a put whose key exists and is %s", async (_, stands, done) => {
  await using server = serverThat(({ method }) => (method === "PUT" ? exists() : answered(node(stands))));
  const { id: lease } = await server.client.grant(100);
  const put = { key: "/a", value: "x", lease, ifRevision: 0n };
  expect(await server.client.put([put], stop)).toBe(done);
  expect(server.calls[0]?.body).toBe("value=x&ttl=100&prevExist=false");
});

test("etcd v2 client: of two keys the second is put first, and taken back where the first has changed", async () => {
  await using server = serverThat(({ method, url }) => {
    if (method === "DELETE") return answered({ action: "compareAndDelete", node: { key: "/b" } });
    if (method === "GET") return answered(node({ value: "somebody's" }));
    if (url === "/v2/keys/b") return answered(node({ key: "/b", modifiedIndex: 9 }), 201);
    return answered({ errorCode: 101, message: "Compare failed" }, 412);
  });
  const written = await server.client.put(
    [
      { key: "/a", value: "x", lease: "0", ifRevision: 4n },
      { key: "/b", value: "us", lease: "0", ifRevision: 0n },
    ],
    stop,
  );
  expect(written).toBe(false);
  expect(server.calls.map(({ method, url, body }) => `${method} ${url} ${body}`)).toEqual([
    "PUT /v2/keys/b value=us&prevExist=false",
    "PUT /v2/keys/a value=x&prevIndex=4",
    "GET /v2/keys/a?quorum=true ",
    "DELETE /v2/keys/b?prevIndex=9 ",
  ]);
});

const watched: [what: string, body: unknown, expected: unknown][] = [
  ["a put", { ...node({ key: "/a/k", modifiedIndex: 9 }), action: "set" }, "events"],
  ["an expiry", { action: "expire", node: { key: "/a/k", modifiedIndex: 9 } }, "events"],
  ["a directory", { action: "delete", node: { key: "/a", dir: true, modifiedIndex: 9 } }, "gap"],
  ["a key elsewhere", { action: "set", node: { key: "/ab", value: "v", modifiedIndex: 9 } }, "progress"],
];

test.each(watched)("etcd v2 watch: %s", async (_, body, expected) => {
  await using server = serverThat((__, count) => (count === 1 ? answered(body) : answered("")));
  const kinds: string[] = [];
  for await (const { kind } of server.client.watch("/a", 8n, stop)) {
    kinds.push(kind);
    if (kinds.length === 2) break;
  }
  expect(kinds).toEqual(["open", expected as string]);
});

test("etcd v2 watch: an index that went back, a cleared history and a server that stops are told apart", async () => {
  const cases: [Response, number, string[]][] = [
    [answered(""), 100, ["gap"]],
    [answered(""), 8, ["open"]],
    [answered({ errorCode: 401, message: "The event in requested index is outdated" }, 400), 8, ["gap"]],
  ];
  for (const [response, from, expected] of cases) {
    await using server = serverThat(() => response);
    const kinds: string[] = [];
    for await (const { kind } of server.client.watch("/a", BigInt(from), stop)) kinds.push(kind);
    expect(kinds).toEqual(expected);
  }
});

test("etcd v2 watch: an event of the past, or one that cannot be read, ends it as an error", async () => {
  for (const body of [
    { action: "set", node: { key: "/a/k", value: "v", modifiedIndex: 3 } },
    { action: "set", node: { key: "/a/k", value: 7, modifiedIndex: 9 } },
    "{half",
  ]) {
    await using server = serverThat(() => answered(body));
    const watch = async () => {
      for await (const message of server.client.watch("/a", 8n, stop)) expect(message.kind).toBe("open");
    };
    await expect(watch()).rejects.toMatchObject({ code: "store/protocol" });
  }
});

test("etcd v2 watch: long silence ends it without an error, and the next one begins where it stood", async () => {
  await using server = serverThat(
    ({ url }) =>
      url.includes("wait=true")
        ? new Response(new ReadableStream({ start: (body) => body.enqueue(Buffer.from("\n")) }), {
            headers: index,
          })
        : answered(node({ dir: true })),
    { probeMs: 20, silenceMsMax: 50 },
  );
  const messages = [];
  for await (const message of server.client.watch("/a", 5n, stop)) messages.push(message);
  expect(messages).toEqual([{ kind: "open" }, { kind: "progress", next: 8n }]);
});
