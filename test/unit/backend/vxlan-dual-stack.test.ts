import { describe, expect, test } from "bun:test";
import type { BackendContext, EngineName } from "../../../src/backend/backend.ts";
import { deriveVtepMac } from "../../../src/backend/vtep.ts";
import { setUpVxlan } from "../../../src/backend/vxlan.ts";
import { type Json, type Lease, type LeaseAttributes, publicAddress } from "../../../src/lease/lease.ts";
import { createLeaseTable } from "../../../src/lease/table.ts";
import type { Family } from "../../../src/net/address.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parseMac } from "../../../src/net/mac.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import type { Uplink } from "../../../src/net/uplink.ts";
import { type Plan, planItems } from "../../../src/plan/plan.ts";
import { itemText } from "../../../src/plan/text.ts";
import { encodeLeaseValue } from "../../../src/store/etcd/codec.ts";
import { golden } from "../../support/golden.ts";
import { dualUplink, testUplink, vxlanLease } from "../../support/leases.ts";
import { dualStackContext, noReach, planText, reachOf } from "../../support/backend.ts";

const own = vxlanLease("10.5.1.0/24", "192.0.2.1", "02:00:00:00:00:01", "fd00:5:0:1::/64");
const peer = vxlanLease("10.5.34.0/24", "192.0.2.34", "02:00:00:00:00:34", "fd00:5:0:34::/64");
const ranges = { 4: parsePrefix("10.5.0.0/16"), 6: parsePrefix("fd00:5::/48") };
const families = [4, 6] as const;

function contextOf(uplink: Uplink, served: readonly Family[] = families): BackendContext {
  return { ...dualStackContext, uplink, overlay: served.map((family) => ranges[family]) };
}

function planFor(engine: EngineName, peers: readonly Lease[], options: Record<string, Json> = {}) {
  const setup = setUpVxlan({ type: "vxlan", options }, contextOf(dualUplink));
  return setup.open(engine).plan(own, peers, noReach);
}

function withAttributes(lease: Lease, attributes: Partial<LeaseAttributes>): Lease {
  return { ...lease, attributes: { ...lease.attributes, ...attributes } };
}

/** The lines about one family's device. */
function linesOf(plan: Plan, family: Family): string[] {
  const device = family === 4 ? " flannel.1 " : " flannel-v6.1 ";
  return planItems(plan)
    .map((item) => itemText(item))
    .filter((line) => `${line} `.includes(device));
}

describe.each(["kernel", "userspace"] as const)("vxlan, %s", (engine) => {
  test("dual-stack: each family has its device, its outer addresses, its MACs and its MTU, as in flannel", () => {
    const text = planText(planFor(engine, [peer]).plan);
    expect(text).toBe(golden(`vxlan/dual-stack-${engine}.txt`, text));
  });

  test("IPv6 alone needs no IPv4 on the uplink", () => {
    const { addressV6, publicIpv6, name, index, mtuBytes } = dualUplink;
    const uplink = {
      name,
      index,
      mtuBytes,
      ...(addressV6 && { addressV6 }),
      ...(publicIpv6 && { publicIpv6 }),
    };
    const setup = setUpVxlan({ type: "vxlan", options: {} }, contextOf(uplink, [6]));
    const attributes = setup.attributes({ existing: undefined, savedMac: parseMac("02:00:00:00:00:77") });
    expect(encodeLeaseValue(attributes)).toBe(
      '{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}',
    );
    const only = ({ subnets: { ipv6 }, ...lease }: Lease): Lease => ({
      ...lease,
      subnets: ipv6 ? { ipv6 } : {},
    });
    const backend = setup.open(engine);
    const text = planText(backend.plan({ ...only(own), attributes }, [only(peer)], noReach).plan);
    expect([setup.device, setup.deviceV6, backend.mtuBytes]).toEqual(["flannel-v6.1", undefined, 1430]);
    expect(text).toBe(golden(`vxlan/ipv6-only-${engine}.txt`, text));
  });

  test("IPv4 and IPv6 on different uplinks: each device takes interface and MTU from its own", () => {
    const interfaceV6 = { name: "eth1", index: 3, mtuBytes: 9000 };
    const setup = setUpVxlan({ type: "vxlan", options: {} }, contextOf({ ...dualUplink, interfaceV6 }));
    const backend = setup.open(engine);
    const { links } = backend.plan(own, [peer], noReach).plan;
    expect(links.map(({ name, mtuBytes }) => [name, mtuBytes])).toEqual([
      ["flannel.1", 1450],
      ["flannel-v6.1", 8930],
    ]);
    if (engine === "kernel") expect(links).toMatchObject([{ uplink: "eth0" }, { uplink: "eth1" }]);
    expect(backend.mtuBytes).toBe(1450);
  });

  test("a change in one family of a peer changes that family's device alone", () => {
    const before = planFor(engine, [peer]).plan;
    const changes: readonly [Family, Partial<LeaseAttributes>][] = [
      [4, { publicIp: parseIpAddress("192.0.2.35") }],
      [4, { backendData: { VNI: 1, VtepMAC: "02:00:00:00:00:35" } }],
      [6, { publicIpv6: parseIpAddress("2001:db8::35") }],
      [6, { backendV6Data: { VNI: 1, VtepMAC: "02:06:00:00:00:35" } }],
    ];
    for (const [family, change] of changes) {
      const after = planFor(engine, [withAttributes(peer, change)]).plan;
      const other = family === 4 ? 6 : 4;
      expect(linesOf(after, other)).toEqual(linesOf(before, other));
      expect(linesOf(after, family)).not.toEqual(linesOf(before, family));
    }
  });
});

