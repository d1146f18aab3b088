import { systemClock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import { type Namespaces, openNamespaces } from "../demo/lab.ts";
import { tryProgram } from "../demo/process.ts";
import type { EngineStats } from "../native/ports.ts";
import { processCpuSeconds } from "./cpu.ts";
import { type Design, designs } from "./design.ts";
import { meters } from "./measure.ts";
import type { Mode } from "./mode.ts";
import { openPair, type Pair } from "./pair.ts";
import { resultOf } from "./program.ts";
import { plannedRuns, type Row, type RowSpec, type Run, rowOf } from "./row.ts";

export interface BenchOptions {
  /** One after the other. */
  readonly passes: readonly Pass[];
  /** Of one run. */
  readonly seconds: number;
}

/** Rows measured together: each round has a run of all their designs. */
export interface Pass {
  readonly mode: Mode;
  readonly rows: readonly RowSpec[];
  readonly rounds: number;
}

/** What was measured. */
export interface PacketResult {
  readonly rows: readonly Row[];
  /** Designs that could not be measured here. */
  readonly skipped: readonly { readonly name: string; readonly reason: string }[];
  /** Designs whose programs kept CPUs busy while nothing was measured over them: they slow all the others down. */
  readonly restless: readonly { readonly design: string; readonly mode: Mode; readonly cores: number }[];
  /** Packets that our engines dropped in all runs, by design, mode and reason. */
  readonly drops: readonly {
    readonly design: string;
    readonly mode: Mode;
    readonly reasons: Readonly<Record<string, number>>;
  }[];
}

/**
 * Measures the rows in network namespaces of its own, and removes all it made, also when it fails or `stop` aborts.
 * @throws FlannelError `bench/interrupted`, and what setting up and measuring fail with
 */
export async function benchPackets(
  { passes, seconds }: BenchOptions,
  { say, stop }: { say: (text: string) => void; stop: AbortSignal },
): Promise<PacketResult> {
  const missing = designsOf(passes.flatMap(({ rows }) => rows)).flatMap(({ name, missing: why }) => {
    const reason = why?.();
    return reason === undefined ? [] : [{ name, reason }];
  });
  const skipped = new Map(missing.map(({ name, reason }) => [name, reason]));
  const measured: Row[] = [];
  const drops: PacketResult["drops"][number][] = [];
  const restless: PacketResult["restless"][number][] = [];
  for (const { mode, rows, rounds } of passes) {
    await using namespaces = await openNamespaces("bench", stop);
    const pairs = new Map<string, Pair>();
    for (const design of designsOf(rows)) {
      throwIfStopped(stop);
      if (skipped.has(design.name)) continue;
      say(`${mode}: setting up ${design.name}`);
      try {
        pairs.set(design.name, await setUp(namespaces, design, mode, rows));
      } catch (error) {
        throwIfStopped(stop);
        // A peer that does not start costs its rows; a design of our own is what is measured.
        if (design.missing === undefined) throw error;
        skipped.set(design.name, errorText(error));
      }
    }
    const runs: Run[] = [];
    for (let round = 1; round <= rounds; round++) {
      say(`${mode}: round ${round} of ${rounds}`);
      runs.push(...(await measureRound({ rows, round, seconds, pairs }, { say, stop })));
      // By then all of them have carried something.
      if (round === 1) restless.push(...(await findRestless(pairs, mode)));
    }
    measured.push(...rows.map((row) => rowOf(row, mode, runs)).filter((row) => row !== undefined));
    for (const [design, pair] of pairs) {
      const reasons = await endEngines(pair);
      if (pair.engines.length > 0) drops.push({ design, mode, reasons });
    }
  }
  return {
    rows: measured,
    drops,
    restless,
    skipped: [...skipped].map(([name, reason]) => ({ name, reason })),
  };
}

function designsOf(rows: readonly RowSpec[]): Design[] {
  return designs.filter(({ name }) => rows.some(({ of, against }) => of === name || against === name));
}

async function setUp(
  namespaces: Namespaces,
  design: Design,
  mode: Mode,
  rows: readonly RowSpec[],
): Promise<Pair> {
  const withPod = rows.some(
    ({ meter, of, against }) => meter === "forwarded-tcp1" && (of === design.name || against === design.name),
  );
  const pair = await openPair(namespaces, { name: design.name, mode, withPod });
  await design.join(pair);
  return pair;
}

/** Every meter over its designs, back to back; every other round the other way round, so that drift cancels. */
async function measureRound(
  {
    rows,
    round,
    seconds,
    pairs,
  }: { rows: readonly RowSpec[]; round: number; seconds: number; pairs: ReadonlyMap<string, Pair> },
  { say, stop }: { say: (text: string) => void; stop: AbortSignal },
): Promise<Run[]> {
  const runs: Run[] = [];
  for (const { meter, designs: names } of plannedRuns(rows)) {
    const present = names.filter((name) => pairs.has(name));
    for (const design of round % 2 === 0 ? present.reverse() : present) {
      throwIfStopped(stop);
      const pair = pairs.get(design);
      if (pair === undefined) continue;
      const sample = await meters[meter].run(pair, seconds);
      const stolen = sample.stolenCores > 0.05 ? `, ${sample.stolenCores.toFixed(2)} cores stolen` : "";
      say(`  ${meter} ${design}: ${sample.value.toPrecision(4)} ${meters[meter].unit}${stolen}`);
      runs.push({ meter, design, round, sample });
    }
  }
  return runs;
}

const restMs = 500;
const restCoresMax = 0.1;

async function findRestless(pairs: ReadonlyMap<string, Pair>, mode: Mode): Promise<PacketResult["restless"]> {
  const before = [];
  for (const [design, { hosts }] of pairs) {
    const listed = await Promise.all(
      [hosts.sender, hosts.receiver].map((namespace) => tryProgram(["ip", "netns", "pids", namespace])),
    );
    for (const pid of listed.flatMap(({ output }) => output.split("\n").filter((line) => line !== ""))) {
      before.push({ design, pid: Number(pid), used: processCpuSeconds(Number(pid)), at: performance.now() });
    }
  }
  await systemClock.sleep(restMs);
  const cores = new Map<string, number>();
  for (const { design, pid, used, at } of before) {
    const spent = (processCpuSeconds(pid) - used) / ((performance.now() - at) / 1000);
    cores.set(design, (cores.get(design) ?? 0) + Math.max(0, spent));
  }
  return [...cores]
    .filter(([, busy]) => busy > restCoresMax)
    .map(([design, busy]) => ({ design, mode, cores: Math.round(busy * 100) / 100 }));
}

/** Ends a pair's engines. @returns what they dropped, reasons never met left out */
async function endEngines(pair: Pair): Promise<Record<string, number>> {
  const reasons: Record<string, number> = {};
  for (const engine of pair.engines) {
    await engine.child.end();
    const { drops, failure } = await resultOf<EngineStats>(engine);
    if (failure !== undefined)
      throw new FlannelError("bench/engine", `an engine of ${pair.name} failed: ${failure}`);
    for (const [reason, count] of Object.entries(drops)) {
      if (count > 0) reasons[reason] = (reasons[reason] ?? 0) + count;
    }
  }
  return reasons;
}

function throwIfStopped(stop: AbortSignal): void {
  if (stop.aborted) throw new FlannelError("bench/interrupted", "stopped before the end");
}
