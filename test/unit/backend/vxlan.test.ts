import { expect, test } from "bun:test";
import type { EngineName } from "../../../src/backend/backend.ts";
import { deriveVtepMac, leaseVtepMac } from "../../../src/backend/vtep.ts";
import { setUpVxlan } from "../../../src/backend/vxlan.ts";
import { parseVxlanOptions } from "../../../src/backend/vxlan-options.ts";
import type { Json, Lease } from "../../../src/lease/lease.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parseMac } from "../../../src/net/mac.ts";
import { golden } from "../../support/golden.ts";
import { testUplink, vxlanLease } from "../../support/leases.ts";
import { noReach, planText, reachOf, testContext } from "../../support/backend.ts";

const own = vxlanLease("10.5.1.0/24", "192.0.2.1", "02:00:00:00:00:01");
const peer = vxlanLease("10.5.34.0/24", "192.0.2.34");

function planFor(
  engine: EngineName,
  peers: readonly Lease[],
  options: Record<string, Json> = {},
  reach = noReach,
) {
  const setup = setUpVxlan({ type: "vxlan", options }, testContext);
  return setup.open(engine).plan(own, peers, reach);
}

test("vxlan, kernel: a peer is one neighbour, one fdb entry and one on-link route, in that order", () => {
  const text = planText(planFor("kernel", [peer]).plan);
  expect(text).toBe(golden("vxlan/kernel-one-peer.txt", text));
});

test("vxlan, userspace: a peer is one forwarding entry and one on-link route over a TUN", () => {
  const text = planText(planFor("userspace", [peer]).plan);
  expect(text).toBe(golden("vxlan/userspace-one-peer.txt", text));
});

test("vxlan: VNI, port and MTU of the network show in device, tunnel and MTU", () => {
  const text = planText(planFor("kernel", [], { vni: 7, Port: 4789, MTU: 1400 }).plan);
  expect(text).toBe(golden("vxlan/options.txt", text));
});

test("vxlan: a host with several leases is one fdb entry", () => {
  const { plan, refused } = planFor("kernel", [
    vxlanLease("10.5.34.0/24", "192.0.2.34"),
    vxlanLease("10.5.35.0/24", "192.0.2.34", "02:00:00:00:00:34"),
  ]);
  expect(plan.fdb).toHaveLength(1);
  expect(plan.routes).toHaveLength(2);
  expect(refused).toEqual([]);
});

test("vxlan: of two hosts with one MAC the lower subnet is believed, whatever the order", () => {
  const twins = [
    vxlanLease("10.5.9.0/24", "192.0.2.9", "02:aa:00:00:00:00"),
    vxlanLease("10.5.8.0/24", "192.0.2.8", "02:aa:00:00:00:00"),
  ];
  for (const peers of [twins, [...twins].reverse()]) {
    const { plan, refused } = planFor("kernel", peers);
    expect(plan.fdb.map(({ via }) => `${via}`)).toEqual(["192.0.2.8"]);
    expect(refused.map(({ reason }) => reason)).toEqual(["VtepMAC 02:aa:00:00:00:00 is that of 192.0.2.8"]);
  }
});

test.each([
  ["no MAC", vxlanLease("10.5.2.0/24", "192.0.2.2", null), "BackendData has no valid VtepMAC"],
  [
    "a multicast MAC",
    vxlanLease("10.5.2.0/24", "192.0.2.2", "01:00:5e:00:00:01"),
    "BackendData has no valid VtepMAC",
  ],
  ["a MAC in a number", vxlanLease("10.5.2.0/24", "192.0.2.2", 42), "BackendData has no valid VtepMAC"],
  [
    "our MAC",
    vxlanLease("10.5.2.0/24", "192.0.2.2", "02:00:00:00:00:01"),
    "VtepMAC 02:00:00:00:00:01 is our own",
  ],
  ["our subnet", vxlanLease("10.5.1.0/25", "192.0.2.2"), "10.5.1.0/25 overlaps our own 10.5.1.0/24"],
  ["everything", vxlanLease("0.0.0.0/0", "192.0.2.2"), "0.0.0.0/0 is outside the overlay network"],
  ["a foreign network", vxlanLease("10.6.0.0/24", "192.0.2.2"), "10.6.0.0/24 is outside the overlay network"],
  ["a multicast endpoint", vxlanLease("10.5.2.0/24", "224.0.0.1"), "PublicIP 224.0.0.1 is no host's address"],
  [
    "an IPv6 endpoint",
    vxlanLease("10.5.2.0/24", "2001:db8::1", "02:00:00:00:00:02"),
    "PublicIP 2001:db8::1 is of another family than ours",
  ],
  ["loopback", vxlanLease("10.5.2.0/24", "127.0.0.1"), "PublicIP 127.0.0.1 is no host's address"],
  [
    "our address",
    vxlanLease("10.5.2.0/24", "192.0.2.1", "02:00:00:00:00:02"),
    "PublicIP 192.0.2.1 is our own",
  ],
])("vxlan: a lease with %s becomes no entry and is named", (_, lease, reason) => {
  const { plan, refused } = planFor("userspace", [lease, peer]);
  expect(refused.map((one) => one.reason)).toEqual([reason]);
  expect(plan.forwards.map(({ to }) => `${to}`)).toEqual(["10.5.34.0/24"]);
});

