import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { startEtcd } from "../demo/etcd.ts";
import { inside, type Lab, openLab } from "../demo/lab.ts";
import type { Child } from "../demo/process.ts";
import { systemClock } from "../base/clock.ts";
import { resultOf, startAgent } from "./program.ts";
import { residentMiB } from "./memory.ts";
import { pairedRow, type Row } from "./row.ts";
import type { StoreSample } from "./store-agent.ts";

interface Measured extends StoreSample {
  readonly memoryMiB: number;
}

const meters: readonly {
  readonly name: string;
  readonly quantity: keyof Measured;
  readonly unit: string;
  readonly lowerIsBetter: boolean;
}[] = [
  { name: "store-put/embedded", quantity: "putMs", unit: "ms", lowerIsBetter: true },
  { name: "store-range1000/embedded", quantity: "rangeMs", unit: "ms", lowerIsBetter: true },
  { name: "store-txn/embedded", quantity: "txnMs", unit: "ms", lowerIsBetter: true },
  { name: "store-fanout-delay/embedded", quantity: "fanoutMs", unit: "ms", lowerIsBetter: true },
  { name: "store-fanout-rate/embedded", quantity: "eventsPerSecond", unit: "events/s", lowerIsBetter: false },
  { name: "store-memory/embedded", quantity: "memoryMiB", unit: "MiB", lowerIsBetter: true },
];

/** In the order of the table. */
export const storeRowNames: readonly string[] = meters.map(({ name }) => name);

const embeddedPort = 2390;
const startMsMax = 20_000;

/**
 * The embedded store and a real etcd of one member on the same disk, measured in turn by the same client over
 * etcd's JSON gateway: latency, 500 watchers, and memory while they watch.
 */
export async function benchStore(
  { rounds, seconds }: { readonly rounds: number; readonly seconds: number },
  { say, stop }: { say: (text: string) => void; stop: AbortSignal },
): Promise<Row[]> {
  const measured = { embedded: [] as Measured[], etcd: [] as Measured[] };
  for (let round = 1; round <= rounds; round++) {
    // Fresh ones: what was written before slows neither down.
    await using lab = await openLab("bench", 0, stop);
    const order = round % 2 === 0 ? (["etcd", "embedded"] as const) : (["embedded", "etcd"] as const);
    for (const kind of order) {
      say(`store: round ${round} of ${rounds}, ${kind}`);
      const server = kind === "etcd" ? startEtcd(lab) : startEmbedded(lab);
      await waitHealthy(lab, server.endpoint);
      measured[kind].push(await measure(lab, server, seconds));
      await server.child.end();
    }
  }
  return meters.map(({ quantity, ...meter }) =>
    pairedRow(
      { ...meter, of: "embedded", against: "etcd" },
      measured.embedded.map((one) => one[quantity]),
      measured.etcd.map((one) => one[quantity]),
    ),
  );
}

interface Server {
  readonly endpoint: string;
  readonly child: Child;
}

function startEmbedded(lab: Lab): Server {
  const directory = join(lab.directory, "embedded");
  mkdirSync(directory, { mode: 0o700 });
  const listen = `127.0.0.1:${embeddedPort}`;
  const command = [process.execPath, "store", "serve", "-data-dir", directory, "-listen", listen];
  return { endpoint: `http://${listen}`, child: lab.start(lab.switchNamespace, command) };
}

async function measure(lab: Lab, { endpoint, child }: Server, seconds: number): Promise<Measured> {
  const agent = await startAgent(lab, lab.switchNamespace, ["bench-store", endpoint, `${seconds}`]);
  try {
    const sample = await resultOf<StoreSample>(agent);
    return { ...sample, memoryMiB: residentMiB(child.pid) };
  } finally {
    await agent.child.end();
  }
}

async function waitHealthy(lab: Lab, endpoint: string): Promise<void> {
  const agent = [process.execPath, "bench-store-health", endpoint];
  for (const deadline = performance.now() + startMsMax; ; await systemClock.sleep(200)) {
    try {
      await inside(lab.switchNamespace, agent);
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
    }
  }
}
