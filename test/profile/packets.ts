/**
 * `make profile`: where the time goes while packets cross the userspace engine, as docs/performance/profile.md tells it.
 * System calls of the engine's threads per thousand packets on the wire, and CPU samples by what is done in them.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Child, runProgram, start } from "../../src/demo/process.ts";

const binary = join(import.meta.dir, "../../dist/flannel-lite");
const seconds = 3;
const rows = (
  process.env["PROFILE_ROWS"] ?? "tcp1/userspace,tcp4/userspace,pps64/userspace,rtt/default"
).split(",");

/** What a kernel function is there for, by its name; the first that fits. */
const purposes: readonly (readonly [string, RegExp])[] = [
  ["idle", /safe_halt|default_idle/],
  ["checksums", /csum/],
  ["copies", /copy_(to|from)_iter|copy_user|_copy_from_user|_copy_to_user|memcpy|rep_movs/],
  ["segmentation and its reverse", /gro_|_gro|skb_segment|gso|skb_copy_and_csum/],
  ["allocation", /kmem|kmalloc|kfree|alloc|slab|free_|_free|page/],
  ["scheduling", /sched|wake|task|spin_unlock_irqrestore|futex|poll|switch/],
];

const trafficPrograms = /^(iperf3|flannel-lite|swapper|ksoftirqd)/;

interface Engine {
  readonly pid: number;
  readonly role: "sender" | "receiver";
}

/** The two engines of the bench's pair, once they run. */
function engines(bench: Child): Engine[] {
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .flatMap((entry): Engine[] => {
      const pid = Number(entry);
      const line = tryRead(`/proc/${pid}/cmdline`).split("\0");
      const setup = line.find((part) => part.includes(`fl-bench-${bench.pid}-`) && part.endsWith(".json"));
      if (line[0] !== binary || line[1] !== "bench-engine" || setup === undefined) return [];
      return [{ pid, role: setup.endsWith("-a.json") ? "sender" : "receiver" }];
    });
}

function tryRead(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** Packets sent and received on the process's eth0. */
function wirePackets(pid: number): number {
  const line = /^\s*eth0:(.*)$/m.exec(tryRead(`/proc/${pid}/net/dev`))?.[1] ?? "";
  const fields = line.trim().split(/\s+/).map(Number);
  return (fields[1] ?? 0) + (fields[9] ?? 0);
}

async function untilBusy(pid: number): Promise<void> {
  for (let tries = 0; tries < 300; tries++) {
    const before = wirePackets(pid);
    await Bun.sleep(100);
    if (wirePackets(pid) - before > 500) return;
  }
  throw new Error("no traffic in thirty seconds");
}

/** System calls of a process in `seconds`, by name, most frequent first. */
async function systemCalls(pid: number): Promise<Map<string, number>> {
  const calls = ["read", "writev", "sendmmsg", "recvmmsg", "poll", "futex", "sched_yield", "write"];
  const events = calls.map((name) => `syscalls:sys_enter_${name}`).join(",");
  const child = start(["perf", "stat", "-x", ",", "-e", events, "-p", `${pid}`, "--", "sleep", `${seconds}`]);
  await child.exited;
  const counts = [...child.errorTail().matchAll(/^(\d+),.*?syscalls:sys_enter_(\w+)/gm)];
  return new Map(
    counts
      .map(([, count, name]) => [name ?? "", Number(count)] as const)
      .filter(([, count]) => count > 0)
      .sort((a, b) => b[1] - a[1]),
  );
}

/** Samples of all CPUs in `seconds`, by thread and purpose, in percent of all. */
async function samples(): Promise<Map<string, number>> {
  const file = `/tmp/fl-profile-${process.pid}`;
  const record = ["perf", "record", "-q", "-a", "-F", "1999", "-e", "cpu-clock", "-o", file];
  await runProgram([...record, "--", "sleep", `${seconds}`]);
  const report = ["perf", "report", "-i", file, "--no-children", "--stdio", "-t", "|", "-s", "comm,dso,sym"];
  const text = await runProgram(report, 120_000);
  await runProgram(["rm", "-f", file]);
  const shares = new Map<string, number>();
  for (const [, percent, comm = "", object = "", symbol = ""] of text.matchAll(
    /^\s*([\d.]+)%\s*\|([^|]*?)\s*\|([^|]*?)\s*\|\[.\] (.*)$/gm,
  )) {
    const thread = comm.startsWith("fl-")
      ? comm
      : trafficPrograms.test(comm)
        ? "senders and receivers"
        : "other programs";
    const purpose = purposes.find(([, pattern]) => pattern.test(symbol))?.[0];
    const what = object.includes("memfd:") ? "our code" : (purpose ?? "network stack and the rest");
    const key = what === "idle" ? "idle" : `${thread}: ${what}`;
    shares.set(key, (shares.get(key) ?? 0) + Number(percent));
  }
  return new Map([...shares].sort(([, a], [, b]) => b - a));
}

for (const row of rows) {
  const bench = start([binary, "bench", "--rows", row, "--rounds", "1", "--seconds", `${seconds * 6}`]);
  try {
    let pair: Engine[] = [];
    for (let tries = 0; tries < 200 && pair.length < 2; tries++) {
      await Bun.sleep(50);
      pair = engines(bench);
    }
    const [sender] = pair.filter(({ role }) => role === "sender");
    if (pair.length < 2 || sender === undefined) throw new Error(`no engines: ${bench.errorTail()}`);
    await untilBusy(sender.pid);
    process.stdout.write(`## ${row}\n\n`);
    for (const { pid, role } of pair.sort((a, b) => b.role.localeCompare(a.role))) {
      const before = wirePackets(pid);
      const calls = await systemCalls(pid);
      const packets = wirePackets(pid) - before;
      const list = [...calls].map(([name, count]) => `${name} ${((count / packets) * 1000).toPrecision(3)}`);
      process.stdout.write(
        `- ${role}: ${Math.round(packets / seconds / 1000)} thousand packets a second on the wire; system calls per thousand of them: ${list.join(", ")}\n`,
      );
    }
    process.stdout.write("\n| share of both CPUs | in |\n| ---: | --- |\n");
    for (const [what, share] of await samples())
      if (share >= 1) process.stdout.write(`| ${share.toFixed(1)} % | ${what} |\n`);
    process.stdout.write("\n");
  } finally {
    process.kill(bench.pid, "SIGINT");
    await bench.exited;
  }
}
