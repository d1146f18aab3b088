import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { runProgram } from "../../src/demo/process.ts";
import { etcdProgram } from "../support/etcd.ts";
import {
  type Daemon,
  hostOf,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/appliance.test.ts: ${refused}`);

/** Nodes are given 10.99.10.0 to 10.99.12.0; the appliance lies outside of that, as the guides have it. */
const network =
  '{"Network":"10.99.0.0/16","SubnetMin":"10.99.10.0","SubnetMax":"10.99.12.0","Backend":{"Type":"vxlan"}}';
const subnet = "10.99.100.0/24";
const vtep = "10.99.100.0";
const selfIp = "10.99.100.1";
const mac = "00:0c:29:2e:db:2e";

describe.skipIf(refused !== undefined)("appliance", () => {
  let open: TestOverlay | undefined;

  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  afterAll(() => {
    const namespaces = existsSync("/run/netns") ? readdirSync("/run/netns") : [];
    expect(namespaces.filter((name) => name.startsWith("fl-t") && name.includes(`-${process.pid}-`))).toEqual(
      [],
    );
  });

  /** etcdctl of either API, as the guides use it. */
  const etcdctl = async (net: TestOverlay, api: "v2" | "v3", ...args: string[]) => {
    const environment = ["env", `ETCDCTL_API=${api === "v2" ? 2 : 3}`];
    const command = [...environment, `${etcdProgram()}ctl`, "--endpoints", net.endpoint, ...args];
    return await inside(net.lab.switchNamespace, command);
  };

  /** Starts hosts with the configuration in one of etcd's APIs; host 3 is the appliance, without an agent. */
  const start = async (api: "v2" | "v3", engines: readonly ("userspace" | "kernel" | "dgram")[]) => {
    const net = (open = await openTestOverlay(engines.length + 1, ["--enable-v2"]));
    await etcdctl(net, api, api === "v2" ? "set" : "put", "/coreos.com/network/config", network);
    const daemons = engines.map((engine, at) => net.startDaemon(hostOf(net, at + 1), { engine }));
    for (const daemon of daemons) await daemon.ready(engines.length - 1);
    return { net, daemons, gateway: hostOf(net, engines.length + 1) };
  };

  /** What the operator of a BIG-IP sets up: a tunnel, an address in it, static ARP and FDB for every node. */
  const setUpGateway = async (host: LabHost, daemons: readonly Daemon[]) => {
    const ip = (...args: string[]) => runProgram(["ip", "-n", host.namespace, ...args]);
    await ip(
      ...["link", "add", "fl-vxlan", "address", mac, "mtu", "1450", "type", "vxlan"],
      ...["id", "1", "local", host.address, "dev", "eth0", "dstport", "8472", "nolearning"],
    );
    await ip("address", "add", `${vtep}/32`, "dev", "fl-vxlan");
    await ip("address", "add", `${selfIp}/32`, "dev", "fl-vxlan");
    await ip("link", "set", "fl-vxlan", "up");
    for (const daemon of daemons) {
      const { lease } = await daemon.report();
      const [nodeSubnet = "", nodeMac = ""] = [lease?.subnets[0], lease?.vtepMac ?? ""];
      const via = nodeSubnet.split("/")[0] ?? "";
      await ip("neighbour", "replace", via, "lladdr", nodeMac, "dev", "fl-vxlan", "nud", "permanent");
      const entry = [nodeMac, "dev", "fl-vxlan", "dst", daemon.host.address, "self", "permanent"];
      await runProgram(["bridge", "-n", host.namespace, "fdb", "replace", ...entry]);
      await ip("route", "replace", nodeSubnet, "via", via, "dev", "fl-vxlan", "onlink", "src", selfIp);
    }
  };

  const reserve = (net: TestOverlay, daemon: Daemon, gateway: LabHost) =>
    net.run(
      daemon,
      ...["leases", "reserve", subnet, "--public-ip", gateway.address, "--vtep-mac", mac],
      ...["--json"],
    );

  test.each([
    ["userspace", "v3"],
    ["kernel", "v3"],
    ["dgram", "v3"],
    ["userspace", "v2"],
    ["kernel", "v2"],
  ] as const)(
    "%s, API %s: a gateway without agent, its lease reserved, is reached and reaches every host",
    async (engine, api) => {
      const { net, daemons, gateway } = await start(api, [engine, "userspace"]);
      await setUpGateway(gateway, daemons);
      const [first, second] = daemons;
      if (first === undefined || second === undefined) throw new Error("no daemons");
      const made = await reserve(net, first, gateway);
      expect(made).toMatchObject({ code: 0, errors: "" });

      for (const daemon of daemons) {
        const report = await daemon.ready(2);
        expect(report.store.startsWith("etcd v2 ")).toBe(api === "v2");
        expect(report.peers).toContainEqual({
          subnets: [subnet],
          publicIp: gateway.address,
          vtepMac: mac,
          expiresAt: null,
        });
        const ours = { host: daemon.host, address: vtepAddress(report) };
        const theirs = { host: gateway, address: selfIp };
        await ping(ours.host, selfIp, ["-I", ours.address]);
        await ping(gateway, ours.address, ["-I", selfIp]);
        for (const [from, to] of [
          [ours, theirs],
          [theirs, ours],
        ] as const) {
          const result = await transfer(net.lab, from, to);
          expect(result.intact).toBe(true);
          expect(result.bytes).toBeGreaterThan(50_000);
        }
      }
      const { namespace } = first.host;
      const routes = await inside(namespace, ["ip", "route", "show", subnet]);
      expect(routes).toMatch(/^10\.99\.100\.0\/24 via 10\.99\.100\.0 dev flannel\.1 .*onlink/);
      if (engine === "kernel") {
        const neighbours = await inside(namespace, ["ip", "neighbour", "show", "dev", "flannel.1"]);
        expect(neighbours).toContain(`${vtep} lladdr ${mac} PERMANENT`);
        const entries = await inside(namespace, ["bridge", "fdb", "show", "dev", "flannel.1"]);
        expect(entries).toContain(`${mac} dst ${gateway.address} self permanent`);
      }
    },
  );

  test("a gateway that is released is forgotten at once, everywhere, and a restart remembers one that is not", async () => {
    const { net, daemons, gateway } = await start("v3", ["userspace", "kernel"]);
    const [first, second] = daemons;
    if (first === undefined || second === undefined) throw new Error("no daemons");
    await setUpGateway(gateway, daemons);
    await reserve(net, first, gateway);
    for (const daemon of daemons) await daemon.ready(2);
    await first.child.end();
    expect(await first.child.exited).toBe(0);
    const again = net.startDaemon(first.host, { engine: "userspace" });
    const report = await again.ready(2);
    await ping(first.host, selfIp, ["-I", vtepAddress(report)]);
    expect(await net.run(again, "leases", "release", subnet)).toMatchObject({
      code: 0,
      output: expect.stringContaining("it was a reservation"),
    });
    for (const daemon of [again, second]) {
      await daemon.ready(1);
      expect(await inside(daemon.host.namespace, ["ip", "route", "show", subnet])).toBe("");
    }
  });

  test("a reservation is given to nobody else, also when it is the last free subnet, nor taken for another gateway", async () => {
    const { net, daemons } = await start("v3", ["userspace", "userspace"]);
    const [first] = daemons;
    if (first === undefined) throw new Error("no daemon");
    const leased = await Promise.all(
      daemons.map(async (daemon) => (await daemon.report()).lease?.subnets[0]),
    );
    const free =
      ["10.99.10.0/24", "10.99.11.0/24", "10.99.12.0/24"].find((one) => !leased.includes(one)) ?? "";
    const args = ["leases", "reserve", free, "--public-ip", "192.0.2.245", "--vtep-mac", mac];
    expect((await net.run(first, ...args)).code).toBe(0);
    const third = net.startDaemon(hostOf(net, 3), { engine: "userspace" });
    expect(await third.child.exited).toBe(1);
    expect(third.child.errorTail()).toContain("out of subnets");
    const other = [
      "leases",
      "reserve",
      free,
      "--public-ip",
      "192.0.2.246",
      "--vtep-mac",
      "00:0c:29:2e:db:2f",
    ];
    const taken = await net.run(first, ...other);
    expect(taken.code).toBe(1);
    expect(taken.errors).toContain("a reservation at 192.0.2.245");
    expect((await first.ready(2)).peers.map(({ subnets }) => subnets[0])).toContain(free);
  });

  test("API v2: hosts take leases as flannel 0.11 has them; copied to v3, they keep their subnets and their traffic", async () => {
    const { net, daemons, gateway } = await start("v2", ["userspace", "kernel"]);
    const [first, second] = daemons;
    if (first === undefined || second === undefined) throw new Error("no daemons");
    await setUpGateway(gateway, daemons);
    await reserve(net, first, gateway);
    const before = await Promise.all(daemons.map((daemon) => daemon.ready(2)));
    const key = (await etcdctl(net, "v2", "ls", "/coreos.com/network/subnets")).trim().split("\n");
    expect(key).toHaveLength(3);
    const ownKey = `/coreos.com/network/subnets/${before[0]?.lease?.subnets[0]?.replace("/", "-")}`;
    expect((await etcdctl(net, "v2", "get", ownKey)).trim()).toBe(
      `{"PublicIP":"${first.host.address}","BackendType":"vxlan","BackendData":{"VtepMAC":"${before[0]?.lease?.vtepMac}"}}`,
    );
    expect(await net.run(first, "network", "migrate-v2")).toMatchObject({ code: 0, errors: "" });
    // One host after the other; each finds the others' copied leases.
    for (const [at, daemon] of daemons.entries()) {
      await daemon.child.end();
      expect(await daemon.child.exited).toBe(0);
      const engine = at === 0 ? "userspace" : "kernel";
      const report = await net.startDaemon(daemon.host, { engine }).ready(2);
      expect(report.store).not.toContain("v2");
      expect(report.lease).toMatchObject({
        subnets: before[at]?.lease?.subnets,
        vtepMac: before[at]?.lease?.vtepMac,
      });
      await ping(daemon.host, selfIp, ["-I", vtepAddress(report)]);
      const [one, other] = before.map((old) => vtepAddress(old));
      await ping(first.host, other ?? "", ["-I", one ?? ""]);
    }
  });

  test("API v2: etcd that is killed and started again disturbs nothing, and changes are seen after it", async () => {
    const { net, daemons, gateway } = await start("v2", ["userspace", "kernel"]);
    const [first] = daemons;
    if (first === undefined) throw new Error("no daemon");
    await setUpGateway(gateway, daemons);
    await net.stopEtcd();
    const report = await first.report();
    const own = vtepAddress(report);
    const others = report.peers.map(({ subnets }) => subnets[0]?.split("/")[0] ?? "");
    for (const address of others) await ping(first.host, address, ["-I", own]);
    await net.startEtcd();
    await reserve(net, first, gateway);
    await first.ready(2);
    await ping(first.host, selfIp, ["-I", own]);
  });
});
