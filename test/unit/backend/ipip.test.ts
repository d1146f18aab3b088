import { expect, test } from "bun:test";
import { setUpBackend } from "../../../src/backend/open.ts";
import type { Json, Lease } from "../../../src/lease/lease.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { diffPlans } from "../../../src/plan/diff.ts";
import type { Plan } from "../../../src/plan/plan.ts";
import { stepText } from "../../../src/plan/text.ts";
import { encodeLeaseValue } from "../../../src/store/etcd/codec.ts";
import { golden } from "../../support/golden.ts";
import { testUplink, vxlanLease } from "../../support/leases.ts";
import { noReach, planText, reachOf, testContext } from "../../support/backend.ts";

const setUp = (options: Record<string, Json> = {}, on = testContext) =>
  setUpBackend({ type: "ipip", options }, on);

/** As another node would write it. */
function lease(subnet: string, publicIp: string): Lease {
  const { subnets, expiresAt } = vxlanLease(subnet, publicIp);
  return { subnets, expiresAt, attributes: { publicIp: parseIpAddress(publicIp), backendType: "ipip" } };
}
const own = lease("10.5.1.0/24", "192.0.2.1");
const near = lease("10.5.2.0/24", "192.0.2.2");
const far = lease("10.5.3.0/24", "198.51.100.3");

test("ipip: the lease is flannel's", () => {
  expect(encodeLeaseValue(setUp().attributes({ existing: undefined, savedMac: undefined }))).toBe(
    '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"ipip"}',
  );
});

test("ipip: a route through the device for each peer, by its public address as in flannel", () => {
  const backend = setUp().open("userspace");
  expect(backend.mtuBytes).toBe(1480);
  const text = planText(backend.plan(own, [near, far], noReach).plan);
  expect(text).toBe(golden("ipip/two-peers.txt", text));
});

test("ipip: with DirectRouting a neighbour is routed to over the uplink, and still believed in the tunnel", () => {
  const backend = setUp({ DirectRouting: true }).open("userspace");
  const text = planText(backend.plan(own, [near, far], reachOf(["192.0.2.0/24"])).plan);
  expect(text).toBe(golden("ipip/direct-routing.txt", text));
});

test("ipip: the kernel's device has the same address and routes, and needs no table", () => {
  for (const [options, reach, name] of [
    [{}, noReach, "kernel-two-peers"],
    [{ DirectRouting: true }, reachOf(["192.0.2.0/24"]), "kernel-direct-routing"],
  ] as const) {
    const text = planText(setUp(options).open("kernel").plan(own, [near, far], reach).plan);
    expect(text).toBe(golden(`ipip/${name}.txt`, text));
  }
  expect(() => setUp().open("dgram")).toThrow("ipip has no engine dgram");
});

test("ipip: between TUN, device and another address the device is made anew, for its MTU it is not", () => {
  const uplink = { ...testUplink, mtuBytes: 1400 };
  const plans = (["userspace", "kernel"] as const).map((engine) => setUp().open(engine));
  const [tun, kernel] = plans.map((backend) => backend.plan(own, [near], noReach).plan);
  const small = setUp({}, { ...testContext, uplink })
    .open("kernel")
    .plan(own, [near], noReach).plan;
  if (tun === undefined || kernel === undefined) throw new Error("two plans");
  const link = { kind: "ipip", name: "flannel.ipip", mtuBytes: 1480 } as const;
  const local = parseIpAddress("192.0.2.1");
  const linkSteps = (held: Plan, wanted: Plan) =>
    diffPlans(held, wanted)
      .filter(({ item }) => item.type === "link")
      .map(stepText);
  const made = "+ link flannel.ipip ipip local 192.0.2.1 mtu 1480";
  expect(linkSteps(tun, kernel)).toEqual(["- link flannel.ipip tun mtu 1480", made]);
  expect(linkSteps(kernel, tun)).toEqual([made.replace("+", "-"), "+ link flannel.ipip tun mtu 1480"]);
  expect(linkSteps(kernel, small)).toEqual(["~ link flannel.ipip ipip local 192.0.2.1 mtu 1380"]);
  for (const [changed, shown] of [
    [{ ...link, local: parseIpAddress("192.0.2.9") }, " local 192.0.2.9"],
    [{ ...link, local, remote: parseIpAddress("192.0.2.9") }, " local 192.0.2.1 remote 192.0.2.9"],
    [{ ...link, local: undefined }, ""],
  ] as const)
    expect(linkSteps({ ...kernel, links: [changed] }, kernel)).toEqual([
      `- link flannel.ipip ipip${shown} mtu 1480`,
      made,
    ]);
});

test("ipip: leases of other backends are left out", () => {
  const other = vxlanLease("10.5.4.0/24", "192.0.2.4");
  const { plan, refused } = setUp().open("userspace").plan(own, [other, near], noReach);
  expect(plan.routes).toHaveLength(1);
  expect(refused.map(({ reason }) => reason)).toEqual(['backend type "vxlan" is not "ipip"']);
});

test("ipip: what it cannot carry is refused by name", () => {
  const dual = { ...testContext, overlay: [...testContext.overlay, parsePrefix("fd00:5::/48")] };
  expect(() => setUp({}, dual)).toThrow("the ipip backend carries IPv4 alone, and the network has IPv6");
  const small = { ...testContext, uplink: { ...testUplink, mtuBytes: 80 } };
  expect(() => setUp({}, small)).toThrow("MTU 80 of interface eth0 is too small for ipip mode to work");
  expect(() => setUp({ DirectRouting: 1 })).toThrow("DirectRouting is 1, it must be true or false");
});