test.each([
  ["one of the network's length", "10.5.200.0/24", "10.5.128.0/17"],
  ["one of the network's length, also inside it", "10.5.200.0/24", "10.5.200.128/25"],
  ["the more specific of two odd ones", "10.5.200.0/26", "10.5.200.0/25"],
  ["the more specific of two wide ones", "10.5.192.0/19", "10.5.128.0/17"],
])("vxlan: of overlapping leases %s is used, whatever the order", (_, winner, loser) => {
  const [first, second] = [vxlanLease(winner, "192.0.2.3"), vxlanLease(loser, "192.0.2.2")];
  for (const peers of [
    [first, second, peer],
    [peer, second, first],
  ]) {
    const { plan, refused } = planFor("userspace", peers);
    expect(plan.routes.map(({ to }) => `${to}`)).toEqual(["10.5.34.0/24", winner]);
    expect(refused.map(({ reason }) => reason)).toEqual([
      `${loser} overlaps the lease ${winner.replace("/", "-")}`,
    ]);
  }
});

test("vxlan: the plan is the same for every order of the leases", () => {
  const leases = Array.from({ length: 40 }, (_, at) =>
    vxlanLease(`10.5.${at + 50}.0/24`, `192.0.2.${at + 50}`),
  );
  const sorted = planText(planFor("kernel", leases).plan);
  let state = 7;
  for (let round = 0; round < 50; round++) {
    const shuffled = leases
      .map((lease) => ({ lease, at: (state = (state * 16807) % 2147483647) }))
      .sort((a, b) => a.at - b.at)
      .map(({ lease }) => lease);
    expect(planText(planFor("kernel", shuffled).plan)).toBe(sorted);
  }
});

test.each([
  [{ VNI: 0 }, "VNI is 0"],
  [{ VNI: 16777216 }, "VNI is 16777216"],
  [{ Port: "8472" }, 'Port is "8472"'],
  [{ GBP: 1 }, "GBP is 1"],
  [{ mtu: 10 }, "mtu is 10"],
])("vxlan: the option %p is refused by name", (options, text) => {
  expect(() => parseVxlanOptions({ type: "vxlan", options })).toThrow(text);
});

test("vxlan: port 0 and absent options are the defaults", () => {
  expect(parseVxlanOptions({ type: "vxlan", options: { port: 0 } })).toEqual({
    vni: 1,
    port: 8472,
    underlayMtuBytes: undefined,
    gbp: false,
    learning: false,
    directRouting: false,
  });
});

test("vxlan: our lease keeps the MAC that the store has, else the saved one, else derives one that stays", () => {
  const { attributes } = setUpVxlan({ type: "vxlan", options: {} }, { ...testContext, overlay: [] });
  const macOf = (existing: Lease | undefined, savedMac?: string) =>
    attributes({ existing, savedMac: savedMac === undefined ? undefined : parseMac(savedMac) }).backendData;
  const saved = "02:00:00:00:00:99";
  const derived = deriveVtepMac("machine", parseIpAddress("192.0.2.1"), 1);
  const nonsense = vxlanLease("10.5.1.0/24", "192.0.2.1", "nonsense");
  expect(macOf(own, saved)).toEqual({ VNI: 1, VtepMAC: "02:00:00:00:00:01" });
  expect(macOf(undefined, saved)).toEqual({ VNI: 1, VtepMAC: saved });
  expect(macOf(nonsense, saved)).toEqual({ VNI: 1, VtepMAC: saved });
  expect(macOf(undefined)).toEqual({ VNI: 1, VtepMAC: derived });
  expect(macOf(nonsense)).toEqual({ VNI: 1, VtepMAC: derived });
  expect(derived).toMatch(/^[0-9a-f][26ae]:/);
  expect(derived).not.toBe(deriveVtepMac("machine", parseIpAddress("192.0.2.1"), 2));
  expect(derived).not.toBe(deriveVtepMac("clone", parseIpAddress("192.0.2.1"), 1));
});

