import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import * as grpc from "@grpc/grpc-js";
import { fromJson } from "../../src/store/embedded/json.ts";
import { fromProtobuf, toProtobuf } from "../../src/store/embedded/protobuf.ts";
import { watchRequest, watchResponse } from "../../src/store/embedded/protocol.ts";
import { startEmbedded } from "../support/embedded.ts";
import { seededRandom } from "../support/random.ts";
import { startStoreProcess, type StoreProcess } from "../support/store-process.ts";
import { openWatchRecorder } from "../support/watch-recorder.ts";

/** Above what it takes when idle; a queue without bounds would be hundreds more. */
const growthMiBMax = 200;

let store: StoreProcess;

beforeAll(async () => {
  store = await startStoreProcess();
  await store.put("/warm", "up");
});

afterAll(async () => {
  await store?.[Symbol.asyncDispose]();
});

function rssMiB(): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${store.pid}/status`, "utf8"))?.[1]) / 1024;
}

const base64 = (text: string) => Buffer.from(text, "latin1").toString("base64");

/** A connection that says `bytes` and reads nothing unless told. */
function dial(endpoint: string, bytes: string | Uint8Array = ""): Promise<Socket> {
  const { hostname, port } = new URL(endpoint);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => {
      if (bytes.length > 0) socket.write(bytes);
      resolve(socket);
    });
    socket.on("error", reject);
  });
}

/** All it is answered until the other side closes. */
function answerTo(endpoint: string, bytes: string | Uint8Array): Promise<string> {
  return new Promise((resolve, reject) => {
    dial(endpoint, bytes).then((socket) => {
      let answer = "";
      socket.on("data", (chunk) => {
        answer += chunk.toString("latin1");
      });
      socket.on("close", () => resolve(answer));
      socket.on("error", () => resolve(answer));
    }, reject);
  });
}

const post = (path: string, headers: string, body = "") =>
  `POST ${path} HTTP/1.1\r\nhost: x\r\n${headers}\r\n\r\n${body}`;

test("embedded: what is no request gets one clear refusal, and others are served on", async () => {
  const refused: readonly (readonly [string | Uint8Array, string])[] = [
    ["NONSENSE\r\n\r\n", "400"],
    ["GET /x HTTP/3.0\r\n\r\n", "400"],
    [post("/v3/kv/range", "content-length: -1"), "400"],
    [post("/v3/kv/range", "content-length: 2\r\ncontent-length: 3"), "400"],
    [post("/v3/kv/range", "content-length: 2\r\ntransfer-encoding: chunked"), "400"],
    [post("/v3/kv/range", "transfer-encoding: chunked", "zz\r\n"), "400"],
    [post("/v3/kv/range", "content-length: 9999999"), "413"],
    [post("/v3/kv/range", "transfer-encoding: chunked", "fffffff\r\n"), "413"],
    [`GET / HTTP/1.1\r\nx: ${"y".repeat(20_000)}`, "431"],
  ];
  for (const [bytes, status] of refused) {
    expect([bytes.toString().slice(0, 90), (await answerTo(store.endpoint, bytes)).slice(9, 12)]).toEqual([
      bytes.toString().slice(0, 90),
      status,
    ]);
  }
  await store.put("/a", "1");
});

test("embedded: every mistake in a call has etcd's code, and a page of a browser gets nowhere", async () => {
  const ask = async (path: string, body: string, headers: Record<string, string> = {}) => {
    const response = await fetch(`${store.endpoint}${path}`, { method: "POST", body, headers, proxy: false });
    return [
      response.status,
      response.status === 403 ? "" : ((await response.json()) as { code: number }).code,
    ];
  };
  expect(await ask("/v3/kv/range", "{")).toEqual([400, 3]);
  expect(await ask("/v3/kv/range", "[]")).toEqual([400, 3]);
  expect(await ask("/v3/kv/range", '{"key":"%"}')).toEqual([400, 3]);
  expect(await ask("/v3/kv/range", '{"key":7}')).toEqual([400, 3]);
  expect(await ask("/v3/kv/range", '{"key":"YQ==","limit":"x"}')).toEqual([400, 3]);
  const nested = `${'{"success":[{"request_txn":'.repeat(500)}{}${"}]}".repeat(500)}`;
  expect(await ask("/v3/kv/txn", nested)).toEqual([400, 3]);
  const large = JSON.stringify({ key: "YQ==", value: Buffer.alloc(1_600_000).toString("base64") });
  expect(await ask("/v3/kv/put", large)).toEqual([400, 3]);
  expect(await ask("/v3/auth/enable", "{}")).toEqual([501, 12]);
  expect(await ask("/v3/kv/put", '{"key":"YQ=="}', { origin: "http://example.com" })).toEqual([403, ""]);
});

test("embedded: noise on the port, in either protocol, leaves it as it was", async () => {
  const random = seededRandom(7);
  const before = rssMiB();
  for (let round = 0; round < 150; round++) {
    const noise = Uint8Array.from({ length: 1 + random.below(3_000) }, () => random.below(256));
    const start = random.pick(["", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "POST /v3/kv/put HTTP/1.1\r\n", "PR"]);
    const socket = await dial(store.endpoint, Buffer.concat([Buffer.from(start), noise]));
    socket.on("error", () => {});
    if (random.below(2) === 0) socket.resume();
    setTimeout(() => socket.destroy(), 50);
  }
  await Bun.sleep(200);
  await store.put("/a", "2");
  expect(await store.get("/a")).toMatchObject({ value: "2" });
  expect(rssMiB() - before).toBeLessThan(growthMiBMax);
}, 30_000);

test("embedded: of more connections than it takes, idle ones give way and calls are served", async () => {
  const before = rssMiB();
  const sockets: Socket[] = [];
  try {
    for (let at = 0; at < 4_600; at += 100) {
      sockets.push(...(await Promise.all(Array.from({ length: 100 }, () => dial(store.endpoint)))));
      for (const socket of sockets.slice(-100)) socket.on("error", () => {});
    }
    await store.put("/a", "3");
    expect(await store.get("/a")).toMatchObject({ value: "3" });
    expect(rssMiB() - before).toBeLessThan(growthMiBMax);
  } finally {
    for (const socket of sockets) socket.destroy();
  }
}, 60_000);

test("embedded: watchers that never read cost nothing, and one that reads misses nothing", async () => {
  const request = JSON.stringify({ create_request: { key: "AA==", range_end: "AA==", prev_kv: true } });
  const lazy = await Promise.all(
    Array.from({ length: 50 }, () =>
      dial(store.endpoint, post("/v3/watch", `content-length: ${request.length}`, request)),
    ),
  );
  for (const socket of lazy) socket.pause();
  const reading = await openWatchRecorder(store.endpoint, JSON.parse(request) as object);
  const before = rssMiB();
  const value = "x".repeat(20_000);
  const count = 600;
  for (let at = 0; at < count; at += 20) {
    await Promise.all(Array.from({ length: 20 }, (_, of) => store.put(`/big/${of}`, `${at}${value}`)));
  }
  for (const deadline = Date.now() + 20_000; reading.revisions.length < count && Date.now() < deadline;) {
    await Bun.sleep(20);
  }
  expect(reading.revisions.length).toBe(count);
  const first = reading.revisions[0] ?? 0;
  expect(reading.revisions).toEqual(Array.from({ length: count }, (_, at) => first + at));
  // Unbounded, it would be 50 times 40 kB times 600.
  expect(rssMiB() - before).toBeLessThan(growthMiBMax);
  reading.close();

  // Begun to read late, it gets all of it too.
  const [late] = lazy;
  let heard = "";
  late?.on("data", (chunk) => {
    heard += chunk.toString("latin1");
  });
  late?.resume();
  const revisionsHeard = () =>
    [...heard.matchAll(/"kv":\{"key":"[^"]*","create_revision":"\d+","mod_revision":"(\d+)"/g)].map(
      ([, text]) => Number(text),
    );
  for (const deadline = Date.now() + 20_000; Date.now() < deadline; await Bun.sleep(50)) {
    if (heard.length > count * 26_000 && revisionsHeard().length >= count) break;
  }
  expect(revisionsHeard()).toEqual(reading.revisions as number[]);
  for (const socket of lazy) socket.destroy();
}, 60_000);

test("embedded: watches over gRPC that are never read cost nothing either, and one read late hears all", async () => {
  const asIs = (bytes: Buffer) => bytes;
  const client = new grpc.Client(new URL(store.endpoint).host, grpc.credentials.createInsecure());
  try {
    const { header } = (await store.call("/v3/kv/range", { key: "AA==" })) as {
      header: { revision: string };
    };
    const start = Number(header.revision) + 1;
    const streams = Array.from({ length: 40 }, () => {
      const call = client.makeBidiStreamRequest("/etcdserverpb.Watch/Watch", asIs, asIs);
      call.on("error", () => {});
      call.pause();
      const create_request = { key: base64("\0"), range_end: base64("\0"), start_revision: start };
      call.write(toProtobuf(watchRequest, fromJson(watchRequest, { create_request })));
      return call;
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = rssMiB();
    const count = 400;
    for (let at = 0; at < count; at += 20) {
      await Promise.all(Array.from({ length: 20 }, (_, of) => store.put(`/grpc/${of}`, "x".repeat(30_000))));
    }
    // Unbounded, it would be 40 times 30 kB times 400.
    expect(rssMiB() - before).toBeLessThan(growthMiBMax);
    const revisions: number[] = [];
    const [late] = streams;
    late?.on("data", (bytes: Buffer) => {
      const { events = [] } = fromProtobuf(watchResponse, bytes);
      revisions.push(...events.map(({ kv }) => kv?.mod_revision ?? 0));
    });
    late?.resume();
    for (const deadline = Date.now() + 20_000; revisions.length < count && Date.now() < deadline;) {
      await Bun.sleep(20);
    }
    expect(revisions).toEqual(Array.from({ length: count }, (_, at) => start + at));
    await store.put("/a", "4");
  } finally {
    client.close();
  }
}, 60_000);

test("embedded: a client that stops half-way is let go, and its watch with it", async () => {
  await using own = await startEmbedded({ listenerLimits: { requestMsMax: 150, idleMsMax: 300 } });
  const { listener, service } = own.server;
  const halves = [
    "",
    "PO",
    "POST /v3/kv/put HTTP/1.1\r\nhost:",
    post("/v3/kv/put", "content-length: 10", "{"),
  ];
  const answers = halves.map((half) => answerTo(own.endpoint, half));
  const request = '{"create_request":{"key":"YQ=="}}';
  const watching = await dial(own.endpoint, post("/v3/watch", `content-length: ${request.length}`, request));
  await new Promise((resolve) => watching.once("data", resolve));
  expect(service.watches.size).toBe(1);
  expect(await Promise.all(answers)).toEqual(["", "", "", ""]);
  expect(listener.connections).toBe(1);
  watching.destroy();
  for (const deadline = Date.now() + 5_000; listener.connections > 0 && Date.now() < deadline;)
    await Bun.sleep(5);
  expect([listener.connections, service.watches.size]).toEqual([0, 0]);
}, 20_000);

test("embedded: unfinished requests of all clients together are bounded", async () => {
  await using own = await startEmbedded({ listenerLimits: { requestBytesMax: 200_000 } });
  const half = post("/v3/kv/put", "content-length: 120000", "x".repeat(100_000));
  const first = await dial(own.endpoint, half);
  await Bun.sleep(50);
  const second = await answerTo(own.endpoint, half + "x".repeat(15_000));
  expect(second.slice(9, 12)).toBe("503");
  first.destroy();
  for (const deadline = Date.now() + 5_000; own.server.listener.connections > 0 && Date.now() < deadline;) {
    await Bun.sleep(5);
  }
  await own.put("/a", "x".repeat(80_000));
}, 20_000);
