import { readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { systemClock } from "../base/clock.ts";
import { version } from "../version.ts";
import { readCpuTime } from "./cpu.ts";

/** Where and when it was measured: absolute figures mean nothing elsewhere. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly virtual: boolean;
  readonly version: string;
  /** The day, as ISO 8601 has it. */
  readonly date: string;
  /** Cores that others kept busy just before: with much of it, the figures are theirs too. */
  readonly othersBusyCores: number;
}

const watchMs = 500;

export async function describeMachine(stop: AbortSignal): Promise<Machine> {
  const [first] = cpus();
  const before = readCpuTime();
  await systemClock.sleep(watchMs, stop).catch(() => undefined);
  const busy = readCpuTime().busy - before.busy;
  return {
    cpu: first?.model.trim() ?? "unknown",
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    virtual: /^flags\s*:.*\bhypervisor\b/m.test(readFileSync("/proc/cpuinfo", "utf8")),
    version,
    date: new Date().toISOString().slice(0, 10),
    othersBusyCores: Math.round((busy / watchMs) * 1000 * 100) / 100,
  };
}
