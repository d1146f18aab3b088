import { expect, test } from "bun:test";
import { silentLog } from "../../../src/base/log.ts";
import { FlannelError } from "../../../src/base/error.ts";
import { openCulprits } from "../../../src/datapath/culprit.ts";
import { runPass } from "../../../src/datapath/pass.ts";
import { reportPass } from "../../../src/datapath/pass-report.ts";
import { openRepairs } from "../../../src/datapath/repair.ts";
import type { UserspaceEngines } from "../../../src/datapath/userspace.ts";
import type { Kernel, KernelEdit, KernelLink } from "../../../src/native/ports.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parseMac } from "../../../src/net/mac.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { emptyPlan, type Plan } from "../../../src/plan/plan.ts";
import { itemText } from "../../../src/plan/text.ts";
import { manualClock } from "../../support/manual-clock.ts";
import { recordingLog } from "../../support/recording-log.ts";

const owner = "flannel-lite /test";
const local = parseIpAddress("192.0.2.1");

/** A kernel that notes every call in its order and makes only links. */
function fakeKernel(refuse: (edit: KernelEdit) => string | undefined = () => undefined) {
  const calls: string[] = [];
  const links: KernelLink[] = [linkOf(2, "eth0", "")];
  const kernel: Partial<Kernel> = {
    links: () => Promise.resolve([...links]),
    addresses: () => Promise.resolve([]),
    routes: () => Promise.resolve([]),
    neighbours: () => Promise.resolve([]),
    fdb: () => Promise.resolve([]),
    addVxlan: ({ name, alias }) => {
      calls.push(`link ${name}`);
      links.push(linkOf(7, name, alias));
      return Promise.resolve();
    },
    setLink: () => Promise.resolve(),
    addAddress: (_, address) => Promise.resolve(void calls.push(`address ${address}`)),
    deleteRoute: ({ to }) => Promise.resolve(void calls.push(`alone: delete ${to}`)),
    apply(edits) {
      calls.push(`apply ${edits.map(({ table, gone }) => (gone ? `-${table}` : table)).join(" ")}`);
      return Promise.resolve(
        edits.map((edit) => {
          const code = refuse(edit);
          return code === undefined ? undefined : new FlannelError(code, "refused");
        }),
      );
    },
  };
  return { kernel: kernel as Kernel, calls };
}

function linkOf(index: number, name: string, alias: string): KernelLink {
  return {
    ...{ index, name, alias, kind: "vxlan", mtuBytes: 1450, mac: "02:00:00:00:00:01" },
    ...{ up: true, carrier: true, loopback: false },
  };
}

function planOf(peers: number): Plan {
  const device = "flannel.1";
  const all = Array.from({ length: peers }, (_, at) => ({
    subnet: parsePrefix(`10.5.${at + 1}.0/24`),
    mac: parseMac(`02:00:00:00:01:${at.toString(16).padStart(2, "0")}`),
    via: parseIpAddress(`192.0.2.${at + 10}`),
  }));
  return {
    ...emptyPlan,
    links: [
      {
        ...{ kind: "vxlan", name: device, mtuBytes: 1450, mac: parseMac("02:00:00:00:00:01"), vni: 1 },
        ...{ port: 8472, local, uplink: "eth0", learning: false, gbp: false },
      },
    ],
    addresses: [{ device, address: parseIpAddress("10.5.0.0"), length: 32 }],
    neighbours: all.map(({ subnet, mac }) => ({ device, ip: subnet.address, mac })),
    fdb: all.map(({ mac, via }) => ({ device, mac, via })),
    routes: all.map(({ subnet }) => ({ to: subnet, via: subnet.address, device, onLink: true })),
  };
}

const noEngines = { held: emptyPlan, setTables: () => undefined } as unknown as UserspaceEngines;

async function passOn(kernel: Kernel, plan: Plan) {
  const clock = manualClock();
  const context = { kernel, engines: noEngines, scope: { owner, overlay: [] }, log: silentLog, clock };
  return await runPass(plan, context, { repairs: openRepairs(clock), culprits: openCulprits(1) });
}

test("pass: what needs a device or an address comes behind it, and what only fills tables goes in one call", async () => {
  const { kernel, calls } = fakeKernel();
  const { result } = await passOn(kernel, planOf(2));
  expect(calls).toEqual([
    "link flannel.1",
    "address 10.5.0.0",
    "apply neighbour neighbour fdb fdb route route",
  ]);
  expect(result.failed).toEqual([]);
  expect(result.steps.length).toBe(8);
});

test("pass: one refused change among many is reported with its item, the rest count as made", async () => {
  const { kernel } = fakeKernel((edit) =>
    edit.table === "route" && edit.to === "10.5.3.0/24" ? "native/enetunreach" : undefined,
  );
  const { result } = await passOn(kernel, planOf(5));
  expect(result.steps.length).toBe(17);
  expect(result.failed.map(({ step, error }) => [itemText(step.item), error.code])).toEqual([
    ["route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink", "native/enetunreach"],
  ]);
});

test("pass: a call that fails as a whole is the failure of each change in it", async () => {
  const { kernel } = fakeKernel();
  kernel.apply = () => Promise.reject(new FlannelError("native/ebadf", "closed"));
  const { result } = await passOn(kernel, planOf(3));
  expect(result.failed.map(({ error }) => error.code)).toEqual(Array(9).fill("native/ebadf"));
});

test("pass: thousands of changes have a line for each kind, few have one each", async () => {
  for (const [peers, lines] of [
    [2, 8],
    [60, 5],
  ] as const) {
    const { kernel } = fakeKernel();
    const { result, repaired } = await passOn(kernel, planOf(peers));
    const log = recordingLog();
    reportPass(result, { repaired, reported: new Map(), log });
    expect(log.lines.length).toBe(lines);
  }
});
