import { expect, test } from "bun:test";
import type { EngineName } from "../../../src/backend/backend.ts";
import { setUpVxlan } from "../../../src/backend/vxlan.ts";
import { openRepairs } from "../../../src/datapath/repair.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { diffPlans } from "../../../src/plan/diff.ts";
import { emptyPlan, type Plan, type Step } from "../../../src/plan/plan.ts";
import { itemText, stepText } from "../../../src/plan/text.ts";
import { vxlanLease } from "../../support/leases.ts";
import { manualClock } from "../../support/manual-clock.ts";
import { noReach, testContext } from "../../support/backend.ts";

const own = vxlanLease("10.5.1.0/24", "192.0.2.1");
const peers = [2, 3, 4].map((at) => vxlanLease(`10.5.${at}.0/24`, `192.0.2.${at}`));

function planOf(count: number, engine: EngineName = "kernel"): Plan {
  const backend = setUpVxlan({ type: "vxlan", options: {} }, testContext).open(engine);
  return backend.plan(own, peers.slice(0, count), noReach).plan;
}

/** A machine that does as it is told, but for what the test changes, or lets fail. */
function openMachine(plan = planOf(3)) {
  const clock = manualClock();
  const repairs = openRepairs(clock);
  const machine = {
    clock,
    repairs,
    wanted: plan,
    held: emptyPlan,
    down: new Set<string>(),
    fails: (_step: Step) => false,
    pass() {
      const steps = diffPlans(machine.held, machine.wanted);
      const judged = repairs.judge(steps, machine.down);
      const applied = new Set(judged.due.filter((step) => !machine.fails(step)));
      const isMissing = (item: Step["item"]) =>
        steps.some((step) => !applied.has(step) && itemText(step.item) === itemText(item));
      const result = repairs.settle(machine.wanted, { steps, applied, by: () => "ip (7)" });
      const { wanted } = machine;
      machine.held = {
        ...wanted,
        links: wanted.links.filter((value) => !isMissing({ type: "link", value })),
        neighbours: wanted.neighbours.filter((value) => !isMissing({ type: "neighbour", value })),
        fdb: wanted.fdb.filter((value) => !isMissing({ type: "fdb", value })),
        routes: wanted.routes.filter((value) => !isMissing({ type: "route", value })),
      };
      return { ...judged, ...result, steps: result.steps.map(({ step }) => stepText(step)) };
    },
    loseRoute(at: number) {
      machine.held = {
        ...machine.held,
        routes: machine.held.routes.filter(({ to }) => !to.equals(parsePrefix(`10.5.${at}.0/24`))),
      };
    },
  };
  return machine;
}

const routeText = (at: number) => `route 10.5.${at}.0/24 via 10.5.${at}.0 dev flannel.1 onlink`;

test("repair: a first application and a change of the plan are none", () => {
  const machine = openMachine(planOf(1));
  expect(machine.pass().steps).toEqual([]);
  machine.wanted = planOf(3);
  expect(machine.pass().steps).toEqual([]);
  machine.wanted = planOf(2);
  expect(machine.pass().steps).toEqual([]);
  machine.wanted = planOf(2, "userspace");
  expect(machine.pass().steps).toEqual([]);
  expect(machine.repairs.status).toMatchObject({ total: 0, contested: [] });
});

test("repair: what was reached and is missing again is one, whatever its kind", () => {
  const machine = openMachine();
  machine.pass();
  machine.held = { ...machine.held, neighbours: [], fdb: machine.held.fdb.slice(1), addresses: [] };
  machine.loseRoute(3);
  expect(machine.pass().steps).toHaveLength(6);
  expect(machine.repairs.status).toMatchObject({
    total: 6,
    byKind: { link: 0, address: 1, neighbour: 3, fdb: 1, route: 1 },
  });
  expect(machine.pass().steps).toEqual([]);
});

test("repair: so is what was changed, and what others added", () => {
  const machine = openMachine();
  machine.pass();
  const [first] = machine.held.routes;
  if (first === undefined) throw new Error("no route");
  machine.held = {
    ...machine.held,
    routes: [
      { ...first, onLink: false },
      ...machine.held.routes.slice(1),
      { ...first, to: parsePrefix("10.5.99.0/24") },
    ],
  };
  expect(machine.pass().steps).toEqual([
    `- ${routeText(99).replace("10.5.99.0 dev", "10.5.2.0 dev")}`,
    `~ ${routeText(2)}`,
  ]);
  expect(machine.repairs.status.byKind.route).toBe(2);
});