test("leases: any difference in either family of a peer is an update, which stock flannel drops", () => {
  const texts = ["192.0.2.40", "192.0.2.41"].map(parseIpAddress);
  const textsV6 = ["2001:db8::40", "2001:db8::41", undefined].map((text) => text && parseIpAddress(text));
  const macs = ["02:00:00:00:00:40", "02:00:00:00:00:41"].map((mac) => ({ VNI: 1, VtepMAC: mac }));
  const variants = texts.flatMap((publicIp) =>
    textsV6.flatMap((publicIpv6) =>
      macs.flatMap((backendData) =>
        [undefined, ...macs].map((backendV6Data): Lease => ({
          ...peer,
          attributes: {
            publicIp,
            ...(publicIpv6 && { publicIpv6 }),
            backendType: "vxlan",
            backendData,
            ...(backendV6Data && { backendV6Data }),
          },
        })),
      ),
    ),
  );
  for (const one of variants)
    for (const other of variants) {
      const table = createLeaseTable();
      table.apply({ kind: "snapshot", leases: [one] });
      const changed = table.apply({ kind: "changes", changes: [{ kind: "put", lease: other }] });
      const differs = encodeLeaseValue(one.attributes) !== encodeLeaseValue(other.attributes);
      expect(changed).toBe(differs);
      expect(table.leases[0]?.attributes.publicIpv6).toEqual(publicAddress(other.attributes, 6));
    }
});

test("vxlan: the lease carries both addresses and a MAC for each family, in flannel's form", () => {
  const setup = setUpVxlan({ type: "vxlan", options: {} }, contextOf(dualUplink));
  const derived = deriveVtepMac("machine", parseIpAddress("2001:db8::1"), 1);
  const value = (known: Parameters<typeof setup.attributes>[0]) => encodeLeaseValue(setup.attributes(known));
  const form = (mac: string, macV6: string) =>
    `{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"${mac}"},"BackendV6Data":{"VNI":1,"VtepMAC":"${macV6}"}}`;
  const saved = { savedMac: parseMac("02:00:00:00:00:77"), savedMacV6: parseMac("02:00:00:00:00:78") };
  expect(value({ existing: undefined, ...saved })).toBe(form(saved.savedMac, saved.savedMacV6));
  expect(value({ existing: own, ...saved })).toBe(form("02:00:00:00:00:01", "02:06:00:00:00:01"));
  // What an IPv4 network left: only the second MAC is new.
  const { backendV6Data: _, ...ipv4 } = own.attributes;
  expect(value({ existing: { ...own, attributes: ipv4 }, savedMac: undefined })).toBe(
    form("02:00:00:00:00:01", derived),
  );
  expect([setup.device, setup.deviceV6]).toEqual(["flannel.1", "flannel-v6.1"]);
});

test("vxlan: an IPv4 network publishes no IPv6, whatever the uplink has", () => {
  const setup = setUpVxlan({ type: "vxlan", options: {} }, contextOf(dualUplink, [4]));
  const attributes = setup.attributes({ existing: own, savedMac: undefined });
  expect(encodeLeaseValue(attributes)).toBe(
    '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}',
  );
  expect(setup.deviceV6).toBeUndefined();
});

test("vxlan: each engine cuts what comes in to what pods take, not to its own device's MTU", () => {
  const { links, tunnels } = planFor("userspace", [peer]).plan;
  expect(links.map(({ mtuBytes }) => mtuBytes)).toEqual([1450, 1430]);
  expect(tunnels.map(({ mtuBytes }) => mtuBytes)).toEqual([1430, 1430]);
});

