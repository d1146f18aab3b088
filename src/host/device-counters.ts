import { readFileSync } from "node:fs";

/** What the kernel counts of one device: frames with their Ethernet header, where it has one. */
export interface DeviceCounters {
  readonly sent: DirectionCounters;
  readonly received: DirectionCounters;
}

export interface DirectionCounters {
  readonly packets: number;
  readonly bytes: number;
  readonly errors: number;
  /** Dropped for other reasons. */
  readonly dropped: number;
}

/** The kernel's counters of `device`, in our network namespace; undefined where it is missing. */
export function readDeviceCounters(device: string): DeviceCounters | undefined {
  try {
    return parseDeviceCounters(readFileSync("/proc/self/net/dev", "utf8"), device);
  } catch {
    return undefined; // a status without counters is better than none
  }
}

/** Of the text of /proc/net/dev (net/core/net-procfs.c): bytes, packets, errs, drop … received, then sent. */
export function parseDeviceCounters(text: string, device: string): DeviceCounters | undefined {
  const line = text.split("\n").find((one) => one.trimStart().startsWith(`${device}:`));
  if (line === undefined) return undefined;
  const counts = line
    .slice(line.indexOf(`${device}:`) + device.length + 1)
    .trim()
    .split(/\s+/)
    .map(Number);
  if (counts.length < 16 || !counts.every(Number.isSafeInteger)) return undefined;
  const direction = (at: number): DirectionCounters => {
    const [bytes = 0, packets = 0, errors = 0, dropped = 0] = counts.slice(at);
    return { packets, bytes, errors, dropped };
  };
  return { received: direction(0), sent: direction(8) };
}