test("repair: what never succeeded is none, a repair that fails at first is one", () => {
  const machine = openMachine();
  machine.fails = ({ item }) => item.type === "route";
  machine.pass();
  machine.pass();
  machine.fails = () => false;
  expect(machine.pass().steps).toEqual([]);
  machine.loseRoute(2);
  machine.fails = () => true;
  expect(machine.pass().steps).toEqual([]);
  machine.fails = () => false;
  expect(machine.pass().steps).toEqual([`+ ${routeText(2)}`]);
  expect(machine.repairs.status.total).toBe(1);
});

test("repair: what hung on a device counts with it but is not told one by one", () => {
  const machine = openMachine();
  machine.pass();
  machine.held = emptyPlan;
  const { steps } = machine.pass();
  expect(steps).toHaveLength(1);
  expect(steps[0]).toStartWith("+ link flannel.1");
  expect(machine.repairs.status.byKind).toEqual({ link: 1, address: 1, neighbour: 3, fdb: 3, route: 3 });
  expect(machine.repairs.status.contested).toEqual([]);
});

test("repair: one that is undone over and over slows down alone; others return at once; left alone it is forgotten", async () => {
  const machine = openMachine();
  machine.pass();
  const told: string[] = [];
  for (let times = 0; times < 600; times++) {
    machine.loseRoute(2);
    told.push(...machine.pass().contested.map(({ step }) => stepText(step)));
    await machine.clock.advance(100);
  }
  expect(told).toEqual([`+ ${routeText(2)}`]);
  const { contested, total } = machine.repairs.status;
  expect(contested).toMatchObject([{ item: routeText(2), by: "ip (7)", repairs: total }]);
  expect(total).toBeLessThan(12);
  machine.loseRoute(2);
  machine.loseRoute(3);
  const pass = machine.pass();
  expect(pass.steps).toEqual([`+ ${routeText(3)}`]);
  expect(pass.postponed.map(stepText)).toEqual([`+ ${routeText(2)}`]);
  expect(pass.postponedMs).toBeGreaterThan(0);
  expect(Math.ceil((pass.postponedMs ?? 0) / 1000)).toBe(contested[0]?.waitSeconds ?? -1);
  await machine.clock.advance(pass.postponedMs ?? 0);
  expect(machine.pass().steps).toEqual([`+ ${routeText(2)}`]);
  await machine.clock.advance(180_000);
  expect(machine.repairs.status.contested).toEqual([]);
  expect(machine.pass().calmed).toEqual([routeText(2)]);
  expect(machine.pass().calmed).toEqual([]);
});

test("repair: what needs a contested device waits with it, unless the device only changes", async () => {
  const machine = openMachine();
  machine.pass();
  for (let times = 0; times < 5; times++) {
    machine.held = emptyPlan;
    machine.pass();
  }
  machine.held = emptyPlan;
  const gone = machine.pass();
  expect(gone.due).toEqual([]);
  await machine.clock.advance(gone.postponedMs ?? 0);
  machine.pass();
  machine.held = { ...machine.held, links: machine.held.links.map((link) => ({ ...link, mtuBytes: 1000 })) };
  machine.loseRoute(2);
  expect(machine.pass().steps).toEqual([`+ ${routeText(2)}`]);
  machine.loseRoute(2);
  machine.held = { ...machine.held, links: machine.held.links.map((link) => ({ ...link, mtuBytes: 1000 })) };
  machine.down.add("flannel.1");
  expect(machine.pass().due).toEqual([]);
});

test("repair: a contested item that the plan wants otherwise is applied at once", () => {
  const machine = openMachine();
  machine.pass();
  for (let times = 0; times < 5; times++) {
    machine.loseRoute(2);
    machine.pass();
  }
  machine.loseRoute(2);
  expect(machine.pass().postponed).toHaveLength(1);
  machine.wanted = {
    ...machine.wanted,
    routes: machine.wanted.routes.map((route) => ({ ...route, onLink: false })),
  };
  expect(machine.pass().postponed).toEqual([]);
  expect(machine.repairs.status.total).toBe(5);
});
