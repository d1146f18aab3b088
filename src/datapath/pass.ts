import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Kernel, KernelEdit } from "../native/ports.ts";
import { diffPlans, itemKey } from "../plan/diff.ts";
import { itemDevice, type Plan, type Step, type TunLink, type TunnelItem } from "../plan/plan.ts";
import type { Commands } from "./commands.ts";
import type { Culprits } from "./culprit.ts";
import {
  applyKernelStep,
  finishTun,
  isKernelEdit,
  kernelEdit,
  type KernelScope,
  type KernelState,
  observeKernel,
  refuseForeign,
} from "./kernel.ts";
import type { Repaired, Repairs } from "./repair.ts";
import { restoreDevice } from "./restore.ts";
import type { UserspaceEngines } from "./userspace.ts";

/** Notifications are that late at most, usually, after what they tell of. */
const hearsayMs = 30;

/** What a pass did: every step tried, and those of them that failed. */
export interface PassResult {
  readonly steps: readonly Step[];
  readonly failed: readonly { readonly step: Step; readonly error: FlannelError }[];
  /** After how long a repair is due that was put off, because somebody keeps undoing it. */
  readonly postponedMs?: number | undefined;
}

/** What a pass works on. */
export interface PassContext {
  readonly kernel: Kernel;
  readonly engines: UserspaceEngines;
  readonly scope: KernelScope;
  /** What runs an operator's commands; absent where there are none. */
  readonly commands?: Pick<Commands, "held" | "add" | "remove">;
  readonly log: Log;
  readonly clock: Clock;
}

/** One pass: observe → diff → apply. A failed step is reported with its item, the rest go on. */
export async function runPass(
  wanted: Plan,
  context: PassContext,
  { repairs, culprits }: { repairs: Repairs; culprits: Culprits },
): Promise<{ result: PassResult; repaired: Repaired; state: KernelState }> {
  const mark = culprits.mark();
  const { state, steps } = await comparePlan(wanted, context);
  const by = ({ item }: Step) => culprits.of(item, state.linkIndex);
  const { due, postponed, postponedMs, ...judged } = repairs.judge(steps, state.unfinishedLinks);
  const hopeless = probeSwap(steps, wanted, context);
  if (hopeless !== undefined) {
    const repaired = repairs.settle(wanted, { steps, applied: new Set(), by });
    return { result: { steps: [hopeless.step], failed: [hopeless] }, repaired, state };
  }
  const { tried, applied, failed } = await takeSteps(due, wanted, state, context);
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

/** Takes them in their order; what only changes tables of the kernel goes there many at a time. */
async function takeSteps(due: readonly Step[], wanted: Plan, state: KernelState, context: PassContext) {
  const { kernel, scope } = context;
  const tried: Step[] = [];
  const applied = new Set<Step>();
  const failed: { step: Step; error: FlannelError }[] = [];
  const lost = new Set<string>();
  let batch: { step: Step; edit: KernelEdit }[] = [];

  const flush = async () => {
    const edits = batch;
    batch = [];
    if (edits.length === 0) return;
    const failures = await applyEdits(
      kernel,
      edits.map(({ edit }) => edit),
    );
    for (const [at, { step }] of edits.entries()) {
      const error = failures[at];
      if (error === undefined) applied.add(step);
      else failed.push({ step, error });
    }
  };

  for (const step of due) {
    const { item } = step;
    // What hangs on a device that could not be made would only fail for the same reason.
    const device = itemDevice(item);
    if (item.type !== "link" && device !== undefined && lost.has(device)) continue;
    tried.push(step);
    try {
      if (isKernelEdit(step)) {
        batch.push({ step, edit: kernelEdit(step, state, scope) });
        continue;
      }
      await flush();
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
  await flush();
  return { tried, applied, failed };
}

/** A failure of the whole is that of each. */
async function applyEdits(
  kernel: Kernel,
  edits: readonly KernelEdit[],
): Promise<readonly (FlannelError | undefined)[]> {
  try {
    return await kernel.apply(edits);
  } catch (error) {
    return edits.map(() => asFailure(error));
  }
}

/** A device of the kernel's makes way for a TUN only where one can be had. */
function probeSwap(
  steps: readonly Step[],
  { tunnels }: Plan,
  { engines }: PassContext,
): PassResult["failed"][number] | undefined {
  for (const step of steps) {
    const { op, item } = step;
    if (op !== "remove" || item.type !== "link" || item.value.kind === "tun") continue;
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
  { kernel, engines, scope, log }: PassContext,
): Promise<void> {
  if (!state.plan.links.some(({ kind, name }) => kind !== "tun" && name === device)) return;
  try {
    engines.close(device);
    if (await restoreDevice(kernel, device, state, scope))
      log.warn("the device that was here before is put back", { device });
  } catch (error) {
    log.error("the device that was here before cannot be put back", { device, error: errorText(error) });
  }
}

/** What the next pass would do; changes nothing. */
export async function comparePlan(wanted: Plan, { kernel, engines, commands, scope }: PassContext) {
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
  { kernel, engines, commands, scope }: PassContext,
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
  { kernel, engines, scope }: Pick<PassContext, "kernel" | "engines" | "scope">,
): Promise<void> {
  const foreign = state.foreignLinks.get(link.name);
  if (foreign !== undefined && !(foreign.kind === "tun" && foreign.alias === ""))
    refuseForeign(state, link.name);
  const tunnel: TunnelItem | undefined = tunnels.find(({ device }) => device === link.name);
  if (tunnel === undefined) throw new Error(`no tunnel for ${link.name}`);
  await engines.open(tunnel);
  await finishTun(kernel, link, state, scope.owner);
}

function asFailure(error: unknown): FlannelError {
  return error instanceof FlannelError
    ? error
    : new FlannelError("reconcile/failed", errorText(error), {}, { cause: error });
}
