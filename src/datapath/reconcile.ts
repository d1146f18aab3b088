import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Kernel } from "../native/ports.ts";
import { diffPlans, itemKey } from "../plan/diff.ts";
import type { Plan, Step, TunLink, TunnelItem } from "../plan/plan.ts";
import { itemText, stepText } from "../plan/text.ts";
import {
  applyKernelStep,
  finishTun,
  type KernelScope,
  type KernelState,
  observeKernel,
  refuseForeign,
} from "./kernel.ts";
import { restoreDevice } from "./restore.ts";
import type { UserspaceEngines } from "./userspace.ts";

/** Everything is compared again this often, whether or not anything was heard. */
const resyncMs = 30_000;

/** A pass that failed in part is tried again after this long, doubling up to {@link retryMsMax}. */
const retryMs = 500;
const retryMsMax = 30_000;

/** Notifications are gathered for this long, so that a burst is one pass. */
const foldMs = 20;

/** What a pass did: every step tried, and those of them that failed. */
export interface PassResult {
  readonly steps: readonly Step[];
  readonly failed: readonly { readonly step: Step; readonly error: FlannelError }[];
}

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
}

export interface ReconcilerContext {
  readonly kernel: Kernel;
  /** Opens what tells of changes; {@link Reconciler.run} closes it. */
  readonly openMonitor: () => Promise<Pick<Kernel, "nextEvents" | "close">>;
  readonly engines: UserspaceEngines;
  readonly scope: KernelScope;
  readonly log: Log;
  readonly clock: Clock;
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

  const passOnce = async (): Promise<PassResult> => {
    if (wanted === undefined) return { steps: [], failed: [] };
    const aim = wanted;
    const result = await reconcile(aim, context);
    report(result, reported, log);
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
    preview: async (plan) => (await compare(plan, context)).steps,
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
    async run(stop) {
      const onStop = () => wake.resolve();
      stop.addEventListener("abort", onStop);
      const watching = watchKernel(context, () => wake.resolve(), stop);
      let backoffMs = retryMs;
      while (!stop.aborted) {
        wake = Promise.withResolvers();
        let failed = false;
        try {
          failed = (await pass()).failed.length > 0;
        } catch (error) {
          failed = true;
          log.error("comparing with the kernel failed", { error: errorText(error) });
        }
        backoffMs = failed ? Math.min(backoffMs * 2, retryMsMax) : retryMs;
        if (stop.aborted) break;
        const timer = new AbortController();
        await Promise.race([wake.promise, clock.sleep(failed ? backoffMs : resyncMs, timer.signal)]);
        timer.abort();
        if (!stop.aborted) await clock.sleep(foldMs, stop);
      }
      stop.removeEventListener("abort", onStop);
      await watching;
    },
  };
}

/** One pass: observe → diff → apply. A failed step is reported with its item, the rest go on. */
async function reconcile(wanted: Plan, context: ReconcilerContext): Promise<PassResult> {
  const { state, steps } = await compare(wanted, context);
  const hopeless = probeSwap(steps, wanted, context);
  if (hopeless !== undefined) return { steps: [hopeless.step], failed: [hopeless] };
  const tried: Step[] = [];
  const failed: { step: Step; error: FlannelError }[] = [];
  const lost = new Set<string>();
  for (const step of steps) {
    const { item } = step;
    // What hangs on a device that could not be made would only fail for the same reason.
    if (item.type !== "link" && lost.has(item.value.device)) continue;
    tried.push(step);
    try {
      await applyStep(step, wanted, state, context);
    } catch (error) {
      failed.push({ step, error: asFailure(error) });
      if (item.type === "link" || item.type === "tunnel") {
        const device = item.type === "link" ? item.value.name : item.value.device;
        lost.add(device);
        await putBack(device, state, context);
      }
    }
  }
  context.engines.setTables(wanted.tunnels, wanted.forwards);
  return { steps: tried, failed };
}

/** A vxlan device makes way for a TUN only where one can be had. */
function probeSwap(
  steps: readonly Step[],
  { tunnels }: Plan,
  { engines }: ReconcilerContext,
): PassResult["failed"][number] | undefined {
  for (const step of steps) {
    const { op, item } = step;
    if (op !== "remove" || item.type !== "link" || item.value.kind !== "vxlan") continue;
    const tunnel = tunnels.find(({ device }) => device === item.value.name);
    if (tunnel === undefined) continue;
    try {
      engines.probe(tunnel);
    } catch (error) {
      return { step, error: asFailure(error) };
    }
  }
  return undefined;
}

