import { expect, test } from "bun:test";
import { setUpHostGw } from "../../../src/backend/host-gw.ts";
import { encodeLeaseValue } from "../../../src/store/etcd/codec.ts";
import type { Lease } from "../../../src/lease/lease.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { golden } from "../../support/golden.ts";
import { hostGwLease, testUplink, vxlanLease } from "../../support/leases.ts";
import { dualStackContext, planText, reachOf } from "../../support/backend.ts";

const own = hostGwLease("10.5.1.0/24", "192.0.2.1", { subnet: "fd00:5:0:1::/64", publicIp: "2001:db8::1" });
const uplink = { ...testUplink, addressV6: parseIpAddress("2001:db8::1") };
const context = { ...dualStackContext, uplink };
const connected = reachOf(["192.0.2.0/24", "2001:db8::/64"], ["192.0.2.128/25"]);
const unknown = { existing: undefined, savedMac: undefined };

const planFor = (peers: readonly Lease[], reach = connected) =>
  setUpHostGw(context).open("none").plan(own, peers, reach);

test("host-gw: a peer is one route over the uplink for each family, and nothing else", () => {
  const peers = [
    hostGwLease("10.5.34.0/24", "192.0.2.34", { subnet: "fd00:5:0:34::/64", publicIp: "2001:db8::34" }),
    hostGwLease("10.5.20.0/24", "192.0.2.20"),
  ];
  const { plan, refused } = planFor(peers);
  const text = planText(plan);
  expect(text).toBe(golden("host-gw/two-peers.txt", text));
  expect(refused).toEqual([]);
  expect(planText(planFor([...peers].reverse()).plan)).toBe(text);
});

test("host-gw: what the lease publishes and the MTU are flannel's", () => {
  const setup = setUpHostGw(context);
  expect(encodeLeaseValue(setup.attributes(unknown))).toBe(
    '{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"host-gw"}',
  );
  const ipv4Only = setUpHostGw({ ...context, overlay: [parsePrefix("10.5.0.0/16")] });
  expect(encodeLeaseValue(ipv4Only.attributes(unknown))).toBe(
    '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}',
  );
  expect(setup.open("none").mtuBytes).toBe(1500);
});

test.each([
  [
    "behind a router",
    hostGwLease("10.5.2.0/24", "198.51.100.2"),
    "no route to 10.5.2.0/24: 198.51.100.2 is not on the network of eth0, as host-gw needs it",
  ],
  [
    "behind a router by a more specific route",
    hostGwLease("10.5.2.0/24", "192.0.2.200"),
    "no route to 10.5.2.0/24: 192.0.2.200 is not on the network of eth0, as host-gw needs it",
  ],
  ["of another backend", vxlanLease("10.5.2.0/24", "192.0.2.2"), 'backend type "vxlan" is not "host-gw"'],
  ["with our address", hostGwLease("10.5.2.0/24", "192.0.2.1"), "PublicIP 192.0.2.1 is our own"],
])("host-gw: a peer %s is refused by name and takes nobody with it", (_, lease, reason) => {
  const { plan, refused } = planFor([lease, hostGwLease("10.5.34.0/24", "192.0.2.34")]);
  expect(refused.map((one) => one.reason)).toEqual([reason]);
  expect(plan.routes.map(({ to }) => `${to}`)).toEqual(["10.5.34.0/24"]);
});

test("host-gw: a peer without an IPv6 address keeps its IPv4 route", () => {
  const { plan, refused } = planFor([hostGwLease("10.5.2.0/24", "192.0.2.2", { subnet: "fd00:5:0:2::/64" })]);
  expect(plan.routes.map(({ to }) => `${to}`)).toEqual(["10.5.2.0/24"]);
  expect(refused.map(({ reason }) => reason)).toEqual(["no route to fd00:5:0:2::/64: it has no PublicIPv6"]);
});

test("host-gw: in a network of IPv6 alone nobody needs an IPv4 address; where there is IPv4, its absence is named", () => {
  const { address: _, publicIp: __, ...withoutIpv4 } = uplink;
  const alone = { ...context, uplink: withoutIpv4, overlay: [parsePrefix("fd00:5::/48")] };
  const lease = (number: number): Lease => ({
    subnets: { ipv6: parsePrefix(`fd00:5:0:${number}::/64`) },
    attributes: { publicIpv6: parseIpAddress(`2001:db8::${number}`), backendType: "host-gw" },
    expiresAt: undefined,
  });
  const setup = setUpHostGw(alone);
  const { plan, refused } = setup.open("none").plan(lease(1), [lease(34)], connected);
  expect([planText(plan), refused]).toEqual(["route fd00:5:0:34::/64 via 2001:db8::34 dev eth0\n", []]);
  expect(() => setUpHostGw({ ...context, uplink: withoutIpv4 })).toThrow("has no usable IPv4 address");
  const { addressV6: ___, publicIpv6: ____, ...withoutIpv6 } = uplink;
  expect(() => setUpHostGw({ ...context, uplink: withoutIpv6 })).toThrow("has no usable IPv6 address");
});

test("host-gw: a NATed public IP is refused with flannel's text", () => {
  const nat = { ...context, uplink: { ...uplink, publicIp: parseIpAddress("203.0.113.9") } };
  expect(() => setUpHostGw(nat)).toThrow(
    "your PublicIP differs from interface IP, meaning that probably you're on a NAT, which is not supported by host-gw backend",
  );
});
