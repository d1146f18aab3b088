import type { KernelChange, KernelEvents } from "../native/ports.ts";
import { itemDevice, type PlanItem } from "../plan/plan.ts";

/** Changes that are remembered until a pass has looked; of more, the oldest are forgotten. */
const changesMax = 4096;

/** A netlink port above this is no process id (PID_MAX_LIMIT of the kernel). */
const pidMax = 2 ** 22;

/** Who changed what, as far as the kernel's notifications tell. */
export interface Culprits {
  /** Takes note of others' changes. @returns whether there may be any */
  heard(events: KernelEvents): boolean;
  /** Whether a change of what `item` stands for was heard of. */
  knows(item: PlanItem, linkIndex: ReadonlyMap<string, number>): boolean;
  /**
   * Who changed last what `item` stands for: `ip (4711)`; `pid 4711, gone`; `unknown`, with what had happened to
   * its device. Deleted and changed forwarding entries and most changes of links come without a name.
   */
  of(item: PlanItem, linkIndex: ReadonlyMap<string, number>): string;
  /** Marks what was heard until now; {@link Culprits.forget} takes it. */
  mark(): number;
  /** Forgets what was heard before `mark`, but for what `keep` still needs. */
  forget(mark: number, keep: readonly PlanItem[], linkIndex: ReadonlyMap<string, number>): void;
}

/** What can happen to a link, the gravest last. */
const fates = ["changed", "set down", "deleted"] as const;

export function openCulprits(ownPid: number): Culprits {
  const changes = new Map<string, { readonly change: KernelChange; readonly at: number }>();
  let count = 0;

  const keep = (key: string, change: KernelChange) => {
    changes.delete(key);
    changes.set(key, { change, at: count++ });
    const [oldest] = changes.keys();
    if (changes.size > changesMax && oldest !== undefined) changes.delete(oldest);
  };

  return {
    heard({ changes: told, overrun, unnamed }) {
      const others = told.filter(({ pid }) => pid !== ownPid);
      for (const change of others) {
        const key = changeKey(change);
        const before = changes.get(key)?.change;
        if (before !== undefined && tellsMore(before, change)) continue;
        keep(key, change);
      }
      return overrun || unnamed || others.length > 0;
    },
    knows: (item, linkIndex) => changes.has(itemChangeKey(item, linkIndex)),
    of(item, linkIndex) {
      const change = changes.get(itemChangeKey(item, linkIndex))?.change;
      const name = change === undefined ? undefined : askerText(change);
      if (name !== undefined) return name;
      const device = itemDevice(item);
      const link = device === undefined ? undefined : changes.get(`link ${device}`)?.change;
      if (link === undefined) return "unknown";
      return `${askerText(link) ?? "unknown"}, after ${device} was ${fates[fate(link)] ?? ""}`;
    },
    mark: () => count,
    forget(mark, kept, linkIndex) {
      const needed = new Set(
        kept.flatMap((item) => [itemChangeKey(item, linkIndex), `link ${itemDevice(item)}`]),
      );
      for (const [key, { at }] of changes) if (at < mark && !needed.has(key)) changes.delete(key);
    },
  };
}

/**
 * A device that is deleted goes down first, and one made anew changes: the gravest tells most. A neighbour that is
 * deleted first fails, for somebody, then goes, for nobody.
 */
function tellsMore(before: KernelChange, change: KernelChange): boolean {
  if (change.table === "link") return fate(before) > fate(change);
  return before.port !== 0 && change.port === 0;
}

function fate({ gone, up }: KernelChange): number {
  if (gone) return 2;
  return up ? 0 : 1;
}

/** Undefined where the kernel acted by itself, or does not say for whom. */
function askerText({ port, pid, process }: KernelChange): string | undefined {
  if (port === 0) return undefined;
  if (process !== "") return `${process} (${pid})`;
  return port <= pidMax ? `pid ${port}, gone` : "a process that is gone";
}

function changeKey({ table, linkIndex, subject }: KernelChange): string {
  return table === "link" || table === "route" ? `${table} ${subject}` : `${table} ${linkIndex} ${subject}`;
}

function itemChangeKey(item: PlanItem, linkIndex: ReadonlyMap<string, number>): string {
  switch (item.type) {
    case "link":
      return `link ${item.value.name}`;
    case "route":
    case "blackhole":
      return `route ${item.value.to}`;
    case "address":
      return `address ${linkIndex.get(item.value.device)} ${item.value.address}/${item.value.length}`;
    case "neighbour":
      return `neighbour ${linkIndex.get(item.value.device)} ${item.value.ip}`;
    case "fdb":
      return `fdb ${linkIndex.get(item.value.device)} ${item.value.mac}`;
    case "tunnel":
    case "forward":
      return `${item.type} ${item.value.device}`;
    case "extension":
      return `extension ${item.value.key}`;
  }
}