test("vxlan: FLANNEL_MTU is what both families can carry", () => {
  const mtu = (options: Record<string, Json>) =>
    setUpVxlan({ type: "vxlan", options }, contextOf(dualUplink)).open("userspace").mtuBytes;
  expect(mtu({})).toBe(1430);
  expect(mtu({ MTU: 1400 })).toBe(1330);
});

test.each([
  ["no PublicIPv6", { publicIp: null }, "it has no PublicIPv6", "public-ip"],
  [
    "a link-local one",
    { publicIp: "fe80::9" },
    "PublicIPv6 fe80::9 means a host on one link only",
    "public-ip",
  ],
  ["ours", { publicIp: "2001:db8::1" }, "PublicIPv6 2001:db8::1 is our own", "public-ip"],
  ["a multicast one", { publicIp: "ff02::1" }, "PublicIPv6 ff02::1 is no host's address", "public-ip"],
  ["no second MAC", { mac: null }, "BackendV6Data has no valid VtepMAC", "vtep-mac"],
  ["our second MAC", { mac: "02:06:00:00:00:01" }, "VtepMAC 02:06:00:00:00:01 is our own", "vtep-mac"],
])("vxlan: a peer with %s is used for IPv4 and named", (_, v6, reason, kind) => {
  const half = vxlanLease("10.5.2.0/24", "192.0.2.2", "02:00:00:00:00:02", "fd00:5:0:2::/64", v6);
  const { plan, refused } = planFor("userspace", [half, peer]);
  expect(refused).toMatchObject([{ reason, kind, partly: true }]);
  expect(plan.forwards.map(({ to }) => `${to}`)).toEqual(["10.5.2.0/24", "10.5.34.0/24", "fd00:5:0:34::/64"]);
});

test("vxlan: a peer that is of no use in either family is named once, with both reasons", () => {
  const lease = vxlanLease("10.5.2.0/24", "224.0.0.1", "02:00:00:00:00:02", "fd00:5:0:2::/64", {
    publicIp: null,
  });
  const other = withAttributes(vxlanLease("10.5.3.0/24", "192.0.2.3", undefined, "fd00:5:0:3::/64"), {
    backendType: "host-gw",
  });
  const { refused } = planFor("userspace", [lease, other]);
  expect(refused.map(({ reason, partly }) => [reason, partly])).toEqual([
    ["PublicIP 224.0.0.1 is no host's address; it has no PublicIPv6", undefined],
    ['backend type "host-gw" is not "vxlan"', undefined],
  ]);
});

test("vxlan: a MAC that another node has in one family is replaced in that family alone", () => {
  const lower = vxlanLease("10.5.0.0/24", "192.0.2.9", undefined, "fd00:5:0:9::/64", {
    mac: "02:06:00:00:00:01",
  });
  const { republish } = planFor("userspace", [lower]);
  const derived = deriveVtepMac("machine", parseIpAddress("2001:db8::1"), 1);
  expect(republish).toEqual({ ...own.attributes, backendV6Data: { VNI: 1, VtepMAC: derived } });
});

test("vxlan: with DirectRouting each family goes directly where its own address is one hop away", () => {
  const setup = setUpVxlan({ type: "vxlan", options: { DirectRouting: true } }, contextOf(dualUplink));
  const { plan } = setup.open("kernel").plan(own, [peer], reachOf(["2001:db8::/64"]));
  expect(plan.routes.map((value) => itemText({ type: "route", value }))).toEqual([
    "route 10.5.34.0/24 via 10.5.34.0 dev flannel.1 onlink",
    "route fd00:5:0:34::/64 via 2001:db8::34 dev eth0",
  ]);
});

test.each([
  [testUplink, {}, "interface eth0 has no usable IPv6 address, and the network has IPv6"],
  [
    { ...dualUplink, mtuBytes: 1349 },
    {},
    "interface eth0 has an MTU of 1349 bytes, too small for IPv6 in VXLAN",
  ],
  [dualUplink, { MTU: 1300 }, "the Backend's MTU is 1300 bytes, too small for IPv6 in VXLAN"],
])("vxlan: an uplink that cannot carry IPv6 is named", (uplink, options, text) => {
  expect(() => setUpVxlan({ type: "vxlan", options }, contextOf(uplink))).toThrow(text);
  expect(() => setUpVxlan({ type: "vxlan", options }, contextOf(uplink, [4]))).not.toThrow();
});
