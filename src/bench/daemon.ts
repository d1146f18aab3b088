import { existsSync } from "node:fs";
import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import type { Child } from "../demo/process.ts";
import { readReport } from "../status/admin-socket.ts";
import type { StatusReport } from "../status/report.ts";

const readyMsMax = 120_000;
const lookMs = 10;

/** Waits until the daemon carries traffic to all its peers. */
export async function waitReady(
  daemon: Child,
  { runDir, subnetFile, peers }: { runDir: string; subnetFile: string; peers: number },
  stop: AbortSignal,
): Promise<StatusReport> {
  let ended = false;
  void daemon.exited.then(() => {
    ended = true;
  });
  const deadline = performance.now() + readyMsMax;
  while (performance.now() < deadline && !stop.aborted && !ended) {
    // A report of thousands of peers takes the daemon's time, which is measured: not before one may be the last.
    const report = existsSync(subnetFile) ? await readReport(runDir).catch(() => undefined) : undefined;
    if (report?.ready && report.settled && report.peers.length >= peers && report.missing.length === 0) {
      return report;
    }
    await systemClock.sleep(lookMs);
  }
  throw new FlannelError(
    "bench/daemon",
    "the daemon did not become ready",
    { peers },
    { cause: new Error(daemon.errorTail().trim().split("\n").at(-1)) },
  );
}
