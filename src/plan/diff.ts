import { itemDevice, type LinkItem, type Plan, type PlanItem, planItems, type Step } from "./plan.ts";
import { itemText } from "./text.ts";

/**
 * The steps that turn `held` into `wanted`: removals first, last-made first, then additions and changes in
 * the order of {@link planItems}. Equal plans give none. Pure.
 *
 * A link that cannot be changed in place is removed and added; the kernel drops with it what hangs on it, so
 * that is added again.
 */
export function diffPlans(held: Plan, wanted: Plan): Step[] {
  const wantedByKey = new Map(planItems(wanted).map((item) => [itemKey(item), item]));
  const replaced = new Set<string>();
  for (const link of held.links) {
    const next = wantedByKey.get(itemKey({ type: "link", value: link }));
    if (next?.type === "link" && mustReplace(link, next.value)) replaced.add(link.name);
  }

  const heldItems = planItems(held);
  const removals: Step[] = [];
  const kept = new Map<string, PlanItem>();
  for (const item of heldItems) {
    const key = itemKey(item);
    const device = itemDevice(item);
    const goes = device !== undefined && replaced.has(device);
    if (goes && item.type === "link") removals.push({ op: "remove", item });
    else if (goes) continue;
    else if (wantedByKey.has(key)) kept.set(key, item);
    else removals.push({ op: "remove", item });
  }

  const additions: Step[] = [];
  for (const [key, item] of wantedByKey) {
    const before = kept.get(key);
    if (before === undefined) additions.push({ op: "add", item });
    else if (!isSame(before, item)) additions.push({ op: "change", item });
  }
  return [...removals.reverse(), ...additions];
}

/** What makes two items the same thing, possibly with other attributes. */
export function itemKey(item: PlanItem): string {
  switch (item.type) {
    case "link":
      return `link ${item.value.name}`;
    case "tunnel":
      return `tunnel ${item.value.device}`;
    case "address":
      return `address ${item.value.device} ${item.value.address}/${item.value.length}`;
    case "neighbour":
      return `neighbour ${item.value.device} ${item.value.ip}`;
    case "fdb":
      return `fdb ${item.value.device} ${item.value.mac}`;
    case "forward":
      return `forward ${item.value.device} ${item.value.to}`;
    case "route":
      return `route ${item.value.to}`;
    case "blackhole":
      return `blackhole ${item.value.to}`;
    case "extension":
      return `extension ${item.value.key}`;
  }
}

/** Whether two items of one key say the same. Those of which there are thousands are compared without their texts. */
function isSame(held: PlanItem, wanted: PlanItem): boolean {
  if (held.type === "neighbour" && wanted.type === "neighbour") return held.value.mac === wanted.value.mac;
  if (held.type === "fdb" && wanted.type === "fdb") return held.value.via.equals(wanted.value.via);
  if (held.type === "forward" && wanted.type === "forward")
    return held.value.mac === wanted.value.mac && held.value.via.equals(wanted.value.via);
  if (held.type === "route" && wanted.type === "route") {
    const [a, b] = [held.value, wanted.value];
    return (
      a.device === b.device &&
      a.onLink === b.onLink &&
      (a.via === undefined ? b.via === undefined : a.via.equals(b.via))
    );
  }
  return itemText(held) === itemText(wanted);
}

/** Whether the kernel cannot turn one link into the other; MTU and MAC it can change in place. */
function mustReplace(held: LinkItem, wanted: LinkItem): boolean {
  if (held.kind === "ipip" && wanted.kind === "ipip")
    return `${held.local} ${held.remote}` !== `${wanted.local} ${wanted.remote}`;
  if (held.kind !== "vxlan" || wanted.kind !== "vxlan") return held.kind !== wanted.kind;
  return (
    held.vni !== wanted.vni ||
    held.port !== wanted.port ||
    held.uplink !== wanted.uplink ||
    held.learning !== wanted.learning ||
    held.gbp !== wanted.gbp ||
    !held.local.equals(wanted.local)
  );
}
