import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Kernel, KernelEvents } from "../native/ports.ts";
import { diffPlans, itemKey } from "../plan/diff.ts";
import { itemDevice, type Plan, type Step, type TunLink, type TunnelItem } from "../plan/plan.ts";
import { itemText, stepText } from "../plan/text.ts";
import type { Commands } from "./commands.ts";
import { type Culprits, openCulprits } from "./culprit.ts";
import {
  applyKernelStep,
  finishTun,
  type KernelScope,
  type KernelState,
  observeKernel,
  refuseForeign,
} from "./kernel.ts";
import { openRepairs, type Repaired, type Repairs, type RepairStatus } from "./repair.ts";
import { restoreDevice } from "./restore.ts";
import type { UserspaceEngines } from "./userspace.ts";

/** Everything is compared again this often, whether or not anything was heard. */
const resyncMs = 30_000;

/** A pass that failed in part is tried again after this long, doubling up to {@link retryMsMax}. */
const retryMs = 500;
const retryMsMax = 30_000;

/** Notifications are gathered for this long, so that a burst is one pass. */
const foldMs = 20;

/** Items named in one line of the log; the rest is cut. */
const itemsMax = 20;

/** Notifications are that late at most, usually, after what they tell of. */
const hearsayMs = 30;

/** What a pass did: every step tried, and those of them that failed. */
export interface PassResult {
  readonly steps: readonly Step[];
  readonly failed: readonly { readonly step: Step; readonly error: FlannelError }[];
  /** After how long a repair is due that was put off, because somebody keeps undoing it. */
  readonly postponedMs?: number | undefined;
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
  /** What others changed and was set right. */
  readonly repairs: RepairStatus;
}

export type Monitor = Pick<Kernel, "nextEvents" | "watchNeighbours" | "close">;

export interface ReconcilerContext {
  readonly kernel: Kernel;
  /** Opens what tells of changes; {@link Reconciler.run} closes it. */
  readonly openMonitor: () => Promise<Monitor>;
  readonly engines: UserspaceEngines;
  readonly scope: KernelScope;
  /** What runs an operator's commands; absent where there are none. */
  readonly commands?: Pick<Commands, "held" | "add" | "remove">;
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
  const repairs = openRepairs(clock);
  const culprits = openCulprits(process.pid);
  let monitor: Monitor | undefined;
  let neighbourLinks: readonly number[] = [];

  const passOnce = async (): Promise<PassResult> => {
    if (wanted === undefined) return { steps: [], failed: [] };
    const aim = wanted;
    const { result, repaired, state } = await reconcile(aim, context, { repairs, culprits });
    neighbourLinks = vxlanIndexes(aim, state);
    monitor?.watchNeighbours(neighbourLinks);
    report(result, { repaired, reported, log });
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
        const waitMs = Math.min(failed ? backoffMs : resyncMs, postponedMs ?? resyncMs);
        await Promise.race([wake.promise, clock.sleep(waitMs, timer.signal)]);
        timer.abort();
        if (!stop.aborted) await clock.sleep(foldMs, stop);
      }
      stop.removeEventListener("abort", onStop);
      await watching;
    },
  };
}

