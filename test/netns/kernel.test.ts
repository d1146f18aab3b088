import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { FlannelError } from "../../src/base/error.ts";
import type { KernelEdit, KernelEvents, KernelLink, KernelTable, VxlanSpec } from "../../src/native/ports.ts";
import { kernelHasIpip } from "../support/ipip.ts";
import { namespacesRefused, openRemoteKernel, type RemoteKernel } from "../support/remote-kernel.ts";

const refused = namespacesRefused();
if (refused !== undefined) process.stderr.write(`SKIPPED test/netns/kernel.test.ts: ${refused}\n`);

const ourProtocol = 201;
const macA = "0a:00:00:00:00:01";
const macB = "0a:00:00:00:00:02";
const ipip = { name: "flannel.ipip", mtuBytes: 1480, local: "192.0.2.1", alias: "flannel-lite 1" };

describe.skipIf(refused !== undefined)("kernel", () => {
  let remote: RemoteKernel;
  let uplink: number;

  beforeAll(async () => {
    remote = await openRemoteKernel();
  });

  afterAll(async () => {
    await remote[Symbol.asyncDispose]();
  });

  const linkNamed = async (name: string): Promise<KernelLink | undefined> =>
    (await remote.kernel.links()).find((link) => link.name === name);

  const indexOf = async (name: string): Promise<number> => {
    const link = await linkNamed(name);
    if (link === undefined) throw new Error(`no link ${name}`);
    return link.index;
  };

  const spec = (changes: Partial<VxlanSpec> = {}): VxlanSpec => ({
    name: "flannel.1",
    mtuBytes: 1450,
    mac: macA,
    vni: 1,
    port: 8472,
    local: "192.0.2.1",
    linkIndex: uplink,
    learning: false,
    gbp: false,
    alias: "flannel-lite 1",
    ...changes,
  });

  /** What `ip -d link` says of vxlan, as far as flannel sets it. */
  const vxlanShown = async (name: string) => {
    const [shown] = await remote.ipJson("-d", "link", "show", name);
    const info = shown?.["linkinfo"] as { info_kind: string; info_data: Record<string, unknown> };
    return { ...shown, kind: info.info_kind, data: info.info_data } as Record<string, unknown> & {
      data: Record<string, unknown>;
    };
  };

  const failure = async (promise: Promise<unknown>): Promise<{ code: string; errno: unknown }> => {
    const error = await promise.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (!(error instanceof FlannelError)) throw new Error(`no FlannelError: ${error}`);
    return { code: error.code, errno: error.fields["errno"] };
  };

  test("a namespace that never had a route has no routes, not an error", async () => {
    expect(await remote.kernel.routes()).toEqual([]);
    expect(await failure(remote.kernel.routeTo("203.0.113.1"))).toEqual({
      code: "native/enetunreach",
      errno: "ENETUNREACH",
    });
  });

  test("links: index, kind, MTU, MAC, state and alias are those of ip link", async () => {
    await remote.ip("link", "add", "up0", "mtu", "1500", "type", "veth", "peer", "name", "up1");
    await remote.ip("link", "set", "up1", "up");
    await remote.ip("link", "set", "up0", "up", "alias", "the uplink");
    await remote.ip("address", "add", "192.0.2.1/24", "dev", "up0");
    await remote.ip("address", "add", "2001:db8::1/64", "dev", "up0", "nodad");
    await remote.ip("link", "add", "br0", "type", "bridge");
    await remote.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1");
    await remote.ip("tuntap", "add", "tun0", "mode", "tun");
    const links = await remote.kernel.links();
    const shown = await remote.ipJson("-d", "link", "show");
    expect(
      links.map(({ index, name, mtuBytes, kind, up, loopback, alias, mac }) => ({
        index,
        name,
        mtuBytes,
        kind,
        up,
        loopback,
        alias,
        mac,
      })),
    ).toEqual(
      shown.map((link) => {
        const flags = link["flags"] as string[];
        return {
          index: Number(link["ifindex"]),
          name: String(link["ifname"]),
          mtuBytes: Number(link["mtu"]),
          kind: (link["linkinfo"] as { info_kind?: string } | undefined)?.info_kind ?? "",
          up: flags.includes("UP"),
          loopback: flags.includes("LOOPBACK"),
          alias: String(link["ifalias"] ?? ""),
          mac: String(link["address"] ?? ""),
        };
      }),
    );
    expect(links.map(({ name }) => name)).toContain("tun0");
    expect(await linkNamed("tun0")).toMatchObject({ kind: "tun", mac: "", carrier: false });
    expect(await linkNamed("up0")).toMatchObject({ kind: "veth", carrier: true, alias: "the uplink" });
    expect((await linkNamed("up0"))?.vxlan).toBeUndefined();
    uplink = await indexOf("up0");
  });

  test("addVxlan: the device is the one flannel makes, named as ours, and down", async () => {
    await remote.kernel.addVxlan(spec());
    const shown = await vxlanShown("flannel.1");
    expect(shown).toMatchObject({
      kind: "vxlan",
      mtu: 1450,
      address: macA,
      ifalias: "flannel-lite 1",
      operstate: "DOWN",
      data: {
        id: 1,
        local: "192.0.2.1",
        link: "up0",
        port: 8472,
        port_range: { low: 0, high: 0 },
        ttl: 0,
        learning: false,
        udp_csum: true,
        udp_zero_csum6_tx: false,
        udp_zero_csum6_rx: false,
      },
    });
    expect(shown["flags"]).not.toContain("UP");
    expect(shown["txqlen"]).toBeUndefined(); // 0 is not shown
    for (const unset of ["gbp", "group", "proxy", "rsc", "l2miss", "l3miss", "external"]) {
      expect(shown.data).not.toHaveProperty(unset);
    }
    expect(await linkNamed("flannel.1")).toMatchObject({
      kind: "vxlan",
      mac: macA,
      mtuBytes: 1450,
      up: false,
      alias: "flannel-lite 1",
      vxlan: {
        vni: 1,
        port: 8472,
        local: "192.0.2.1",
        linkIndex: uplink,
        learning: false,
        gbp: false,
        udpChecksum: true,
        group: "",
      },
    });
  });

  test("addVxlan: a name that is taken is EEXIST and leaves the device alone", async () => {
    const before = await vxlanShown("flannel.1");
    expect(await failure(remote.kernel.addVxlan(spec({ mtuBytes: 1300 })))).toEqual({
      code: "native/eexist",
      errno: "EEXIST",
    });
    expect(await vxlanShown("flannel.1")).toEqual(before);
  });

  test("addVxlan: IPv6, learning and the group policy extension", async () => {
    await remote.kernel.addVxlan(
      spec({ name: "flannel-v6.2", vni: 2, mac: macB, local: "2001:db8::1", learning: true, gbp: true }),
    );
    const { data } = await vxlanShown("flannel-v6.2");
    expect(data).toMatchObject({ id: 2, local6: "2001:db8::1", learning: true, gbp: true, port: 8472 });
    expect(data).toMatchObject({ udp_zero_csum6_tx: false, udp_zero_csum6_rx: false });
    expect((await linkNamed("flannel-v6.2"))?.vxlan).toMatchObject({
      vni: 2,
      local: "2001:db8::1",
      learning: true,
      gbp: true,
    });
  });

  test("addVxlan: a device that cannot get its alias is gone again", async () => {
    const broken = spec({ name: "flannel.3", vni: 3, alias: "x".repeat(300) });
    expect((await failure(remote.kernel.addVxlan(broken))).code).toMatch(/^native\/e(range|inval)$/);
    expect(await linkNamed("flannel.3")).toBeUndefined();
  });

  test("addIpip: the device is the one flannel makes, or the kernel is said to have none", async () => {
    if (!kernelHasIpip()) {
      expect((await failure(remote.kernel.addIpip(ipip))).errno).toBe("EOPNOTSUPP");
      return expect(await linkNamed(ipip.name)).toBeUndefined();
    }
    await remote.kernel.addIpip(ipip);
    expect(await linkNamed(ipip.name)).toMatchObject({
      ...{ kind: "ipip", mtuBytes: 1480, up: false, alias: ipip.alias },
      ipip: { local: "192.0.2.1", remote: "" },
    });
    const [shown] = await remote.ipJson("-d", "link", "show", ipip.name);
    expect(shown).toMatchObject({
      linkinfo: { info_kind: "ipip", info_data: { local: "192.0.2.1", remote: "any", pmtudisc: false } },
    });
    await remote.kernel.deleteLink(await indexOf(ipip.name));
  });

  test("links: a multicast group of a foreign vxlan shows", async () => {
    await remote.ip(
      ..."link add foreign type vxlan id 77 group 239.1.1.1 dev up0 dstport 4789 noudpcsum".split(" "),
    );
    expect((await linkNamed("foreign"))?.vxlan).toEqual({
      vni: 77,
      port: 4789,
      local: "",
      linkIndex: uplink,
      learning: true,
      gbp: false,
      udpChecksum: false,
      group: "239.1.1.1",
    });
    await remote.ip("link", "delete", "foreign");
  });

  test("dumps asked for at the same time all get their answer", async () => {
    const { kernel } = remote;
    const together = await Promise.all([
      ...Array.from({ length: 20 }, () => kernel.links()),
      ...Array.from({ length: 20 }, () => kernel.addresses()),
      ...Array.from({ length: 20 }, () => kernel.routes()),
    ]);
    for (const list of together) expect(list.length).toBeGreaterThan(0);
  });

  test("setLink: changes what is given, leaves the rest", async () => {
    const index = await indexOf("flannel.1");
    await remote.kernel.setLink(index, { mtuBytes: 1300 });
    expect(await linkNamed("flannel.1")).toMatchObject({ mtuBytes: 1300, mac: macA, up: false });
    await remote.kernel.setLink(index, { up: true });
    expect(await linkNamed("flannel.1")).toMatchObject({ mtuBytes: 1300, up: true, alias: "flannel-lite 1" });
    await remote.kernel.setLink(index, { mac: macB, alias: "renamed", txQueueLength: 500, mtuBytes: 1350 });
    const [shown] = await remote.ipJson("link", "show", "flannel.1");
    expect(shown).toMatchObject({ mtu: 1350, address: macB, ifalias: "renamed", txqlen: 500 });
    expect(shown?.["flags"]).toContain("UP");
    await remote.kernel.setLink(index, { mac: macA, alias: "", up: false });
    expect(await linkNamed("flannel.1")).toMatchObject({ mac: macA, alias: "", up: false, mtuBytes: 1350 });
    await remote.kernel.setLink(index, {});
    await remote.kernel.setLink(index, { up: true });
    expect((await failure(remote.kernel.setLink(4000, { up: true }))).errno).toBe("ENODEV");
  });

  test("addresses: added, listed with their flags, deleted, deleted again", async () => {
    const index = await indexOf("flannel.1");
    await remote.kernel.addAddress(index, "10.5.72.0", 32);
    await remote.kernel.addAddress(index, "fd00:10::", 128);
    const [shown] = await remote.ipJson("address", "show", "dev", "flannel.1");
    const info = shown?.["addr_info"] as Record<string, unknown>[];
    expect(info).toContainEqual(
      expect.objectContaining({ local: "10.5.72.0", prefixlen: 32, scope: "global" }),
    );
    expect(info).toContainEqual(expect.objectContaining({ local: "fd00:10::", prefixlen: 128 }));
    const ours = (await remote.kernel.addresses()).filter(({ linkIndex }) => linkIndex === index);
    const address = { linkIndex: index, deprecated: false, temporary: false, permanent: true };
    expect(ours).toContainEqual({ ...address, address: "10.5.72.0", length: 32, scope: "global" });
    expect(ours).toContainEqual({ ...address, address: "fd00:10::", length: 128, scope: "global" });
    expect(ours).toContainEqual(expect.objectContaining({ length: 64, scope: "link" }));
    expect((await failure(remote.kernel.addAddress(index, "10.5.72.0", 32))).errno).toBe("EEXIST");
    for (let time = 0; time < 2; time++) {
      await remote.kernel.deleteAddress(index, "10.5.72.0", 32);
      await remote.kernel.deleteAddress(index, "fd00:10::", 128);
    }
    const left = (await remote.kernel.addresses()).filter(({ linkIndex }) => linkIndex === index);
    expect(left.map(({ scope }) => scope)).toEqual(["link"]);
    await remote.kernel.deleteAddress(4000, "10.5.72.0", 32);
    await remote.kernel.deleteAddress(4000, "fd00:10::", 128);
  });

  test("addresses: a length that does not match deletes nothing", async () => {
    await remote.kernel.deleteAddress(uplink, "192.0.2.1", 32);
    expect(await remote.kernel.addresses()).toContainEqual(
      expect.objectContaining({ linkIndex: uplink, address: "192.0.2.1", length: 24 }),
    );
  });

  test("addresses: a deprecated one and secondary ones are told apart from temporary ones", async () => {
    await remote.ip(..."address add 2001:db8::dead/64 dev up0 nodad preferred_lft 0".split(" "));
    await remote.ip("address", "add", "192.0.2.9/24", "dev", "up0");
    const addresses = await remote.kernel.addresses();
    expect(addresses.find(({ address }) => address === "2001:db8::dead")).toMatchObject({ deprecated: true });
    expect(addresses.find(({ address }) => address === "192.0.2.9")).toMatchObject({ temporary: false });
  });

  test("neighbours: permanent, replaced in place, deleted twice; both families", async () => {
    const index = await indexOf("flannel.1");
    for (const ip of ["10.5.34.0", "fd00:34::"]) {
      await remote.kernel.putNeighbour(index, ip, macA);
      await remote.kernel.putNeighbour(index, ip, macB);
      const shown = await remote.ipJson("neighbour", "show", ip, "dev", "flannel.1");
      expect(shown).toEqual([expect.objectContaining({ dst: ip, lladdr: macB, state: ["PERMANENT"] })]);
      expect(await remote.kernel.neighbours(index)).toContainEqual({
        linkIndex: index,
        ip,
        mac: macB,
        permanent: true,
      });
      expect((await remote.kernel.neighbours(uplink)).map((neighbour) => neighbour.ip)).not.toContain(ip);
      await remote.kernel.deleteNeighbour(index, ip);
      await remote.kernel.deleteNeighbour(index, ip);
      await remote.kernel.deleteNeighbour(4000, ip);
      expect((await remote.kernel.neighbours(index)).map((neighbour) => neighbour.ip)).not.toContain(ip);
    }
  });

  test("neighbours: a dynamic one is not permanent until it is put", async () => {
    const index = await indexOf("flannel.1");
    await remote.ip("neighbour", "add", "10.5.35.0", "lladdr", macA, "dev", "flannel.1", "nud", "stale");
    const found = async () => (await remote.kernel.neighbours(index)).find(({ ip }) => ip === "10.5.35.0");
    expect(await found()).toMatchObject({ mac: macA, permanent: false });
    await remote.kernel.putNeighbour(index, "10.5.35.0", macA);
    expect(await found()).toMatchObject({ mac: macA, permanent: true });
    await remote.kernel.deleteNeighbour(index, "10.5.35.0");
  });

  test("fdb: an entry is permanent, and a second destination replaces the first", async () => {
    const index = await indexOf("flannel.1");
    const shown = () => remote.bridgeJson("fdb", "show", "dev", "flannel.1");
    await remote.kernel.putFdb(index, macB, "192.0.2.33");
    await remote.kernel.putFdb(index, macB, "192.0.2.34");
    await remote.kernel.putFdb(index, macB, "192.0.2.34");
    expect(await shown()).toEqual([
      expect.objectContaining({ mac: macB, dst: "192.0.2.34", state: "permanent", flags: ["self"] }),
    ]);
    expect(await remote.kernel.fdb(index)).toEqual([
      { linkIndex: index, mac: macB, via: "192.0.2.34", permanent: true },
    ]);
    await remote.kernel.deleteFdb(index, macB, "192.0.2.33");
    expect(await shown()).toHaveLength(1);
    await remote.kernel.deleteFdb(index, macB, "192.0.2.34");
    await remote.kernel.deleteFdb(index, macB, "192.0.2.34");
    await remote.kernel.deleteFdb(4000, macB, "192.0.2.34");
    expect(await shown()).toEqual([]);
    expect(await remote.kernel.fdb(index)).toEqual([]);
  });

  test("fdb: entries of other links stay out, those over IPv6 and of unknown destinations are read", async () => {
    const index = await indexOf("flannel-v6.2");
    await remote.kernel.putFdb(index, macA, "2001:db8::33");
    await remote.ip("link", "set", "veth0", "master", "br0");
    const zero = "00:00:00:00:00:00";
    Bun.spawnSync(
      `bridge -n ${remote.namespace} fdb append ${zero} dev flannel-v6.2 dst 2001:db8::44`.split(" "),
    );
    const entries = await remote.kernel.fdb(index);
    expect(entries.sort((a, b) => a.mac.localeCompare(b.mac))).toEqual([
      { linkIndex: index, mac: zero, via: "2001:db8::44", permanent: true },
      { linkIndex: index, mac: macA, via: "2001:db8::33", permanent: true },
    ]);
    expect(await remote.kernel.fdb(4000)).toEqual([]);
  });

  const route = (to: string, via: string, name: number) => ({
    to,
    via,
    linkIndex: name,
    onLink: true,
    protocol: ourProtocol,
  });

  test("routes: onlink through the device, replaced in place, deleted twice; both families", async () => {
    const index = await indexOf("flannel.1");
    for (const [family, to, first, second] of [
      ["-4", "10.5.34.0/24", "10.5.34.0", "10.5.34.1"],
      ["-6", "fd00:34::/64", "fd00:34::", "fd00:34::1"],
    ] as const) {
      await remote.kernel.putRoute(route(to, first, index));
      await remote.kernel.putRoute(route(to, second, index));
      const shown = await remote.ipJson("-d", family, "route", "show", to);
      expect(shown).toEqual([
        expect.objectContaining({
          type: "unicast",
          dst: to,
          gateway: second,
          dev: "flannel.1",
          protocol: String(ourProtocol),
          scope: "global",
          flags: ["onlink"],
        }),
      ]);
      expect((await remote.kernel.routes()).filter((held) => held.to === to)).toEqual([
        {
          to,
          via: second,
          linkIndex: index,
          onLink: true,
          source: "",
          protocol: ourProtocol,
          metric: family === "-6" ? 1024 : 0,
          multipath: false,
          type: "unicast",
        },
      ]);
      await remote.kernel.deleteRoute(route(to, second, index));
      await remote.kernel.deleteRoute(route(to, second, index));
      await remote.kernel.deleteRoute(route(to, second, 4000));
      expect(await remote.ipJson(family, "route", "show", to)).toEqual([]);
    }
  });

  test("routes: one with another gateway, link or protocol is not deleted", async () => {
    const index = await indexOf("flannel.1");
    for (const [family, to, via, other] of [
      ["-4", "10.5.36.0/24", "10.5.36.0", "10.5.36.1"],
      ["-6", "fd00:36::/64", "fd00:36::", "fd00:36::1"],
    ] as const) {
      await remote.kernel.putRoute(route(to, via, index));
      await remote.kernel.deleteRoute(route(to, other, index));
      await remote.kernel.deleteRoute(route(to, "", index));
      await remote.kernel.deleteRoute(route(to, via, uplink));
      await remote.kernel.deleteRoute({ ...route(to, via, index), protocol: ourProtocol + 1 });
      expect(await remote.ipJson(family, "route", "show", to)).toHaveLength(1);
      await remote.kernel.deleteRoute(route(to, via, index));
      expect(await remote.ipJson(family, "route", "show", to)).toEqual([]);
    }
  });

  test("routes: without a gateway they have link scope and are deleted alone", async () => {
    await remote.ip("link", "set", "tun0", "up");
    const index = await indexOf("tun0");
    const direct = (to: string) => ({ ...route(to, "", index), onLink: false });
    for (const [family, to, via] of [
      ["-4", "10.5.37.0/24", "10.5.37.1"],
      ["-6", "fd00:37::/64", "fd00:37::1"],
    ] as const) {
      await remote.kernel.putRoute(direct(to));
      await remote.ip(
        ...`${family} route append ${to} via ${via} dev tun0 onlink proto ${ourProtocol} metric 2000`.split(
          " ",
        ),
      );
      const gateways = (await remote.ipJson(family, "route", "show", to)).map((shown) => shown["gateway"]);
      expect(gateways).toEqual([undefined, via]);
      const [held] = (await remote.kernel.routes()).filter((found) => found.to === to && found.via === "");
      expect(held).toMatchObject({ linkIndex: index, onLink: false, type: "unicast", protocol: ourProtocol });
      await remote.kernel.deleteRoute(direct(to));
      await remote.kernel.deleteRoute(direct(to));
      const left = (await remote.ipJson(family, "route", "show", to)).map((shown) => shown["gateway"]);
      expect(left).toEqual([via]);
    }
  });

  test("routes: a blackhole is made once, seen with its metric, and deleted alone; both families", async () => {
    for (const [family, to, via] of [
      ["-4", "10.5.60.0/24", "192.0.2.60"],
      ["-6", "fd00:60::/64", "2001:db8::60"],
    ] as const) {
      const spec = { to, metric: 2 ** 32 - 2, protocol: ourProtocol };
      await remote.ip(family, "route", "add", to, "via", via, "dev", "up0");
      await remote.kernel.putBlackhole(spec);
      expect((await failure(remote.kernel.putBlackhole(spec))).errno).toBe("EEXIST");
      const held = (await remote.kernel.routes()).filter((found) => found.to === to);
      expect(held.map(({ type }) => type).sort()).toEqual(["blackhole", "unicast"]);
      expect(held.find(({ type }) => type === "blackhole")).toMatchObject({
        metric: spec.metric,
        protocol: ourProtocol,
        linkIndex: 0,
        via: "",
      });
      await remote.kernel.deleteBlackhole({ ...spec, protocol: ourProtocol + 1 });
      expect(await remote.ipJson(family, "route", "show", to)).toHaveLength(2);
      await remote.kernel.deleteBlackhole(spec);
      await remote.kernel.deleteBlackhole(spec);
      const left = await remote.ipJson(family, "route", "show", to);
      expect(left.map((shown) => shown["gateway"])).toEqual([via]);
      await remote.ip(family, "route", "delete", to);
    }
  });

  test("routes: refusals, several next hops, metrics and sources are told; other tables are not", async () => {
    await remote.ip("route", "add", "blackhole", "10.6.0.0/16");
    await remote.ip("-6", "route", "add", "unreachable", "fd00:6::/32");
    await remote.ip(
      ..."route add 10.7.0.0/16 nexthop via 192.0.2.7 dev up0 nexthop via 192.0.2.8 dev up0".split(" "),
    );
    await remote.ip(
      ..."-6 route add fd00:7::/64 nexthop via 2001:db8::7 dev up0 nexthop via 2001:db8::8 dev up0".split(
        " ",
      ),
    );
    await remote.ip(..."route add default via 192.0.2.254 dev up0 src 192.0.2.1 metric 50".split(" "));
    await remote.ip(..."route add 10.8.0.0/16 via inet6 2001:db8::9 dev up0".split(" "));
    await remote.ip(..."route add 10.9.0.0/16 via 192.0.2.9 table 99".split(" "));
    const routes = await remote.kernel.routes();
    const to = (prefix: string) => routes.filter((held) => held.to === prefix);
    expect(to("10.6.0.0/16")).toEqual([expect.objectContaining({ type: "blackhole", linkIndex: 0 })]);
    expect(to("fd00:6::/32")).toEqual([expect.objectContaining({ type: "unreachable", linkIndex: 0 })]);
    expect(to("10.7.0.0/16")).toEqual([expect.objectContaining({ multipath: true, linkIndex: 0, via: "" })]);
    expect(to("fd00:7::/64").length).toBeGreaterThan(0);
    expect(to("0.0.0.0/0")).toEqual([
      expect.objectContaining({ via: "192.0.2.254", linkIndex: uplink, metric: 50, source: "192.0.2.1" }),
    ]);
    expect(to("10.8.0.0/16")).toEqual([expect.objectContaining({ via: "2001:db8::9", linkIndex: uplink })]);
    expect(to("10.9.0.0/16")).toEqual([]);
    expect(to("127.0.0.1/32")).toEqual([]);
    expect(to("192.0.2.0/24")).toEqual([expect.objectContaining({ protocol: 2, source: "192.0.2.1" })]);
  });

  test("routeTo: link, gateway and source of the kernel's choice", async () => {
    expect(await remote.kernel.routeTo("192.0.2.77")).toMatchObject({
      to: "192.0.2.77/32",
      via: "",
      linkIndex: uplink,
      source: "192.0.2.1",
      type: "unicast",
    });
    expect(await remote.kernel.routeTo("203.0.113.9")).toMatchObject({
      via: "192.0.2.254",
      linkIndex: uplink,
      source: "192.0.2.1",
    });
    expect(await remote.kernel.routeTo("2001:db8::77")).toMatchObject({ via: "", linkIndex: uplink });
    expect(await remote.kernel.routeTo("192.0.2.1")).toMatchObject({ type: "local" });
    expect((await failure(remote.kernel.routeTo("2001:dead::1"))).errno).toBe("ENETUNREACH");
    expect((await failure(remote.kernel.routeTo("10.6.1.1"))).errno).toBe("EINVAL");
  });

  test("what is no address, prefix, MAC or number in range is EINVAL, never a crash", async () => {
    const { kernel } = remote;
    const bad = await Promise.all(
      [
        kernel.routeTo("10.0.0"),
        kernel.routeTo(""),
        kernel.addAddress(uplink, "fe80::1%up0", 64),
        kernel.addAddress(uplink, "10.0.0.1", 33),
        kernel.deleteAddress(uplink, "::1", 4096),
        kernel.putNeighbour(uplink, "10.0.0.1", "0a:00"),
        kernel.putFdb(uplink, "x".repeat(100_000), "10.0.0.1"),
        kernel.putRoute(route("10.0.0.0/33", "", uplink)),
        kernel.putRoute(route("10.0.0.0/24", "fd00::1", uplink)),
        kernel.putRoute(route("10.0.0.1/24", "10.0.0.1", uplink)),
        kernel.putRoute({ ...route("10.0.0.0/24", "", uplink), protocol: 256 }),
        kernel.addVxlan(spec({ name: "flannel.9", port: 65536 })),
        kernel.addVxlan(spec({ name: "flannel.9", mac: "" })),
        kernel.addVxlan(spec({ name: "", vni: 9 })),
        kernel.addIpip({ ...ipip, local: "" }),
        kernel.addIpip({ ...ipip, local: "2001:db8::1" }),
        kernel.setLink(uplink, { mac: "nonsense" }),
      ].map(failure),
    );
    for (const { code } of bad) expect(code).toBe("native/einval");
    const outOfRange = kernel.addVxlan(spec({ name: "flannel.9", vni: 1 << 24 }));
    expect((await failure(outOfRange)).code).toMatch(/^native\/e(range|inval)$/);
    expect((await failure(kernel.putRoute(route("10.0.0.0/24", "10.0.0.1", 4000)))).errno).toBe("ENODEV");
  });

  test("an error tells the operation, its subject and the kernel's own words", async () => {
    const error = await remote.kernel
      .putRoute({ ...route("10.10.0.0/16", "203.0.113.77", uplink), onLink: false })
      .catch((reason: FlannelError) => reason.message);
    expect(error).toBe(
      `put route 10.10.0.0/16 via 203.0.113.77 on link ${uplink}: ` +
        "Network is unreachable (Nexthop has invalid gateway)",
    );
  });

  test("two thousand changes at once are all made, and listed again", async () => {
    const index = await indexOf("flannel.1");
    const subnets = Array.from({ length: 2000 }, (_, at) => `10.${100 + (at >> 8)}.${at & 255}`);
    const mac = (at: number) => `0a:01:00:00:${hex(at >> 8)}:${hex(at & 255)}`;
    await Promise.all(
      subnets.flatMap((subnet, at) => [
        remote.kernel.putRoute(route(`${subnet}.0/24`, `${subnet}.0`, index)),
        remote.kernel.putFdb(index, mac(at), "192.0.2.50"),
      ]),
    );
    const ours = async () => (await remote.kernel.routes()).filter((held) => held.protocol === ourProtocol);
    const routes = (await ours()).filter((held) => held.linkIndex === index);
    expect(routes.map((held) => held.to).sort()).toEqual(subnets.map((subnet) => `${subnet}.0/24`).sort());
    const entries = await remote.kernel.fdb(index);
    expect(entries.map((entry) => entry.mac).sort()).toEqual(subnets.map((_, at) => mac(at)).sort());
    await Promise.all(
      subnets.flatMap((subnet, at) => [
        remote.kernel.deleteRoute(route(`${subnet}.0/24`, `${subnet}.0`, index)),
        remote.kernel.deleteFdb(index, mac(at), "192.0.2.50"),
      ]),
    );
    expect((await ours()).filter((held) => held.linkIndex === index)).toEqual([]);
    expect(await remote.kernel.fdb(index)).toEqual([]);
  });

  test("apply: thousands of changes are made in order, and one that fails is told by its own place", async () => {
    const index = await indexOf("flannel.1");
    const subnets = Array.from({ length: 1500 }, (_, at) => `10.${100 + (at >> 8)}.${at & 255}`);
    const mac = (at: number) => `0a:01:00:00:${hex(at >> 8)}:${hex(at & 255)}`;
    const edits = (gone: boolean) =>
      subnets.flatMap((subnet, at): KernelEdit[] => [
        { table: "neighbour", gone, linkIndex: index, ip: `${subnet}.0`, mac: mac(at) },
        { table: "fdb", gone, linkIndex: index, mac: mac(at), via: "192.0.2.50" },
        { table: "route", gone, ...route(`${subnet}.0/24`, `${subnet}.0`, index) },
      ]);
    const wrong: KernelEdit[] = [
      { table: "route", gone: false, ...route("10.99.0.0/24", "10.99.0.0", 4000) },
      { table: "neighbour", gone: false, linkIndex: index, ip: "10.99", mac: macA },
      { table: "fdb", gone: true, linkIndex: index, mac: macB, via: "192.0.2.99" }, // never was there
      // Not after a look, which could delete another one's.
      { table: "route", gone: true, ...route("fd00:99::/64", "", index) },
    ];
    const results = await remote.kernel.apply([...edits(false), ...wrong, ...edits(false)]);
    expect(results.length).toBe(9004);
    expect(results.flatMap((error, at) => (error ? [[at, error.code]] : []))).toEqual([
      [4500, "native/enodev"],
      [4501, "native/einval"],
      [4503, "native/einval"],
    ]);
    const wanted = subnets.map((subnet) => `${subnet}.0/24`).sort();
    const held = (await remote.kernel.routes()).map(({ to }) => to).filter((to) => wanted.includes(to));
    expect(held.sort()).toEqual(wanted);
    expect((await remote.kernel.fdb(index)).length).toBe(1500);
    const neighbours = await remote.kernel.neighbours(index);
    expect(neighbours.filter(({ mac: one }) => one.startsWith("0a:01:")).length).toBe(1500);
    const removed = await remote.kernel.apply([...edits(true), ...edits(true)]);
    expect(removed.filter((error) => error)).toEqual([]);
    expect(await remote.kernel.fdb(index)).toEqual([]);
    expect((await remote.kernel.routes()).filter(({ to }) => held.includes(to))).toEqual([]);
  });

  test("deleteLink: takes the device with all on it; a second time is no error", async () => {
    const index = await indexOf("flannel-v6.2");
    await remote.kernel.deleteLink(index);
    await remote.kernel.deleteLink(index);
    expect(await linkNamed("flannel-v6.2")).toBeUndefined();
  });

  test("nextEvents: an overrun is told, and afterwards changes are told again", async () => {
    const lines = (verb: string) =>
      Array.from({ length: 4000 }, (_, at) => `route ${verb} 10.${150 + (at >> 8)}.${at & 255}.0/24 dev up0`);
    await remote.batch(lines("add"));
    await remote.batch(lines("delete"));
    const batch = await eventsUntil(remote, (seen) => seen.overrun);
    expect(batch.overrun).toBe(true);
  });

  test("nextEvents: each table is told by name", async () => {
    const index = await indexOf("flannel.1");
    const changes: [KernelTable, string][] = [
      ["link", "link set up0 mtu 1390"],
      ["address", "address add 198.51.100.1/32 dev up0"],
      ["address", "address add 2001:db8:1::1/128 dev up0 nodad"],
      ["route", "route add 10.20.0.0/16 dev up0"],
      ["route", "-6 route add fd00:20::/64 dev up0"],
      ["neighbour", `neighbour add 10.5.50.0 lladdr ${macA} dev flannel.1 nud permanent`],
    ];
    await remote.kernel.neighbours(index);
    for (const [table, command] of changes) {
      const told = eventsUntil(remote, ({ changed }) => changed.includes(table));
      await remote.ip(...command.split(" "));
      expect((await told).changed).toContain(table);
    }
    const told = eventsUntil(remote, ({ changed }) => changed.includes("neighbour"));
    Bun.spawnSync(
      `bridge -n ${remote.namespace} fdb add ${macB} dev flannel.1 dst 192.0.2.3 self`.split(" "),
    );
    expect((await told).changed).toContain("neighbour");
  });

  test("nextEvents: neighbours of links nobody asked about are not told", async () => {
    await remote.ip("link", "add", "other0", "up", "type", "bridge");
    const seen = new Set<string>();
    const told = eventsUntil(remote, ({ changed }) => {
      for (const table of changed) seen.add(table);
      return changed.includes("address");
    });
    await remote.ip("neighbour", "add", "10.5.51.0", "lladdr", macA, "dev", "other0", "nud", "permanent");
    await remote.ip("address", "add", "198.51.100.2/32", "dev", "up0");
    await told;
    expect([...seen]).not.toContain("neighbour");
  });

  test("close: ends everything that waits, may be repeated, gives the sockets back", async () => {
    await using second = await openRemoteKernel();
    const untilNull = async () => {
      while ((await second.kernel.nextEvents()) !== null);
    };
    const ends = [untilNull(), untilNull()];
    const open = await second.sockets();
    const asked = Array.from({ length: 20 }, () => second.kernel.links());
    second.kernel.close();
    second.kernel.close();
    for (const answer of await Promise.allSettled(asked)) {
      if (answer.status === "rejected") expect(answer.reason).toMatchObject({ code: "native/ebadf" });
    }
    await Promise.all(ends);
    expect(await second.kernel.nextEvents()).toBeNull();
    expect(await failure(second.kernel.links())).toEqual({ code: "native/ebadf", errno: "EBADF" });
    expect(await failure(second.kernel.deleteLink(1))).toEqual({ code: "native/ebadf", errno: "EBADF" });
    let left = await second.sockets();
    for (let attempt = 0; attempt < 500 && left > open - 3; attempt++) {
      await Bun.sleep(10);
      left = await second.sockets();
    }
    expect(left).toBe(open - 3);
    expect(await second.finish()).toBe(0);
  });

  test("close: a process that waits for events ends by itself once they have ended", async () => {
    await using second = await openRemoteKernel();
    const pending = second.kernel.nextEvents();
    second.kernel.close();
    await pending;
    expect(await second.finish()).toBe(0);
  });
});

function hex(octet: number): string {
  return octet.toString(16).padStart(2, "0");
}

/** The first batch that `matches`. */
async function eventsUntil(
  remote: RemoteKernel,
  matches: (events: KernelEvents) => boolean,
): Promise<KernelEvents> {
  for (;;) {
    const events = await remote.kernel.nextEvents();
    if (events === null) throw new Error("closed");
    if (matches(events)) return events;
  }
}
