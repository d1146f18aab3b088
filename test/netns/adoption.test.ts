import { afterEach, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { inside } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import { trafficThrough } from "../support/live-traffic.ts";
import {
  binary,
  type Daemon,
  openTestOverlay,
  overlayRefused,
  pingSeries,
  type TestOverlay,
} from "../support/overlay.ts";
import {
  addBareRules,
  addChainRules,
  addNftTables,
  makePodBridge,
  makeStockDevice,
  makeStockDeviceV6,
  stockLease,
  type StockNode,
  stockSubnetV6,
  writeStockSubnetEnv,
} from "../support/stock-flannel.ts";

const refused =
  overlayRefused() ??
  (Bun.which("iptables-legacy") === null || Bun.which("nft") === null
    ? "iptables or nft is missing"
    : undefined);
if (refused !== undefined) console.warn(`SKIPPED test/netns/adoption.test.ts: ${refused}`);

const engines = ["userspace", "kernel", "dgram"] as const;
const mark = "flannel-lite /coreos.com/network";

function withoutAlias(shown = ""): string {
  return shown.replace(/\n +alias .*/, "");
}

describe.skipIf(refused !== undefined)("adoption", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  /** Two hosts joined by a flannel that is stopped on the first, and goes on, so to say, on the second. */
  const stockPair = async () => {
    open = await openTestOverlay(2);
    const net = open;
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
    );
    const [first, second] = net.lab.hosts;
    if (first === undefined || second === undefined) throw new Error("no hosts");
    const own: StockNode = { host: first, subnet: 11, mac: "0e:2a:00:00:00:11" };
    const peer: StockNode = { host: second, subnet: 12, mac: "0e:2a:00:00:00:12" };
    for (const node of [own, peer]) {
      const { key, value } = stockLease(node);
      await net.etcd("put", key, value);
      await makeStockDevice(node, node === own ? [peer] : [own]);
    }
    const ends = [
      { host: first, address: await makePodBridge(own) },
      { host: second, address: await makePodBridge(peer) },
    ] as const;
    const ip = (...args: string[]) => runProgram(["ip", "-n", first.namespace, ...args]);
    return { net, own, peer, ends, ip };
  };
  type Pair = Awaited<ReturnType<typeof stockPair>>;

  const subnetFileOf = ({ net, own }: Pair) =>
    join(net.lab.directory, `host${own.host.number}a/flannel/subnet.env`);
  /** Links, addresses, neighbours, FDB and routes of the first host, counters and states left out. */
  const picture = async ({ ip, own }: Pair): Promise<string[]> => {
    const bridge = runProgram(["bridge", "-n", own.host.namespace, "fdb", "show", "dev", "flannel.1"]);
    const texts = await Promise.all([
      ip("-d", "link", "show", "dev", "flannel.1"),
      ip("-o", "-4", "address", "show", "dev", "flannel.1"),
      ip("neighbour", "show", "dev", "flannel.1", "nud", "permanent"),
      ip("route", "show", "dev", "flannel.1"),
      bridge,
    ]);
    return texts.map((text) => text.replaceAll(/^\d+: | +$/gm, "").trim());
  };

  test.each(engines)(
    "%s: the leftovers of a stopped flanneld become ours under live traffic, and a flanneld's again",
    async (engine) => {
      const pair = await stockPair();
      const { net, own, peer, ends, ip } = pair;
      writeStockSubnetEnv(subnetFileOf(pair), own);
      // A lease that is gone, and what is nobody's but its owner's.
      await makeStockDevice(own, [{ ...peer, subnet: 13, mac: "0e:2a:00:00:00:13" }]);
      await ip("route", "add", "10.200.0.0/24", "via", "10.77.0.254");
      await ip("link", "add", "flannel.7", "type", "vxlan", "id", "7", "dev", "eth0", "dstport", "8477");
      await ip("address", "add", "10.50.0.0/32", "dev", "flannel.7");
      await ip("link", "set", "flannel.7", "up");
      await ip("route", "add", "10.50.1.0/24", "via", "10.50.1.0", "dev", "flannel.7", "onlink");
      const foreign = async () => [
        await ip("route", "show", "10.200.0.0/24"),
        await ip("route", "show", "dev", "flannel.7"),
        await ip("-d", "link", "show", "flannel.7"),
      ];
      const before = { picture: await picture(pair), foreign: await foreign() };
      expect(before.picture[0]).not.toContain("alias");

      const daemons: Daemon[] = [];
      const there = await trafficThrough(
        net.lab,
        ends,
        async () => {
          const daemon = net.startDaemon(own.host, { engine, datapath: 'on_stop = "kernel"' });
          daemons.push(daemon);
          await daemon.ready(1);
        },
        4_000,
      );
      const [daemon] = daemons;
      if (daemon === undefined) throw new Error("not started");
      expect(there.flow.intact).toBe(true);
      expect(there.lostPings).toBeLessThan(engine === "kernel" ? 10 : 150);
      const report = await daemon.report();
      expect(report.lease?.subnets).toEqual(["10.99.11.0/24"]);
      expect(await net.etcd("get", "--print-value-only", stockLease(own).key)).toContain(own.mac);
      expect(await ip("link", "show", "flannel.1")).toContain(`alias ${mark}`);
      expect(await ip("-d", "link", "show", "flannel.1")).toContain(
        engine === "kernel" ? "vxlan id 1" : "tun",
      );
      const routes = (await ip("route", "show", "dev", "flannel.1")).trim().split("\n");
      expect(routes.map((line) => line.trim())).toEqual(["10.99.12.0/24 via 10.99.12.0 proto 241 onlink"]);
      if (engine === "kernel") {
        const now = await picture(pair);
        expect(withoutAlias(now[0])).toBe(before.picture[0] ?? "");
        expect(now[2]).not.toContain("0e:2a:00:00:00:13");
        expect(now[4]).not.toContain("0e:2a:00:00:00:13");
      }
      expect(await foreign()).toEqual(before.foreign);
      expect(readFileSync(daemon.subnetFile, "utf8")).toContain("FLANNEL_SUBNET=10.99.11.1/24\n");

      const back = await trafficThrough(
        net.lab,
        ends,
        async () => {
          await daemon.child.end();
          await makeStockDevice(own, [peer]); // as flanneld does with a device that it may use
        },
        4_000,
      );
      expect(back.flow.intact).toBe(true);
      expect(back.lostPings).toBeLessThan(engine === "kernel" ? 10 : 150);
      const after = await picture(pair);
      expect(withoutAlias(after[0])).toBe(before.picture[0] ?? "");
      expect(after[1]).toBe(before.picture[1] ?? "");
      expect(after[3]).toBe("10.99.12.0/24 via 10.99.12.0 onlink");
      // cleanup takes what carries our mark, the device too, and the routes on it go with it.
      expect((await net.run(daemon, "cleanup")).output).toContain("- link flannel.1");
      expect(await foreign()).toEqual(before.foreign);
      await makeStockDevice(own, [peer]);
      expect((await picture(pair))[0]).toBe(before.picture[0] ?? "");
      await pingSeries(own.host, ends[1].address, ["-I", ends[0].address], 3);
    },
    90_000,
  );

  test("kernel: a device of another port or MTU is replaced or set right, one of another VNI is named", async () => {
    const pair = await stockPair();
    const { net, own, ip } = pair;
    await ip("link", "set", "flannel.1", "mtu", "1300");
    const first = net.startDaemon(own.host, { engine: "kernel" });
    await first.ready(1);
    expect(await ip("link", "show", "flannel.1")).toContain("mtu 1450");
    expect(await ip("link", "show", "flannel.1")).toContain(own.mac);
    await first.child.end();
    expect((await net.run(first, "cleanup")).code).toBe(0);

    const other = "type vxlan id 1 local 10.77.0.1 dev eth0 dstport 4789 nolearning".split(" ");
    await ip("link", "add", "flannel.1", "address", own.mac, ...other);
    const second = net.startDaemon(own.host, { engine: "kernel" });
    await second.ready(1);
    expect(await ip("-d", "link", "show", "flannel.1")).toContain("dstport 8472");
    expect(await ip("link", "show", "flannel.1")).toContain(own.mac);
    await second.child.end();
    expect((await net.run(second, "cleanup")).code).toBe(0);

    await ip("link", "add", "flannel.1", "type", "vxlan", "id", "9", "dev", "eth0", "dstport", "8472");
    const third = net.startDaemon(own.host, { engine: "kernel" });
    expect(await third.child.exited).toBe(1);
    expect(third.child.errorTail()).toContain("a device named flannel.1 exists and is not ours");
    await ip("link", "delete", "flannel.1");

    // Another network's, by its address.
    await ip("link", "add", "flannel.1", "type", "vxlan", "id", "1", "dev", "eth0", "dstport", "8472");
    await ip("address", "add", "10.50.0.0/32", "dev", "flannel.1");
    const fourth = net.startDaemon(own.host, { engine: "kernel" });
    expect(await fourth.child.exited).toBe(1);
    expect(fourth.child.errorTail()).toContain("a device named flannel.1 exists and is not ours");
    expect(await ip("-d", "link", "show", "flannel.1")).toContain("vxlan id 1");
  }, 60_000);

  test.each(engines)(
    "%s: flannel's second device, for IPv6, becomes ours as the first does, and its MAC stays",
    async (engine) => {
      const pair = await stockPair();
      const { net, ip } = pair;
      const config =
        '{"Network":"10.99.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:99::/48","Backend":{"Type":"vxlan"}}';
      await net.etcd("put", "/coreos.com/network/config", config);
      const own: StockNode = { ...pair.own, macV6: "0e:2a:00:00:00:61" };
      const peer: StockNode = { ...pair.peer, macV6: "0e:2a:00:00:00:62" };
      for (const node of [own, peer]) {
        await net.etcd("del", stockLease({ ...pair.own, subnet: node.subnet }).key);
        const { key, value } = stockLease(node);
        await net.etcd("put", key, value);
        await makeStockDeviceV6(node, node === own ? [peer] : [own]);
      }
      const [here, there] = [stockSubnetV6(own), stockSubnetV6(peer)];
      await pingSeries(own.host, there, ["-I", here], 3);
      const before = await ip("-o", "link", "show", "flannel-v6.1");

      const daemon = net.startDaemon(own.host, { engine, datapath: 'on_stop = "kernel"' });
      const { lease, refused } = await daemon.ready(1);
      expect(lease).toMatchObject({ vtepMac: own.mac, vtepMacV6: own.macV6 as string });
      expect(refused).toEqual([]);
      expect(await net.etcd("get", "--print-value-only", stockLease(own).key)).toBe(
        `${stockLease(own).value}\n`,
      );
      const link = await ip("-o", "-d", "link", "show", "flannel-v6.1");
      expect(link).toContain(engine === "kernel" ? "vxlan id 1" : "tun");
      const indexOf = (line: string) => Number.parseInt(line, 10);
      expect(indexOf(link) === indexOf(before)).toBe(engine === "kernel");
      expect(await ip("-6", "route", "show", `${there}/64`)).toMatch(
        /via fd00:99:0:12:: dev flannel-v6\.1 proto 241 .*onlink/,
      );
      await pingSeries(own.host, there, ["-I", here], 3);
      await pingSeries(peer.host, here, ["-I", there], 3);

      // What flanneld then finds has its MAC too.
      await daemon.child.end();
      expect(await ip("-o", "-d", "link", "show", "flannel-v6.1")).toMatch(/0e:2a:00:00:00:61.* vxlan id 1 /);
      await pingSeries(own.host, there, ["-I", here], 3);
    },
    60_000,
  );

  test("kernel: flannel's second device goes where the network has no IPv6 any more", async () => {
    const pair = await stockPair();
    const own: StockNode = { ...pair.own, macV6: "0e:2a:00:00:00:61" };
    await makeStockDeviceV6(own, []);
    await pair.ip("address", "delete", `${stockSubnetV6(own)}/128`, "dev", "flannel-v6.1");
    await pair.net.startDaemon(own.host, { engine: "kernel" }).ready(1);
    expect(await pair.ip("-o", "link")).not.toContain("flannel-v6.1");
  });

  test("userspace: where it cannot start, the device stays or comes back as it was", async () => {
    const pair = await stockPair();
    const { net, own, ends, ip } = pair;
    const before = await picture(pair);
    // No TUN is to be had: the device is not even touched.
    const index = await ip("-o", "link", "show", "flannel.1");
    const without = net.startDaemon(own.host, {
      engine: "userspace",
      wrap: ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/net/tun && exec "$0" "$@"'],
    });
    expect(await without.child.exited).toBe(1);
    expect(without.child.errorTail()).toContain("engine cannot start on flannel.1");
    expect(await ip("-o", "link", "show", "flannel.1")).toBe(index);
    expect(await picture(pair)).toEqual(before);

    // The port is somebody else's too: that shows only when the device has made way.
    await ip("link", "add", "mine0", "type", "vxlan", "id", "99", "dev", "eth0", "dstport", "8472");
    await ip("link", "set", "mine0", "up");
    const late = net.startDaemon(own.host, { engine: "userspace" });
    expect(await late.child.exited).toBe(1);
    expect(late.child.errorTail()).toContain("UDP port 8472 is taken");
    expect(late.child.errorTail()).toContain("put back");
    expect(await picture(pair)).toEqual(before);
    expect((await net.run(late, "cleanup")).output).not.toContain("flannel.1");
    await pingSeries(own.host, ends[1].address, ["-I", ends[0].address], 3);
  }, 60_000);

  test("a live flanneld is refused by its pid and what it holds, and nothing is changed", async () => {
    const pair = await stockPair();
    const { net, own, ip } = pair;
    const program = join(net.lab.directory, "flanneld");
    copyFileSync(Bun.which("sleep") ?? "", program);
    await runProgram(["chmod", "755", program]);
    const live = net.lab.start(own.host.namespace, [program, "1000"]);
    await Bun.sleep(200);
    const before = await picture(pair);
    for (const engine of engines) {
      const daemon = net.startDaemon(own.host, { engine, host: "ip_masq = true" });
      expect(await daemon.child.exited).toBe(1);
      const errors = daemon.child.errorTail();
      expect(errors).toMatch(
        /flanneld \(pid \d+\) runs on this host and holds device flannel\.1, UDP port 8472/,
      );
      expect(Number(/flanneld \(pid (\d+)\)/.exec(errors)?.[1])).toBe(live.pid);
      expect(await picture(pair)).toEqual(before);
      expect(existsSync(daemon.subnetFile)).toBe(false);
      // plan is asked beside it.
      const { output, code } = await net.run(daemon, "plan");
      expect(code).toBe(0);
      expect(output).toContain(`# flanneld (pid ${live.pid}) runs here: stop it before the start\n`);
      expect(output).toContain(engine === "kernel" ? "~ link flannel.1 vxlan" : "+ link flannel.1 tun");
      if (engine !== "kernel") expect(output).toContain("- link flannel.1 vxlan");
      expect(output).toContain(engine === "kernel" ? "it is taken over as it stands" : "it is replaced");
      expect(output).toContain(
        engine === "kernel" ? "~ route 10.99.12.0/24 via" : "+ route 10.99.12.0/24 via",
      );
      expect(await picture(pair)).toEqual(before);
    }
    expect(await inside(own.host.namespace, ["iptables-nft-save"])).not.toContain("FLANNEL");
    expect(await net.etcd("get", "--prefix", "--keys-only", "/coreos.com/network/nodes")).toBe("");
    await live.end();

    // One of another network is none of our business, nor is one in another namespace.
    const another = net.lab.start(
      own.host.namespace,
      ["env", "FLANNELD_ETCD_PREFIX=/other", program, "1000"],
      {
        FLANNELD_SUBNET_FILE: "/run/other/subnet.env",
      },
    );
    const elsewhere = net.lab.start(net.lab.switchNamespace, [program, "1000"]);
    await Bun.sleep(200);
    const daemon = net.startDaemon(own.host, { engine: "kernel" });
    await daemon.ready(1);
    await daemon.child.end();
    await another.end();
    await elsewhere.end();

    // Started after us, it uses the device that carries our mark: cleanup leaves it alone.
    const later = net.lab.start(own.host.namespace, [program, "1000"]);
    await Bun.sleep(200);
    const cleaned = await net.run(daemon, "cleanup");
    expect(cleaned.code).toBe(1);
    expect(cleaned.errors).toContain(`flanneld (pid ${later.pid}) runs on this host`);
    expect(await ip("link", "show", "flannel.1")).toContain(`alias ${mark}`);

    // So too without that device: the same subnet.env and the same rules are its own now.
    await ip("link", "delete", "flannel.1");
    expect((await net.run(daemon, "cleanup")).code).toBe(1);
    expect(existsSync(daemon.subnetFile)).toBe(true);
    await later.end();
    expect((await net.run(daemon, "cleanup")).output).toContain(`- file ${daemon.subnetFile}`);
  }, 60_000);

  test("plan -from-flannel, without any configuration, tells what runs, settings that do the same, and all changes", async () => {
    const pair = await stockPair();
    const { net, own } = pair;
    const program = join(net.lab.directory, "flanneld");
    copyFileSync(Bun.which("sleep") ?? "", program);
    await runProgram(["chmod", "755", program]);
    const subnetFile = join(net.lab.directory, "stock/subnet.env");
    writeStockSubnetEnv(subnetFile, own);
    const cni = join(net.lab.directory, "cni");
    mkdirSync(join(cni, "bin"), { recursive: true });
    writeFileSync(join(cni, "bin/flannel"), "flannel's plugin");
    const conflist = {
      ...{ name: "cbr0", cniVersion: "0.3.1" },
      plugins: [{ type: "flannel", delegate: { hairpinMode: true } }],
    };
    writeFileSync(join(cni, "10-flannel.conflist"), JSON.stringify(conflist));
    const plan = async (...more: string[]) =>
      await tryProgram([
        ...["ip", "netns", "exec", own.host.namespace, binary, "plan", "-from-flannel"],
        ...[`-cni-bin-dir=${cni}/bin`, `-cni-conf-dir=${cni}`, ...more],
      ]);
    const live = net.lab.start(own.host.namespace, [program, "1000"], {
      FLANNELD_ETCD_ENDPOINTS: net.endpoint,
      FLANNELD_SUBNET_FILE: subnetFile,
      FLANNELD_IFACE: "eth0",
      FLANNELD_IP_MASQ: "true",
      FLANNELD_ETCD_PASSWORD: "",
      FLANNELD_NO_SUCH_THING: "1",
    });
    await Bun.sleep(200);
    const before = await picture(pair);
    const told = await plan("-datapath-engine=kernel");
    expect([told.code, told.errors]).toEqual([0, ""]);
    const lines = told.output.split("\n");
    for (const line of [
      `# flanneld runs here, pid ${live.pid}`,
      `#   program     ${program}`,
      `interface = ["eth0"]  # flanneld's env FLANNELD_IFACE`,
      `endpoints = ["${net.endpoint}"]  # flanneld's env FLANNELD_ETCD_ENDPOINTS`,
      `subnet_file = "${subnetFile}"  # flanneld's env FLANNELD_SUBNET_FILE`,
      `engine = "kernel"  # flag -datapath-engine`,
      "~ route 10.99.12.0/24 via 10.99.12.0 dev flannel.1 onlink",
      "# flannel.1 is flannel's: it is taken over as it stands, without a gap",
      `# flanneld (pid ${live.pid}) runs here: stop it before the start`,
      `~ file ${cni}/bin/flannel  # not written by us: takes -force`,
      `~ file ${cni}/10-flannel.conflist  # not written by us: takes -force`,
      "# FLANNELD_NO_SUCH_THING has no effect: no such option",
    ])
      expect(lines).toContain(line);
    expect(told.output).toMatch(/^\+ firewall .* MASQUERADE/m);
    expect(told.output).toContain('{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
    expect(told.output).toContain(`FLANNEL_SUBNET=10.99.11.1/24`);
    expect(told.output).toContain("flannel.1 vxlan id 1 local 10.77.0.1 dstport 8472 mtu 1450 mac 0e:2a:");

    const answer = JSON.parse((await plan("-datapath-engine=userspace", "-json")).output);
    expect(answer).toMatchObject({
      flannel: { pid: live.pid, program, conflists: [`${cni}/10-flannel.conflist`] },
      plan: { flannelds: [live.pid] },
      planTrouble: null,
    });
    expect(answer.plan.steps).toContain("+ link flannel.1 tun mtu 1450");

    // The settings it shows are those that a start takes.
    const file = join(net.lab.directory, "config.toml");
    writeFileSync(file, answer.configToml.join("\n"));
    const same = await plan("-config", file, "-json");
    expect(JSON.parse(same.output).plan.steps).toEqual(answer.plan.steps);

    // Where no plan can be made the rest is told all the same.
    await net.stopEtcd();
    const cut = await plan();
    expect(cut.code).toBe(1);
    expect(cut.output).toContain("# cannot be planned: etcd does not answer");
    expect(cut.output).toContain("ip_masq = true");
    await live.end();
    expect((await plan()).output).toContain("# No flanneld runs here");
    const odd = net.lab.start(own.host.namespace, [program, "1000"], {
      FLANNELD_SUBNET_FILE: subnetFile,
      FLANNELD_ETCD_CERTFILE: "/etc/etcd/client.pem",
    });
    await Bun.sleep(200);
    const refused = await plan();
    expect(refused.code).toBe(1);
    expect(refused.output).toContain("# cannot be planned: a mistake in the configuration");
    expect(refused.output).toContain("(flanneld's env FLANNELD_ETCD_CERTFILE) is set but");
    expect(refused.output).toContain(`# flanneld runs here, pid ${odd.pid}`);
    expect(refused.output.split("\n").filter((line) => !/^([#+~-] |#?$)/.test(line))).toEqual([]);
    await odd.end();
    expect(await picture(pair)).toEqual(before);
  }, 60_000);

  test("a TUN of flannel's udp backend that somebody reads is a live flanneld; a forgotten one goes", async () => {
    const pair = await stockPair();
    const { net, own, ip } = pair;
    await ip("tuntap", "add", "flannel0", "mode", "tun", "multi_queue", "vnet_hdr");
    await ip("address", "add", "10.99.11.0/32", "dev", "flannel0");
    await ip("link", "set", "flannel0", "up");
    const reader = net.lab.start(own.host.namespace, [
      process.execPath,
      join(dirname(import.meta.dir), "support/tun-reader.ts"),
      "flannel0",
    ]);
    const first = await reader.output.getReader().read();
    expect(new TextDecoder().decode(first.value)).toBe("attached\n");
    const refusedOne = net.startDaemon(own.host, { engine: "kernel" });
    expect(await refusedOne.child.exited).toBe(1);
    expect(refusedOne.child.errorTail()).toContain("device flannel0");
    await reader.end();
    const daemon = net.startDaemon(own.host, { engine: "kernel" });
    await daemon.ready(1);
    expect((await tryProgram(["ip", "-n", own.host.namespace, "link", "show", "flannel0"])).code).not.toBe(0);
  }, 60_000);

  test.each([
    ["iptables", "iptables-legacy"],
    ["iptables", "iptables-nft"],
    ["nftables", "iptables-nft"],
    ["nftables", "iptables-legacy"],
  ] as const)(
    "%s over rules in %s: flannel's go, shown by plan; others' stay",
    async (firewall, tool) => {
      const pair = await stockPair();
      const { net, own, ip } = pair;
      writeStockSubnetEnv(subnetFileOf(pair), own);
      const mine = ["-A", "POSTROUTING", "-s", "10.201.0.0/16", "-j", "MASQUERADE"];
      for (const one of ["iptables-legacy", "iptables-nft"])
        await inside(own.host.namespace, [one, "-t", "nat", ...mine]);
      await inside(own.host.namespace, ["nft", "add", "table", "ip", "mine"]);
      await addBareRules(tool, own);
      await addChainRules(tool, own);
      await addNftTables(own);
      const rules = async () => {
        const all = ["iptables-legacy-save", "iptables-nft-save"].map((one) =>
          inside(own.host.namespace, [one]),
        );
        const tables = inside(own.host.namespace, ["nft", "list", "tables"]);
        return {
          saved: (await Promise.all(all)).map((text) => text.replaceAll(/^#.*\n|\[\d+:\d+\]/gm, "")),
          tables: await tables,
        };
      };
      const before = await rules();
      const options = { engine: "kernel", host: `ip_masq = true\nfirewall = "${firewall}"` } as const;
      // A start that ends at once, for its configuration.
      const program = join(net.lab.directory, "flanneld");
      copyFileSync(Bun.which("sleep") ?? "", program);
      const live = net.lab.start(own.host.namespace, [program, "1000"]);
      await Bun.sleep(200);
      const asked = net.startDaemon(own.host, options);
      expect(await asked.child.exited).toBe(1);
      const planned = (await net.run(asked, "plan")).output;
      expect(await rules()).toEqual(before);
      await live.end();
      const bare = "POSTROUTING -s 10.99.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE";
      expect(planned).toMatch(new RegExp(`^- firewall \\S+ -t nat ${bare.replaceAll(".", "\\.")}$`, "m"));
      expect(planned).toContain("- firewall nft table ip flannel-ipv4\n");
      expect(planned).toContain("- firewall nft table ip6 flannel-ipv6\n");
      expect(planned).not.toContain("10.201.0.0/16");
      if (firewall === "nftables") {
        expect(planned).toContain("+ firewall nft table ip flannel-lite\n");
        expect(planned).toContain("+ firewall nft ip flannel-lite forward ip saddr 10.99.0.0/16 accept\n");
        expect(planned).toMatch(/^- firewall \S+ -t nat chain FLANNEL-POSTRTG$/m);
      }

      const daemon = net.startDaemon(own.host, options);
      await daemon.ready(1);
      const after = await rules();
      const text = after.saved.join("");
      expect(text).not.toContain(bare);
      expect(text).not.toMatch(/-A FORWARD -s 10\.99\.0\.0\/16 -j ACCEPT/);
      expect(text.split("-A POSTROUTING -s 10.201.0.0/16 -j MASQUERADE").length).toBe(3);
      expect(after.tables).not.toContain("flannel-ipv");
      expect(after.tables).toContain("table ip mine");
      expect(text.includes("FLANNEL-POSTRTG")).toBe(firewall === "iptables");
      expect((await net.run(daemon, "plan")).output).toBe("# 0 changes, engine kernel: it is configured\n");
      expect(await ip("link", "show", "flannel.1")).toContain(`alias ${mark}`);
    },
    60_000,
  );
});
