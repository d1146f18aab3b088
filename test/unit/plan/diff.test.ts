import { expect, test } from "bun:test";
import { setUpVxlan } from "../../../src/backend/vxlan.ts";
import type { EngineName } from "../../../src/backend/backend.ts";
import type { Lease } from "../../../src/lease/lease.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parseMac } from "../../../src/net/mac.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { diffPlans, itemKey } from "../../../src/plan/diff.ts";
import { emptyPlan, itemDevice, type Plan, planItems, type Step } from "../../../src/plan/plan.ts";
import { itemText, stepText } from "../../../src/plan/text.ts";
import { vxlanLease } from "../../support/leases.ts";
import { noReach, reachOf, testContext } from "../../support/backend.ts";

const own = vxlanLease("10.5.1.0/24", "192.0.2.1");

function planFor(engine: EngineName, peers: readonly Lease[], options = {}, reach = noReach): Plan {
  return setUpVxlan({ type: "vxlan", options }, testContext).open(engine).plan(own, peers, reach).plan;
}

/** What a machine would hold after the steps, with the kernel's rule that a link's removal takes all on it. */
function applySteps(held: Plan, steps: readonly Step[]): string[] {
  const items = new Map(planItems(held).map((item) => [itemKey(item), item]));
  for (const { op, item } of steps) {
    if (op !== "remove") items.set(itemKey(item), item);
    else {
      items.delete(itemKey(item));
      if (item.type !== "link") continue;
      for (const [key, other] of items) {
        if (other.type !== "link" && itemDevice(other) === item.value.name) items.delete(key);
      }
    }
  }
  return [...items.values()].map(itemText).sort();
}

const a = vxlanLease("10.5.2.0/24", "192.0.2.2");
const b = vxlanLease("10.5.3.0/24", "192.0.2.3");
const moved = vxlanLease("10.5.2.0/24", "192.0.2.20", "02:00:00:00:00:02");
const newMac = vxlanLease("10.5.2.0/24", "192.0.2.2", "02:00:00:00:00:99");

test("diff: equal plans need no step", () => {
  expect(diffPlans(planFor("kernel", [a, b]), planFor("kernel", [a, b]))).toEqual([]);
});

test("diff: another engine on the same TUN changes only its tunnel", () => {
  expect(diffPlans(planFor("userspace", [a, b]), planFor("dgram", [a, b])).map(stepText)).toEqual([
    "~ tunnel flannel.1 vxlan id 1 local 192.0.2.1 dstport 8472 mtu 1450 mac 02:00:00:00:00:01 " +
      "overlay 10.5.0.0/16 strict overlay engine dgram",
  ]);
});

test("diff: a peer's new address changes only its fdb entry", () => {
  expect(diffPlans(planFor("kernel", [a, b]), planFor("kernel", [moved, b])).map(stepText)).toEqual([
    "~ fdb 02:00:00:00:00:02 dst 192.0.2.20 dev flannel.1",
  ]);
});

test("diff: a peer's new MAC removes the superseded fdb entry", () => {
  expect(diffPlans(planFor("kernel", [a]), planFor("kernel", [newMac])).map(stepText)).toEqual([
    "- fdb 02:00:00:00:00:02 dst 192.0.2.2 dev flannel.1",
    "~ neighbour 10.5.2.0 lladdr 02:00:00:00:00:99 dev flannel.1",
    "+ fdb 02:00:00:00:00:99 dst 192.0.2.2 dev flannel.1",
  ]);
});

test("diff: removals run against the order of additions", () => {
  expect(diffPlans(planFor("kernel", [a]), planFor("kernel", [])).map(stepText)).toEqual([
    "- route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
    "- fdb 02:00:00:00:00:02 dst 192.0.2.2 dev flannel.1",
    "- neighbour 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1",
  ]);
});

test("diff: who comes to be one hop away loses its tunnel entries, its route is replaced in place", () => {
  const direct = planFor("kernel", [a, b], { DirectRouting: true }, reachOf(["192.0.2.2/32"]));
  expect(diffPlans(planFor("kernel", [a, b]), direct).map(stepText)).toEqual([
    "- fdb 02:00:00:00:00:02 dst 192.0.2.2 dev flannel.1",
    "- neighbour 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1",
    "~ route 10.5.2.0/24 via 192.0.2.2 dev eth0",
  ]);
});

test("diff: another port replaces the device and everything on it", () => {
  const steps = diffPlans(planFor("kernel", [a]), planFor("kernel", [a], { Port: 4789 }));
  expect(steps.map(({ op }) => op)).toEqual(["remove", "add", "add", "add", "add", "add"]);
});

test("diff: another MTU changes the device in place", () => {
  const steps = diffPlans(planFor("kernel", [a]), planFor("kernel", [a], { MTU: 1400 }));
  expect(steps.map((step) => `${step.op} ${step.item.type}`)).toEqual(["change link"]);
});

test("diff: between any two plans the steps lead from one to the other", () => {
  const plans = [
    emptyPlan,
    ...[[], [a], [b], [a, b], [moved], [newMac, b]].flatMap((peers) => [
      planFor("kernel", peers),
      planFor("userspace", peers),
      planFor("kernel", peers, { Port: 4789, MTU: 1300 }),
      planFor("kernel", peers, { VNI: 9 }),
      planFor("kernel", peers, { DirectRouting: true }, reachOf(["192.0.2.0/28"])),
      { ...planFor("userspace", peers), blackholes: [{ to: parsePrefix("10.5.1.0/24") }] },
    ]),
  ];
  for (const held of plans) {
    for (const wanted of plans) {
      expect(applySteps(held, diffPlans(held, wanted))).toEqual(planItems(wanted).map(itemText).sort());
    }
  }
});

test("diff: whatever an item's text shows beside its key is a change, and nothing else is", () => {
  const device = "flannel.1";
  const [one, other] = [parseIpAddress("192.0.2.1"), parseIpAddress("192.0.2.2")];
  const [macA, macB] = [parseMac("02:00:00:00:00:0a"), parseMac("02:00:00:00:00:0b")];
  const to = parsePrefix("10.5.2.0/24");
  const variants: Partial<Plan>[] = [
    ...[macA, macB].map((mac) => ({ neighbours: [{ device, ip: one, mac }] })),
    ...[one, other].map((via) => ({ fdb: [{ device, mac: macA, via }] })),
    ...[one, other].flatMap((via) =>
      [macA, macB, undefined].map((mac) => ({
        forwards: [{ device, to, via, ...(mac === undefined ? {} : { mac }) }],
      })),
    ),
    ...[one, other, undefined].flatMap((via) =>
      [device, "eth0"].flatMap((name) =>
        [true, false].map((onLink) => ({ routes: [{ to, via, device: name, onLink }] })),
      ),
    ),
  ];
  const plans = variants.map((part): Plan => ({ ...emptyPlan, ...part }));
  const keyOf = (plan: Plan) => planItems(plan).map(itemKey).join();
  const textOf = (plan: Plan) => planItems(plan).map(itemText).join();
  for (const held of plans) {
    for (const wanted of plans.filter((plan) => keyOf(plan) === keyOf(held))) {
      const ops = diffPlans(held, wanted).map(({ op }) => op);
      expect(ops).toEqual(textOf(held) === textOf(wanted) ? [] : ["change"]);
    }
  }
});
