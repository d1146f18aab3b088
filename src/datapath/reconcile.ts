import { errorText } from "../base/error.ts";
import type { Plan, Step } from "../plan/plan.ts";
import { openCulprits } from "./culprit.ts";
import { type Monitor, vxlanIndexes, watchKernel } from "./monitor.ts";
import { comparePlan, type PassContext, type PassResult, runPass } from "./pass.ts";
import { reportPass } from "./pass-report.ts";
import { openRepairs, type RepairStatus } from "./repair.ts";

/**
 * Everything is compared again this often, whether or not anything was heard: what notifications missed. Where a pass
 * takes long it is so often that passes take one part in {@link resyncShare} of the time, and at least every {@link resyncMsMax}.
 */
const resyncMs = 30_000;
const resyncMsMax = 5 * 60_000;
const resyncShare = 500;

/** A pass that failed in part is tried again after this long, doubling up to {@link retryMsMax}. */
const retryMs = 500;
const retryMsMax = 30_000;

/** Notifications are gathered for this long, so that a burst is one pass. */
const foldMs = 20;

/** What all passes did together. */
export interface PassCounts {
  readonly passes: number;
  /** Steps tried, those that failed included. */
  readonly steps: number;
  readonly failures: number;
}

/** Makes plans true. */
export interface Reconciler {
  /** Sets what shall be; the next pass aims at it. */
  want(plan: Plan): void;
  /** One pass now, after any that is under way. */
  pass(): Promise<PassResult>;
  /** What the next pass would do; changes nothing. */
  preview(plan: Plan): Promise<readonly Step[]>;
  /** Passes when the plan or the machine changes and on a slow timer, until `stop` aborts. */
  run(stop: AbortSignal): Promise<void>;
  /** The last pass, for `status`. */
  readonly last: PassResult | undefined;
  readonly counts: PassCounts;
  /** When the last pass ended that could be made. */
  readonly lastAt: Date | undefined;
  /** Since when a pass has been under way; undefined between passes. */
  readonly busySince: Date | undefined;
  /** Whether the last pass aimed at the latest plan. */
  readonly settled: boolean;
  readonly wanted: Plan | undefined;
  /** What others changed and was set right. */
  readonly repairs: RepairStatus;
}

export interface ReconcilerContext extends PassContext {
  /** Opens what tells of changes; {@link Reconciler.run} closes it. */
  readonly openMonitor: () => Promise<Monitor>;
  /** Told of each pass that did something or failed. */
  readonly onPass?: (result: PassResult) => void;
}

export function openReconciler(opened: ReconcilerContext): Reconciler {
  const { log, clock } = opened;
  let context = opened;
  let wanted: Plan | undefined;
  let reached: Plan | undefined;
  let last: PassResult | undefined;
  let lastAt: Date | undefined;
  let busySince: Date | undefined;
  const counts = { passes: 0, steps: 0, failures: 0 };
  let wake = Promise.withResolvers<void>();
  let queue: Promise<unknown> = Promise.resolve();
  const reported = new Map<string, string>();
  const repairs = openRepairs(clock);
  const culprits = openCulprits(process.pid);
  let monitor: Monitor | undefined;
  let neighbourLinks: readonly number[] = [];

  const passOnce = async (): Promise<PassResult> => {
    if (wanted === undefined) return { steps: [], failed: [] };
    const aim = wanted;
    const { result, repaired, state } = await runPass(aim, context, { repairs, culprits });
    neighbourLinks = vxlanIndexes(aim, state);
    monitor?.watchNeighbours(neighbourLinks);
    reportPass(result, { repaired, reported, log });
    last = result;
    lastAt = clock.now();
    counts.passes++;
    counts.steps += result.steps.length;
    counts.failures += result.failed.length;
    reached = aim;
    // Whatever looks like flannel's after that is somebody else's.
    if (result.failed.length === 0) context = { ...context, scope: { ...context.scope, adopt: undefined } };
    if (result.steps.length > 0) context.onPass?.(result);
    return result;
  };
  const pass = (): Promise<PassResult> => {
    const next = queue.then(async () => {
      busySince = clock.now();
      try {
        return await passOnce();
      } finally {
        busySince = undefined;
      }
    });
    queue = next.catch(() => undefined);
    return next;
  };

  return {
    want(plan) {
      wanted = plan;
      wake.resolve();
    },
    pass,
    preview: async (plan) => (await comparePlan(plan, context)).steps,
    get last() {
      return last;
    },
    counts,
    get lastAt() {
      return lastAt;
    },
    get busySince() {
      return busySince;
    },
    get settled() {
      return wanted !== undefined && reached === wanted;
    },
    get wanted() {
      return wanted;
    },
    get repairs() {
      return repairs.status;
    },
    async run(stop) {
      const onStop = () => wake.resolve();
      stop.addEventListener("abort", onStop);
      const watching = watchKernel(
        context,
        {
          opened: (opened) => {
            monitor = opened;
            monitor.watchNeighbours(neighbourLinks);
            wake.resolve(); // what changed before we listened
          },
          heard: (events) => {
            if (culprits.heard(events)) wake.resolve();
          },
        },
        stop,
      );
      let backoffMs = retryMs;
      while (!stop.aborted) {
        wake = Promise.withResolvers();
        let failed = false;
        let postponedMs: number | undefined;
        const begunMs = clock.now().getTime();
        try {
          const result = await pass();
          failed = result.failed.length > 0;
          ({ postponedMs } = result);
        } catch (error) {
          failed = true;
          log.error("comparing with the kernel failed", { error: errorText(error) });
        }
        backoffMs = failed ? Math.min(backoffMs * 2, retryMsMax) : retryMs;
        if (stop.aborted) break;
        const timer = new AbortController();
        const tookMs = clock.now().getTime() - begunMs;
        const restMs = Math.min(Math.max(resyncMs, tookMs * resyncShare), resyncMsMax);
        const waitMs = Math.min(failed ? backoffMs : restMs, postponedMs ?? restMs);
        await Promise.race([wake.promise, clock.sleep(waitMs, timer.signal)]);
        timer.abort();
        if (!stop.aborted) await clock.sleep(foldMs, stop);
      }
      stop.removeEventListener("abort", onStop);
      await watching;
    },
  };
}
