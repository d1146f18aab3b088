import { afterEach, beforeAll, expect } from "bun:test";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startEtcd } from "../../src/demo/etcd.ts";
import { inside, type Lab, type LabHost, openLab } from "../../src/demo/lab.ts";
import { type Child, tryProgram } from "../../src/demo/process.ts";
import type { TransferResult } from "../../src/demo/transfer.ts";
import { readReport } from "../../src/status/admin-socket.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { etcdProgram } from "./etcd.ts";

/** The compiled program, as users run it. */
export const binary = join(import.meta.dir, "../../dist/flannel-lite");

/** Why tests that need namespaces cannot run here; undefined when they can. */
export function overlayRefused(): string | undefined {
  if (process.geteuid?.() !== 0) return "it takes root";
  if (!existsSync("/dev/net/tun")) return "there is no /dev/net/tun";
  return existsSync(binary) ? undefined : `${binary} is missing: run make`;
}

export interface DaemonOptions {
  readonly engine: "auto" | "userspace" | "kernel" | "dgram";
  /** More lines of config.toml, table headers included. */
  readonly more?: string;
  /** Lines of the `[host]`, `[datapath]`, `[uplink]`, `[store]` and `[store.etcd]` tables. */
  readonly host?: string;
  readonly datapath?: string;
  readonly uplink?: string;
  readonly store?: string;
  readonly etcd?: string;
  readonly prefix?: string;
  /** Instance on the host, for directories; "a" by default. */
  readonly instance?: string;
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  /** More flags. */
  readonly args?: readonly string[];
  /** A program, with its arguments, that the daemon is started through. */
  readonly wrap?: readonly string[];
  /** What starts the daemon, given its arguments and the directory that it keeps everything in; the program by default. */
  readonly through?: (args: readonly string[], directory: string) => readonly string[];
  /** In place of the lab's etcd. */
  readonly endpoint?: string;
}

export interface Daemon {
  readonly host: LabHost;
  readonly child: Child;
  readonly configFile: string;
  readonly runDir: string;
  readonly subnetFile: string;
  readonly stateDir: string;
  report(): Promise<StatusReport>;
  /** Waits until it is ready, misses nothing and has `peers` peers. */
  ready(peers: number): Promise<StatusReport>;
  /** Waits until it is ready and misses nothing, whatever its peers. */
  settled(): Promise<StatusReport>;
}

/** Hosts with a real etcd on their switch. */
export interface TestOverlay extends AsyncDisposable {
  readonly lab: Lab;
  readonly endpoint: string;
  /** The command line of etcdctl, for a shell inside the switch's namespace. */
  readonly etcdctl: string;
  startDaemon(host: LabHost, options: DaemonOptions): Daemon;
  /** Runs the program on a host with the configuration of one of its daemons. */
  run(daemon: Daemon, ...args: string[]): Promise<{ code: number; output: string; errors: string }>;
  /** Calls etcdctl from inside. */
  etcd(...args: string[]): Promise<string>;
  /** Applies etcdctl's lines, such as `put KEY VALUE`, at once; at most 128. */
  etcdTransaction(lines: readonly string[]): Promise<void>;
  /** Ends etcd at once, as `kill -9`; its data stays. */
  stopEtcd(): Promise<void>;
  /** Stops it without ending it, as SIGSTOP does: connections stay, nothing answers. */
  pauseEtcd(): void;
  resumeEtcd(): void;
  /** Starts it again, `wiped` without its data; resolves when it answers. */
  startEtcd(options?: { wiped?: boolean }): Promise<void>;
}

/** @param number from 1 */
export function hostOf({ lab }: TestOverlay, number: number): LabHost {
  const host = lab.hosts[number - 1];
  if (host === undefined) throw new Error(`no host ${number}`);
  return host;
}

/**
 * Registers that each test of a `describe` has an overlay of its own, and fails where none can be had.
 * @returns opens it
 */
export function overlayPerTest(): typeof openTestOverlay {
  let open: TestOverlay | undefined;
  beforeAll(() => {
    const refused = overlayRefused();
    if (refused !== undefined) throw new Error(refused);
  });
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  return async (...options) => (open = await openTestOverlay(...options));
}

let labs = 0;

