import { createSocket } from "node:dgram";
import { readFileSync, writeSync } from "node:fs";
import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { openAddon, openBenchTools } from "../native/addon.ts";
import type { EngineOptions, ForwardingTable } from "../native/ports.ts";
import { medianOf } from "./statistics.ts";
import { measureStore } from "./store-agent.ts";

/** What a `bench-engine` is started with, as a file. */
export interface EngineSetup {
  readonly options: EngineOptions;
  readonly table: ForwardingTable;
}

/**
 * The bench's own programs, run inside its namespaces; not part of the command line's contract. Those that wait
 * for something print `ready` first; what each found is one line of JSON.
 */
export const benchAgents: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = {
  /** Carries packets until SIGTERM, then prints its counters. */
  "bench-engine": async ([file = ""]) => {
    const { options, table } = JSON.parse(readFileSync(file, "utf8")) as EngineSetup;
    const engine = openAddon().openEngine(options);
    try {
      engine.setTable(table);
      print("ready");
      await ended();
      const { peers: _, ...stats } = engine.stats();
      print(JSON.stringify(stats));
    } finally {
      engine.close();
    }
  },
  /** Measures a store, prints what it found, and leaves its watchers there until SIGTERM. */
  "bench-store": async ([endpoint = "", seconds = ""]) => {
    print("ready");
    const { sample, close } = await measureStore(endpoint, Number(seconds));
    print(JSON.stringify(sample));
    await ended();
    close();
  },
  /** Fails unless a store answers. */
  "bench-store-health": async ([endpoint = ""]) => {
    const { status } = await fetch(`${endpoint}/health`, {
      proxy: false as const,
      signal: AbortSignal.timeout(2_000),
    });
    if (status !== 200) throw new FlannelError("bench/store", "the store is not well", { status });
  },
  "bench-count": async ([port = "", firstMs = "", idleMs = ""]) => {
    const counter = openBenchTools().openCounter(Number(port));
    print("ready");
    print(JSON.stringify(await counter.count(Number(firstMs), Number(idleMs))));
  },
  "bench-blast": async ([port = "", bytes = "", durationMs = "", ...targets]) => {
    print(
      JSON.stringify(await openBenchTools().blast(targets, Number(port), Number(bytes), Number(durationMs))),
    );
  },
  "bench-echo": async ([port = ""]) => {
    const echo = openBenchTools().openEcho(Number(port));
    print("ready");
    await echo.serve();
  },
  "bench-round-trips": async ([target = "", port = "", durationMs = ""]) => {
    print(JSON.stringify(await openBenchTools().roundTrips(target, Number(port), Number(durationMs))));
  },
  /** When the first datagram comes. */
  "bench-first": async ([port = ""]) => {
    const socket = createSocket("udp4");
    const first = new Promise<number>((resolve) => socket.once("message", () => resolve(wallMs())));
    await new Promise<void>((resolve) => socket.bind(Number(port), resolve));
    print("ready");
    print(JSON.stringify({ at: await first }));
    socket.close();
  },
  /** One small datagram a millisecond, whether anybody takes it or not, until SIGTERM. */
  "bench-drip": async ([target = "", port = ""]) => {
    const socket = createSocket("udp4");
    socket.on("error", () => undefined);
    socket.bind(0);
    const timer = setInterval(() => socket.send("x", Number(port), target, () => undefined), 1);
    print("ready");
    await ended();
    clearInterval(timer);
    socket.close();
  },
  /** Writes keys into etcd through its JSON gateway. */
  "bench-put": async ([endpoint = "", file = ""]) => {
    const entries = JSON.parse(readFileSync(file, "utf8")) as [string, string][];
    for (let done = 0; done < entries.length; done += putsOfTransaction) {
      const success = entries.slice(done, done + putsOfTransaction).map(([key, value]) => ({
        request_put: { key: btoa(key), value: btoa(value) },
      }));
      const answer = await fetch(`${endpoint}/v3/kv/txn`, {
        method: "POST",
        body: JSON.stringify({ compare: [], success, failure: [] }),
      });
      if (!answer.ok) throw new Error(`etcd answered ${answer.status}: ${await answer.text()}`);
    }
    print(JSON.stringify({ at: wallMs() }));
  },
  /** Has an API server of Kubernetes change a node's status. */
  "bench-patch-node": async ([url = "", file = ""]) => {
    const answer = await fetch(`${url}/status`, {
      method: "PATCH",
      headers: { "content-type": "application/strategic-merge-patch+json" },
      body: readFileSync(file, "utf8"),
      proxy: false as const,
    });
    if (!answer.ok) throw new Error(`the API server answered ${answer.status}: ${await answer.text()}`);
    print(JSON.stringify({ at: wallMs() }));
  },
  /** How long an engine takes to be given another table, and the memory of a process that holds it. */
  "bench-table": async ([file = ""]) => {
    const { options, table } = JSON.parse(readFileSync(file, "utf8")) as EngineSetup;
    const engine = openAddon().openEngine(options);
    try {
      const times: number[] = [];
      for (let swap = 0; swap < tableSwaps; swap++) {
        const before = performance.now();
        engine.setTable(table);
        times.push(performance.now() - before);
        await systemClock.sleep(1);
      }
      print(JSON.stringify({ swapMs: medianOf(times) }));
    } finally {
      engine.close();
    }
  },
};

/** etcd takes 128 operations in a transaction where nothing else is configured. */
const putsOfTransaction = 100;
const tableSwaps = 9;

/** The wall clock, which all namespaces share, finer than a millisecond. */
function wallMs(): number {
  return performance.timeOrigin + performance.now();
}

function ended(): Promise<void> {
  return new Promise((resolve) => {
    // A loop that has nothing to wait for spins (Bun 1.4), and an agent that spins takes a core from what is measured.
    const timer = setInterval(() => undefined, 2 ** 30);
    const end = () => {
      clearInterval(timer);
      resolve();
    };
    process.once("SIGTERM", end);
    process.once("SIGINT", end);
  });
}

/** At once: the process may end right after. */
function print(line: string): void {
  writeSync(1, `${line}\n`);
}
