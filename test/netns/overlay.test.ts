import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import {
  binary,
  type Daemon,
  hostOf,
  openTestOverlay,
  overlayRefused,
  ping,
  pingAnswered,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/overlay.test.ts: ${refused}`);

const networkJson = '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}';
const dualJson =
  '{"Network":"10.99.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:99::/48","Backend":{"Type":"vxlan"}}';
const engines = ["userspace", "kernel"] as const;
/** That much one TCP connection carries at least; the reference engine is slow. */
const bytesMin = { userspace: 1_000_000, kernel: 1_000_000, dgram: 50_000 } as const;

describe.skipIf(refused !== undefined)("overlay", () => {
  let open: TestOverlay | undefined;

  const overlay = async (hosts: number, network = networkJson): Promise<TestOverlay> => {
    open = await openTestOverlay(hosts);
    await open.etcd("put", "/coreos.com/network/config", network);
    return open;
  };
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  afterAll(() => {
    // Other runs on this machine have namespaces of their own.
    const labOfOurs = new RegExp(`^fl-t\\d+-${process.pid}-`);
    expect(
      existsSync("/run/netns") ? readdirSync("/run/netns").filter((name) => labOfOurs.test(name)) : [],
    ).toEqual([]);
  });

  test.each([
    ["userspace", "userspace"],
    ["userspace", "kernel"],
    ["kernel", "kernel"],
    ["dgram", "userspace"],
    ["dgram", "kernel"],
    ["dgram", "dgram"],
  ] as const)("%s and %s: ping and TCP in both families and both ways", async (first, second) => {
    const net = await overlay(2, dualJson);
    const daemons = [
      net.startDaemon(hostOf(net, 1), { engine: first }),
      net.startDaemon(hostOf(net, 2), { engine: second }),
    ] as const;
    const reports = [await daemons[0].ready(1), await daemons[1].ready(1)] as const;
    expect(reports.map(({ engine }) => engine?.name)).toEqual([first, second]);
    for (const family of [4, 6] as const) {
      const ends = [0, 1].map((at) => ({
        host: hostOf(net, at + 1),
        address: vtepAddress(reports[at as 0 | 1], family),
      }));
      for (const [from, to] of [ends, [...ends].reverse()] as { host: LabHost; address: string }[][]) {
        if (from === undefined || to === undefined) throw new Error("two ends");
        await ping(from.host, to.address, ["-I", from.address]);
        const result = await transfer(net.lab, from, to);
        expect(result.intact).toBe(true);
        expect(result.bytes).toBeGreaterThan(Math.min(bytesMin[first], bytesMin[second]));
      }
    }
  });

  /** A stock node's data path, made by hand as flannel makes it, and its lease. */
  const addStockPeer = async (net: TestOverlay, host: LabHost, peers: { daemon: Daemon; mac: string }[]) => {
    const mac = "0e:2a:00:00:00:77";
    const ip = (...args: string[]) => runProgram(["ip", "-n", host.namespace, ...args]);
    await ip(
      ...["link", "add", "flannel.1", "address", mac, "mtu", "1450", "type", "vxlan"],
      ...["id", "1", "local", host.address, "dev", "eth0", "dstport", "8472", "nolearning"],
    );
    await ip("address", "add", "10.99.77.0/32", "dev", "flannel.1");
    await ip("link", "set", "flannel.1", "up");
    for (const { daemon, mac: peerMac } of peers) {
      const report = await daemon.report();
      const subnet = report.lease?.subnets[0] ?? "";
      const via = subnet.split("/")[0] ?? "";
      await ip("neighbour", "replace", via, "lladdr", peerMac, "dev", "flannel.1", "nud", "permanent");
      await runProgram([
        "bridge",
        "-n",
        host.namespace,
        "fdb",
        "replace",
        peerMac,
        "dev",
        "flannel.1",
        "dst",
        daemon.host.address,
        "self",
        "permanent",
      ]);
      await ip("route", "replace", subnet, "via", via, "dev", "flannel.1", "onlink");
    }
    const value = { PublicIP: host.address, BackendType: "vxlan", BackendData: { VtepMAC: mac } };
    await net.etcd("put", "/coreos.com/network/subnets/10.99.77.0-24", JSON.stringify(value));
    return "10.99.77.0";
  };

  test.each(
    ([...engines, "dgram"] as const).flatMap((engine) =>
      (["on", "off"] as const).map((offload) => [engine, offload] as const),
    ),
  )(
    "%s: a stock peer made with iproute2, its lease put by hand, checksum offload %s, works both ways",
    async (engine, offload) => {
      const net = await overlay(2);
      const daemon = net.startDaemon(hostOf(net, 1), { engine });
      const own = await daemon.ready(0);
      const stock = hostOf(net, 2);
      const address = await addStockPeer(net, stock, [{ daemon, mac: own.lease?.vtepMac ?? "" }]);
      for (const device of ["flannel.1", "eth0"]) {
        await inside(stock.namespace, ["ethtool", "-K", device, "tx", offload]);
      }
      await daemon.ready(1);
      const ours = { host: hostOf(net, 1), address: vtepAddress(own) };
      const theirs = { host: stock, address };
      await ping(ours.host, theirs.address, ["-I", ours.address]);
      await ping(theirs.host, ours.address, ["-I", theirs.address]);
      for (const [from, to] of [
        [ours, theirs],
        [theirs, ours],
      ] as const) {
        const result = await transfer(net.lab, from, to);
        expect(result.intact).toBe(true);
        expect(result.bytes).toBeGreaterThan(bytesMin[engine]);
      }
    },
  );

  test.each(engines)(
    "%s: a DF packet of exactly the overlay MTU passes, one byte more does not",
    async (engine) => {
      const net = await overlay(2);
      const [a, b] = [
        net.startDaemon(hostOf(net, 1), { engine }),
        net.startDaemon(hostOf(net, 2), { engine }),
      ];
      const [from, to] = [await a.ready(1), await b.ready(1)];
      const mtu = from.network?.mtuBytes ?? 0;
      expect(mtu).toBe(1450);
      // ICMP and IP headers are 28 bytes.
      const options = (bytes: number) => ["-M", "do", "-s", String(bytes - 28), "-I", vtepAddress(from)];
      await ping(hostOf(net, 1), vtepAddress(to), options(mtu));
      expect(await pingAnswered(hostOf(net, 1), vtepAddress(to), options(mtu + 1))).toBe(false);
    },
  );

  test("a late joiner is reached by hosts of both engines, and a host that gives its lease back is forgotten", async () => {
    const net = await overlay(2);
    const [a, b] = [
      net.startDaemon(hostOf(net, 1), { engine: "userspace" }),
      net.startDaemon(hostOf(net, 2), { engine: "kernel" }),
    ];
    await Promise.all([a.ready(1), b.ready(1)]);
    const late = net.startDaemon(await net.lab.addHost(), { engine: "userspace" });
    const joined = await late.ready(2);
    await Promise.all([a.ready(2), b.ready(2)]);
    for (const { host } of [a, b]) await ping(host, vtepAddress(joined));
    const key = (joined.lease?.subnets[0] ?? "").replace("/", "-");
    await late.child.end();
    await net.etcd("del", `/coreos.com/network/subnets/${key}`);
    await Promise.all([a.ready(1), b.ready(1)]);
    for (const { host } of [a, b]) {
      expect(
        await runProgram(["ip", "-n", host.namespace, "route", "show", joined.lease?.subnets[0] ?? ""]),
      ).toBe("");
    }
  });

  test.each(engines)(
    "%s: after kill -9 and a restart, subnet, MAC and traffic are as before",
    async (engine) => {
      const net = await overlay(2);
      const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
      const first = net.startDaemon(hostOf(net, 1), { engine });
      const before = await first.ready(1);
      const peer = await other.ready(1);
      process.kill(first.child.pid, "SIGKILL");
      await first.child.exited;
      const second = net.startDaemon(hostOf(net, 1), { engine });
      const after = await second.ready(1);
      expect(after.lease?.subnets).toEqual(before.lease?.subnets as string[]);
      expect(after.lease?.vtepMac).toBe(before.lease?.vtepMac as string);
      await ping(hostOf(net, 1), vtepAddress(peer), ["-I", vtepAddress(after)]);
      await ping(hostOf(net, 2), vtepAddress(after));
    },
  );

  test("a start with the other engine replaces our own device", async () => {
    const net = await overlay(2);
    const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
    for (const engine of ["userspace", "kernel", "dgram", "userspace", "dgram"] as const) {
      const daemon = net.startDaemon(hostOf(net, 1), { engine });
      expect((await daemon.ready(1)).engine?.name).toBe(engine);
      await ping(hostOf(net, 1), vtepAddress(await other.ready(1)));
      await daemon.child.end();
    }
  });

  test.each(engines)("%s: what others delete comes back; what is not ours stays", async (engine) => {
    const net = await overlay(2);
    const daemon = net.startDaemon(hostOf(net, 1), { engine });
    const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
    const peer = await other.ready(1);
    const own = await daemon.ready(1);
    const ip = (...args: string[]) => runProgram(["ip", "-n", hostOf(net, 1).namespace, ...args]);
    await ip("route", "add", "10.200.0.0/24", "via", "10.77.0.254");
    await ip("link", "add", "mine0", "type", "bridge");
    const deletions: string[][] = [
      ["route", "delete", peer.lease?.subnets[0] ?? ""],
      ["address", "flush", "dev", "flannel.1"],
      ["link", "set", "flannel.1", "down"],
      ...(engine === "kernel"
        ? [
            ["neighbour", "delete", vtepAddress(peer), "dev", "flannel.1"],
            ["link", "delete", "flannel.1"],
          ]
        : []),
    ];
    for (const deletion of deletions) {
      await ip(...deletion);
      await waitFor(() => pingAnswered(hostOf(net, 1), vtepAddress(peer), ["-I", vtepAddress(own)]));
    }
    expect(await ip("route", "show", "10.200.0.0/24")).toContain("via 10.77.0.254");

    await daemon.child.end();
    const { output } = await net.run(daemon, "cleanup");
    expect(output).toContain("- link flannel.1");
    expect(output).toContain(`- file ${daemon.subnetFile}`);
    expect(existsSync(daemon.subnetFile)).toBe(false);
    expect(readdirSync(daemon.stateDir)).toEqual([]);
    const links = (await ip("-o", "link")).split("\n").filter((line) => line !== "");
    expect(links.map((line) => line.split(/: |@/)[1]).sort()).toEqual(["eth0", "lo", "mine0"]);
    expect(await ip("route", "show", "10.200.0.0/24")).toContain("via 10.77.0.254");
    expect(await ip("route", "show", "proto", "241")).toBe("");
    expect((await net.run(daemon, "cleanup")).output).toBe("nothing of ours is here\n");
  });

  test("a device or route of another owner is left alone and named", async () => {
    const net = await overlay(2);
    const host = hostOf(net, 1);
    const ip = (...args: string[]) => runProgram(["ip", "-n", host.namespace, ...args]);
    await ip("link", "add", "flannel.1", "type", "bridge");
    for (const engine of engines) {
      const daemon = net.startDaemon(host, { engine });
      expect(await daemon.child.exited).toBe(1);
      expect(daemon.child.errorTail()).toContain("a device named flannel.1 exists and is not ours");
      expect(daemon.child.errorTail()).toContain("ip link delete flannel.1");
      expect(await ip("-d", "link", "show", "flannel.1")).toContain("bridge");
    }
    await ip("link", "delete", "flannel.1");
    await ip("route", "add", "10.99.88.0/24", "via", "10.77.0.254");
    const value =
      '{"PublicIP":"10.77.0.2","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:2a:00:00:00:88"}}';
    await net.etcd("put", "/coreos.com/network/subnets/10.99.88.0-24", value);
    const daemon = net.startDaemon(host, { engine: "kernel" });
    await waitFor(async () => (await daemon.report()).missing.length > 0);
    expect((await daemon.report()).missing.map(({ code }) => code)).toEqual(["reconcile/foreign"]);
    expect(await ip("route", "show", "10.99.88.0/24")).toContain("via 10.77.0.254");
  });

  test("plan shows the difference and changes nothing", async () => {
    const net = await overlay(1);
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
    await daemon.ready(0);
    expect((await net.run(daemon, "plan")).output).toBe("# 0 changes, engine kernel: it is configured\n");
    await daemon.child.end();
    const value =
      '{"PublicIP":"10.77.0.9","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:2a:00:00:00:09"}}';
    await net.etcd("put", "/coreos.com/network/subnets/10.99.9.0-24", value);
    const planned = await net.run(daemon, "plan");
    expect(planned.output).toBe(
      "+ neighbour 10.99.9.0 lladdr 0e:2a:00:00:00:09 dev flannel.1\n" +
        "+ fdb 0e:2a:00:00:00:09 dst 10.77.0.9 dev flannel.1\n" +
        "+ route 10.99.9.0/24 via 10.99.9.0 dev flannel.1 onlink\n" +
        "# 3 changes, engine kernel: it is configured\n",
    );
    expect(await runProgram(["ip", "-n", hostOf(net, 1).namespace, "route", "show", "10.99.9.0/24"])).toBe(
      "",
    );
  });

  test("etcd holds flannel's keys and values, and subnet.env flannel's lines", async () => {
    const net = await overlay(1);
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "userspace" });
    const report = await daemon.ready(0);
    const subnet = report.lease?.subnets[0] ?? "";
    const [key, value] = (await net.etcd("get", "--prefix", "/coreos.com/network/subnets"))
      .trim()
      .split("\n");
    expect(key).toBe(`/coreos.com/network/subnets/${subnet.replace("/", "-")}`);
    expect(value).toBe(
      `{"PublicIP":"10.77.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"${report.lease?.vtepMac}"}}`,
    );
    expect(readFileSync(daemon.subnetFile, "utf8")).toBe(
      `FLANNEL_NETWORK=10.99.0.0/16\nFLANNEL_SUBNET=${subnet.replace(".0/", ".1/")}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n`,
    );
  });

  test("the admin socket and its directory are root's alone; status tells people and scripts the same", async () => {
    const net = await overlay(1);
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "userspace" });
    const report = await daemon.ready(0);
    expect(statSync(daemon.runDir).mode & 0o777).toBe(0o700);
    expect(statSync(join(daemon.runDir, "admin.sock")).mode & 0o777).toBe(0o600);
    const json = JSON.parse((await net.run(daemon, "status", "--json")).output) as { pid: number };
    expect(json.pid).toBe(daemon.child.pid);
    const text = (await net.run(daemon, "status")).output;
    expect(text).toContain(`lease      ${report.lease?.subnets[0]} for 10.77.0.1`);
    expect(text).toContain("engine     userspace on flannel.1: it is configured");
    await daemon.child.end();
    expect(existsSync(join(daemon.runDir, "admin.sock"))).toBe(false);
    const gone = await net.run(daemon, "status");
    expect(gone.code).toBe(1);
    expect(gone.errors).toContain("no flannel-lite answers on");
  });

  test("a second daemon with the same run directory is refused with the first one's pid", async () => {
    const net = await overlay(1);
    const first = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
    await first.ready(0);
    const second = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
    expect(await second.child.exited).toBe(1);
    expect(second.child.errorTail()).toContain(`pid=${first.child.pid}`);
    await first.ready(0);
  });

  test("two daemons on one host: another network is allowed, the same one is refused with the other's pid", async () => {
    const net = await overlay(2);
    const other = '{"Network":"10.98.0.0/16","Backend":{"Type":"vxlan","VNI":2,"Port":8473}}';
    await net.etcd("put", "/other/network/config", other);
    const first = net.startDaemon(hostOf(net, 1), { engine: "userspace" });
    await first.ready(0);
    for (const engine of ["userspace", "kernel"] as const) {
      const same = net.startDaemon(hostOf(net, 1), { engine, instance: "b" });
      expect(await same.child.exited).toBe(1);
      expect(same.child.errorTail()).toContain(
        `another flannel-lite runs flannel.1 on this host (pid=${first.child.pid})`,
      );
    }
    const second = net.startDaemon(hostOf(net, 1), {
      engine: "userspace",
      instance: "c",
      prefix: "/other/network",
    });
    const peers = [
      net.startDaemon(hostOf(net, 2), { engine: "kernel" }),
      net.startDaemon(hostOf(net, 2), { engine: "kernel", instance: "c", prefix: "/other/network" }),
    ] as const;
    for (const [at, daemon] of [first, second].entries()) {
      await daemon.ready(1);
      const report = await (peers[at] ?? peers[0]).ready(1);
      expect(report.engine?.device).toBe(`flannel.${at + 1}`);
      await ping(hostOf(net, 1), vtepAddress(report));
    }
    await second.child.end();
    await net.run(second, "cleanup");
    await ping(hostOf(net, 1), vtepAddress(await peers[0].ready(1)));
  });

  test("on_stop: keep leaves device and routes, remove takes them away", async () => {
    const net = await overlay(2);
    const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
    const routes = () => runProgram(["ip", "-n", hostOf(net, 1).namespace, "route", "show", "proto", "241"]);
    for (const [engine, onStop] of engines.flatMap(
      (one) =>
        [
          [one, "keep"],
          [one, "remove"],
        ] as const,
    )) {
      const daemon = net.startDaemon(hostOf(net, 1), { engine, datapath: `on_stop = "${onStop}"` });
      await daemon.ready(1);
      await other.ready(1);
      await daemon.child.end();
      expect({ code: await daemon.child.exited, said: daemon.child.errorTail() }).toMatchObject({ code: 0 });
      expect((await routes()) !== "").toBe(onStop === "keep");
    }
    expect(await runProgram(["ip", "-n", hostOf(net, 1).namespace, "-o", "link"])).not.toContain("flannel");
  });

  test("on_stop = kernel: traffic goes on through the kernel's device, and the next start takes it back", async () => {
    const net = await overlay(2);
    const other = net.startDaemon(hostOf(net, 2), { engine: "userspace" });
    const start = () =>
      net.startDaemon(hostOf(net, 1), { engine: "userspace", datapath: 'on_stop = "kernel"' });
    const first = start();
    await first.ready(1);
    const peer = await other.ready(1);
    await first.child.end();
    const link = await runProgram(["ip", "-n", hostOf(net, 1).namespace, "-d", "link", "show", "flannel.1"]);
    expect(link).toContain("vxlan id 1 local 10.77.0.1");
    await ping(hostOf(net, 1), vtepAddress(peer));
    const second = start();
    expect((await second.ready(1)).engine?.name).toBe("userspace");
    await ping(hostOf(net, 1), vtepAddress(peer));
  });

  test("forwarding is switched on where it is off, and not at all when told so", async () => {
    const net = await overlay(2);
    const sysctl = (host: LabHost) => inside(host.namespace, ["cat", "/proc/sys/net/ipv4/ip_forward"]);
    for (const host of net.lab.hosts)
      await inside(host.namespace, ["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"]);
    const first = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
    const second = net.startDaemon(hostOf(net, 2), { engine: "kernel", host: "ip_forward = false" });
    await Promise.all([first.ready(1), second.ready(1)]);
    expect(await sysctl(hostOf(net, 1))).toBe("1\n");
    expect(first.child.errorTail()).toContain("turned IP forwarding on");
    expect(await sysctl(hostOf(net, 2))).toBe("0\n");
    expect((await first.report()).forwardingOff).toEqual([]);
    expect((await second.report()).forwardingOff).toEqual(["net.ipv4.ip_forward"]);
    expect((await net.run(second, "status")).output).toContain(
      "forwarding net.ipv4.ip_forward is 0 on this host",
    );
    await first.child.end();
    await net.run(first, "cleanup");
    expect(await sysctl(hostOf(net, 1))).toBe("1\n");
  });

  test("the daemon waits for a network configuration, says so, and starts once it is valid", async () => {
    const net = await openTestOverlay(1);
    open = net;
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
    await waitFor(async () =>
      (await daemon.report()).phase.startsWith("waiting for the network configuration"),
    );
    await waitFor(async () => daemon.child.errorTail().includes("has no network configuration"));
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/30","Backend":{"Type":"vxlan"}}',
    );
    await waitFor(async () => daemon.child.errorTail().includes("network is too small"));
    expect((await daemon.report()).ready).toBe(false);
    await net.etcd("put", "/coreos.com/network/config", networkJson);
    await daemon.ready(0);
  });

  test("the network of the configuration file is published where the store has none", async () => {
    const net = await openTestOverlay(1);
    open = net;
    const more = '[network]\nNetwork = "10.98.0.0/16"\nBackend = { Type = "vxlan", VNI = 5 }\n';
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "userspace", more });
    expect((await daemon.ready(0)).engine?.device).toBe("flannel.5");
    expect(await net.etcd("get", "--print-value-only", "/coreos.com/network/config")).toBe(
      '{"Network":"10.98.0.0/16","Backend":{"Type":"vxlan","VNI":5}}\n',
    );
  });

  test("nothing in the current directory changes the daemon", async () => {
    const net = await overlay(1);
    const cwd = join(net.lab.directory, "hostile");
    mkdirSync(cwd);
    writeFileSync(join(cwd, ".env"), "FLANNEL_LITE_DATAPATH_ENGINE=userspace\nFLANNELD_IFACE=nonsense0\n");
    writeFileSync(join(cwd, "bunfig.toml"), 'preload = ["./evil.ts"]\n');
    writeFileSync(join(cwd, "evil.ts"), `require("node:fs").writeFileSync("${cwd}/evil", "");\n`);
    writeFileSync(join(cwd, "tsconfig.json"), "nonsense");
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "kernel", cwd });
    expect((await daemon.ready(0)).engine?.name).toBe("kernel");
    expect(existsSync(join(cwd, "evil"))).toBe(false);
  });

  test("systemd is told READY once traffic can flow, and STOPPING", async () => {
    const net = await openTestOverlay(1);
    open = net;
    const path = join(net.lab.directory, "notify");
    const listen =
      "use IO::Socket::UNIX; use Socket; $| = 1; my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die;" +
      "while (defined $s->recv(my $m, 4096)) { $m =~ s/\\n/;/g; print qq($m\\n) }";
    const listener = net.lab.start(hostOf(net, 1).namespace, ["perl", "-e", listen, path]);
    await waitFor(async () => existsSync(path));
    let heard = "";
    void (async () => {
      for await (const chunk of listener.output) heard += new TextDecoder().decode(chunk);
    })();
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "userspace", env: { NOTIFY_SOCKET: path } });
    await waitFor(async () => heard.includes("STATUS=waiting for the network configuration"));
    expect(heard).not.toContain("READY=1");
    await net.etcd("put", "/coreos.com/network/config", networkJson);
    await waitFor(async () => heard.includes("READY=1"));
    expect(existsSync(daemon.subnetFile)).toBe(true);
    await daemon.child.end();
    await waitFor(async () => heard.includes("STOPPING=1"));
  });

  test("demo: the engines asked for carry every pair, twice in a row, and nothing is left", async () => {
    const before = await leftovers();
    for (let round = 0; round < 2; round++) {
      const { code, output } = await tryProgram(
        [binary, "demo", "--engines", "userspace,kernel,dgram", "--json"],
        60_000,
      );
      expect(code).toBe(0);
      const { pairs } = JSON.parse(output) as { pairs: { from: string; engine: string; ok: boolean }[] };
      expect(pairs.map(({ from, engine, ok }) => [from, engine, ok])).toEqual([
        ["host1", "userspace", true],
        ["host1", "userspace", true],
        ["host2", "kernel", true],
        ["host2", "kernel", true],
        ["host3", "dgram", true],
        ["host3", "dgram", true],
      ]);
    }
    expect(await leftovers()).toEqual(before);
  }, 120_000);

  test("demo: interrupted in the middle it removes all it made", async () => {
    const before = await leftovers();
    const child = Bun.spawn([binary, "demo", "--json"], { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    let said = "";
    const reading = (async () => {
      for await (const chunk of child.stderr) {
        said += new TextDecoder().decode(chunk);
        // An impatient person presses Ctrl-C at every line.
        if (said.includes("host1 to host2")) child.kill("SIGINT");
      }
    })();
    await Promise.all([child.exited, reading]);
    expect(child.exitCode).toBe(1);
    expect(said).toContain("removing everything");
    expect(await leftovers()).toEqual(before);
  });
});

/** Everything a demo could leave: namespaces, devices, its directories, its processes. */
async function leftovers(): Promise<string[]> {
  const processes = (await runProgram(["ps", "-eo", "args"]))
    .split("\n")
    .filter((line) => line.includes("fl-demo-"));
  const directories = readdirSync("/tmp").filter((name) => name.startsWith("fl-demo-"));
  const namespaces = existsSync("/run/netns")
    ? readdirSync("/run/netns").filter((name) => name.startsWith("fl-demo-"))
    : [];
  const links = (await runProgram(["ip", "-o", "link"])).split("\n").map((line) => line.split(": ")[1] ?? "");
  return [...processes, ...directories, ...namespaces, ...links];
}

async function waitFor(condition: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 15_000; Date.now() < deadline; await Bun.sleep(30)) {
    if (await condition().catch(() => false)) return;
  }
  throw new Error("it did not happen in 15 s");
}
