import { connect, type Socket } from "node:net";
import { systemClock } from "../base/clock.ts";
import { medianOf } from "./statistics.ts";

/** What one round of requests to a store showed. */
export interface StoreSample {
  /** Medians, in ms, of one request after the other. */
  readonly putMs: number;
  readonly rangeMs: number;
  readonly txnMs: number;
  /** From a put until all watchers have its event, median. */
  readonly fanoutMs: number;
  /** Events delivered a second while puts follow each other. */
  readonly eventsPerSecond: number;
}

/** How many watch streams are open. */
const watcherCount = 500;
const rangeKeys = 1_000;
/** Puts measured one by one, and puts that follow each other. */
const fanoutPuts = 10;
const burstPuts = 20;
const valueBytes = 200;
const waitMsMax = 60_000;

/** A store as flannel-lite's own client speaks to it: etcd's JSON gateway. */
export interface StoreUnderTest {
  readonly sample: StoreSample;
  /** Ends the watch streams. */
  close(): void;
}

/** Measures a store that is otherwise idle; the watch streams stay open. @param seconds for each kind of request */
export async function measureStore(endpoint: string, seconds: number): Promise<StoreUnderTest> {
  const call = async (path: string, body: object): Promise<Record<string, unknown>> => {
    const response = await fetch(`${endpoint}${path}`, {
      method: "POST",
      body: JSON.stringify(body),
      proxy: false as const,
    });
    if (response.status !== 200) throw new Error(`${path}: HTTP ${response.status} ${await response.text()}`);
    return (await response.json()) as Record<string, unknown>;
  };
  const value = base64("x".repeat(valueBytes));
  const put = (key: string) => call("/v3/kv/put", { key: base64(key), value });
  for (let at = 0; at < rangeKeys; at++) await put(`/bench/range/${String(at).padStart(5, "0")}`);

  const putMs = await medianMs(seconds, () => put("/bench/put"));
  const range = { key: base64("/bench/range/"), range_end: base64("/bench/range0") };
  const rangeMs = await medianMs(seconds, async () => {
    const { count } = await call("/v3/kv/range", range);
    if (count !== String(rangeKeys)) throw new Error(`${String(count)} keys in place of ${rangeKeys}`);
  });
  // As a lease is taken: two keys, if neither has changed.
  const txnMs = await medianMs(seconds, async () => {
    const keys = ["/bench/put", "/bench/range/00000"].map(base64);
    const compare = keys.map((key) => ({ key, target: "VERSION", result: "GREATER", version: "0" }));
    await call("/v3/kv/txn", { compare, success: keys.map((key) => ({ request_put: { key, value } })) });
  });

  const watchers = await openWatchers(endpoint, "/bench/watched");
  try {
    const delays: number[] = [];
    for (let round = 0; round < fanoutPuts; round++) {
      const start = performance.now();
      const all = watchers.reached((round + 1) * watcherCount);
      await put("/bench/watched");
      delays.push((await all) - start);
    }
    const start = performance.now();
    const all = watchers.reached((fanoutPuts + burstPuts) * watcherCount);
    for (let at = 0; at < burstPuts; at++) await put("/bench/watched");
    const eventsPerSecond = (burstPuts * watcherCount * 1_000) / ((await all) - start);
    const sample = { putMs, rangeMs, txnMs, fanoutMs: medianOf(delays), eventsPerSecond };
    return { sample, close: watchers.close };
  } catch (error) {
    watchers.close();
    throw error;
  }
}

async function medianMs(seconds: number, work: () => Promise<unknown>): Promise<number> {
  for (let warm = 0; warm < 20; warm++) await work();
  const times: number[] = [];
  for (const end = performance.now() + seconds * 1_000; performance.now() < end;) {
    const start = performance.now();
    await work();
    times.push(performance.now() - start);
  }
  return medianOf(times);
}

interface Watchers {
  /** When so many events have come to all of them together. */
  reached(events: number): Promise<number>;
  close(): void;
}

/** Plain sockets: the runtime's fetch has a bound on open requests. */
async function openWatchers(endpoint: string, key: string): Promise<Watchers> {
  const { hostname, port } = new URL(endpoint);
  const body = JSON.stringify({ create_request: { key: base64(key) } });
  const head = `POST /v3/watch HTTP/1.1\r\nhost: ${hostname}:${port}\r\ncontent-length: ${body.length}\r\n\r\n`;
  const sockets: Socket[] = [];
  let [created, events, failed]: [number, number, Error | undefined] = [0, 0, undefined];
  let wake = () => {};
  for (let at = 0; at < watcherCount; at++) {
    const socket = connect({ host: hostname, port: Number(port), noDelay: true });
    // An event's mark may be cut by the end of a chunk.
    let rest = "";
    socket.on("data", (chunk) => {
      const text = rest + chunk.toString("latin1");
      const found = text.split('"kv":').length - 1;
      created += text.split('"created":true').length - 1;
      events += found;
      rest = text
        .slice(text.lastIndexOf("\n") + 1)
        .replaceAll('"kv":', "")
        .replaceAll('"created":true', "");
      wake();
    });
    socket.on("error", (error) => {
      failed = error;
      wake();
    });
    socket.write(head + body);
    sockets.push(socket);
  }
  const until = async (isSo: () => boolean): Promise<number> => {
    const deadline = performance.now() + waitMsMax;
    while (!isSo()) {
      if (failed !== undefined) throw failed;
      if (performance.now() > deadline) throw new Error(`${created} watchers have ${events} events`);
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      const late = new AbortController();
      await Promise.race([promise, systemClock.sleep(1_000, late.signal)]);
      late.abort();
    }
    return performance.now();
  };
  await until(() => created >= watcherCount);
  return {
    reached: (count) => until(() => events >= count),
    close() {
      for (const socket of sockets) socket.destroy();
    },
  };
}

function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}
