import type { Mode } from "./mode.ts";
import { type MeterName, meters, type Sample } from "./measure.ts";
import { medianOf, spreadOf } from "./statistics.ts";

/** One line of the table: a design against another, by what a meter shows of both in the same round. */
export interface RowSpec {
  readonly name: string;
  readonly meter: MeterName;
  readonly of: string;
  readonly against: string;
  /** The meter's value where it is not told. */
  readonly quantity?: "cpuPerGigabit";
  /** Of the ratio's median in mode wire: what it must reach, and what is aimed for. */
  readonly must?: number;
  readonly aim?: number;
}

/** In the order of the table. */
export const rowSpecs: readonly RowSpec[] = [
  { name: "tcp1/userspace", meter: "tcp1", of: "userspace", against: "kernel", must: 0.9, aim: 1.15 },
  { name: "tcp4/userspace", meter: "tcp4", of: "userspace", against: "kernel", must: 0.9, aim: 1.15 },
  { name: "tcp1/from-kernel", meter: "tcp1", of: "from-kernel", against: "kernel", must: 0.6, aim: 0.95 },
  { name: "tcp1/from-kernel-checksum", meter: "tcp1", of: "from-kernel-checksum", against: "kernel" },
  { name: "tcp1/to-kernel", meter: "tcp1", of: "to-kernel", against: "kernel" },
  { name: "pps64/userspace", meter: "pps64", of: "userspace", against: "kernel", must: 1.1, aim: 1.4 },
  {
    name: "pps64x1000/userspace",
    meter: "pps64x1000",
    of: "userspace",
    against: "kernel",
    must: 0.85,
    aim: 1.1,
  },
  { name: "rtt/default", meter: "rtt", of: "userspace", against: "kernel", must: 1.8, aim: 1.3 },
  { name: "rtt/latency", meter: "rtt", of: "latency", against: "kernel", must: 1.1, aim: 0.95 },
  {
    name: "cpu/userspace",
    meter: "tcp1",
    of: "userspace",
    against: "kernel",
    quantity: "cpuPerGigabit",
    must: 1.5,
    aim: 1.15,
  },
  {
    name: "forwarded-tcp1/userspace",
    meter: "forwarded-tcp1",
    of: "userspace",
    against: "kernel",
    must: 0.85,
    aim: 1,
  },
  { name: "tcp1/bare", meter: "tcp1", of: "bare", against: "kernel" },
  { name: "pps64/bare", meter: "pps64", of: "bare", against: "kernel" },
  { name: "rtt/bare", meter: "rtt", of: "bare", against: "kernel" },
  { name: "tcp1/vs-flannel-udp", meter: "tcp1", of: "userspace", against: "flannel-udp", must: 12, aim: 16 },
  { name: "tcp1/vs-wireguard-go", meter: "tcp1", of: "userspace", against: "wireguard-go" },
  { name: "tcp1/vs-tinc", meter: "tcp1", of: "userspace", against: "tinc" },
];

/** With a kernel vxlan device at one end, in the modes other than `wire`: with and without checksum offload. */
export const interopRowSpecs: readonly RowSpec[] = [
  { name: "interop/from-kernel", meter: "tcp1", of: "from-kernel", against: "kernel" },
  { name: "interop/from-kernel-checksum", meter: "tcp1", of: "from-kernel-checksum", against: "kernel" },
  { name: "interop/to-kernel", meter: "tcp1", of: "to-kernel", against: "kernel" },
];

/** A design measured by a meter in a round. */
export interface Run {
  readonly meter: MeterName;
  readonly design: string;
  readonly round: number;
  readonly sample: Sample;
}

