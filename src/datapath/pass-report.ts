import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import { itemKey } from "../plan/diff.ts";
import { itemText, stepText } from "../plan/text.ts";
import type { PassResult } from "./pass.ts";
import type { Repaired } from "./repair.ts";

/** Items named in one line of the log; the rest is cut. */
const itemsMax = 20;

/** Logs what a pass did, each failure once per reason. */
export function reportPass(
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