test("vxlan: of two nodes with one MAC the higher subnet takes another, which nobody has", () => {
  const { publicIp } = own.attributes;
  if (publicIp === undefined) throw new Error("no public IP");
  const mac = "02:00:00:00:00:01";
  const next = deriveVtepMac("machine", publicIp, 1);
  const lower = vxlanLease("10.5.0.0/24", "192.0.2.9", mac);
  const higher = vxlanLease("10.5.9.0/24", "192.0.2.9", mac);
  expect(planFor("userspace", [higher]).republish).toBeUndefined();
  expect(planFor("userspace", [lower]).republish).toEqual({
    ...own.attributes,
    backendData: { VNI: 1, VtepMAC: next },
  });
  const taken = vxlanLease("10.5.10.0/24", "192.0.2.10", next);
  expect(planFor("userspace", [lower, taken]).republish?.backendData).toEqual({
    VNI: 1,
    VtepMAC: deriveVtepMac("machine", publicIp, 1, 1),
  });
  // A lease that is refused anyway changes nothing of ours.
  expect(planFor("userspace", [vxlanLease("10.4.0.0/24", "192.0.2.9", mac)]).republish).toBeUndefined();
});

test("vxlan: the plan follows the MAC of our own lease", () => {
  const changed = vxlanLease("10.5.1.0/24", "192.0.2.1", "02:00:00:00:00:77");
  const setup = setUpVxlan({ type: "vxlan", options: {} }, { ...testContext, overlay: [] });
  expect(setup.open("userspace").plan(changed, [], noReach).plan.tunnels[0]).toMatchObject({
    vtepMac: parseMac("02:00:00:00:00:77"),
  });
  const [link] = setup.open("kernel").plan(changed, [], noReach).plan.links;
  expect(link).toMatchObject({ kind: "vxlan", mac: "02:00:00:00:00:77" });
});

test("vxlan: the MAC of a stock lease is read whatever the case of its key", () => {
  const lease = vxlanLease("10.5.1.0/24", "192.0.2.1");
  const old = {
    ...lease,
    attributes: { ...lease.attributes, backendData: { vtepmac: "0E:2A:00:00:00:01" } },
  };
  expect(leaseVtepMac(old)).toBe("0e:2a:00:00:00:01" as ReturnType<typeof leaseVtepMac>);
});

test("vxlan: an uplink too small for the overhead is named", () => {
  const uplink = { ...testUplink, mtuBytes: 100 };
  const testContext = {
    uplink,
    overlay: [],
    subnetLengths: {},
    strict: "overlay",
    allowSources: [],
    latency: "auto",
    nodeId: "",
  } as const;
  expect(() => setUpVxlan({ type: "vxlan", options: {} }, testContext)).toThrow(
    "interface eth0 has an MTU of 100 bytes",
  );
});

const near = vxlanLease("10.5.20.0/24", "192.0.2.20", undefined, "fd00:5:0:20::/64");
const onUplink = reachOf(["192.0.2.0/24"], ["192.0.2.32/27"]);

test.each(["kernel", "userspace"] as const)(
  "vxlan, %s: with DirectRouting who is one hop away is routed to without the tunnel, others not",
  (engine) => {
    const text = planText(planFor(engine, [near, peer], { directRouting: true }, onUplink).plan);
    expect(text).toBe(golden(`vxlan/${engine}-direct-routing.txt`, text));
  },
);

test("vxlan: without DirectRouting nobody is routed to past the tunnel", () => {
  expect(planFor("kernel", [near, peer], {}, onUplink)).toEqual(planFor("kernel", [near, peer]));
});

test("vxlan: with DirectRouting the engine's table is as without, so that it believes who comes by the tunnel", () => {
  const direct = planFor("userspace", [near, peer], { DirectRouting: true }, onUplink).plan;
  const tunnelled = planFor("userspace", [near, peer]).plan;
  expect([direct.tunnels, direct.forwards]).toEqual([tunnelled.tunnels, tunnelled.forwards]);
});