/** One pass: observe → diff → apply. A failed step is reported with its item, the rest go on. */
async function reconcile(
  wanted: Plan,
  context: ReconcilerContext,
  { repairs, culprits }: { repairs: Repairs; culprits: Culprits },
): Promise<{ result: PassResult; repaired: Repaired; state: KernelState }> {
  const mark = culprits.mark();
  const { state, steps } = await compare(wanted, context);
  const by = ({ item }: Step) => culprits.of(item, state.linkIndex);
  const { due, postponed, postponedMs, ...judged } = repairs.judge(steps, state.unfinishedLinks);
  const applied = new Set<Step>();
  const hopeless = probeSwap(steps, wanted, context);
  if (hopeless !== undefined) {
    const repaired = repairs.settle(wanted, { steps, applied, by });
    return { result: { steps: [hopeless.step], failed: [hopeless] }, repaired, state };
  }
  const tried: Step[] = [];
  const failed: { step: Step; error: FlannelError }[] = [];
  const lost = new Set<string>();
  for (const step of due) {
    const { item } = step;
    // What hangs on a device that could not be made would only fail for the same reason.
    const device = itemDevice(item);
    if (item.type !== "link" && device !== undefined && lost.has(device)) continue;
    tried.push(step);
    try {
      await applyStep(step, wanted, state, context);
      applied.add(step);
    } catch (error) {
      failed.push({ step, error: asFailure(error) });
      if (device !== undefined && (item.type === "link" || item.type === "tunnel")) {
        lost.add(device);
        await putBack(device, state, context);
      }
    }
  }
  context.engines.setTables(wanted.tunnels, wanted.forwards);
  // The kernel told of it before the pass saw it; what it told may still be on its way to us.
  if (due.some((step) => judged.repairs.has(step) && !culprits.knows(step.item, state.linkIndex)))
    await context.clock.sleep(hearsayMs);
  const repaired = repairs.settle(wanted, { steps, applied, by });
  const untaken = [...postponed, ...failed.map(({ step }) => step)];
  culprits.forget(
    mark,
    untaken.map(({ item }) => item),
    state.linkIndex,
  );
  return { result: { steps: tried, failed, postponedMs }, repaired, state };
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

async function compare(wanted: Plan, { kernel, engines, commands, scope }: ReconcilerContext) {
  const state = await observeKernel(kernel, scope);
  const held = {
    ...state.plan,
    tunnels: engines.held.tunnels,
    forwards: engines.held.forwards,
    extensions: commands?.held ?? [],
  };
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
  { kernel, engines, commands, scope }: ReconcilerContext,
): Promise<void> {
  const { op, item } = step;
  if (item.type === "extension")
    return op === "remove" ? await commands?.remove(item.value) : await commands?.add(item.value);
  if (item.type === "forward") return; // the tables are handed over whole, after the steps
  if (item.type === "tunnel") {
    if (op === "remove") engines.close(item.value.device);
    else await engines.open(item.value);
    return;
  }
  if (item.type === "link" && item.value.kind === "tun") {
    if (op === "remove") engines.close(item.value.name);
    else {
      // The engine still has the device that somebody deleted, if it has any.
      if (op === "add") engines.close(item.value.name);
      return openTun(item.value, wanted, state, { kernel, engines, scope });
    }
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

/** Tells of changes to links, addresses, neighbours and routes, ours or not: a pass finds out. */
async function watchKernel(
  { openMonitor, log }: ReconcilerContext,
  { opened, heard }: { opened: (monitor: Monitor) => void; heard: (events: KernelEvents) => void },
  stop: AbortSignal,
): Promise<void> {
  try {
    // A handle of its own, since closing it ends the wait while the other one is still to remove things.
    const monitor = await openMonitor();
    const close = () => monitor.close();
    stop.addEventListener("abort", close);
    try {
      opened(monitor);
      while (!stop.aborted) {
        const events = await monitor.nextEvents();
        if (events === null) break;
        heard(events);
      }
    } finally {
      stop.removeEventListener("abort", close);
      close();
    }
  } catch (error) {
    log.warn("kernel notifications ended; changes are found on the timer", { error: errorText(error) });
  }
}

/** The vxlan links whose neighbours and forwarding entries are ours. */
function vxlanIndexes({ links }: Plan, { linkIndex }: KernelState): number[] {
  return links.filter(({ kind }) => kind === "vxlan").flatMap(({ name }) => linkIndex.get(name) ?? []);
}

function report(
  { steps, failed }: PassResult,
  { repaired, reported, log }: { repaired: Repaired; reported: Map<string, string>; log: Log },
): void {
  const failures = new Map(failed.map(({ step, error }) => [step, error]));
  for (const step of steps) {
    const error = failures.get(step);
    const key = itemKey(step.item);
    if (error === undefined) {
      reported.delete(key);
      if (!repaired.all.has(step)) log.info("applied", { step: stepText(step) });
    } else if (reported.get(key) !== error.message) {
      // Once per reason, not once per retry.
      reported.set(key, error.message);
      log.error("could not apply", { item: itemText(step.item), code: error.code, error: errorText(error) });
    }
  }
  reportRepairs(repaired, log);
}

/** One line for each who changed something. */
function reportRepairs({ steps, contested, calmed }: Repaired, log: Log): void {
  for (const [by, items] of byCulprit(steps))
    log.warn("changed by others; set right", { items: items.slice(0, itemsMax), count: items.length, by });
  for (const [by, items] of byCulprit(contested)) {
    const fields = { items: items.slice(0, itemsMax), count: items.length, by };
    log.error("contested: somebody keeps undoing this; repairs slow down", fields);
  }
  if (calmed.length > 0) log.info("no longer contested", { items: calmed.slice(0, itemsMax) });
}

function byCulprit(steps: Repaired["steps"]): ReadonlyMap<string, readonly string[]> {
  const items = new Map<string, string[]>();
  for (const { step, by } of steps) {
    const texts = items.get(by) ?? [];
    items.set(by, texts);
    texts.push(stepText(step));
  }
  return items;
}

function asFailure(error: unknown): FlannelError {
  return error instanceof FlannelError
    ? error
    : new FlannelError("reconcile/failed", errorText(error), {}, { cause: error });
}
