import type { Lab, LabHost } from "../../src/demo/lab.ts";
import { tryProgram } from "../../src/demo/process.ts";
import type { TransferResult } from "../../src/demo/transfer.ts";
import { transfer } from "./overlay.ts";

/** An end of the traffic: an address of pods on a host. */
export interface TrafficEnd {
  readonly host: LabHost;
  readonly address: string;
}

export interface TrafficResult {
  /** One TCP connection that was open all the time. */
  readonly flow: TransferResult;
  readonly lostPings: number;
}

const pingIntervalMs = 10;

/** One TCP connection and a ping every 10 ms from one end to the other, begun before `change` and ended after it. */
export async function trafficThrough(
  lab: Lab,
  [from, to]: readonly [TrafficEnd, TrafficEnd],
  change: () => Promise<void>,
  ms: number,
): Promise<TrafficResult> {
  const count = Math.floor(ms / pingIntervalMs);
  const pinging = tryProgram(
    [
      ...["ip", "netns", "exec", from.host.namespace, "ping", "-n", "-q", "-c", String(count)],
      ...["-i", String(pingIntervalMs / 1000), "-W", "1", "-I", from.address, to.address],
    ],
    ms + 30_000,
  );
  const flowing = transfer(lab, from, to, ms);
  await Bun.sleep(500);
  const changed = change();
  const [flow, ping] = await Promise.all([flowing, pinging, changed]);
  const [, sent, received] = /(\d+) packets transmitted, (\d+) received/.exec(ping.output) ?? [];
  if (sent === undefined) throw new Error(`ping: ${ping.output}${ping.errors}`);
  return { flow, lostPings: Number(sent) - Number(received) };
}
