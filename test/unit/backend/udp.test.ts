import { expect, test } from "bun:test";
import { setUpBackend } from "../../../src/backend/open.ts";
import { errorText } from "../../../src/base/error.ts";
import { parseNetworkConfig } from "../../../src/config/network.ts";
import { emptyPlan } from "../../../src/plan/plan.ts";
import type { Json, Lease } from "../../../src/lease/lease.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { diffPlans } from "../../../src/plan/diff.ts";
import { encodeLeaseValue } from "../../../src/store/etcd/codec.ts";
import { golden } from "../../support/golden.ts";
import { testUplink, vxlanLease } from "../../support/leases.ts";
import { dualStackContext, noReach, planText, testContext } from "../../support/backend.ts";

/** As another node would write it. */
function lease(subnet: string, publicIp: string, subnetV6?: string): Lease {
  const { subnets, expiresAt } = vxlanLease(subnet, publicIp, undefined, subnetV6);
  return { subnets, expiresAt, attributes: { publicIp: parseIpAddress(publicIp), backendType: "" } };
}
const setUp = (options: Record<string, Json> = {}, on = testContext) =>
  setUpBackend({ type: "udp", options }, on);

test("udp: a network configuration without a Backend means it", () => {
  const { backend } = parseNetworkConfig('{"Network": "10.5.0.0/16"}');
  const setup = setUpBackend(backend, testContext);
  expect(setup).toMatchObject({ type: "udp", device: "flannel0", userspaceOnly: true });
});

test("udp: the lease is flannel's, without a type", () => {
  expect(encodeLeaseValue(setUp().attributes({ existing: undefined, savedMac: undefined }))).toBe(
    '{"PublicIP":"192.0.2.1","PublicIPv6":null}',
  );
  const uplink = { ...testUplink, publicIp: parseIpAddress("203.0.113.5") };
  const behindNat = setUp({}, { ...testContext, uplink });
  expect(behindNat.attributes({ existing: undefined, savedMac: undefined }).publicIp).toEqual(
    parseIpAddress("203.0.113.5"),
  );
});

test("udp: the device, its address, one route for the whole network, and a table with every peer", () => {
  const backend = setUp().open("userspace");
  expect(backend.mtuBytes).toBe(1472);
  const own = lease("10.5.1.0/24", "192.0.2.1");
  const peers = [lease("10.5.3.0/24", "192.0.2.3"), lease("10.5.2.0/24", "192.0.2.2")];
  const text = planText(backend.plan(own, peers, noReach).plan);
  expect(text).toBe(golden("udp/two-peers.txt", text));
});

test("udp: inner IPv6 goes the same way, and the dgram engine has the same plan", () => {
  const backend = setUp({ Port: 9999 }, dualStackContext).open("dgram");
  const own = lease("10.5.1.0/24", "192.0.2.1", "fd00:5:0:1::/64");
  const peers = [lease("10.5.2.0/24", "192.0.2.2", "fd00:5:0:2::/64")];
  const text = planText(backend.plan(own, peers, noReach).plan);
  expect(text).toBe(golden("udp/dual-stack.txt", text));
});

test("udp: takes leases of every type, as flannel's, but none that reaches elsewhere", () => {
  const own = lease("10.5.1.0/24", "192.0.2.1");
  const others = [vxlanLease("10.5.2.0/24", "192.0.2.2"), lease("10.6.2.0/24", "192.0.2.3")];
  const { plan, refused } = setUp().open("userspace").plan(own, others, noReach);
  expect(plan.forwards.map(({ to }) => `${to}`)).toEqual(["10.5.2.0/24"]);
  expect(refused.map(({ reason }) => reason)).toEqual(["10.6.2.0/24 is outside the overlay network"]);
});

test("udp: a peer that comes or goes changes nothing but its table", () => {
  const own = lease("10.5.1.0/24", "192.0.2.1");
  const backend = setUp().open("userspace");
  const before = backend.plan(own, [], noReach).plan;
  const after = backend.plan(own, [lease("10.5.2.0/24", "192.0.2.2")], noReach).plan;
  expect(diffPlans(before, after).map(({ op, item }) => `${op} ${item.type}`)).toEqual(["add forward"]);
  expect(diffPlans(emptyPlan, before).map(({ item }) => item.type)).toEqual([
    "link",
    "tunnel",
    "address",
    "route",
  ]);
});

test.each([
  [{ Port: 0 }, "Port is 0, it must be an integer from 1 to 65535"],
  [{ port: "8285" }, 'port is "8285", it must be an integer from 1 to 65535'],
])("udp: %p is refused", (options, message) => {
  expect(() => setUp(options)).toThrow(`error decoding UDP backend config: ${message}`);
});

test("udp: an interface without room or address is named", () => {
  const small = { ...testUplink, mtuBytes: 90 };
  expect(() => setUp({}, { ...testContext, uplink: small })).toThrow("too small for the udp backend");
  const { address: _address, ...bare } = testUplink;
  let failure: unknown;
  try {
    setUp({}, { ...testContext, uplink: bare });
  } catch (error) {
    failure = error;
  }
  expect(errorText(failure)).toContain("interface eth0 has no usable IPv4 address");
});
