import { expect, test } from "bun:test";
import { openCulprits } from "../../../src/datapath/culprit.ts";
import type { KernelChange } from "../../../src/native/ports.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import type { Mac } from "../../../src/net/mac.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import type { PlanItem } from "../../../src/plan/plan.ts";

const device = "flannel.1";
const indexes = new Map([[device, 7]]);
const address = parseIpAddress("10.5.2.0");
const route: PlanItem = {
  type: "route",
  value: { to: parsePrefix("10.5.2.0/24"), via: address, device, onLink: true },
};
const items: readonly (readonly [PlanItem, Partial<KernelChange>])[] = [
  [route, { table: "route", linkIndex: 0, subject: "10.5.2.0/24" }],
  [
    { type: "address", value: { device, address, length: 32 } },
    { table: "address", subject: "10.5.2.0/32" },
  ],
  [
    { type: "neighbour", value: { device, ip: address, mac: "02:00:00:00:00:02" as Mac } },
    { table: "neighbour", subject: "10.5.2.0" },
  ],
  [
    { type: "fdb", value: { device, mac: "02:00:00:00:00:02" as Mac, via: address } },
    { table: "fdb", subject: "02:00:00:00:00:02" },
  ],
  [
    { type: "link", value: { kind: "tun", name: device, mtuBytes: 1450 } },
    { table: "link", subject: device },
  ],
];

const change = (more: Partial<KernelChange>): KernelChange => ({
  table: "route",
  linkIndex: 7,
  subject: "10.5.2.0/24",
  gone: true,
  up: false,
  port: 4711,
  pid: 4711,
  process: "ip",
  ...more,
});
const told = (...changes: KernelChange[]) => ({ changed: [], overrun: false, unnamed: false, changes });

test.each(items)("culprit: a change of %j is laid to its process", (item, more) => {
  const culprits = openCulprits(1);
  expect(culprits.of(item, indexes)).toBe("unknown");
  expect(culprits.heard(told(change(more)))).toBe(true);
  expect(culprits.of(item, indexes)).toStartWith("ip (4711)");
});

test("culprit: a process that is gone has its number, a port that is none has not", () => {
  const culprits = openCulprits(1);
  culprits.heard(told(change({ pid: 0, process: "" })));
  expect(culprits.of(route, indexes)).toBe("pid 4711, gone");
  culprits.heard(told(change({ port: 4_294_962_711, pid: 0, process: "" })));
  expect(culprits.of(route, indexes)).toBe("a process that is gone");
});

test("culprit: without a name the gravest that happened to the device is told", () => {
  const culprits = openCulprits(1);
  const link = { table: "link", subject: device, port: 0, pid: 0, process: "" } as const;
  culprits.heard(told(change({ ...link, gone: false, up: true })));
  expect(culprits.of(route, indexes)).toBe("unknown, after flannel.1 was changed");
  culprits.heard(told(change({ ...link, gone: false })));
  culprits.heard(told(change({ ...link, gone: false, up: true })));
  expect(culprits.of(route, indexes)).toBe("unknown, after flannel.1 was set down");
  culprits.heard(told(change({ ...link, port: 4711, pid: 4711, process: "ip" })));
  expect(culprits.of(route, indexes)).toBe("ip (4711), after flannel.1 was deleted");
});

test("culprit: our own changes are nobody's and wake nobody; lost and unnamed ones do", () => {
  const culprits = openCulprits(4711);
  expect(culprits.heard(told(change({})))).toBe(false);
  expect(culprits.of(route, indexes)).toBe("unknown");
  expect(culprits.heard(told(change({}), change({ pid: 4712 })))).toBe(true);
  expect(culprits.heard({ ...told(), overrun: true })).toBe(true);
  expect(culprits.heard({ ...told(change({})), unnamed: true })).toBe(true);
});

test("culprit: what a pass has looked at is forgotten, but for what it put off", () => {
  const culprits = openCulprits(1);
  culprits.heard(told(change({}), change({ subject: "10.5.3.0/24" })));
  const mark = culprits.mark();
  culprits.heard(told(change({ subject: "10.5.4.0/24" })));
  culprits.forget(mark, [route], indexes);
  const of = (to: string) =>
    culprits.of({ type: "route", value: { ...route.value, to: parsePrefix(to) } } as PlanItem, indexes);
  expect(["10.5.2.0/24", "10.5.3.0/24", "10.5.4.0/24"].map(of)).toEqual([
    "ip (4711)",
    "unknown",
    "ip (4711)",
  ]);
});

test("culprit: a flood is forgotten from its beginning", () => {
  const culprits = openCulprits(1);
  culprits.heard(told(change({})));
  for (let at = 0; at < 5_000; at++) culprits.heard(told(change({ subject: `${at}` })));
  expect(culprits.of(route, indexes)).toBe("unknown");
});

test("culprit: a neighbour's deletion, told twice, is laid to whoever asked for it", () => {
  const culprits = openCulprits(1);
  const [item, more] = items[2] ?? [];
  if (item === undefined) throw new Error("no neighbour");
  culprits.heard(told(change({ ...more, gone: false }), change({ ...more, port: 0, pid: 0, process: "" })));
  expect(culprits.of(item, indexes)).toBe("ip (4711)");
});
