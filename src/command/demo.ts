import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import { inside, type Lab, type LabHost, openLab } from "../demo/lab.ts";
import { type Child, linesOf, tryProgram } from "../demo/process.ts";
import { type DemoStore, type LabStore, startStore } from "../demo/store.ts";
import type { TransferResult } from "../demo/transfer.ts";
import { readReport } from "../status/admin-socket.ts";
import type { StatusReport } from "../status/report.ts";
import { requireRoot } from "./run.ts";

/** Engines a demo host can be given. */
export const demoEngines = ["auto", "userspace", "kernel", "dgram"] as const;
export type DemoEngine = (typeof demoEngines)[number];

export interface DemoOptions {
  /** One host each. */
  readonly engines: readonly DemoEngine[];
  /** Where they keep their leases. */
  readonly store: DemoStore;
  readonly json: boolean;
  /** Leave everything running after the measurements until a signal comes. */
  readonly hold: boolean;
}

export interface DemoPair {
  readonly from: string;
  readonly to: string;
  /** The sender's engine, as its `status` tells. */
  readonly engine: string;
  readonly ok: boolean;
  /** Median of the pings; null when none came back. */
  readonly rttMs: number | null;
  /** Of one TCP connection, at the receiver; null when it failed. */
  readonly gbps: number | null;
}

/** What a pair showed, with what only the table tells. */
interface MeasuredPair extends DemoPair {
  readonly toEngine: string;
  readonly drops: number;
  readonly trouble: string | undefined;
}

interface DemoHost {
  readonly lab: LabHost;
  readonly runDir: string;
  readonly daemon: Child;
  readonly asked: DemoEngine;
}

const overlayNetwork = "10.99.0.0/16";
const readyMsMax = 30_000;
const transferMs = 1_000;
const transferPort = 5201;

/**
 * Joins hosts in network namespaces by an overlay on a real store, tries every ordered pair, and removes all
 * it made, also when it fails or `stop` aborts. Progress goes to standard error.
 * @returns what belongs on standard output, and whether every pair passed
 */
export async function demo(
  options: DemoOptions,
  stop: AbortSignal,
): Promise<{ output: string; ok: boolean }> {
  requireRoot("demo");
  const { engines, store: kind, json, hold } = options;
  say(`making ${engines.length} hosts in network namespaces`);
  await using lab = await openLab("demo", engines.length);
  say(`starting ${kind === "etcd" ? "etcd" : "the embedded lease store"}`);
  const store = await startStore(lab, kind, { Network: overlayNetwork, Backend: { Type: "vxlan" } });
  const hosts = engines.map((engine, at) => startHost(lab, { host: lab.hosts[at], engine, store }));
  say("waiting until every host is ready");
  const reports = await Promise.all(hosts.map((host) => waitReady(host, engines.length - 1, stop)));

  const pairs: MeasuredPair[] = [];
  for (const [fromAt, from] of hosts.entries()) {
    for (const [toAt, to] of hosts.entries()) {
      if (fromAt === toAt || stop.aborted) continue;
      say(`host${fromAt + 1} to host${toAt + 1}`);
      pairs.push(await measurePair(lab, { from, to, fromReport: reports[fromAt], toReport: reports[toAt] }));
    }
  }
  if (hold && !stop.aborted) {
    say(`holding; look around with: ip netns exec ${lab.hosts[0]?.namespace} ip route`);
    say(`and: ip netns exec ${lab.switchNamespace} ${process.execPath} leases ${store.adminFlags.join(" ")}`);
    say("Ctrl-C ends it");
    await new Promise<void>((resolve) => stop.addEventListener("abort", () => resolve()));
  }
  const ok = pairs.length === engines.length * (engines.length - 1) && pairs.every((pair) => pair.ok);
  const output = json
    ? `${JSON.stringify({ pairs: pairs.map(({ from, to, engine, ok, rttMs, gbps }): DemoPair => ({ from, to, engine, ok, rttMs, gbps })) })}\n`
    : tableText(pairs);
  say("removing everything");
  return { output, ok };
}

interface HostRequest {
  readonly host: LabHost | undefined;
  readonly engine: DemoEngine;
  readonly store: LabStore;
}

function startHost(lab: Lab, { host, engine, store }: HostRequest): DemoHost {
  if (host === undefined) throw new Error("a host is missing");
  const directory = join(lab.directory, `host${host.number}`);
  mkdirSync(directory, { mode: 0o700 });
  const config = join(directory, "config.toml");
  const runDir = join(directory, "run");
  writeFileSync(
    config,
    `[uplink]
interface = ["eth0"]
[store.etcd]
${store.configLines(host.address).join("\n")}
[datapath]
engine = "${engine}"
[host]
run_dir = "${runDir}"
state_dir = "${join(directory, "state")}"
subnet_file = "${join(directory, "subnet.env")}"
`,
  );
  const daemon = lab.start(host.namespace, [process.execPath, "run", "--config", config]);
  return { lab: host, runDir, daemon, asked: engine };
}

