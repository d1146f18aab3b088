import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Addon } from "../native/ports.ts";

/** Whether the kernel's device leaves the checksums of what it sends to others; `auto` measures. */
export type TxChecksum = "auto" | "on" | "off";

export interface TxChecksumContext {
  readonly addon: Pick<Addon, "txChecksum" | "setTxChecksum" | "knock">;
  readonly setting: TxChecksum;
  readonly device: string;
  /** Addresses of peers' VTEPs, as wanted now. */
  readonly peers: () => readonly string[];
  readonly log: Log;
  readonly clock: Clock;
}

/** What was decided of the offload, and keeps to it when the device is made anew. */
export interface TxChecksumKeeper {
  /** For `status`. */
  readonly verdict: string;
  /** The device may be another one now, or peers have come. */
  look(): void;
  /** Goes by another setting from now on; `auto` begins with the offload on and measures anew. */
  change(setting: TxChecksum): void;
  run(stop: AbortSignal): Promise<void>;
}

/** traceroute's first port: closed nearly everywhere, and an answer of whoever has it is one too. */
const port = 33_434;

/** As many datagrams are sent each way. Linux says "port unreachable" once a second to one host. */
const tries = 3;
const waitMs = 1_000;

/** A peer that answers neither way says nothing; so many are asked at a time. */
const peersMax = 3;

/** Undecided, it is tried again after this long, doubling. */
const retryMs = 60_000;
const retryMsMax = 3_600_000;

export function openTxChecksum(context: TxChecksumContext): TxChecksumKeeper {
  const { addon, device, log, clock } = context;
  let { verdict, wanted } = begin(context.setting);
  let wake = Promise.withResolvers<void>();
  /** Ends what is under way by the setting before. */
  let changed = new AbortController();
  /** The offload was switched off by us, not found so. */
  let isOurs = false;

  const set = (on: boolean) => {
    addon.setTxChecksum(device, on);
    isOurs = !on;
  };

  const decide = (on: boolean, reason: string) => {
    wanted = on;
    verdict = `${on ? "on" : "off"}: ${reason}`;
    log.info("checksum offload decided", { device, offload: on ? "on" : "off", reason });
  };

  /** Whether `on` is how packets arrive at `peer`. */
  const measure = async (peer: string, stop: AbortSignal): Promise<boolean | undefined> => {
    for (let at = 0; at < tries && !stop.aborted; at++)
      if (await addon.knock(peer, port, waitMs)) return true;
    if (stop.aborted) return undefined;
    let answers = 0;
    set(false);
    try {
      for (let at = 0; at < tries && !stop.aborted; at++) {
        if (!(await addon.knock(peer, port, waitMs))) break;
        answers++;
        await clock.sleep(waitMs, stop);
      }
    } finally {
      if (answers < tries) set(true);
    }
    return answers === tries ? false : undefined;
  };

  const decideNow = async (stop: AbortSignal): Promise<void> => {
    if (isOurs) set(true);
    if (!addon.txChecksum(device)) return decide(false, "it was found so");
    const peers = context.peers().slice(0, peersMax);
    for (const peer of peers) {
      const works = await measure(peer, stop);
      if (stop.aborted) return;
      if (works === true) return decide(true, `packets arrive with it at ${peer}`);
      if (works === false) return decide(false, `packets arrive at ${peer} without it only`);
    }
    if (peers.length > 0) verdict = `undecided, left on: none of ${peers.join(", ")} answers either way`;
  };

  const settle = async (stop: AbortSignal): Promise<void> => {
    try {
      if (wanted === undefined) await decideNow(stop);
      if (wanted !== undefined && addon.txChecksum(device) !== wanted) set(wanted);
    } catch (error) {
      if (!(error instanceof FlannelError)) throw error;
      // The device may be gone for a moment; it is looked at when it is back.
      log.debug("the device's checksum offload could not be looked at", { device, error: errorText(error) });
    }
  };

  return {
    get verdict() {
      return verdict;
    },
    look: () => wake.resolve(),
    change(setting) {
      ({ verdict, wanted } = begin(setting));
      changed.abort();
      wake.resolve();
    },
    async run(stop) {
      const onStop = () => wake.resolve();
      stop.addEventListener("abort", onStop);
      let backoffMs = retryMs;
      while (!stop.aborted) {
        if (changed.signal.aborted) [changed, backoffMs] = [new AbortController(), retryMs];
        const interrupted = AbortSignal.any([stop, changed.signal]);
        const hadPeers = context.peers().length > 0;
        await settle(interrupted);
        if (interrupted.aborted) continue;
        if (wanted === undefined && hadPeers) {
          // Undecided with peers: new ones are asked in their turn, not at each change.
          await clock.sleep(backoffMs, interrupted);
          backoffMs = Math.min(backoffMs * 2, retryMsMax);
        } else await wake.promise;
        wake = Promise.withResolvers();
      }
      stop.removeEventListener("abort", onStop);
    },
  };
}

/** What is so before anything is measured; `wanted`: what the device shall have, undefined as long as that is open. */
function begin(setting: TxChecksum): { verdict: string; wanted: boolean | undefined } {
  if (setting === "auto") return { verdict: "undecided: no peer was asked yet", wanted: undefined };
  return { verdict: `${setting}: it is configured`, wanted: setting === "on" };
}
