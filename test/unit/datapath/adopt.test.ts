import { expect, test } from "bun:test";
import {
  adoptableLinks,
  type Adoption,
  adoptableMac,
  findHeldTun,
  isFlannelRoute,
  isSameRoute,
} from "../../../src/datapath/adopt.ts";
import type { KernelAddress, KernelLink, KernelRoute } from "../../../src/native/ports.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";

const adoption: Adoption = {
  devices: [
    { name: "flannel.1", vni: 1 },
    { name: "flannel-v6.1", vni: 1 },
  ],
  networks: [parsePrefix("10.42.0.0/16"), parsePrefix("fd00:42::/48"), parsePrefix("10.41.0.0/16")],
};

function link(changes: Partial<KernelLink> = {}, vni = 1): KernelLink {
  return {
    index: 7,
    name: "flannel.1",
    kind: "vxlan",
    mtuBytes: 1450,
    mac: "0e:2a:00:00:00:01",
    up: true,
    carrier: true,
    loopback: false,
    alias: "",
    vxlan: {
      vni,
      port: 8472,
      local: "192.0.2.1",
      linkIndex: 2,
      learning: false,
      gbp: false,
      udpChecksum: true,
      group: "",
    },
    ...changes,
  };
}

function tun(changes: Partial<KernelLink> = {}): KernelLink {
  const { vxlan: _, ...rest } = link({ name: "flannel0", kind: "tun", mac: "" });
  return { ...rest, ...changes };
}

function address(text: string, scope = "global"): KernelAddress {
  return {
    linkIndex: 7,
    address: text,
    length: 32,
    scope,
    deprecated: false,
    temporary: false,
    permanent: true,
  };
}

const adoptable = (one: KernelLink, ...addresses: KernelAddress[]) =>
  adoptableLinks(adoption, [one], addresses).has(one.index);

test("adopt: flannel's device of this VNI, with an address of this network, of its last one, or none", () => {
  expect(adoptable(link())).toBe(true);
  expect(adoptable(link(), address("10.42.3.0"))).toBe(true);
  expect(adoptable(link(), address("10.41.3.0"))).toBe(true);
  expect(adoptable(link(), address("fe80::1", "link"))).toBe(true);
  expect(adoptable(link({ name: "flannel-v6.1" }), address("fd00:42:0:1::"))).toBe(true);
});

test("adopt: another VNI, name, kind, owner or network is not flannel's here", () => {
  expect(adoptable(link({}, 2))).toBe(false);
  expect(adoptable(link({ name: "vxlan0" }))).toBe(false);
  expect(adoptable(link({ name: "flannel.1", alias: "somebody's" }))).toBe(false);
  expect(adoptable(link(), address("10.50.0.0"))).toBe(false);
  expect(adoptable(tun({ name: "flannel.1" }))).toBe(false);
});

test("adopt: a TUN of the udp backend is a leftover without a reader, a live flanneld with one", () => {
  const own = address("10.42.3.0");
  expect(adoptable(tun({ carrier: false }), own)).toBe(true);
  expect(adoptable(tun({ carrier: true }), own)).toBe(false);
  expect(findHeldTun(adoption.networks, [tun()], [own])).toBe("flannel0");
  expect(findHeldTun(adoption.networks, [tun({ carrier: false })], [own])).toBeUndefined();
  expect(findHeldTun(adoption.networks, [tun()], [address("10.50.0.0")])).toBeUndefined();
  expect(findHeldTun(adoption.networks, [tun({ alias: "somebody's" })], [own])).toBeUndefined();
});

test("adopt: the MAC that peers know is that of the adoptable device", () => {
  const all = [link({ index: 3, name: "vxlan0", mac: "0e:2a:00:00:00:99" }), link()];
  expect(adoptableMac(adoption, "flannel.1", all, []) as string).toBe("0e:2a:00:00:00:01");
  expect(adoptableMac(adoption, "flannel.1", [link({ alias: "somebody's" })], [])).toBeUndefined();
});

const route: KernelRoute = {
  to: "10.42.9.0/24",
  via: "10.42.9.0",
  linkIndex: 7,
  onLink: true,
  source: "",
  protocol: 3,
  metric: 0,
  multipath: false,
  type: "unicast",
};

test("adopt: without a device of flannel's, only the very route that is wanted is its", () => {
  const wanted = { to: route.to, via: "192.0.2.9", linkIndex: 2, onLink: false, protocol: 241 };
  const same = { ...route, via: "192.0.2.9", linkIndex: 2, onLink: false };
  expect(isSameRoute(same, wanted)).toBe(true);
  for (const changes of [
    { via: "192.0.2.8" },
    { linkIndex: 3 },
    { protocol: 4 },
    { type: "blackhole" },
    { multipath: true },
  ])
    expect([changes, isSameRoute({ ...same, ...changes }, wanted)]).toEqual([changes, false]);
});

test("adopt: flannel's routes are known by protocol, gateway, network and metric", () => {
  const isFlannels = (changes: Partial<KernelRoute> = {}) => {
    const one = { ...route, ...changes };
    return isFlannelRoute(one, parsePrefix(one.to), adoption);
  };
  expect(isFlannels()).toBe(true);
  expect(isFlannels({ to: "fd00:42:0:9::/64", via: "fd00:42:0:9::", metric: 1024 })).toBe(true);
  for (const changes of [
    { protocol: 4 },
    { protocol: 241 },
    { onLink: false },
    { via: "10.42.9.1" },
    { via: "" },
    { metric: 10 },
    { to: "10.50.9.0/24", via: "10.50.9.0" },
    { type: "blackhole" },
    { multipath: true },
  ])
    expect([changes, isFlannels(changes)]).toEqual([changes, false]);
});
