import { FlannelError } from "../base/error.ts";
import type { Counted, RoundTrips } from "../native/bench-tools.ts";
import { manyLeasesList } from "./address.ts";
import { type CpuTime, readCpuTime } from "./cpu.ts";
import { assertOnWire, countLink, type Pair } from "./pair.ts";
import { resultOf, runInside, startAgent, startProgram } from "./program.ts";

/** What one run showed. */
export interface Sample {
  /** In the meter's unit. */
  readonly value: number;
  /** CPU seconds of the whole machine per gigabit; of TCP only. */
  readonly cpuPerGigabit?: number;
  /** TCP segments sent again. */
  readonly retransmits?: number;
  /** Datagrams that were offered and did not arrive, as a share of those offered. */
  readonly lost?: number;
  /** Cores kept busy on the whole machine. */
  readonly busyCores: number;
  /** Cores taken by the hypervisor. */
  readonly stolenCores: number;
}

export interface Meter {
  readonly unit: string;
  /** Whether the smaller value is the better one. */
  readonly lowerIsBetter: boolean;
  run(pair: Pair, seconds: number): Promise<Sample>;
}

export const meters = {
  tcp1: { unit: "Gbit/s", lowerIsBetter: false, run: (pair, seconds) => tcp(pair, seconds, { streams: 1 }) },
  tcp4: { unit: "Gbit/s", lowerIsBetter: false, run: (pair, seconds) => tcp(pair, seconds, { streams: 4 }) },
  "forwarded-tcp1": {
    unit: "Gbit/s",
    lowerIsBetter: false,
    run: (pair, seconds) => tcp(pair, seconds, { streams: 1, from: pair.pod }),
  },
  pps64: {
    unit: "kpps",
    lowerIsBetter: false,
    run: (pair, seconds) => datagrams(pair, seconds, [pair.target]),
  },
  pps64x1000: {
    unit: "kpps",
    lowerIsBetter: false,
    run: (pair, seconds) =>
      datagrams(
        pair,
        seconds,
        manyLeasesList().map(({ target }) => target),
      ),
  },
  rtt: { unit: "us", lowerIsBetter: true, run: roundTrips },
} satisfies Record<string, Meter>;

export type MeterName = keyof typeof meters;

const tcpPort = 5201;
const datagramPort = 5202;
const echoPort = 5203;
/** UDP payload, in bytes. */
const payloadBytes = 64;
/** A receiver waits so long for the first datagram, and so long for one more. */
const firstMs = 5_000;
const idleMs = 400;
/** What a run may take beyond its duration. */
const graceMs = 20_000;

/** What of iperf3's report is used. */
interface IperfReport {
  readonly end?: {
    readonly sum_sent?: { readonly retransmits?: number };
    readonly sum_received?: { readonly bytes?: number; readonly bits_per_second?: number };
  };
}

/** TCP by iperf3, which takes whole seconds: at least 1. */
async function tcp(
  pair: Pair,
  seconds: number,
  { streams, from = pair.hosts.sender }: { streams: number; from?: string | undefined },
): Promise<Sample> {
  const server = await startProgram(
    pair.namespaces,
    pair.hosts.receiver,
    ["iperf3", "--server", "--one-off", "--forceflush", "--port", `${tcpPort}`],
    "listening",
  );
  try {
    const crossedBefore = await countLink(pair);
    const before = readClocks();
    const output = await runInside(
      pair.namespaces,
      from,
      [
        ...["iperf3", "--client", pair.target, "--port", `${tcpPort}`, "--json"],
        ...["--time", `${Math.max(1, Math.round(seconds))}`, "--parallel", `${streams}`],
      ],
      seconds * 1000 + graceMs,
    );
    const spent = since(before);
    const { end } = JSON.parse(output) as IperfReport;
    const { bytes = 0, bits_per_second: rate = 0 } = end?.sum_received ?? {};
    if (rate === 0) throw new FlannelError("bench/tcp", `no byte arrived over ${pair.name}`);
    assertOnWire(pair, crossedBefore, await countLink(pair));
    return {
      value: rate / 1e9,
      cpuPerGigabit: spent.busy / ((bytes * 8) / 1e9),
      retransmits: end?.sum_sent?.retransmits ?? 0,
      ...cores(spent),
    };
  } finally {
    await server.child.end();
  }
}

/** Received datagrams, offered as fast as the sender's kernel takes them. */
async function datagrams(pair: Pair, seconds: number, targets: readonly string[]): Promise<Sample> {
  const counter = await startAgent(pair.namespaces, pair.hosts.receiver, [
    "bench-count",
    `${datagramPort}`,
    `${firstMs}`,
    `${idleMs}`,
  ]);
  try {
    const before = readClocks();
    const output = await runInside(
      pair.namespaces,
      pair.hosts.sender,
      [
        ...[process.execPath, "bench-blast"],
        ...[`${datagramPort}`, `${payloadBytes}`, `${seconds * 1000}`, ...targets],
      ],
      seconds * 1000 + graceMs,
    );
    const spent = since(before);
    const { sent } = JSON.parse(output) as { sent: number };
    const { packets, ms } = await resultOf<Counted>(counter);
    if (packets === 0 || ms === 0)
      throw new FlannelError("bench/datagrams", `nothing arrived over ${pair.name}`);
    return { value: packets / ms, lost: Math.max(0, 1 - packets / sent), ...cores(spent) };
  } finally {
    await counter.child.end();
  }
}

/** Median round trip of one byte over TCP. */
async function roundTrips(pair: Pair, seconds: number): Promise<Sample> {
  const echo = await startAgent(pair.namespaces, pair.hosts.receiver, ["bench-echo", `${echoPort}`]);
  try {
    const before = readClocks();
    const output = await runInside(
      pair.namespaces,
      pair.hosts.sender,
      [process.execPath, "bench-round-trips", pair.target, `${echoPort}`, `${seconds * 1000}`],
      seconds * 1000 + graceMs,
    );
    const spent = since(before);
    const { p50Us } = JSON.parse(output) as RoundTrips;
    return { value: p50Us, ...cores(spent) };
  } finally {
    await echo.child.end(0);
  }
}

interface Clocks {
  readonly cpu: CpuTime;
  readonly atMs: number;
}

function readClocks(): Clocks {
  return { cpu: readCpuTime(), atMs: performance.now() };
}

/** CPU seconds and seconds. */
function since(before: Clocks): { busy: number; stolen: number; seconds: number } {
  const after = readClocks();
  return {
    busy: after.cpu.busy - before.cpu.busy,
    stolen: after.cpu.stolen - before.cpu.stolen,
    seconds: (after.atMs - before.atMs) / 1000,
  };
}

function cores({ busy, stolen, seconds }: ReturnType<typeof since>) {
  return { busyCores: busy / seconds, stolenCores: stolen / seconds };
}
