import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errorText, FlannelError } from "../base/error.ts";
import { type BenchOptions, benchPackets, type Pass } from "../bench/bench.ts";
import { benchControlPlane } from "../bench/control-plane.ts";
import { benchKube, kubeRowNames, missingKubeNodes } from "../bench/kube.ts";
import { describeMachine } from "../bench/machine.ts";
import { modes } from "../bench/mode.ts";
import { plotRatios } from "../bench/plot.ts";
import { type Report, reportJson, reportMarkdown, reportText } from "../bench/report.ts";
import { interopRowSpecs, rowSpecs } from "../bench/row.ts";
import { benchStore, storeRowNames } from "../bench/store.ts";
import type { CommandFlag } from "../config/load.ts";
import { jsonFlag, usage } from "./command.ts";
import { requireRoot } from "./run.ts";

export const benchFlags: readonly CommandFlag[] = [
  jsonFlag,
  { name: "quick", isBool: true, doc: "Fewer and shorter rounds." },
  {
    name: "mode",
    isBool: false,
    doc: `What the link does: comma list of ${modes.join(", ")}; without it wire, and interoperation in all.`,
  },
  {
    name: "rows",
    isBool: false,
    doc: "Comma list of rows, one of store-… or kube-… for all of those; without it all, and the control plane.",
  },
  { name: "rounds", isBool: false, doc: "How often everything is measured, 1 to 100." },
  { name: "seconds", isBool: false, doc: "Duration of one run, 0.1 to 60; TCP takes whole seconds." },
  { name: "write-docs", isBool: false, doc: "Also write README.md and bench.svg into this directory." },
];

/** Interoperation is a row of facts, not of goals: fewer rounds do. */
const interopRounds = 5;
const full = {
  rounds: 7,
  seconds: 2,
  leases: [1, 100, 1_000, 10_000],
  store: { rounds: 3, seconds: 1 },
  kube: { rounds: 3 },
};
const quick = {
  rounds: 3,
  seconds: 0.5,
  leases: [1, 1_000],
  store: { rounds: 1, seconds: 0.3 },
  kube: { rounds: 1 },
};

/**
 * Measures our engines against the kernel's and others'. Progress goes to standard error.
 * @throws FlannelError `bench/interrupted`, `config/invalid`, `command/not-root` and what measuring fails with
 */
export async function bench(
  flags: ReadonlyMap<string, string>,
  stop: AbortSignal,
): Promise<{ output: string }> {
  const options = benchOptions(flags);
  requireRoot("bench");
  try {
    return await measureAll(options, flags, stop);
  } catch (error) {
    // What was under way failed because all it stood on was removed.
    throw stop.aborted ? new FlannelError("bench/interrupted", "stopped before the end") : error;
  }
}

async function measureAll(
  options: ReturnType<typeof benchOptions>,
  flags: ReadonlyMap<string, string>,
  stop: AbortSignal,
): Promise<{ output: string }> {
  const machine = await describeMachine(stop);
  const control = await controlPlane(options.leases, stop);
  const store = await storeRows(options.store, stop);
  const kube = await kubeRows(options.kube, stop);
  const packets = await benchPackets(options, { say, stop });
  const skipped = [...packets.skipped, ...control.skipped, ...store.skipped, ...kube.skipped];
  const rows = [...packets.rows, ...store.rows, ...kube.rows];
  const report: Report = {
    ...packets,
    rows,
    skipped,
    facts: control.facts,
    machine,
    seconds: options.seconds,
  };
  const directory = flags.get("write-docs");
  if (directory !== undefined) {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, "README.md"), reportMarkdown(report));
    const title =
      "Ratio to the kernel's vxlan device, or to what the row's name says (↓ less is better, | must)";
    const plotted = report.rows.filter(({ mode }) => mode === report.rows[0]?.mode);
    writeFileSync(join(directory, "bench.svg"), plotRatios(plotted, title));
  }
  return { output: flags.get("json") === "true" ? reportJson(report) : reportText(report) };
}

/** Its failure is told in the report: the packets are measured all the same. */
async function controlPlane(
  leases: readonly number[],
  stop: AbortSignal,
): Promise<Pick<Report, "facts" | "skipped">> {
  if (leases.length === 0) return { facts: [], skipped: [] };
  try {
    return { facts: await benchControlPlane(leases, { say, stop }), skipped: [] };
  } catch (error) {
    if (stop.aborted || !(error instanceof FlannelError)) throw error;
    return { facts: [], skipped: [{ name: "control plane", reason: errorText(error) }] };
  }
}