/** @param etcdFlags further flags of etcd, such as `--enable-v2` */
export async function openTestOverlay(
  hosts: number,
  etcdFlags: readonly string[] = [],
): Promise<TestOverlay> {
  // The label tells labs of one process apart.
  await using opening = new AsyncDisposableStack();
  const lab = opening.use(await openLab(`t${labs++}`, hosts));
  let server = startEtcd(lab, etcdProgram(), etcdFlags);
  const { endpoint } = server;
  const etcd = (...args: string[]) =>
    inside(lab.switchNamespace, [
      "env",
      "ETCDCTL_API=3",
      `${etcdProgram()}ctl`,
      "--endpoints",
      endpoint,
      ...args,
    ]);
  const etcdTransaction = async (lines: readonly string[]) => {
    const file = join(lab.directory, "transaction");
    // Compares, then what to do if they hold, then else: each list ends with an empty line.
    writeFileSync(file, `\n${lines.join("\n")}\n\n\n`);
    await inside(lab.switchNamespace, [
      ...["env", "ETCDCTL_API=3", "sh", "-c", '"$0" --endpoints "$1" txn < "$2"'],
      ...[`${etcdProgram()}ctl`, endpoint, file],
    ]);
  };
  const answers = async () => {
    for (let tries = 0; tries < 100; tries++) {
      if ((await etcd("endpoint", "health").catch(() => undefined)) !== undefined) return;
      await Bun.sleep(100);
    }
    throw new Error(`etcd does not answer: ${server.child.errorTail()}`);
  };
  const stopEtcd = async () => {
    process.kill(server.child.pid, "SIGKILL");
    await server.child.exited;
  };
  await answers();
  opening.move();
  return {
    lab,
    endpoint,
    etcdctl: `ETCDCTL_API=3 ${etcdProgram()}ctl --endpoints ${endpoint}`,
    etcd,
    etcdTransaction,
    stopEtcd,
    pauseEtcd: () => void process.kill(server.child.pid, "SIGSTOP"),
    resumeEtcd: () => void process.kill(server.child.pid, "SIGCONT"),
    async startEtcd({ wiped = false } = {}) {
      if (wiped) rmSync(server.dataDir, { recursive: true, force: true });
      server = startEtcd(lab, etcdProgram(), etcdFlags);
      await answers();
    },
    startDaemon: (host, options) => startDaemon(lab, endpoint, host, options),
    run: ({ host, configFile }, command, ...args) =>
      tryProgram([
        "ip",
        "netns",
        "exec",
        host.namespace,
        binary,
        command ?? "",
        "--config",
        configFile,
        ...args,
      ]),
    [Symbol.asyncDispose]: () => lab[Symbol.asyncDispose](),
  };
}

function startDaemon(lab: Lab, endpoint: string, host: LabHost, options: DaemonOptions): Daemon {
  const directory = join(lab.directory, `host${host.number}${options.instance ?? "a"}`);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const configFile = join(directory, "config.toml");
  const runDir = join(directory, "run");
  const subnetFile = join(directory, "flannel/subnet.env");
  const stateDir = join(directory, "state");
  writeFileSync(
    configFile,
    `[uplink]
${options.uplink ?? ""}
[store]
${options.store ?? ""}
[store.etcd]
endpoints = ["${options.endpoint ?? endpoint}"]
${options.prefix === undefined ? "" : `prefix = "${options.prefix}"`}
${options.etcd ?? ""}
[datapath]
engine = "${options.engine}"
${options.datapath ?? ""}
[host]
${hostLines({ run_dir: runDir, state_dir: join(directory, "state"), subnet_file: subnetFile }, options.host)}
[log]
level = "debug"
${options.more ?? ""}
`,
  );
  const args = ["--config", configFile, ...(options.args ?? [])];
  const command = options.through?.(args, directory) ?? [...(options.wrap ?? []), binary, ...args];
  const child = lab.start(
    host.namespace,
    options.cwd === undefined ? command : ["env", "-C", options.cwd, ...command],
    options.env,
  );
  let ended: number | undefined;
  void child.exited.then((code) => {
    ended = code;
  });
  const report = () => readReport(runDir);
  const until = async (what: string, holds: (report: StatusReport) => boolean): Promise<StatusReport> => {
    let last: StatusReport | undefined;
    for (const deadline = Date.now() + 20_000; Date.now() < deadline && ended === undefined;) {
      last = await report().catch(() => undefined);
      if (last?.ready === true && last.settled && holds(last)) return last;
      await Bun.sleep(30);
    }
    throw new Error(
      `host${host.number} is not ready ${what} (exit code ${ended}): ${JSON.stringify(last)}\n${child.errorTail()}`,
    );
  };
  return {
    host,
    child,
    configFile,
    runDir,
    subnetFile,
    stateDir,
    report,
    ready: (peers) =>
      until(`with ${peers} peers`, (report) => report.peers.length === peers && report.missing.length === 0),
    settled: () => until("and settled", (report) => report.missing.length === 0),
  };
}

