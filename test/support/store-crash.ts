import { expect } from "bun:test";
import type { Random } from "./random.ts";
import { startStoreProcess, type StoreProcess } from "./store-process.ts";
import { openWatchRecorder, type WatchRecorder } from "./watch-recorder.ts";

const writers = 6;
const callMsMax = 2_000;

/** What one writer knows of one of its keys: what was acknowledged last, or that a call on it got no answer. */
interface Known {
  value: string | undefined;
  /** Revision of the acknowledged write. */
  revision: number;
  certain: boolean;
}

/**
 * Kills the store `rounds` times under writes and under a watch that resumes where it was. Then: every
 * acknowledged write is there, the watch has told each write once and in order, and nothing that is not there.
 */
export async function crashRounds(rounds: number, random: Random): Promise<void> {
  await using store = await startStoreProcess();
  const known = new Map<string, Known>();
  const acknowledged: { key: string; revision: number }[] = [];
  const stop = new AbortController();
  const writing = Array.from({ length: writers }, (_, at) =>
    write(store, at, { known, acknowledged, stop: stop.signal }),
  );
  const watch = follow(store, stop.signal);
  for (let round = 0; round < rounds; round++) {
    await Bun.sleep(20 + random.below(150));
    await store.kill();
    await store.start();
  }
  const before = acknowledged.length;
  while (acknowledged.length < before + 10) await Bun.sleep(5);
  stop.abort();
  await Promise.all(writing);
  expect(acknowledged.length).toBeGreaterThan(rounds * 3);

  const { kvs = [], header } = (await store.call("/v3/kv/range", { key: "AA==", range_end: "AA==" })) as {
    kvs?: { key: string; value: string; mod_revision: string }[];
    header: { revision: string };
  };
  const there = new Map(kvs.map(({ key, value }) => [text(key), text(value)]));
  const lost = [...known].filter(([key, { value, certain }]) => certain && there.get(key) !== value);
  expect(lost).toEqual([]);

  const events = await watch.until(Number(header.revision));
  const revisions = events.map(({ revision }) => revision);
  expect(revisions).toEqual([...new Set(revisions)].sort((a, b) => a - b));
  const told = new Set(events.map(({ key, revision }) => `${key}@${revision}`));
  expect(acknowledged.filter(({ key, revision }) => !told.has(`${key}@${revision}`))).toEqual([]);
  const last = new Map(events.map((event) => [event.key, event]));
  expect(
    kvs.filter(({ key, mod_revision }) => last.get(text(key))?.revision !== Number(mod_revision)),
  ).toEqual([]);
}

async function write(
  store: StoreProcess,
  at: number,
  {
    known,
    acknowledged,
    stop,
  }: {
    known: Map<string, Known>;
    acknowledged: { key: string; revision: number }[];
    stop: AbortSignal;
  },
): Promise<void> {
  for (let number = 0; !stop.aborted; number++) {
    const isDelete = number % 5 === 4;
    const key = `w${at}/${isDelete ? number - 2 : number}`;
    const value = isDelete ? undefined : `${at}.${number}`;
    const entry = known.get(key) ?? { value: undefined, revision: 0, certain: true };
    known.set(key, entry);
    const wasThere = entry.certain && entry.value !== undefined;
    entry.certain = false;
    try {
      const revision = await change(store.endpoint, key, value);
      Object.assign(entry, { value, revision, certain: true });
      if (!isDelete || wasThere) acknowledged.push({ key, revision });
    } catch {
      await Bun.sleep(5);
    }
  }
}

/** Puts or deletes; gives the revision. */
async function change(endpoint: string, key: string, value: string | undefined): Promise<number> {
  const name = Buffer.from(key).toString("base64");
  const [path, body] =
    value === undefined
      ? ["deleterange", { key: name }]
      : ["put", { key: name, value: Buffer.from(value).toString("base64") }];
  const response = await fetch(`${endpoint}/v3/kv/${path}`, {
    method: "POST",
    body: JSON.stringify(body),
    proxy: false,
    signal: AbortSignal.timeout(callMsMax),
  });
  if (response.status !== 200) throw new Error(`HTTP ${response.status}`);
  return Number(((await response.json()) as { header: { revision: string } }).header.revision);
}

interface Told {
  readonly key: string;
  readonly revision: number;
}

/** A watch of everything from the first revision on, opened again from where it was. */
function follow(store: StoreProcess, stop: AbortSignal) {
  const events: Told[] = [];
  let recorder: WatchRecorder | undefined;
  const next = () => (events.at(-1)?.revision ?? 0) + 1;
  const take = (from: WatchRecorder) => {
    for (const one of from.told) {
      if ("canceled" in one && one.canceled === true) throw new Error(`cancelled: ${JSON.stringify(one)}`);
      if ("kv" in one) {
        const { key, mod_revision } = one.kv as { key: string; mod_revision: string };
        events.push({ key: text(key), revision: Number(mod_revision) });
      }
    }
  };
  const open = async () => {
    recorder = await openWatchRecorder(store.endpoint, {
      create_request: { key: "AA==", range_end: "AA==", start_revision: String(next()) },
    });
    await recorder.ended;
    take(recorder);
  };
  const running = (async () => {
    while (!stop.aborted) {
      await open().catch((error: unknown) => {
        if (error instanceof Error && error.message.startsWith("cancelled")) throw error;
      });
      await Bun.sleep(10);
    }
  })();
  return {
    /** All events up to `revision`. */
    async until(revision: number): Promise<readonly Told[]> {
      const deadline = Date.now() + 20_000;
      while ((recorder?.revisions.at(-1) ?? 0) < revision && Date.now() < deadline) await Bun.sleep(10);
      recorder?.close();
      await running;
      return events;
    },
  };
}

function text(base64: string): string {
  return Buffer.from(base64, "base64").toString();
}
