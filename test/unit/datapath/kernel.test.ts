import { expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { applyKernelStep, type KernelState } from "../../../src/datapath/kernel.ts";
import type { Kernel } from "../../../src/native/ports.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parseMac } from "../../../src/net/mac.ts";
import { emptyPlan, type VxlanLink } from "../../../src/plan/plan.ts";

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
  const addVxlan = () =>
    Promise.reject(new FlannelError(`native/${errno.toLowerCase()}`, "add vxlan", { errno }));
  return new Proxy({ addVxlan } as unknown as Kernel, {
    get(target, name) {
      if (name in target) return Reflect.get(target, name);
      throw new Error(`unexpected call ${String(name)}`);
    },
  });
}

const add = (kernel: Kernel, changes: Partial<KernelState> = {}) =>
  applyKernelStep(
    kernel,
    { op: "add", item: { type: "link", value: link } },
    { ...state, ...changes },
    { owner: "flannel-lite /test", overlay: [] },
  );

test("kernel: one without vxlan devices is named, with both remedies", async () => {
  const failure = await add(refusing("EOPNOTSUPP")).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: "engine/no-vxlan", exitCode: 1 });
  expect((failure as FlannelError).remedy).toContain("modprobe vxlan");
  expect((failure as FlannelError).remedy).toContain('"userspace"');
});

test("kernel: other refusals are passed on as they are", async () => {
  await expect(add(refusing("EEXIST"))).rejects.toMatchObject({ code: "native/eexist" });
});

test("kernel: an uplink that is gone is named", async () => {
  await expect(add(refusing("EEXIST"), { linkIndex: new Map() })).rejects.toMatchObject({
    code: "uplink/missing",
  });
});
