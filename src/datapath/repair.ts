import { type Brake, openBrake } from "../base/brake.ts";
import type { Clock } from "../base/clock.ts";
import { itemKey } from "../plan/diff.ts";
import { itemDevice, type Plan, type PlanItem, planItems, type Step } from "../plan/plan.ts";
import { itemText } from "../plan/text.ts";

/** What others can take from us; tunnels and their tables stand in this process alone. */
const repairKinds = ["link", "address", "neighbour", "fdb", "route"] as const;
export type RepairKind = (typeof repairKinds)[number];

/** Items whose repairs are remembered at the same time; of more, the oldest are forgotten. */
const brakesMax = 10_000;

/** How often what others had changed was set right, for `status` and metrics. */
export interface RepairStatus {
  readonly total: number;
  /** What hung on a device that was set right counts with it. */
  readonly byKind: Readonly<Record<RepairKind, number>>;
  /** Items that somebody keeps undoing. */
  readonly contested: readonly {
    readonly item: string;
    /** Repairs since it was last left alone. */
    readonly repairs: number;
    /** Until the next one may be made. */
    readonly waitSeconds: number;
    /** Who undid it last. */
    readonly by: string;
  }[];
}

/** Which steps of a pass are to be taken now. */
export interface Judgement {
  readonly due: readonly Step[];
  /** Those of all steps that are repairs. */
  readonly repairs: ReadonlySet<Step>;
  /** Repairs of what somebody keeps undoing, with all that needs it, and when they are due. */
  readonly postponed: readonly Step[];
  readonly postponedMs: number | undefined;
}

/** What a pass set right. */
export interface Repaired {
  /** One by one, without what only hung on a device that is among them. */
  readonly steps: readonly { readonly step: Step; readonly by: string }[];
  /** Those of them that somebody keeps undoing, known with this pass. */
  readonly contested: readonly { readonly step: Step; readonly by: string }[];
  /** All of them, also what hung on a device. */
  readonly all: ReadonlySet<Step>;
  /** Items that were contested and have been left alone since. */
  readonly calmed: readonly string[];
}

/**
 * Tells repairs from what is applied for the first time or because the plan changed: only what was reached before
 * and is missing, or different, again is a repair. No I/O; time comes from `clock`.
 */
export interface Repairs {
  /** @param unusable our devices on which nothing can be put, such as those that are down */
  judge(steps: readonly Step[], unusable: ReadonlySet<string>): Judgement;
  /** What came of a pass: `applied` of its `steps` were taken and have succeeded. */
  settle(
    aim: Plan,
    pass: {
      readonly steps: readonly Step[];
      readonly applied: ReadonlySet<Step>;
      readonly by: (step: Step) => string;
    },
  ): Repaired;
  readonly status: RepairStatus;
}

interface Contest {
  readonly brake: Brake;
  item: PlanItem;
  repairs: number;
  by: string;
  wasContested: boolean;
}

export function openRepairs(clock: Pick<Clock, "now">): Repairs {
  const counts: Record<RepairKind, number> = { link: 0, address: 0, neighbour: 0, fdb: 0, route: 0 };
  const contests = new Map<string, Contest>();
  let aimed: Plan | undefined;
  /** What `aimed` holds, by key; made when it is first asked for. */
  let aimedTexts: ReadonlyMap<string, string> | undefined;
  /** Wanted, tried and never reached since. */
  let unreached: ReadonlySet<string> = new Set();

  const isRepair = ({ op, item }: Step): boolean => {
    if (aimed === undefined || repairKindOf(item) === undefined) return false;
    const key = itemKey(item);
    if (unreached.has(key)) return false;
    aimedTexts ??= new Map(planItems(aimed).map((one) => [itemKey(one), itemText(one)]));
    const before = aimedTexts.get(key);
    // What was not wanted and has come is an addition by others.
    return op === "remove" ? before === undefined : before === itemText(item);
  };

  /** On a device that is made anew for the plan's sake nothing is a repair. */
  const repairsIn = (steps: readonly Step[]): ReadonlySet<Step> => {
    const planned = new Set<string>();
    for (const step of steps)
      if (step.item.type === "link" && step.op === "add" && !isRepair(step))
        planned.add(step.item.value.name);
    return new Set(steps.filter((step) => isRepair(step) && !hangsOn(planned, step.item)));
  };

  const note = (step: Step, by: string): boolean => {
    const key = itemKey(step.item);
    const contest = contests.get(key) ?? {
      brake: openBrake(clock),
      item: step.item,
      repairs: 0,
      by,
      wasContested: false,
    };
    contests.delete(key); // the latest stands last
    contests.set(key, contest);
    contest.item = step.item;
    contest.repairs++;
    contest.by = by;
    const began = contest.brake.repaired();
    contest.wasContested ||= began;
    return began;
  };

  const forget = (): string[] => {
    const calmed: string[] = [];
    for (const [key, { brake, item, wasContested }] of contests) {
      if (!brake.quiet && contests.size <= brakesMax) continue;
      contests.delete(key);
      if (wasContested) calmed.push(itemText(item));
    }
    return calmed;
  };

  return {
    judge(steps, unusable) {
      const waits = new Map<Step, number>();
      const repairs = repairsIn(steps);
      for (const step of repairs) {
        const waitMs = contests.get(itemKey(step.item))?.brake.waitMs ?? 0;
        if (waitMs > 0) waits.set(step, waitMs);
      }
      const lost = new Set<string>();
      for (const { op, item } of waits.keys()) {
        if (item.type === "link" && (op !== "change" || unusable.has(item.value.name)))
          lost.add(item.value.name);
      }
      const postponed = steps.filter((step) => waits.has(step) || hangsOn(lost, step.item));
      const isPostponed = new Set(postponed);
      return {
        due: steps.filter((step) => !isPostponed.has(step)),
        repairs,
        postponed,
        postponedMs: waits.size === 0 ? undefined : Math.min(...waits.values()),
      };
    },
    settle(aim, { steps, applied, by }) {
      const repairs = repairsIn(steps);
      const all = new Set([...repairs].filter((step) => applied.has(step)));
      const devices = new Set(
        [...all].flatMap(({ item }) => (item.type === "link" ? [item.value.name] : [])),
      );
      const heads = [...all]
        .filter(({ item }) => item.type === "link" || !hangsOn(devices, item))
        .map((step) => ({ step, by: by(step) }));
      const calmed = forget();
      for (const { item } of all) {
        const kind = repairKindOf(item);
        if (kind !== undefined) counts[kind]++;
      }
      const contested = heads.filter(({ step, by: who }) => note(step, who));
      unreached = new Set(
        steps.filter((step) => !applied.has(step) && !repairs.has(step)).map(({ item }) => itemKey(item)),
      );
      if (aimed !== aim) aimedTexts = undefined;
      aimed = aim;
      return { steps: heads, contested, all, calmed };
    },
    get status() {
      return {
        total: Object.values(counts).reduce((sum, count) => sum + count, 0),
        byKind: { ...counts },
        contested: [...contests.values()]
          .filter(({ brake }) => brake.contested)
          .map(({ brake, item, repairs, by }) => ({
            item: itemText(item),
            repairs,
            waitSeconds: Math.ceil(brake.waitMs / 1000),
            by,
          })),
      };
    },
  };
}

function repairKindOf({ type }: PlanItem): RepairKind | undefined {
  if (type === "tunnel" || type === "forward" || type === "extension") return undefined;
  return type === "blackhole" ? "route" : type;
}

function hangsOn(devices: ReadonlySet<string>, item: PlanItem): boolean {
  const device = itemDevice(item);
  return device !== undefined && devices.has(device);
}
