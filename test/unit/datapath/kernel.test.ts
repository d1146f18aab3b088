import { expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { applyKernelStep, type KernelState, observeKernel } from "../../../src/datapath/kernel.ts";
import type { IpIpSpec, Kernel, KernelLink, LinkChanges } from "../../../src/native/ports.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parseMac } from "../../../src/net/mac.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { emptyPlan, type IpIpLink, type LinkItem, type VxlanLink } from "../../../src/plan/plan.ts";
import { planText } from "../../support/backend.ts";

const link: VxlanLink = {
  kind: "vxlan",
  name: "flannel.1",
  mtuBytes: 1450,
  mac: parseMac("02:00:00:00:00:01"),
  vni: 1,
  port: 8472,
  local: parseIpAddress("192.0.2.1"),
  uplink: "eth0",
  learning: false,
  gbp: false,
};

const ipip: IpIpLink = {
  kind: "ipip",
  name: "flannel.ipip",
  mtuBytes: 1480,
  local: parseIpAddress("192.0.2.1"),
};

const state: KernelState = {
  plan: emptyPlan,
  linkIndex: new Map([["eth0", 2]]),
  foreignLinks: new Map(),
  foreignRoutes: new Map(),
  unfinishedLinks: new Set(),
  unmarked: { links: new Set(), routes: new Map() },
};

/** A kernel that refuses to make devices with this errno, and any other call. */
function refusing(errno: string): Kernel {
  const refuse = () =>
    Promise.reject(new FlannelError(`native/${errno.toLowerCase()}`, "add link", { errno }));
  return only({ addVxlan: refuse, addIpip: refuse });
}

/** A kernel with these calls; any other is an error. */
function only(calls: Partial<Kernel>): Kernel {
  return new Proxy(calls as Kernel, {
    get(target, name) {
      if (name in target) return Reflect.get(target, name);
      throw new Error(`unexpected call ${String(name)}`);
    },
  });
}

const scope = { owner: "flannel-lite /test", overlay: [parsePrefix("10.5.0.0/16")] };
const add = (kernel: Kernel, changes: Partial<KernelState> = {}, value: LinkItem = link) =>
  applyKernelStep(kernel, { op: "add", item: { type: "link", value } }, { ...state, ...changes }, scope);

test("kernel: one without vxlan or ipip devices is named, with both remedies", async () => {
  for (const value of [link, ipip]) {
    const failure = await add(refusing("EOPNOTSUPP"), {}, value).catch((error: unknown) => error);
    expect(failure).toMatchObject({
      code: `engine/no-${value.kind}`,
      message: expect.stringContaining(`this kernel has no ${value.kind} devices`) as string,
      exitCode: 1,
    });
    expect((failure as FlannelError).remedy).toContain(`modprobe ${value.kind}`);
    expect((failure as FlannelError).remedy).toContain('"userspace"');
  }
});

/** As the kernel tells of one. */
const shown: KernelLink = {
  ...{ index: 7, name: "flannel.ipip", kind: "ipip", mtuBytes: 1480, mac: "" },
  ...{ up: false, carrier: false, loopback: false, alias: scope.owner },
  ipip: { local: "192.0.2.1", remote: "" },
};

test("kernel: an ipip device is made as ours, brought up, and brought to its MTU", async () => {
  const made: IpIpSpec[] = [];
  const set: [number, LinkChanges][] = [];
  const kernel = only({
    addIpip: (spec) => Promise.resolve(void made.push(spec)),
    links: () => Promise.resolve([shown]),
    setLink: (index, changes) => Promise.resolve(void set.push([index, changes])),
  });
  await add(kernel, { linkIndex: new Map() }, ipip);
  const { name, mtuBytes } = ipip;
  expect(made).toEqual([{ name, mtuBytes, local: "192.0.2.1", alias: scope.owner }]);
  expect(set).toEqual([[7, { mtuBytes, up: true }]]);
});

test("kernel: an ipip device with our alias is ours, with any other it is in the way", async () => {
  const observe = (seen: KernelLink) =>
    observeKernel(
      only({
        links: () => Promise.resolve([seen]),
        addresses: () => Promise.resolve([]),
        routes: () => Promise.resolve([]),
      }),
      scope,
    );
  const ours = await observe(shown);
  expect(planText(ours.plan)).toBe("link flannel.ipip ipip local 192.0.2.1 mtu 1480\n");
  const turned = await observe({ ...shown, ipip: { local: "", remote: "192.0.2.9" } });
  expect(planText(turned.plan)).toBe("link flannel.ipip ipip remote 192.0.2.9 mtu 1480\n");
  const foreign = await observe({ ...shown, alias: "" });
  expect(foreign.plan.links).toEqual([]);
  await expect(add(only({}), foreign, ipip)).rejects.toMatchObject({
    code: "reconcile/foreign",
    remedy: expect.stringContaining("ip link delete flannel.ipip") as string,
  });
});

test("kernel: other refusals are passed on as they are", async () => {
  await expect(add(refusing("EEXIST"))).rejects.toMatchObject({ code: "native/eexist" });
});

test("kernel: an uplink that is gone is named", async () => {
  await expect(add(refusing("EEXIST"), { linkIndex: new Map() })).rejects.toMatchObject({
    code: "uplink/missing",
  });
});