/** Waits until the daemon carries traffic to `peers` peers. */
async function waitReady(
  { lab, runDir, daemon }: DemoHost,
  peers: number,
  stop: AbortSignal,
): Promise<StatusReport> {
  let ended = false;
  void daemon.exited.then(() => {
    ended = true;
  });
  const deadline = performance.now() + readyMsMax;
  let last: StatusReport | undefined;
  while (performance.now() < deadline && !stop.aborted && !ended) {
    last = await readReport(runDir).catch(() => undefined);
    if (last?.ready === true && last.settled && last.peers.length >= peers && last.missing.length === 0)
      return last;
    await systemClock.sleep(50, stop);
  }
  throw new FlannelError(
    "demo/not-ready",
    stop.aborted ? "interrupted" : `host${lab.number} did not become ready: ${last?.phase ?? "no answer"}`,
    {},
    { cause: new Error(daemon.errorTail().trim()) },
  );
}

interface PairHosts {
  readonly from: DemoHost;
  readonly to: DemoHost;
  readonly fromReport: StatusReport | undefined;
  readonly toReport: StatusReport | undefined;
}

async function measurePair(lab: Lab, { from, to, fromReport, toReport }: PairHosts): Promise<MeasuredPair> {
  const source = vtepAddress(fromReport);
  const target = vtepAddress(toReport);
  const engine = fromReport?.engine?.name ?? "unknown";
  const dropsBefore = await countDrops([from, to]);
  const troubles: string[] = [];
  if (from.asked !== "auto" && from.asked !== engine)
    troubles.push(`engine ${engine} instead of ${from.asked}`);
  const rttMs = await ping(from.lab.namespace, source, target).catch((error: unknown) => {
    troubles.push(errorText(error));
    return null;
  });
  const transfer = await transferOver(lab, { from, to, source, target }).catch((error: unknown) => {
    troubles.push(errorText(error));
    return undefined;
  });
  if (transfer?.intact === false) troubles.push("bytes arrived changed");
  const gbps = transfer === undefined ? null : round((transfer.bytes * 8) / transfer.ms / 1e6);
  return {
    from: `host${from.lab.number}`,
    to: `host${to.lab.number}`,
    engine,
    toEngine: toReport?.engine?.name ?? "unknown",
    ok: troubles.length === 0 && rttMs !== null && transfer !== undefined && transfer.bytes > 0,
    rttMs,
    gbps,
    drops: (await countDrops([from, to])) - dropsBefore,
    trouble: troubles[0],
  };
}

/** The address that every VTEP has: the first of its subnet. */
function vtepAddress(report: StatusReport | undefined): string {
  return report?.lease?.subnets[0]?.split("/")[0] ?? "";
}

/** Five pings. @returns the median round trip in milliseconds */
async function ping(namespace: string, source: string, target: string): Promise<number> {
  const { output, code } = await tryProgram([
    ...["ip", "netns", "exec", namespace],
    ...["ping", "-n", "-c", "5", "-i", "0.1", "-W", "2", "-I", source, target],
  ]);
  const times = [...output.matchAll(/time=([\d.]+) ms/g)]
    .map((match) => Number(match[1]))
    .sort((a, b) => a - b);
  const median = times[Math.floor(times.length / 2)];
  if (code !== 0 || median === undefined || times.length < 5) {
    throw new FlannelError("demo/ping", `${times.length} of 5 pings came back`);
  }
  return round(median);
}

async function transferOver(
  lab: Lab,
  { from, to, source, target }: { from: DemoHost; to: DemoHost; source: string; target: string },
): Promise<TransferResult> {
  const receiver = lab.start(to.lab.namespace, [
    process.execPath,
    "transfer-receive",
    target,
    String(transferPort),
  ]);
  try {
    const lines = linesOf(receiver.output);
    if ((await lines.next()).value !== "listening") {
      throw new FlannelError("demo/transfer", `the receiver did not start: ${receiver.errorTail().trim()}`);
    }
    const send = [
      process.execPath,
      "transfer-send",
      source,
      target,
      String(transferPort),
      String(transferMs),
    ];
    await inside(from.lab.namespace, send, transferMs + 15_000);
    const result = (await lines.next()).value;
    if (typeof result !== "string") throw new FlannelError("demo/transfer", "the receiver gave no result");
    return JSON.parse(result) as TransferResult;
  } finally {
    await receiver.end(0);
  }
}

async function countDrops(hosts: readonly DemoHost[]): Promise<number> {
  const reports = await Promise.all(hosts.map(({ runDir }) => readReport(runDir).catch(() => undefined)));
  const counts = reports
    .flatMap((report) => report?.engines ?? [])
    .flatMap(({ stats }) => Object.values(stats.drops));
  return counts.reduce((sum, count) => sum + count, 0);
}

function tableText(pairs: readonly MeasuredPair[]): string {
  const rows = pairs.map(({ from, to, engine, toEngine, ok, rttMs, gbps, drops, trouble }) => [
    `${from} → ${to}`,
    `${engine} → ${toEngine}`,
    rttMs === null ? "-" : `${rttMs.toFixed(2)} ms`,
    gbps === null ? "-" : `${gbps.toFixed(2)} Gbit/s`,
    String(drops),
    ok ? "ok" : `FAILED: ${trouble ?? ""}`,
  ]);
  const table = [["pair", "engines", "RTT", "TCP", "drops", ""], ...rows];
  const widths =
    table[0]?.map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0))) ?? [];
  return table
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

function say(text: string): void {
  process.stderr.write(`demo: ${text}\n`);
}