/** Better the device that carried the traffic before than none. */
async function putBack(
  device: string,
  state: KernelState,
  { kernel, engines, scope, log }: ReconcilerContext,
): Promise<void> {
  if (!state.plan.links.some(({ kind, name }) => kind === "vxlan" && name === device)) return;
  try {
    engines.close(device);
    if (await restoreDevice(kernel, device, state, scope))
      log.warn("the device that was here before is put back", { device });
  } catch (error) {
    log.error("the device that was here before cannot be put back", { device, error: errorText(error) });
  }
}

async function compare(wanted: Plan, { kernel, engines, scope }: ReconcilerContext) {
  const state = await observeKernel(kernel, scope);
  const held = { ...state.plan, tunnels: engines.held.tunnels, forwards: engines.held.forwards };
  const steps = diffPlans(held, wanted);
  const stepped = new Set(steps.map(({ item }) => itemKey(item)));
  for (const value of wanted.links) {
    const item = { type: "link", value } as const;
    if (state.unfinishedLinks.has(value.name) && !stepped.has(itemKey(item)))
      steps.unshift({ op: "change", item });
  }
  for (const value of wanted.routes) {
    const item = { type: "route", value } as const;
    if (state.unmarked.routes.has(`${value.to}`) && !stepped.has(itemKey(item)))
      steps.push({ op: "change", item });
  }
  return { state, steps };
}

async function applyStep(
  step: Step,
  wanted: Plan,
  state: KernelState,
  { kernel, engines, scope }: ReconcilerContext,
): Promise<void> {
  const { op, item } = step;
  if (item.type === "forward") return; // the tables are handed over whole, after the steps
  if (item.type === "tunnel") {
    if (op === "remove") engines.close(item.value.device);
    else await engines.open(item.value);
    return;
  }
  if (item.type === "link" && item.value.kind === "tun") {
    if (op === "remove") engines.close(item.value.name);
    else return openTun(item.value, wanted, state, { kernel, engines, scope });
  }
  return applyKernelStep(kernel, step, state, scope);
}

/** The engine makes the device; a TUN of our name without any mark is what a crash between the two leaves. */
async function openTun(
  link: TunLink,
  { tunnels }: Plan,
  state: KernelState,
  { kernel, engines, scope }: Pick<ReconcilerContext, "kernel" | "engines" | "scope">,
): Promise<void> {
  const foreign = state.foreignLinks.get(link.name);
  if (foreign !== undefined && !(foreign.kind === "tun" && foreign.alias === ""))
    refuseForeign(state, link.name);
  const tunnel: TunnelItem | undefined = tunnels.find(({ device }) => device === link.name);
  if (tunnel === undefined) throw new Error(`no tunnel for ${link.name}`);
  await engines.open(tunnel);
  await finishTun(kernel, link, state, scope.owner);
}

/** Calls `wake` when links, addresses, neighbours or routes change, ours or not: a pass tells. */
async function watchKernel(
  { openMonitor, log }: ReconcilerContext,
  wake: () => void,
  stop: AbortSignal,
): Promise<void> {
  try {
    // A handle of its own, since closing it ends the wait while the other one is still to remove things.
    const monitor = await openMonitor();
    const close = () => monitor.close();
    stop.addEventListener("abort", close);
    try {
      while (!stop.aborted && (await monitor.nextEvents()) !== null) wake();
    } finally {
      stop.removeEventListener("abort", close);
      close();
    }
  } catch (error) {
    log.warn("kernel notifications ended; changes are found on the timer", { error: errorText(error) });
  }
}

function report({ steps, failed }: PassResult, reported: Map<string, string>, log: Log): void {
  const failures = new Map(failed.map(({ step, error }) => [step, error]));
  for (const step of steps) {
    const error = failures.get(step);
    const key = itemKey(step.item);
    if (error === undefined) {
      reported.delete(key);
      log.info("applied", { step: stepText(step) });
    } else if (reported.get(key) !== error.message) {
      // Once per reason, not once per retry.
      reported.set(key, error.message);
      log.error("could not apply", { item: itemText(step.item), code: error.code, error: errorText(error) });
    }
  }
}

function asFailure(error: unknown): FlannelError {
  return error instanceof FlannelError
    ? error
    : new FlannelError("reconcile/failed", errorText(error), {}, { cause: error });
}
