import { readFileSync } from "node:fs";

/** What a process has in memory. */
export function residentMiB(pid: number): number {
  return statusMiB(pid, "VmRSS");
}

/** The most that it ever had. */
export function peakResidentMiB(pid: number): number {
  return statusMiB(pid, "VmHWM");
}

function statusMiB(pid: number, member: string): number {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  const kibibytes = new RegExp(`^${member}:\\s+(\\d+) kB$`, "m").exec(text)?.[1];
  return Number(kibibytes ?? Number.NaN) / 1024;
}