/** A measured line. Further members than the first six are for people. */
export interface Row {
  readonly name: string;
  /** What the link does; `store` where none is measured. */
  readonly mode: Mode | "store";
  /** Median of the rounds' ratios, and their range. */
  readonly ratio: number;
  readonly min: number;
  readonly max: number;
  readonly rounds: number;
  readonly of: string;
  readonly against: string;
  /** Medians of what was measured, in `unit`. */
  readonly value: number;
  readonly base: number;
  readonly unit: string;
  readonly lowerIsBetter: boolean;
  /** Median TCP segments sent again in a run: of the one and the other. */
  readonly retransmits?: readonly [number, number];
  /** Median share of datagrams that did not arrive. */
  readonly lost?: readonly [number, number];
  readonly must?: number;
  readonly aim?: number;
}

/**
 * The measurements that `specs` take, each with its designs, once each. The base stands second, so that it is
 * next to the designs of a meter's first two rows.
 */
export function plannedRuns(specs: readonly RowSpec[]): { meter: MeterName; designs: string[] }[] {
  const byMeter = new Map<MeterName, Set<string>>();
  for (const { meter, of, against } of specs) {
    const designs = byMeter.get(meter) ?? new Set();
    byMeter.set(meter, designs.add(of).add(against));
  }
  return [...byMeter].map(([meter, designs]) => ({ meter, designs: [...designs] }));
}

/** A row of all rounds in which both designs were measured; undefined where there is none. */
export function rowOf(spec: RowSpec, mode: Mode, runs: readonly Run[]): Row | undefined {
  const { meter, of, against, quantity = "value" } = spec;
  const samples = (design: string) =>
    new Map(
      runs
        .filter((run) => run.meter === meter && run.design === design)
        .map((run) => [run.round, run.sample]),
    );
  const theirs = samples(against);
  const rounds = [...samples(of)].flatMap(([round, one]) => {
    const other = theirs.get(round);
    return other === undefined ? [] : [{ one, other }];
  });
  if (rounds.length === 0) return undefined;
  const ratio = spreadOf(rounds.map(({ one, other }) => (one[quantity] ?? 0) / (other[quantity] ?? 0)));
  const medians = (pick: (sample: Sample) => number | undefined): [number, number] | undefined => {
    const values = rounds.map(({ one, other }) => [pick(one), pick(other)] as const);
    if (values.some(([one, other]) => one === undefined || other === undefined)) return undefined;
    return [medianOf(values.map(([one]) => one ?? 0)), medianOf(values.map(([, other]) => other ?? 0))];
  };
  const [value, base] = medians((sample) => sample[quantity]) ?? [0, 0];
  const retransmits = medians((sample) => sample.retransmits);
  const lost = medians((sample) => sample.lost);
  return {
    name: spec.name,
    mode,
    ratio: rounded(ratio.median),
    min: rounded(ratio.min),
    max: rounded(ratio.max),
    rounds: rounds.length,
    of,
    against,
    value: rounded(value),
    base: rounded(base),
    unit: quantity === "cpuPerGigabit" ? "CPU s/Gbit" : meters[meter].unit,
    lowerIsBetter: quantity === "cpuPerGigabit" || meters[meter].lowerIsBetter,
    ...(retransmits === undefined ? {} : { retransmits }),
    ...(lost === undefined ? {} : { lost: [rounded(lost[0]), rounded(lost[1])] as const }),
    ...(mode === "wire" && spec.must !== undefined ? { must: spec.must } : {}),
    ...(mode === "wire" && spec.aim !== undefined ? { aim: spec.aim } : {}),
  };
}

/** Three significant digits below 1, three decimals above. */
function rounded(value: number): number {
  return Number(value.toPrecision(value < 1 ? 3 : 5));
}

/** A row of the stores: `ours` and `theirs` have a value for each round. */
export function pairedRow(
  meter: Pick<Row, "name" | "unit" | "lowerIsBetter" | "of" | "against">,
  ours: readonly number[],
  theirs: readonly number[],
): Row {
  const ratio = spreadOf(ours.map((value, at) => value / (theirs[at] ?? Number.NaN)));
  return {
    ...meter,
    mode: "store",
    ratio: rounded(ratio.median),
    min: rounded(ratio.min),
    max: rounded(ratio.max),
    rounds: ours.length,
    value: rounded(medianOf(ours)),
    base: rounded(medianOf(theirs)),
  };
}
