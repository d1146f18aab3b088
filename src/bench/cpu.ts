import { readFileSync } from "node:fs";

/** CPU time of the whole machine since it started, in seconds. */
export interface CpuTime {
  readonly busy: number;
  /** Taken by the hypervisor: a run during which this grows much says little. */
  readonly stolen: number;
}

/** Ticks a second in /proc/stat: USER_HZ, 100 on every architecture that Linux exports it to. */
const ticksPerSecond = 100;

/** Reads the first line of /proc/stat (proc_stat(5)); guest time stands in `user` already. */
export function parseCpuTime(stat: string): CpuTime {
  const [, fields = ""] = /^cpu +([\d ]+)$/m.exec(stat) ?? [];
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, stolen = 0] = fields
    .split(" ")
    .map(Number);
  return {
    busy: (user + nice + system + irq + softirq) / ticksPerSecond,
    stolen: stolen / ticksPerSecond,
  };
}

export function readCpuTime(): CpuTime {
  return parseCpuTime(readFileSync("/proc/stat", "utf8"));
}

/** CPU time that a process has used, in seconds; 0 where it is gone (proc_pid_stat(5), fields 14 and 15). */
export function processCpuSeconds(pid: number): number {
  try {
    return parseProcessCpu(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return 0;
  }
}

export function parseProcessCpu(stat: string): number {
  // The name may have spaces and parentheses of its own.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}
