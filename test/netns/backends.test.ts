import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { runProgram } from "../../src/demo/process.ts";
import type { StatusReport } from "../../src/status/report.ts";
import {
  type Daemon,
  hostOf,
  openTestOverlay,
  overlayRefused,
  ping,
  pingAnswered,
  pingEachOther,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/backends.test.ts: ${refused}`);

const networkOf = (backend: string, more = "") =>
  `{"Network":"10.99.0.0/16",${more}"Backend":{"Type":${backend}}}`;
const dual = '"EnableIPv6":true,"IPv6Network":"fd00:99::/48",';

describe.skipIf(refused !== undefined)("backends", () => {
  let open: TestOverlay | undefined;

  const overlay = async (hosts: number, network: string): Promise<TestOverlay> => {
    open = await openTestOverlay(hosts);
    await open.etcd("put", "/coreos.com/network/config", network);
    return open;
  };
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const ip = ({ namespace }: { namespace: string }, ...args: string[]) =>
    runProgram(["ip", "-n", namespace, ...args]);
  const subnetOf = (report: StatusReport, family: 4 | 6 = 4): string =>
    report.lease?.subnets.find((text) => text.includes(":") === (family === 6)) ?? "";

  /** A pod's stand-in: the first usable address of the host's subnet, on loopback. */
  const addPod = async (host: LabHost, report: StatusReport, family: 4 | 6 = 4): Promise<string> => {
    const address = `${vtepAddress(report, family)}1`.replace(/\.01$/, ".1");
    const length = family === 4 ? 32 : 128;
    await ip(host, "address", "add", `${address}/${length}`, "dev", "lo", ...(family === 4 ? [] : ["nodad"]));
    return address;
  };

  /** The route as `ip route` shows it, once it is as `wanted`; else what it is after some seconds. */
  const routeSoon = async (
    host: LabHost,
    to: string,
    wanted: string,
    more: string[] = [],
  ): Promise<string> => {
    let shown = "";
    for (let tries = 0; tries < 100; tries++) {
      shown = (await ip(host, ...more, "route", "show", to)).trim().replace(/\s+/g, " ");
      if (shown === wanted) break;
      await Bun.sleep(50);
    }
    return shown;
  };
  const reportWhen = async (
    daemon: Daemon,
    holds: (report: StatusReport) => boolean,
  ): Promise<StatusReport> => {
    let report = await daemon.report();
    for (let tries = 0; tries < 100 && !holds(report); tries++) {
      await Bun.sleep(50);
      report = await daemon.report();
    }
    return report;
  };

  test("host-gw: three hosts reach each other's pods, a deleted route returns, one joins and one leaves", async () => {
    const net = await overlay(2, networkOf('"host-gw"'));
    const first = net.startDaemon(hostOf(net, 1), { engine: "auto" });
    const second = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
    await Promise.all([first.ready(1), second.ready(1)]);
    const third = net.startDaemon(await net.lab.addHost(), { engine: "userspace" });
    const daemons = [first, second, third];
    const reports = await Promise.all(daemons.map((daemon) => daemon.ready(2)));
    for (const { engine, network, lease } of reports) {
      expect([engine?.name, engine?.device, network?.backend, network?.mtuBytes]).toEqual([
        "none",
        null,
        "host-gw",
        1500,
      ]);
      expect(lease?.vtepMac).toBeNull();
    }
    const pods = await Promise.all(
      daemons.map(async ({ host }, at) => ({
        host,
        address: await addPod(host, reports[at] as StatusReport),
      })),
    );
    for (const from of pods)
      for (const to of pods) if (from !== to) await ping(from.host, to.address, ["-I", from.address]);
    const [a, b] = pods as [(typeof pods)[0], (typeof pods)[0]];
    expect((await transfer(net.lab, a, b)).intact).toBe(true);

    const [key, value] = (
      await net.etcd(
        "get",
        `/coreos.com/network/subnets/${subnetOf(reports[0] as StatusReport).replace("/", "-")}`,
      )
    ).split("\n");
    expect(key).toContain("/subnets/");
    expect(value).toBe('{"PublicIP":"10.77.0.1","PublicIPv6":null,"BackendType":"host-gw"}');
    expect(readFileSync(first.subnetFile, "utf8")).toContain("FLANNEL_MTU=1500\n");
    expect(await ip(first.host, "-o", "link", "show")).not.toContain("flannel");

    const to = subnetOf(reports[1] as StatusReport);
    const route = `${to} via 10.77.0.2 dev eth0 proto 241`;
    expect(await routeSoon(first.host, to, route)).toBe(route);
    await ip(first.host, "route", "delete", to);
    expect(await routeSoon(first.host, to, route)).toBe(route);
    const plan = await net.run(first, "plan");
    expect(plan.output).toBe("# 0 changes, engine none: the host-gw backend makes no device\n");

    await second.child.end();
    await net.etcd("del", `/coreos.com/network/subnets/${to.replace("/", "-")}`);
    await Promise.all([first.ready(1), third.ready(1)]);
    expect(await routeSoon(first.host, to, "")).toBe("");
    const [, , c] = pods as (typeof a)[];
    if (c === undefined) throw new Error("three pods");
    await ping(a.host, c.address, ["-I", a.address]);
  });

  test("host-gw: a peer's new address replaces its route; who is not on our network is refused by name until he is", async () => {
    const net = await overlay(1, networkOf('"host-gw"'));
    const host = hostOf(net, 1);
    const daemon = net.startDaemon(host, { engine: "auto" });
    await daemon.ready(0);
    const put = (subnet: string, publicIp: string, type = "host-gw") =>
      net.etcd(
        "put",
        `/coreos.com/network/subnets/${subnet}`,
        JSON.stringify({ PublicIP: publicIp, PublicIPv6: null, BackendType: type }),
      );
    await ip(host, "route", "add", "10.200.0.0/24", "via", "10.77.0.254", "proto", "241");
    const to = "10.99.50.0/24";
    for (const gateway of ["10.77.0.50", "10.77.0.51"]) {
      await put("10.99.50.0-24", gateway);
      const route = `${to} via ${gateway} dev eth0 proto 241`;
      expect(await routeSoon(host, to, route)).toBe(route);
    }
    await put("10.99.51.0-24", "10.88.0.9");
    await put("10.99.52.0-24", "10.77.0.52", "vxlan");
    const report = await reportWhen(daemon, (one) => one.refused.length === 2);
    expect(report.refused.map(({ subnets, reason }) => `${subnets}: ${reason}`).sort()).toEqual([
      "10.99.51.0-24: no route to 10.99.51.0/24: 10.88.0.9 is not on the network of eth0, as host-gw needs it",
      '10.99.52.0-24: backend type "vxlan" is not "host-gw"',
    ]);
    const far = "10.99.51.0/24 via 10.88.0.9 dev eth0 proto 241";
    expect(await ip(host, "route", "show", "10.99.51.0/24")).toBe("");
    await ip(host, "address", "add", "10.88.0.1/24", "dev", "eth0");
    expect(await routeSoon(host, "10.99.51.0/24", far)).toBe(far);
    await ip(host, "address", "delete", "10.88.0.1/24", "dev", "eth0");
    expect(await routeSoon(host, "10.99.51.0/24", "")).toBe("");

    // Outside of our network nothing is ours, whatever its mark.
    expect(
      await routeSoon(host, "10.200.0.0/24", "10.200.0.0/24 via 10.77.0.254 dev eth0 proto 241"),
    ).not.toBe("");
    await daemon.child.end();
    expect(await ip(host, "route", "show", to)).not.toBe("");
    const { output } = await net.run(daemon, "cleanup");
    expect(output).toContain(`- route ${to} via 10.77.0.51 dev eth0\n`);
    expect(await ip(host, "route", "show", "proto", "241")).toContain("10.200.0.0/24");
    expect(await ip(host, "route", "show", to)).toBe("");
  });

  test("host-gw: both families over gateways of their own", async () => {
    const net = await overlay(2, networkOf('"host-gw"', dual));
    const daemons = await Promise.all(
      [1, 2].map(async (number) => {
        const host = hostOf(net, number);
        await ip(host, "address", "add", `fd00:77::${number}/64`, "dev", "eth0", "nodad");
        return net.startDaemon(host, { engine: "auto" });
      }),
    );
    const reports = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
    for (const family of [4, 6] as const) {
      const pods = await Promise.all(
        daemons.map(({ host }, at) => addPod(host, reports[at] as StatusReport, family)),
      );
      await ping(hostOf(net, 1), pods[1] ?? "", ["-I", pods[0] ?? ""]);
      await ping(hostOf(net, 2), pods[0] ?? "", ["-I", pods[1] ?? ""]);
    }
  });

  test("host-gw: a NATed public IP ends the start with flannel's words", async () => {
    const net = await overlay(1, networkOf('"host-gw"'));
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "auto", uplink: 'public_ip = "203.0.113.9"' });
    expect(await daemon.child.exited).toBe(2);
    expect(daemon.child.errorTail()).toContain("which is not supported by host-gw backend");
  });

  test.each([
    ["userspace", "userspace"],
    ["kernel", "kernel"],
    ["userspace", "kernel"],
  ] as const)(
    "vxlan with DirectRouting, %s and %s: directly to a neighbour, by the tunnel to who is behind a router",
    async (engine, other) => {
      const net = await overlay(3, networkOf('"vxlan","DirectRouting":true'));
      // The switch becomes the router of host 3's own network.
      const far = hostOf(net, 3);
      const router = { namespace: net.lab.switchNamespace };
      await ip(router, "link", "set", "port3", "nomaster");
      await ip(router, "address", "add", "10.78.0.254/24", "dev", "port3");
      await ip(far, "address", "flush", "dev", "eth0");
      await ip(far, "address", "add", "10.78.0.3/24", "dev", "eth0");
      await ip(far, "route", "replace", "default", "via", "10.78.0.254");
      await inside(router.namespace, ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
      const daemons = [engine, other, engine].map((name, at) =>
        net.startDaemon(hostOf(net, at + 1), { engine: name }),
      );
      const reports = await Promise.all(daemons.map((daemon) => daemon.ready(2)));
      const subnets = reports.map((one) => subnetOf(one));
      const a = hostOf(net, 1);
      const direct = `${subnets[1]} via 10.77.0.2 dev eth0 proto 241`;
      const gateway = subnets[2]?.split("/")[0];
      const tunnelled = `${subnets[2]} via ${gateway} dev flannel.1 proto 241 onlink`;
      expect(await routeSoon(a, subnets[1] ?? "", direct)).toBe(direct);
      expect(await routeSoon(a, subnets[2] ?? "", tunnelled)).toBe(tunnelled);
      const ends = reports.map((report, at) => ({ host: hostOf(net, at + 1), address: vtepAddress(report) }));
      await pingEachOther(ends);
      const [first, second, third] = ends as [(typeof ends)[0], (typeof ends)[0], (typeof ends)[0]];
      for (const to of [second, third]) expect((await transfer(net.lab, first, to)).intact).toBe(true);

      // Host 2 sees host 1 behind the router: it answers by the tunnel what comes directly.
      await ip(second.host, "route", "add", "10.77.0.1/32", "via", "10.77.0.254");
      const back = `${subnets[0]} via ${subnets[0]?.split("/")[0]} dev flannel.1 proto 241 onlink`;
      expect(await routeSoon(second.host, subnets[0] ?? "", back)).toBe(back);
      await ping(first.host, second.address, ["-I", first.address]);
      await ping(second.host, first.address, ["-I", second.address]);
    },
  );

  test("alloc: a lease and subnet.env, and nothing else", async () => {
    const net = await overlay(1, networkOf('"alloc"'));
    const host = hostOf(net, 1);
    const before = await ip(host, "-4", "route", "show", "table", "all");
    const daemon = net.startDaemon(host, { engine: "auto", host: "forward_rules = false" });
    const report = await daemon.ready(0);
    expect(report.engine?.name).toBe("none");
    const value = await net.etcd(
      ...["get", "--print-value-only", `/coreos.com/network/subnets/${subnetOf(report).replace("/", "-")}`],
    );
    expect(value).toBe('{"PublicIP":"10.77.0.1","PublicIPv6":null}\n');
    expect(readFileSync(daemon.subnetFile, "utf8")).toContain(
      `FLANNEL_SUBNET=${subnetOf(report).replace(".0/", ".1/")}\nFLANNEL_MTU=1500\n`,
    );
    expect(await ip(host, "-4", "route", "show", "table", "all")).toBe(before);
    expect(await ip(host, "-o", "link", "show")).not.toContain("flannel");
  });

  test.each([
    ["vxlan", "userspace"],
    ["host-gw", "auto"],
  ] as const)(
    "%s, blackhole_route: kept, repaired, behind every other route, and pruned",
    async (type, engine) => {
      const net = await overlay(1, networkOf(`"${type}"`, dual));
      const host = hostOf(net, 1);
      await ip(host, "address", "add", "fd00:77::1/64", "dev", "eth0", "nodad");
      const first = net.startDaemon(host, { engine, host: "blackhole_route = true" });
      const report = await first.ready(0);
      const shown = [
        ["-4", `blackhole ${subnetOf(report)} proto 241 metric 4294967294`],
        ["-6", `blackhole ${subnetOf(report, 6)} dev lo proto 241 metric 4294967294 pref medium`],
      ] as const;
      for (const [family, route] of shown) {
        const to = subnetOf(report, family === "-4" ? 4 : 6);
        expect(await routeSoon(host, to, route, [family])).toBe(route);
        await ip(host, family, "route", "delete", "blackhole", to, "metric", "4294967294");
        expect(await routeSoon(host, to, route, [family])).toBe(route);
      }
      const bridged = vtepAddress(report).replace(/0$/, "1");
      await ip(host, "link", "add", "cni0", "type", "bridge");
      await ip(host, "address", "add", `${bridged}/24`, "dev", "cni0");
      await ip(host, "link", "set", "cni0", "up");
      expect(await ip(host, "route", "get", vtepAddress(report).replace(/0$/, "9"))).toContain("dev cni0");
      expect((await first.ready(0)).missing).toEqual([]);
      await first.child.end();
      const second = net.startDaemon(host, { engine });
      await second.ready(0);
      for (const [family] of shown)
        expect(await ip(host, family, "route", "show", "type", "blackhole")).toBe("");
    },
  );

  test("two daemons a host, vxlan and host-gw: both networks ping, each by its own device only", async () => {
    const net = await overlay(2, networkOf('"vxlan"'));
    await net.etcd("put", "/vxlan/network/config", '{"Network":"10.11.0.0/16","Backend":{"Type":"vxlan"}}');
    await net.etcd(
      "put",
      "/hostgw/network/config",
      '{"Network":"10.12.0.0/16","Backend":{"Type":"host-gw"}}',
    );
    const both = ([1, 2] as const).map((number) => ({
      vxlan: net.startDaemon(hostOf(net, number), {
        engine: number === 1 ? "userspace" : "kernel",
        prefix: "/vxlan/network",
        instance: "vxlan",
      }),
      hostgw: net.startDaemon(hostOf(net, number), {
        engine: "auto",
        prefix: "/hostgw/network",
        instance: "hostgw",
      }),
    }));
    const ends = await Promise.all(
      both.map(async ({ vxlan, hostgw }) => {
        const [overTunnel, overUplink] = await Promise.all([vxlan.ready(1), hostgw.ready(1)]);
        const { host } = vxlan;
        return { host, tunnel: vtepAddress(overTunnel), plain: await addPod(host, overUplink), overUplink };
      }),
    );
    const [a, b] = ends as [(typeof ends)[0], (typeof ends)[0]];
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      await ping(from.host, to.tunnel, ["-I", from.tunnel]);
      await ping(from.host, to.plain, ["-I", from.plain]);
      expect(await pingAnswered(from.host, to.plain, ["-I", "flannel.1"])).toBe(false);
      expect(await pingAnswered(from.host, to.tunnel, ["-I", "eth0"])).toBe(false);
    }
    const [daemons] = both;
    if (daemons === undefined) throw new Error("two hosts");
    const twin = net.startDaemon(a.host, { engine: "auto", prefix: "/hostgw/network", instance: "twin" });
    expect(await twin.child.exited).toBe(1);
    expect(twin.child.errorTail()).toContain(
      "another flannel-lite runs the network /hostgw/network on this host",
    );

    // Neither takes away what is the other's, not at a stop, not by cleanup.
    await daemons.vxlan.child.end();
    expect((await net.run(daemons.vxlan, "cleanup")).code).toBe(0);
    await ping(a.host, b.plain, ["-I", a.plain]);
    expect((await daemons.hostgw.ready(1)).missing).toEqual([]);
    expect(existsSync(daemons.hostgw.subnetFile)).toBe(true);
  });
});
