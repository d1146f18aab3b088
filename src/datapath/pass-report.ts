import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import { itemKey } from "../plan/diff.ts";
import { itemText, stepText } from "../plan/text.ts";
import type { Step } from "../plan/plan.ts";
import type { PassResult } from "./pass.ts";
import type { Repaired } from "./repair.ts";

/** Items named in one line of the log; the rest is cut. */
const itemsMax = 20;

/** Steps of one kind that have a line each; of more, one line has their number. */
const linesMax = 50;

/** Logs what a pass did, each failure once per reason. */
export function reportPass(
  { steps, failed }: PassResult,
  { repaired, reported, log }: { repaired: Repaired; reported: Map<string, string>; log: Log },
): void {
  const failures = new Map(failed.map(({ step, error }) => [step, error]));
  const applied: Step[] = [];
  const refused: PassResult["failed"][number][] = [];
  for (const step of steps) {
    const error = failures.get(step);
    const key = itemKey(step.item);
    if (error === undefined) {
      if (reported.size > 0) reported.delete(key);
      if (!repaired.all.has(step)) applied.push(step);
    } else if (reported.get(key) !== error.message) {
      // Once per reason, not once per retry.
      reported.set(key, error.message);
      refused.push({ step, error });
    }
  }
  reportApplied(applied, log);
  reportRefused(refused, log);
  reportRepairs(repaired, log);
}

function reportApplied(steps: readonly Step[], log: Log): void {
  for (const [first, ...more] of kinds(steps, ({ op, item }) => `${op} ${item.type}`)) {
    if (more.length < linesMax) {
      for (const step of [first, ...more]) log.info("applied", { step: stepText(step) });
    } else log.info("applied, and more of its kind", { step: stepText(first), more: more.length });
  }
}

function reportRefused(failed: PassResult["failed"], log: Log): void {
  const kind = ({ step: { item }, error }: PassResult["failed"][number]) => `${item.type} ${error.code}`;
  for (const [first, ...more] of kinds(failed, kind)) {
    const shown = more.length < linesMax ? [first, ...more] : [first];
    for (const { step, error } of shown) {
      log.error("could not apply", {
        item: itemText(step.item),
        code: error.code,
        error: errorText(error),
        ...(shown.length > more.length ? {} : { more: more.length }),
      });
    }
  }
}

/** Those of a kind together, in order of first appearance. */
function kinds<One>(all: readonly One[], kindOf: (one: One) => string): [One, ...One[]][] {
  const lists = new Map<string, [One, ...One[]]>();
  for (const one of all) {
    const kind = kindOf(one);
    const list = lists.get(kind);
    if (list === undefined) lists.set(kind, [one]);
    else list.push(one);
  }
  return [...lists.values()];
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
