import { afterEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import { openCertificates } from "../support/certificates.ts";
import { etcdProgram } from "../support/etcd.ts";
import {
  binary,
  type Daemon,
  type DaemonOptions,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/failures.test.ts: ${refused}`);

const networkJson = '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}';
const engines = ["userspace", "kernel"] as const;

/** A mistake in the host or its configuration: one clear line, the right exit code, nothing half-made. */
describe.skipIf(refused !== undefined)("failures", () => {
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

  const first = ({ lab }: TestOverlay): LabHost => {
    const host = lab.hosts[0];
    if (host === undefined) throw new Error("no host");
    return host;
  };

  /** Links, routes and addresses of a host, to compare before and after; counters left out. */
  const stateOf = async (host: LabHost): Promise<string> => {
    const show = (...args: string[]) => runProgram(["ip", "-n", host.namespace, ...args]);
    const links = (await show("-o", "link")).replace(/ link-netns.*|mtu|qlen \d+/g, "");
    const all = [links, await show("route", "show", "table", "all"), await show("-o", "address")].join("\n");
    // The kernel makes link-local addresses in its own time.
    return all
      .split("\n")
      .filter((line) => !line.includes("fe80::"))
      .join("\n");
  };

  /** Starts a daemon that must end by itself; checks code, message, and that the host is as it was. */
  const expectFailure = async (
    net: TestOverlay,
    options: DaemonOptions,
    code: number,
    texts: readonly string[],
  ): Promise<Daemon> => {
    const host = first(net);
    const before = await stateOf(host);
    const daemon = net.startDaemon(host, options);
    const ended = await daemon.child.exited;
    const said = daemon.child.errorTail();
    expect({ ended, said }).toEqual({ ended: code, said });
    const last = said.trimEnd().split("\n").at(-1) ?? "";
    expect(last).toStartWith("flannel-lite: error: ");
    for (const text of texts) expect(last).toContain(text);
    expect(await stateOf(host)).toBe(before);
    expect(existsSync(daemon.subnetFile)).toBe(false);
    return daemon;
  };

  test("no such interface: the ones that exist are named", async () => {
    const net = await overlay(1);
    await expectFailure(net, { engine: "auto", uplink: 'interface = ["nope0"]' }, 1, [
      'there is no interface named "nope0"',
      "eth0 (10.77.0.1)",
    ]);
  });

  test("no default route and no choice: the remedy names the setting", async () => {
    const net = await overlay(1);
    await runProgram(["ip", "-n", first(net).namespace, "route", "delete", "default"]);
    await expectFailure(net, { engine: "auto" }, 1, ["there is no default route", "uplink.interface"]);
  });

  test.each(engines)("%s: the port is taken by another program", async (engine) => {
    const net = await overlay(1);
    const taker = net.lab.start(first(net).namespace, [
      ...["perl", "-e", "use IO::Socket::INET; $| = 1;"],
      ...[
        "-e",
        "my $s = IO::Socket::INET->new(Proto => 'udp', LocalPort => 8472) or die; print 'bound'; sleep 60",
      ],
    ]);
    await taker.output.getReader().read();
    await expectFailure(net, { engine }, 1, [
      engine === "userspace" ? "UDP port 8472 is taken" : "EADDRINUSE",
    ]);
  });

  test("a kernel vxlan device of another owner holds the port", async () => {
    const net = await overlay(1);
    const namespace = first(net).namespace;
    await runProgram([
      "ip",
      "-n",
      namespace,
      "link",
      "add",
      "other9",
      "type",
      "vxlan",
      "id",
      "9",
      "dev",
      "eth0",
      "dstport",
      "8472",
    ]);
    await runProgram(["ip", "-n", namespace, "link", "set", "other9", "up"]);
    await expectFailure(net, { engine: "userspace" }, 1, [
      "UDP port 8472 is taken",
      "ip -d link show type vxlan",
    ]);
  });

  test("no /dev/net/tun: userspace is refused with the remedy, auto takes the kernel and says why", async () => {
    const net = await overlay(1);
    const host = first(net);
    const hidden = (engine: DaemonOptions["engine"]) =>
      net.startDaemon(host, {
        engine,
        wrap: ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"],
      });
    const daemon = hidden("userspace");
    expect(await daemon.child.exited).toBe(1);
    expect(daemon.child.errorTail()).toContain(
      "the userspace engine needs a TUN: /dev/net/tun does not open",
    );
    expect(daemon.child.errorTail()).toContain('datapath.engine = "kernel"');
    const { engine } = await hidden("auto").ready(0);
    expect(engine?.name).toBe("kernel");
    expect(engine?.reason).toContain("/dev/net/tun does not open");
  });

  test("every subnet is leased", async () => {
    const net = await overlay(1, '{"Network":"10.99.0.0/28","SubnetLen":30,"Backend":{"Type":"vxlan"}}');
    for (const [at, subnet] of ["10.99.0.4", "10.99.0.8", "10.99.0.12"].entries()) {
      const value = {
        PublicIP: `10.77.0.${at + 10}`,
        BackendType: "vxlan",
        BackendData: { VtepMAC: `0e:2a:00:00:00:0${at}` },
      };
      await net.etcd("put", `/coreos.com/network/subnets/${subnet}-30`, JSON.stringify(value));
    }
    await expectFailure(net, { engine: "auto" }, 1, ["out of subnets", "Widen Network"]);
  });

  test("a network whose backend is not served is a mistake in the configuration", async () => {
    const net = await overlay(1, '{"Network":"10.99.0.0/16","Backend":{"Type":"wireguard"}}');
    await expectFailure(net, { engine: "auto" }, 2, [
      "backend type wireguard is not served yet",
      '"Type": "vxlan"',
    ]);
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan2"}}',
    );
    await expectFailure(net, { engine: "auto" }, 2, ["unknown backend type: vxlan2", '"Type": "vxlan"']);
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan","GBP":true}}',
    );
    await expectFailure(net, { engine: "userspace" }, 2, ["GBP", '"kernel" or "auto"']);
  });

  test("not root", async () => {
    const { code, errors } = await tryProgram([
      "setpriv",
      "--reuid=65534",
      "--regid=65534",
      "--clear-groups",
      binary,
    ]);
    expect(code).toBe(2);
    expect(errors).toContain("takes root");
  });

  test("a read-only run directory and a subnet file that cannot be written", async () => {
    const net = await overlay(1);
    const blocker = join(net.lab.directory, "blocker");
    writeFileSync(blocker, "");
    const inTheWay = await expectFailure(net, { engine: "kernel", host: `run_dir = "${blocker}/run"` }, 1, [
      `cannot serve the admin socket ${blocker}/run/admin.sock`,
      "host.run_dir",
    ]);
    // Nothing but the reason, for whoever waits for a pod.
    expect(readdirSync(dirname(inTheWay.subnetFile))).toEqual(["subnet.env.reason"]);
    for (const engine of engines) {
      await expectFailure(net, { engine, host: `subnet_file = "${blocker}/subnet.env"` }, 1, [
        `cannot write ${blocker}/subnet.env`,
        "host.subnet_file",
      ]);
    }
  });

  test("a run directory that was there keeps its mode", async () => {
    const net = await overlay(1);
    const runDir = join(net.lab.directory, "shared");
    mkdirSync(runDir);
    chmodSync(runDir, 0o755);
    const daemon = net.startDaemon(first(net), { engine: "kernel", host: `run_dir = "${runDir}"` });
    for (let tries = 0; tries < 200 && !existsSync(join(runDir, "admin.sock")); tries++) await Bun.sleep(30);
    expect(statSync(runDir).mode & 0o777).toBe(0o755);
    expect(statSync(join(runDir, "admin.sock")).mode & 0o777).toBe(0o600);
    await daemon.child.end();
  });

  test("etcd cannot be reached: waited for and said, not an exit", async () => {
    const net = await overlay(1);
    const daemon = net.startDaemon(first(net), { engine: "kernel", endpoint: "http://10.77.0.250:2379" });
    for (let tries = 0; tries < 300 && !daemon.child.errorTail().includes("waiting for"); tries++)
      await Bun.sleep(30);
    expect(daemon.child.errorTail()).toContain("waiting for the network configuration");
    expect((await daemon.report()).ready).toBe(false);
    await daemon.child.end();
    expect(await daemon.child.exited).toBe(0);
  });

  test("no /proc: the runtime ends before our code begins, and nothing was touched", async () => {
    const net = await overlay(1);
    const host = first(net);
    const before = await stateOf(host);
    const wrap = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"];
    const daemon = net.startDaemon(host, { engine: "userspace", wrap });
    expect(await daemon.child.exited).not.toBe(0);
    expect(await stateOf(host)).toBe(before);
    expect(existsSync(daemon.subnetFile)).toBe(false);
  });

  test("a wrong password ends the start at once and stands nowhere", async () => {
    const net = await overlay(1);
    for (const command of ["user add root:correct-horse", "user grant-role root root", "auth enable"]) {
      await net.etcd(...command.split(" "));
    }
    const etcd = 'username = "root"';
    const password = join(net.lab.directory, "password");
    writeFileSync(password, "wrong-battery\n");
    const daemon = await expectFailure(
      net,
      { engine: "auto", etcd: `${etcd}\npassword_file = "${password}"` },
      1,
      ["etcd refused the username or the password"],
    );
    expect(daemon.child.errorTail()).not.toContain("wrong-battery");
    await expectFailure(net, { engine: "auto" }, 1, ["etcd wants a login"]);
  });

  test("an etcd whose certificate another authority signed ends the start at once", async () => {
    const net = await overlay(1);
    using certificates = openCertificates();
    certificates.authority("ca");
    const other = certificates.authority("other");
    const { cert, key } = certificates.issue("server", { by: "ca", names: "IP:10.77.0.254" });
    const url = "https://10.77.0.254:4379";
    net.lab.start(net.lab.switchNamespace, [
      ...[
        etcdProgram(),
        "--name",
        "tls",
        "--data-dir",
        join(net.lab.directory, "tls"),
        "--log-level",
        "error",
      ],
      ...[
        "--listen-client-urls",
        url,
        "--advertise-client-urls",
        url,
        "--cert-file",
        cert,
        "--key-file",
        key,
      ],
      ...[
        "--listen-peer-urls",
        "http://10.77.0.254:4380",
        "--initial-advertise-peer-urls",
        "http://10.77.0.254:4380",
      ],
      ...["--initial-cluster", "tls=http://10.77.0.254:4380"],
    ]);
    await expectFailure(net, { engine: "auto", endpoint: url, etcd: `cafile = "${other}"` }, 1, [
      "certificate",
      url,
    ]);
    writeFileSync(other, "not a certificate");
    await expectFailure(net, { engine: "auto", endpoint: url, etcd: `cafile = "${other}"` }, 1, [other]);
  });

  test("hostile keys and values beside good ones harm nobody", async () => {
    const net = await overlay(2);
    const [a, b] = net.lab.hosts.map((host, at) => net.startDaemon(host, { engine: engines[at] ?? "auto" }));
    if (a === undefined || b === undefined) throw new Error("two hosts");
    const [own, other] = [await a.ready(1), await b.ready(1)];
    const subnets = "/coreos.com/network/subnets";
    const ownKey = (own.lease?.subnets[0] ?? "").replace("/", "-");
    const lease = (publicIp: unknown, mac: unknown = "0e:2a:00:00:00:66") =>
      JSON.stringify({ PublicIP: publicIp, BackendType: "vxlan", BackendData: { VtepMAC: mac } });
    const hostile: [string, string][] = [
      ["nonsense", "{}"],
      ["10.99.200.0-24", "not json"],
      ["10.99.201.0-24", lease("224.0.0.5")],
      ["10.99.202.0-24", lease("10.77.0.66", "01:00:00:00:00:00")],
      ["10.99.203.0-24", lease(12345)],
      ["10.99.204.0-24", lease("10.77.0.66; reboot")],
      ["10.99.0.0-16", lease("10.77.0.66")],
      ["0.0.0.0-0", lease("10.77.0.66")],
      ["10.77.0.0-24", lease("10.77.0.66")],
      [`${ownKey.replace("-24", "-25")}`, lease("10.77.0.66")],
      ["10.99.205.0-24", `{"PublicIP":"10.77.0.66","x":"${"y".repeat(1_200_000)}"}`],
      ["10.99.206.0-24", lease("10.77.0.1")],
      ["10.99.207.0-99", lease("10.77.0.66")],
      ["10.99.208.0-24&zz::-64", lease("10.77.0.66")],
    ];
    const keyFile = join(net.lab.directory, "value");
    for (const [key, value] of hostile) {
      writeFileSync(keyFile, value);
      await inside(net.lab.switchNamespace, [
        "sh",
        "-c",
        `${net.etcdctl} put "$1" < "$2"`,
        "sh",
        `${subnets}/${key}`,
        keyFile,
      ]);
    }
    await Bun.sleep(200);
    // The one that names our first host as its owner is a second lease of that host to everybody else.
    for (const [daemon, peer, count] of [
      [a, other, 1],
      [b, own, 2],
    ] as const) {
      await daemon.ready(count);
      await ping(daemon.host, vtepAddress(peer));
      const routes = await runProgram(["ip", "-n", daemon.host.namespace, "route", "show", "proto", "241"]);
      expect(routes.trim().split("\n")).toHaveLength(count);
    }
    const reasons = (await a.report()).refused.map(({ reason }) => reason).join("\n");
    expect(reasons).toContain("is no host's address");
    expect(reasons).toContain("is outside the overlay network");
    expect(reasons).toContain("overlaps our own");
    await net.etcd("put", `${subnets}/10.99.210.0-24`, lease("10.77.0.77", "0e:2a:00:00:00:77"));
    await a.ready(2);
  });

  test("garbage, truncated, oversized and spoofed VXLAN is counted by reason while traffic goes on", async () => {
    const net = await overlay(3);
    const [a, b] = net.lab.hosts.slice(0, 2).map((host) => net.startDaemon(host, { engine: "userspace" }));
    if (a === undefined || b === undefined) throw new Error("two hosts");
    const [own, other] = [await a.ready(1), await b.ready(1)];
    const mac = (own.lease?.vtepMac ?? "").replaceAll(":", "");
    const good = `0800000000000100${mac}0e2a000000770800`;
    const inner = `4500001c000000004011000063636363${vtepAddress(own)
      .split(".")
      .map((octet) => Number(octet).toString(16).padStart(2, "0"))
      .join("")}0001000200080000`;
    const packets: Record<string, string> = {
      badVxlan: "0000000000000100",
      wrongVni: `0800000000000200${mac}0e2a000000770800${inner}`,
      wrongMac: `0800000000000100ffffffffffff0e2a000000770800${inner}`,
      arp: `0800000000000100${mac}0e2a000000770806${"00".repeat(28)}`,
      notIpFrame: `0800000000000100${mac}0e2a0000007788cc${"00".repeat(40)}`,
      truncated: `${good}45000400000000004011`,
      unknownSender: `${good}${inner}`,
    };
    const send =
      "use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => 'udp', PeerAddr => shift, PeerPort => 8472) or die;" +
      "for my $hex (@ARGV) { for (1 .. 20) { $s->send(pack('H*', $hex)); select(undef, undef, undef, 0.001) } }" +
      "srand(7); for (1 .. 2000) { $s->send(pack('C*', map { int rand 256 } 1 .. 1 + int rand 1400)) } $s->send('x' x 60000) for 1 .. 20;";
    const third = net.lab.hosts[2];
    if (third === undefined) throw new Error("three hosts");
    const flow = transfer(
      net.lab,
      { host: a.host, address: vtepAddress(own) },
      { host: b.host, address: vtepAddress(other) },
      1_500,
    );
    await inside(third.namespace, ["perl", "-e", send, a.host.address, ...Object.values(packets)]);
    const result = await flow;
    expect(result.intact).toBe(true);
    await ping(a.host, vtepAddress(other));
    const stats = (await a.report()).engines[0]?.stats;
    for (const reason of Object.keys(packets)) {
      // Bursts may overflow the socket's queue, so not every copy need arrive.
      expect([reason, (stats?.drops[reason] ?? 0) > 0]).toEqual([reason, true]);
    }
    expect(stats?.lastRefused).toMatchObject({
      reason: "unknownSender",
      outerSource: third.address,
      innerSource: "99.99.99.99",
    });
    expect(stats?.failure).toBeUndefined();
  });
});