/** The `[host]` table's lines: the defaults, but for keys that `more` sets. */
function hostLines(defaults: Record<string, string>, more = ""): string {
  const kept = Object.entries(defaults).filter(([key]) => !more.includes(`${key} =`));
  return [...kept.map(([key, value]) => `${key} = "${value}"`), more].join("\n");
}

/** The VTEP's address: the first of its subnet, of one family. */
export function vtepAddress(report: StatusReport, family: 4 | 6 = 4): string {
  const subnet = report.lease?.subnets.find((text) => text.includes(":") === (family === 6));
  return subnet?.split("/")[0] ?? "";
}

/** Three pings, all of which come back; tried thrice, since on a busy machine a slow engine may lose one. */
export async function ping(from: LabHost, target: string, more: readonly string[] = []): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      return await pingSeries(from, target, more, 3);
    } catch (error) {
      if (tries === 3) throw error;
    }
  }
}

/** `count` pings; rejects when one is lost. */
export async function pingSeries(
  from: LabHost,
  target: string,
  more: readonly string[],
  count: number,
): Promise<void> {
  const args = ["-n", "-c", String(count), "-i", "0.1", "-W", "2", ...more, target];
  const { code, output, errors } = await tryProgram(["ip", "netns", "exec", from.namespace, "ping", ...args]);
  if (code !== 0 || !output.includes(` ${count} received`))
    throw new Error(`ping ${target}: ${output}${errors}`);
}

/** Three pings once there is a way: until each has heard of the other. */
export async function pingSoon(from: LabHost, own: string, target: string): Promise<void> {
  for (const deadline = Date.now() + 15_000; ;) {
    try {
      return await pingSeries(from, target, ["-I", own], 3);
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await Bun.sleep(100);
    }
  }
}

/** A host and its address in the overlay. */
export interface OverlayEnd {
  readonly host: LabHost;
  readonly address: string;
}

/** {@link ping} from each to each other; with an MTU also by the largest packets that need no fragments, over IPv4. */
export async function pingEachOther(ends: readonly OverlayEnd[], mtuBytes?: number): Promise<void> {
  for (const from of ends) {
    for (const to of ends) {
      if (from === to) continue;
      const bound = ["-I", from.address];
      await ping(from.host, to.address, bound);
      // Behind the headers of IP and ICMP.
      if (mtuBytes !== undefined)
        await ping(from.host, to.address, [...bound, "-M", "do", "-s", String(mtuBytes - 28)]);
    }
  }
}

/** Whether the first ping, of the given ones, comes back: for what must be refused. */
export async function pingAnswered(from: LabHost, target: string, more: readonly string[]): Promise<boolean> {
  const args = ["-n", "-c", "1", "-W", "1", ...more, target];
  return (await tryProgram(["ip", "netns", "exec", from.namespace, "ping", ...args])).code === 0;
}

/** One TCP connection for `ms`, each byte checked. */
export async function transfer(
  lab: Lab,
  from: OverlayEnd,
  to: OverlayEnd,
  ms = 300,
): Promise<TransferResult> {
  const receiver = lab.start(to.host.namespace, [binary, "transfer-receive", to.address, "5201"]);
  try {
    const output = receiver.output.getReader();
    const decoder = new TextDecoder();
    let text = decoder.decode((await output.read()).value);
    if (text !== "listening\n") throw new Error(`receiver: ${text}${receiver.errorTail()}`);
    await inside(
      from.host.namespace,
      [binary, "transfer-send", from.address, to.address, "5201", String(ms)],
      ms + 15_000,
    );
    text = "";
    for (let part = await output.read(); !part.done; part = await output.read())
      text += decoder.decode(part.value);
    return JSON.parse(text) as TransferResult;
  } finally {
    await receiver.end(0);
  }
}

/** One TCP connection each way, each byte checked. */
export async function transferBothWays(lab: Lab, here: OverlayEnd, there: OverlayEnd): Promise<void> {
  for (const [from, to] of [
    [here, there],
    [there, here],
  ] as const) {
    const { bytes, intact } = await transfer(lab, from, to, 500);
    expect(intact).toBe(true);
    expect(bytes).toBeGreaterThan(100_000);
  }
}
