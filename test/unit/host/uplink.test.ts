import { describe, expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { decideUplink, type HostView, type UplinkChoice } from "../../../src/host/uplink-decision.ts";
import type { KernelAddress, KernelLink, KernelRoute } from "../../../src/native/ports.ts";
import { parseIpAddress } from "../../../src/net/address.ts";

const link = (index: number, name: string): KernelLink => ({
  ...{ index, name, kind: "", mtuBytes: 1500, mac: "", up: true, carrier: true, alias: "" },
  loopback: name === "lo",
});
const address = (linkIndex: number, text: string, more: Partial<KernelAddress> = {}): KernelAddress => ({
  ...{ linkIndex, address: text, length: 24, scope: "global" },
  ...{ deprecated: false, temporary: false, permanent: true },
  ...more,
});
const route = (to: string, linkIndex: number, more: Partial<KernelRoute> = {}): KernelRoute => ({
  ...{ to, via: "", linkIndex, onLink: false, source: "", protocol: 4, metric: 0 },
  ...{ multipath: false, type: "unicast" },
  ...more,
});

const view: HostView = {
  links: [
    link(1, "lo"),
    link(2, "eth0"),
    link(3, "eth1"),
    link(4, "flannel.1"),
    link(5, "docker0"),
    link(6, "bare"),
  ],
  addresses: [
    address(1, "127.0.0.1", { scope: "host" }),
    address(1, "203.0.113.9", { length: 32 }),
    address(2, "169.254.1.1", { scope: "link" }),
    address(2, "10.0.2.14", { permanent: false }),
    address(2, "10.0.2.15"),
    address(2, "10.0.2.16", { deprecated: true }),
    address(3, "192.0.2.7"),
    address(3, "192.0.2.8"),
    address(3, "fe80::1", { scope: "link" }),
    address(3, "2001:db8::8", { permanent: false, temporary: true }),
    address(3, "2001:db8::7"),
    address(4, "10.5.34.0"),
    address(5, "172.17.0.1"),
  ],
  routes: [route("0.0.0.0/0", 3, { metric: 200 }), route("0.0.0.0/0", 2, { metric: 100 })],
};
const nothing: UplinkChoice = { interfaces: [], patterns: [] };
const of = (choice: Partial<UplinkChoice>, seen: Partial<HostView> = {}) =>
  decideUplink({ ...view, ...seen }, { ...nothing, ...choice });
const picked = (choice: Partial<UplinkChoice>, seen: Partial<HostView> = {}) => {
  const { uplink, reason } = of(choice, seen);
  return [uplink.name, `${uplink.address}`, `${uplink.publicIp}`, reason];
};
const failure = (choice: Partial<UplinkChoice>, seen: Partial<HostView> = {}) => {
  try {
    of(choice, seen);
  } catch (error) {
    if (error instanceof FlannelError) return `${error.code}: ${error.message}`;
    throw error;
  }
  throw new Error("an uplink was chosen");
};

describe("uplink: nothing configured", () => {
  test("the default route of the lowest metric, and the lasting global address before others", () => {
    expect(picked({})).toEqual(["eth0", "10.0.2.15", "10.0.2.15", "it has the default route"]);
  });

  test("every other address and interface is told with its reason, loopback and addressless ones are not", () => {
    expect(of({}).passedOver).toEqual([
      { candidate: "10.0.2.14 on eth0", reason: "10.0.2.15 is taken" },
      { candidate: "169.254.1.1 on eth0", reason: "10.0.2.15 is taken" },
      { candidate: "eth1 (192.0.2.7)", reason: "its default route has metric 200" },
      { candidate: "flannel.1 (10.5.34.0)", reason: "no default route" },
      { candidate: "docker0 (172.17.0.1)", reason: "no default route" },
    ]);
  });

  test("a default route over several hops, none at all, or one without an address is an error", () => {
    const several = [route("0.0.0.0/0", 0, { multipath: true })];
    expect(failure({}, { routes: several })).toContain("the default route has several next hops");
    expect(failure({}, { routes: [] })).toBe(
      "uplink/not-found: cannot tell which interface carries the tunnel: default route: there is no default route",
    );
    expect(failure({}, { routes: [route("0.0.0.0/0", 0, { type: "blackhole" })] })).toContain("no default");
    expect(failure({}, { routes: [route("0.0.0.0/0", 6)] })).toStartWith("uplink/no-address: ");
  });
});

describe("uplink: a public IP", () => {
  test("its interface is taken, wherever the default route is; loopback too", () => {
    const publicIp = parseIpAddress("192.0.2.8");
    expect(picked({ publicIp })).toEqual([
      "eth1",
      "192.0.2.8",
      "192.0.2.8",
      "it has the public IP 192.0.2.8",
    ]);
    expect(picked({ publicIp: parseIpAddress("203.0.113.9") }).slice(0, 2)).toEqual(["lo", "203.0.113.9"]);
  });

  test("of a NAT: the default route's interface, known by the public IP", () => {
    const { uplink, reason, passedOver } = of({ publicIp: parseIpAddress("198.51.100.1") });
    expect([uplink.name, `${uplink.address}`, `${uplink.publicIp}`]).toEqual([
      "eth0",
      "10.0.2.15",
      "198.51.100.1",
    ]);
    expect(reason).toBe(
      "it has the default route; the public IP 198.51.100.1 is on none, so it counts as NATed",
    );
    expect(passedOver[0]).toEqual({
      candidate: "public IP 198.51.100.1",
      reason: "no interface has the address 198.51.100.1",
    });
  });

  test("beside a configured interface it only names the node", () => {
    const publicIp = parseIpAddress("10.0.2.15");
    expect(picked({ interfaces: ["eth1"], publicIp }).slice(0, 3)).toEqual([
      "eth1",
      "192.0.2.7",
      "10.0.2.15",
    ]);
  });

  test("the IPv6 one picks the interface where it is alone, and its address there", () => {
    const { uplink } = of({ publicIpv6: parseIpAddress("2001:db8::8") });
    expect(uplink).toMatchObject({ name: "eth1", address: parseIpAddress("192.0.2.7") });
    expect([`${uplink.addressV6}`, `${uplink.publicIpv6}`]).toEqual(["2001:db8::8", "2001:db8::8"]);
    const nat = of({ interfaces: ["eth1"], publicIpv6: parseIpAddress("2001:db8:9::1") }).uplink;
    expect([`${nat.addressV6}`, `${nat.publicIpv6}`]).toEqual(["2001:db8::7", "2001:db8:9::1"]);
  });
});

describe("uplink: what is configured", () => {
  test("interfaces are tried in order, by name or address; those that are not here are told", () => {
    const { uplink, passedOver } = of({ interfaces: ["eth9", "10.9.9.9", "bare", "192.0.2.8", "eth0"] });
    expect([uplink.name, `${uplink.address}`, `${uplink.addressV6}`]).toEqual([
      "eth1",
      "192.0.2.8",
      "2001:db8::7",
    ]);
    expect(passedOver.slice(0, 3)).toEqual([
      { candidate: "interface eth9", reason: 'there is no interface named "eth9"' },
      { candidate: "interface 10.9.9.9", reason: "no interface has the address 10.9.9.9" },
      { candidate: "interface bare", reason: "interface bare has no usable IPv4 address" },
    ]);
  });

  test("an IPv6 address finds its interface, which needs an IPv4 one", () => {
    const { uplink } = of({ interfaces: ["2001:db8::8"] });
    expect([`${uplink.address}`, `${uplink.addressV6}`]).toEqual(["192.0.2.7", "2001:db8::8"]);
  });

  test("an interface comes before a pattern, a pattern before what reaches an address", () => {
    const canReach = parseIpAddress("172.17.0.9");
    const reach = route("172.17.0.0/16", 5, { source: "172.17.0.1" });
    const all = { interfaces: ["eth0"], patterns: [/^eth1$/], canReach };
    expect(picked(all, { reach })[0]).toBe("eth0");
    expect(picked({ ...all, interfaces: ["eth9"] }, { reach })[0]).toBe("eth1");
    expect(picked({ ...all, interfaces: [], patterns: [/^x/] }, { reach })).toEqual([
      ...["docker0", "172.17.0.1", "172.17.0.1"],
      "the kernel reaches 172.17.0.9 over it",
    ]);
  });

  test("nothing found is an error with every reason; the default route is not a fallback", () => {
    const all = { interfaces: ["eth9"], patterns: [/^x/], canReach: parseIpAddress("192.0.2.99") };
    expect(failure(all, { reach: "Network is unreachable" })).toBe(
      'uplink/not-found: cannot tell which interface carries the tunnel: interface eth9: there is no interface named "eth9"; ' +
        "interface_regex ^x: no interface with a usable IPv4 address matches; can_reach 192.0.2.99: Network is unreachable",
    );
  });
});

describe("uplink: patterns", () => {
  test("addresses of all interfaces first, in the order of the index, then names", () => {
    expect(picked({ patterns: [/^192\.0\.2\.8$/] }).slice(0, 2)).toEqual(["eth1", "192.0.2.8"]);
    expect(picked({ patterns: [/\./] }, { links: view.links.toReversed() }).slice(0, 2)).toEqual([
      "eth0",
      "10.0.2.15",
    ]);
    // "1" is in the name of eth1, and in an address of eth0.
    expect(picked({ patterns: [/1/] })[0]).toBe("eth0");
    expect(picked({ patterns: [/^(eth1|bare)$/] }).slice(0, 2)).toEqual(["eth1", "192.0.2.7"]);
  });

  test("each is tried on all interfaces before the next one", () => {
    expect(picked({ patterns: [/^docker/, /^10\.0\./] })[0]).toBe("docker0");
  });

  test("loopback, deprecated addresses and an overlay's device are not found", () => {
    for (const pattern of [/^127\./, /^203\.0\.113/, /^lo$/, /2\.16$/, /^10\.5\./, /^flannel/])
      expect(failure({ patterns: [pattern] })).toContain("matches");
  });

  test("an IPv6 address that matches too is taken with the IPv4 one", () => {
    expect(`${of({ patterns: [/^192|8::8$/] }).uplink.addressV6}`).toBe("2001:db8::8");
  });

  test("what matches too, and what does not, is told", () => {
    expect(of({ patterns: [/^1[07]/] }).passedOver.slice(2)).toEqual([
      { candidate: "eth1 (192.0.2.7)", reason: "does not match" },
      { candidate: "flannel.1 (10.5.34.0)", reason: "it belongs to an overlay" },
      { candidate: "docker0 (172.17.0.1)", reason: "its address matches too, but its index is higher" },
    ]);
  });
});

describe("uplink: IPv6", () => {
  const more: Partial<HostView> = {
    addresses: [...view.addresses, address(2, "fe80::2", { scope: "link" }), address(5, "2001:db8:5::1")],
  };
  const ipv6 = (choice: Partial<UplinkChoice>, seen: Partial<HostView> = more) => {
    const { uplink, reason } = of(choice, seen);
    const { addressV6, publicIpv6, interfaceV6 } = uplink;
    return [interfaceV6?.name, addressV6?.toString(), publicIpv6?.toString(), reason.split("; IPv6 ")[1]];
  };
  const defaultV6 = (index: number) => ({ ...more, routes: [...view.routes, route("::/0", index)] });

  test("by the interface of IPv4 where that has an address; link-local ones and deprecated ones do not count", () => {
    expect(ipv6({ interfaces: ["eth1"] })).toEqual([undefined, "2001:db8::7", "2001:db8::7", undefined]);
    expect(ipv6({ interfaces: ["eth0"] })).toEqual([undefined, undefined, undefined, undefined]);
    const old = [...view.addresses, address(2, "2001:db8::9", { deprecated: true })];
    expect(ipv6({ interfaces: ["eth0"] }, { addresses: old })[1]).toBeUndefined();
  });

  test("nothing configured: by the IPv6 default route, which flannel takes on IPv4's interface only", () => {
    expect(ipv6({}, defaultV6(3))).toEqual([
      ...["eth1", "2001:db8::7", "2001:db8::7"],
      "by eth1: it has the IPv6 default route",
    ]);
    expect(ipv6({}, defaultV6(5)).slice(0, 2)).toEqual(["docker0", "2001:db8:5::1"]);
    // One that has no usable address is none.
    expect(ipv6({}, defaultV6(2))).toEqual([undefined, undefined, undefined, undefined]);
  });

  test("an interface that is configured later carries IPv6 where the first has no address for it", () => {
    expect(ipv6({ interfaces: ["eth0", "bare", "docker0", "eth1"] }).slice(0, 2)).toEqual([
      "docker0",
      "2001:db8:5::1",
    ]);
    expect(ipv6({ interfaces: ["eth0", "2001:db8::8"] }).slice(0, 2)).toEqual(["eth1", "2001:db8::8"]);
    expect(ipv6({ patterns: [/^10\./, /::8$/] }).slice(0, 2)).toEqual(["eth1", "2001:db8::8"]);
    expect(ipv6({ patterns: [/^10\./, /^docker/] }).slice(0, 2)).toEqual(["docker0", "2001:db8:5::1"]);
    // Nothing else is guessed.
    expect(ipv6({ interfaces: ["eth0"] }, defaultV6(3))[1]).toBeUndefined();
  });

  test("the public IPv6 address carries it where it is, and where it is nowhere, it only names the node", () => {
    const publicIpv6 = parseIpAddress("2001:db8::8");
    const found = ["eth1", "2001:db8::8", "2001:db8::8", "by eth1: it has the public IPv6 address"];
    expect(ipv6({ interfaces: ["eth0"], publicIpv6 })).toEqual(found);
    expect(ipv6({ publicIp: parseIpAddress("10.0.2.15"), publicIpv6 })).toEqual(found);
    const nat = parseIpAddress("2001:db8:9::1");
    expect(ipv6({ publicIpv6: nat }, defaultV6(3)).slice(0, 3)).toEqual([
      ...["eth1", "2001:db8::7", "2001:db8:9::1"],
    ]);
    expect(ipv6({ interfaces: ["eth0"], publicIpv6: nat }).slice(0, 3)).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  test("the kernel's way to an IPv6 address says the source too", () => {
    const reach = route("", 3, { source: "2001:db8::8" });
    expect(ipv6({ canReach: parseIpAddress("2001:db8:7::1") }, { reach })[1]).toBe("2001:db8::8");
  });
});

describe("uplink: what reaches an address", () => {
  const canReach = parseIpAddress("198.51.100.9");
  const reached = (reach: KernelRoute) => picked({ canReach }, { reach }).slice(0, 2);

  test("the kernel's source is the address, the interface's first where it names none or an IPv6 one", () => {
    expect(reached(route("", 3, { source: "192.0.2.8" }))).toEqual(["eth1", "192.0.2.8"]);
    expect(reached(route("", 3))).toEqual(["eth1", "192.0.2.7"]);
    expect(reached(route("", 3, { source: "2001:db8::7" }))).toEqual(["eth1", "192.0.2.7"]);
  });

  test("our own address, several next hops, and an interface without address find nothing", () => {
    const of = (reach: KernelRoute) => failure({ canReach }, { reach });
    expect(of(route("", 1, { source: "203.0.113.9" }))).toContain("it is an address of this host");
    expect(of(route("", 0, { multipath: true }))).toContain("no single interface");
    expect(of(route("", 6))).toContain("interface bare has no usable IPv4 address");
    expect(failure({ canReach })).toContain("it was not looked up");
  });
});

describe("uplink: without any IPv4 address", () => {
  const alone: HostView = {
    links: [link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "bare")],
    addresses: [
      address(1, "127.0.0.1", { scope: "host" }),
      address(2, "fe80::1", { scope: "link" }),
      address(2, "2001:db8::2"),
      address(2, "2001:db8::3"),
      address(3, "2001:db8:1::2"),
    ],
    routes: [route("::/0", 3, { metric: 2048 }), route("::/0", 2, { metric: 1024 })],
  };
  const ipv6 = (choice: Partial<UplinkChoice>) => {
    const { uplink, reason } = of({ ipv6Alone: true, ...choice }, alone);
    expect([uplink.address, uplink.publicIp]).toEqual([undefined, undefined]);
    return [uplink.name, `${uplink.addressV6}`, `${uplink.publicIpv6}`, reason];
  };

  test("the same rules by IPv6, where that alone will do", () => {
    const first = ["eth0", "2001:db8::2", "2001:db8::2"];
    expect(ipv6({})).toEqual([...first, "it has the IPv6 default route"]);
    expect(ipv6({ interfaces: ["eth0"] })).toEqual([...first, "interface eth0 is configured"]);
    expect(ipv6({ interfaces: ["2001:db8::3"] }).slice(0, 3)).toEqual(["eth0", "2001:db8::3", "2001:db8::3"]);
    expect(ipv6({ patterns: [/^2001:db8:1:/] }).slice(0, 2)).toEqual(["eth1", "2001:db8:1::2"]);
    expect(ipv6({ patterns: [/eth1/] }).slice(0, 2)).toEqual(["eth1", "2001:db8:1::2"]);
    expect(ipv6({ publicIpv6: parseIpAddress("2001:db8:1::2") }).slice(0, 2)).toEqual([
      "eth1",
      "2001:db8:1::2",
    ]);
    const nat = ipv6({ publicIpv6: parseIpAddress("2001:db8:9::9") });
    expect(nat.slice(0, 3)).toEqual(["eth0", "2001:db8::2", "2001:db8:9::9"]);
  });

  test("what was passed over is told with IPv6 addresses, and why not by IPv4", () => {
    expect(of({ ipv6Alone: true }, alone).passedOver).toEqual([
      { candidate: "default route", reason: "there is no default route" },
      { candidate: "2001:db8::3 on eth0", reason: "2001:db8::2 is taken" },
      { candidate: "eth1 (2001:db8:1::2)", reason: "its IPv6 default route has metric 2048" },
    ]);
  });

  test("an interface found by IPv6 that has an IPv4 address is taken with both", () => {
    const both = { ...alone, addresses: [...alone.addresses, address(2, "192.0.2.2")] };
    const { uplink } = of({ ipv6Alone: true }, both);
    expect([`${uplink.address}`, `${uplink.publicIp}`, `${uplink.addressV6}`]).toEqual([
      "192.0.2.2",
      "192.0.2.2",
      "2001:db8::2",
    ]);
  });

  test("IPv4 goes first where there is any way to it; without either the error says all that was tried", () => {
    expect(of({ ipv6Alone: true }).uplink.name).toBe("eth0");
    expect(failure({ ipv6Alone: true, interfaces: ["bare"] }, alone)).toBe(
      "uplink/no-address: cannot tell which interface carries the tunnel: " +
        "interface bare: interface bare has no usable IPv4 address; interface bare: interface bare has no usable IPv6 address",
    );
    expect(failure({ interfaces: ["eth0"] }, alone)).toBe(
      "uplink/no-address: cannot tell which interface carries the tunnel: interface eth0: interface eth0 has no usable IPv4 address",
    );
  });
});