/** As {@link controlPlane}: etcd may be missing. */
async function storeRows(
  options: { readonly rounds: number; readonly seconds: number } | undefined,
  stop: AbortSignal,
): Promise<Pick<Report, "rows" | "skipped">> {
  if (options === undefined) return { rows: [], skipped: [] };
  try {
    return { rows: await benchStore(options, { say, stop }), skipped: [] };
  } catch (error) {
    if (stop.aborted || !(error instanceof FlannelError)) throw error;
    return { rows: [], skipped: [{ name: "store", reason: errorText(error) }] };
  }
}

/** As {@link controlPlane}: the API server is a program that the environment names. */
async function kubeRows(
  options: { readonly rounds: number } | undefined,
  stop: AbortSignal,
): Promise<Pick<Report, "rows" | "skipped">> {
  if (options === undefined) return { rows: [], skipped: [] };
  const missing = missingKubeNodes();
  if (missing !== undefined) return { rows: [], skipped: [{ name: "kube", reason: missing }] };
  try {
    return { rows: await benchKube(options, { say, stop }), skipped: [] };
  } catch (error) {
    if (stop.aborted || !(error instanceof FlannelError)) throw error;
    return { rows: [], skipped: [{ name: "kube", reason: errorText(error) }] };
  }
}

/** @throws FlannelError `config/invalid` */
export function benchOptions(flags: ReadonlyMap<string, string>): BenchOptions & {
  readonly leases: readonly number[];
  readonly store: { readonly rounds: number; readonly seconds: number } | undefined;
  readonly kube: { readonly rounds: number } | undefined;
} {
  const isQuick = flags.get("quick") === "true";
  const defaults = isQuick ? quick : full;
  const isChosen = (flags.get("rows") ?? "") !== "";
  const isWhole = !isQuick && !isChosen && !flags.has("mode");
  const known = [...rowSpecs, ...interopRowSpecs];
  const rows = isChosen
    ? listed(flags.get("rows"), "rows", [
        ...known.map(({ name }) => name),
        ...storeRowNames,
        ...kubeRowNames,
      ]).flatMap((name) => known.filter((row) => row.name === name))
    : rowSpecs;
  const rounds = numberOf(flags.get("rounds"), {
    flag: "rounds",
    fallback: defaults.rounds,
    min: 1,
    max: 100,
    whole: true,
  });
  const isWanted = (names: readonly string[]) =>
    !isChosen || names.some((name) => flags.get("rows")?.split(",").includes(name));
  const chosenModes = listed(flags.get("mode") ?? "wire", "mode", modes);
  return {
    leases: isChosen ? [] : defaults.leases,
    store: isWanted(storeRowNames) ? defaults.store : undefined,
    kube: isWanted(kubeRowNames) ? defaults.kube : undefined,
    passes: [
      ...(rows.length === 0 ? [] : chosenModes.map((mode) => ({ mode, rows, rounds }))),
      ...(isWhole ? interopPasses(rounds) : []),
    ],
    seconds: numberOf(flags.get("seconds"), {
      flag: "seconds",
      fallback: defaults.seconds,
      min: 0.1,
      max: 60,
      whole: false,
    }),
  };
}

/** Mode wire has these rows among its own. */
function interopPasses(roundsMax: number): Pass[] {
  const others = modes.filter((mode) => mode !== "wire");
  return others.map((mode) => ({ mode, rows: interopRowSpecs, rounds: Math.min(interopRounds, roundsMax) }));
}

function listed<T extends string>(text: string | undefined, flag: string, known: readonly T[]): T[] {
  if (text === undefined || text === "") return [...known];
  return text.split(",").map((name) => {
    const found = known.find((one) => one === name);
    if (found === undefined) throw usage(`-${flag}: ${JSON.stringify(name)} is none of ${known.join(", ")}`);
    return found;
  });
}

function numberOf(
  text: string | undefined,
  {
    flag,
    fallback,
    min,
    max,
    whole,
  }: { flag: string; fallback: number; min: number; max: number; whole: boolean },
): number {
  const value = text === undefined || text === "" ? fallback : Number(text);
  if (value >= min && value <= max && (!whole || Number.isInteger(value))) return value;
  throw usage(`-${flag} must be ${whole ? "a whole number " : ""}from ${min} to ${max}`);
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}
