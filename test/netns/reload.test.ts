import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { inside } from "../../src/demo/lab.ts";
import { tryProgram } from "../../src/demo/process.ts";
import type { ReloadReport } from "../../src/reload.ts";
import { trafficThrough } from "../support/live-traffic.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/reload.test.ts: ${refused}`);

/** Listens on a port until it is ended. */
const listen =
  "use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 1, LocalPort => shift) or die; sleep 60";

const config = "/coreos.com/network/config";

/** One daemon goes through all of this, and is never restarted; a second one is its peer. */
describe.skipIf(refused !== undefined)("reload", () => {
  let net: TestOverlay;
  let daemon: Daemon;
  let peer: Daemon;
  let pid: number;

  beforeAll(async () => {
    net = await openTestOverlay(2);
    await net.etcd("put", config, '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
    const [first, second] = net.lab.hosts;
    if (first === undefined || second === undefined) throw new Error("two hosts");
    await inside(first.namespace, ["sysctl", "-qw", "net.ipv4.ip_forward=0"]);
    daemon = net.startDaemon(first, {
      engine: "userspace",
      host: "ip_forward = false\nip_masq = false",
      datapath: 'latency = "auto"\nstrict = "overlay"\non_stop = "keep"',
      store: "lease_ttl = 1440",
      uplink: "interface = []",
      more: 'format = "text"\n[health]\nport = 8081\n[metrics]\nport = 0',
    });
    peer = net.startDaemon(second, { engine: "kernel" });
    pid = (await daemon.ready(1)).pid;
    await peer.ready(1);
  }, 60_000);

  afterAll(async () => {
    await net?.[Symbol.asyncDispose]();
  }, 60_000);

  /** Replaces a line of the configuration file. */
  const edit = (from: string, to: string) => {
    const text = readFileSync(daemon.configFile, "utf8");
    if (!text.includes(from)) throw new Error(`no ${from} in ${text}`);
    writeFileSync(daemon.configFile, text.replace(from, to));
  };

  /** Edits and reloads; every key that changed, by what became of it. */
  const reload = async (from: string, to: string) => {
    edit(from, to);
    const { code, output, errors } = await net.run(daemon, "reload", "-json");
    if (output === "") throw new Error(errors);
    const report = JSON.parse(output) as ReloadReport;
    const keys = (changes: readonly { readonly key: string }[]) => changes.map(({ key }) => key);
    return {
      code,
      applied: keys(report.applied),
      restart: keys(report.restart),
      failed: keys(report.failed),
    };
  };
  const applied = (...keys: string[]) => ({ code: 0, applied: keys, restart: [], failed: [] });

  const until = async (what: string, holds: () => Promise<boolean> | boolean) => {
    for (const deadline = Date.now() + 10_000; Date.now() < deadline; await Bun.sleep(30))
      if (await holds()) return;
    throw new Error(`it does not happen that ${what}: ${daemon.child.errorTail()}`);
  };
  const onHost = (...command: string[]) => inside(daemon.host.namespace, command);
  const curl = async (port: number, path = "/healthz") =>
    (
      await tryProgram([
        ...["ip", "netns", "exec", daemon.host.namespace],
        ...["curl", "-s", "-m", "3", `http://127.0.0.1:${port}${path}`],
      ])
    ).output;

  test("log: level and format are others from then on", async () => {
    expect(await reload('format = "text"', 'format = "json"')).toEqual(applied("log.format"));
    expect(daemon.child.errorTail().trim().split("\n").at(-1)).toStartWith("{");
    expect(await reload('level = "debug"', 'level = "error"')).toEqual(applied("log.level"));
    const said = daemon.child.errorTail();
    expect(await reload('level = "error"', 'level = "warn"')).toEqual(applied("log.level"));
    expect(daemon.child.errorTail()).toBe(said);
    expect(await reload('level = "warn"', 'level = "debug"')).toEqual(applied("log.level"));
    expect(daemon.child.errorTail()).toContain('"key":"log.level","from":"\\"warn\\""');
  });

  test("listeners: they move; a port that is taken is told, and the one before goes on to answer", async () => {
    expect(await reload("port = 8081", "port = 8082")).toEqual(applied("health.port"));
    expect([await curl(8081), await curl(8082)]).toEqual(["", "flanneld is running"]);
    const taken = net.lab.start(daemon.host.namespace, ["perl", "-e", listen, "8083"]);
    await until("8083 is taken", async () => (await onHost("ss", "-tln")).includes(":8083"));
    expect(await reload("port = 8082", "port = 8083")).toEqual({
      ...applied(),
      code: 1,
      failed: ["health.port"],
    });
    await taken.end();
    expect(await curl(8082)).toBe("flanneld is running");
    expect(await reload("port = 8083", 'port = 8082\nip = "127.0.0.1"')).toEqual(applied("health.ip"));
    expect(await reload("[metrics]\nport = 0", "[metrics]\nport = 9102")).toEqual(applied("metrics.port"));
    expect(await curl(9102, "/metrics")).toContain("flannel_lite_ready 1");
    expect(await curl(9102, "/metrics")).toContain('peer="');
    expect(await reload("[metrics]", "[metrics]\npeers_max = 0")).toEqual(applied("metrics.peers_max"));
    expect(await curl(9102, "/metrics")).not.toContain('peer="');
  });

  test("firewall: rules are added, moved to nftables and taken away, and subnet.env tells", async () => {
    const rules = () => onHost("iptables-save");
    expect(await rules()).not.toContain("MASQUERADE");
    expect(await reload("ip_masq = false", "ip_masq = true")).toEqual(applied("host.ip_masq"));
    expect(await rules()).toContain("MASQUERADE --random-fully");
    expect(readFileSync(daemon.subnetFile, "utf8")).toContain("FLANNEL_IPMASQ=true");
    const more = 'no_masquerade = ["192.0.2.0/24"]\nip_masq_fully_random_disable = true';
    expect(await reload("ip_masq = true", `ip_masq = true\n${more}`)).toEqual(
      applied("host.ip_masq_fully_random_disable", "host.no_masquerade"),
    );
    expect(await rules()).toContain("192.0.2.0/24");
    expect(await rules()).not.toContain("--random-fully");
    expect(await reload("ip_masq = true", 'ip_masq = true\nfirewall = "nftables"')).toEqual(
      applied("host.firewall"),
    );
    expect(await rules()).not.toContain("FLANNEL");
    expect(await onHost("nft", "list", "tables")).toContain("flannel-lite");
    expect(await reload('firewall = "nftables"', "forward_rules = false")).toEqual(
      applied("host.forward_rules", "host.firewall"),
    );
    expect(await onHost("nft", "list", "tables")).not.toContain("flannel-lite");
    expect(await rules()).not.toContain("FLANNEL-FWD");
    expect(await reload("ip_masq = true", "ip_masq = false")).toEqual(applied("host.ip_masq"));
    expect(await rules()).not.toContain("FLANNEL");
    expect(readFileSync(daemon.subnetFile, "utf8")).toContain("FLANNEL_IPMASQ=false");
    expect((await daemon.report()).firewall).toMatchObject({ trouble: null, repairs: 0 });
  });

  test("forwarding: it is switched on", async () => {
    const path = ["cat", "/proc/sys/net/ipv4/ip_forward"];
    expect((await onHost(...path)).trim()).toBe("0");
    expect(await reload("ip_forward = false", "ip_forward = true")).toEqual(applied("host.ip_forward"));
    expect((await onHost(...path)).trim()).toBe("1");
  });

  test("threads: the engine goes on with others, and not one packet is lost", async () => {
    const threads = async () =>
      [...new Set((await onHost("sh", "-c", `cat /proc/${pid}/task/*/comm`)).match(/^fl-\w+$/gm))].sort();
    expect(await threads()).toEqual(["fl-inbound", "fl-outbound"]);
    const ends = await Promise.all(
      [daemon, peer].map(async (one) => ({ host: one.host, address: vtepAddress(await one.report()) })),
    );
    const [own, other] = ends;
    if (own === undefined || other === undefined) throw new Error("two ends");
    const { flow, lostPings } = await trafficThrough(
      net.lab,
      [own, other],
      async () => {
        expect(await reload('latency = "auto"', 'latency = "latency"')).toEqual(applied("datapath.latency"));
        expect(await threads()).toEqual(["fl-packets"]);
        expect(await reload('latency = "latency"', 'latency = "throughput"')).toEqual(
          applied("datapath.latency"),
        );
        expect(await threads()).toEqual(["fl-inbound", "fl-outbound"]);
      },
      3_000,
    );
    expect([flow.intact, lostPings]).toEqual([true, 0]);
    expect((await daemon.report()).engines[0]?.stats.failure).toBeUndefined();
  });

  test("senders: who may send is another from the next packet on", async () => {
    const refusedOf = async () => {
      return (await daemon.report()).engines[0]?.stats.drops["outsideOverlay"];
    };
    await inside(peer.host.namespace, ["ip", "address", "add", "172.16.0.9/32", "dev", "lo"]);
    const target = vtepAddress(await daemon.report());
    const knock = () =>
      tryProgram([
        ...["ip", "netns", "exec", peer.host.namespace],
        ...["ping", "-n", "-c", "1", "-W", "0.3", "-I", "172.16.0.9", target],
      ]);
    await knock();
    expect(await refusedOf()).toBe(0);
    expect(await reload('strict = "overlay"', 'strict = "full"')).toEqual(applied("datapath.strict"));
    await knock();
    expect(await refusedOf()).toBe(1);
    expect(
      await reload('strict = "full"', `strict = "full"\nallow_sources = ["${peer.host.address}"]`),
    ).toEqual(applied("datapath.allow_sources"));
    await knock();
    expect(await refusedOf()).toBe(1);
    await ping(daemon.host, vtepAddress(await peer.report()));
  });

  test("routes: the blackhole route comes and goes", async () => {
    const routes = () => onHost("ip", "route");
    expect(await reload("[host]", "[host]\nblackhole_route = true")).toEqual(applied("host.blackhole_route"));
    expect(await routes()).toContain("blackhole 10.99.");
    expect(await reload("[host]\nblackhole_route = true", "[host]")).toEqual(applied("host.blackhole_route"));
    expect(await routes()).not.toContain("blackhole");
  });

  test("lease: its term is another at once", async () => {
    expect((await daemon.report()).lease?.remainingSeconds).toBeGreaterThan(80_000);
    expect(await reload("lease_ttl = 1440", "lease_ttl = 90\nrenew_margin = 30")).toEqual(
      applied("store.lease_ttl", "store.renew_margin"),
    );
    await until("the term is 90 minutes", async () => {
      const seconds = (await daemon.report()).lease?.remainingSeconds ?? 0;
      return seconds > 5_000 && seconds <= 5_400;
    });
    expect(await reload("lease_ttl = 90", 'lease_ttl = 90\non_conflict = "new-subnet"')).toEqual(
      applied("store.on_conflict"),
    );
  });

  test("uplink: other words for the same choice are applied, another choice takes a restart", async () => {
    await onHost("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1");
    await onHost("ip", "address", "add", "192.0.2.7/24", "dev", "other0");
    await onHost("ip", "link", "set", "other0", "up");
    expect(await reload("interface = []", 'interface = ["eth0"]')).toEqual(applied("uplink.interface"));
    expect((await daemon.report()).uplink?.reason).toContain("interface");
    expect(await reload('interface = ["eth0"]', 'interface = ["other0"]')).toEqual({
      ...applied(),
      restart: ["uplink.interface"],
    });
    expect((await daemon.report()).uplink?.name).toBe("eth0");
    expect((await daemon.report()).waiting).toMatchObject([{ key: "uplink.interface", to: '["other0"]' }]);
    expect(await reload('interface = ["other0"]', 'interface = ["missing0"]')).toEqual({
      ...applied(),
      code: 1,
      failed: ["uplink.interface"],
    });
    expect(await reload('interface = ["missing0"]', 'interface = ["eth0"]')).toEqual(applied());
  });

  test("what takes a restart is named, by reload and by status, until the file has it no more", async () => {
    expect(await reload('engine = "userspace"', 'engine = "kernel"')).toEqual({
      ...applied(),
      restart: ["datapath.engine"],
    });
    const { output } = await net.run(daemon, "reload");
    expect(output).toBe(
      'restart   datapath.engine: "userspace" -> "kernel" (it is read at the start only)\n',
    );
    expect((await net.run(daemon, "status")).output).toContain(
      'to apply datapath.engine: "userspace" -> "kernel"',
    );
    expect(await reload('engine = "kernel"', 'engine = "userspace"')).toEqual(applied());
    expect((await net.run(daemon, "reload")).output).toBe("nothing has changed\n");
    expect((await daemon.report()).waiting).toEqual([]);
  });

  test("the store: another network configuration is named the same way, and is not applied", async () => {
    await net.etcd("put", config, '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan","VNI":7}}');
    const { output } = await net.run(daemon, "reload");
    expect(output).toStartWith("restart   Backend.VNI in the store: unset -> 7 (");
    expect((await daemon.report()).waiting).toMatchObject([{ key: "Backend.VNI in the store", to: "7" }]);
    expect((await daemon.report()).engine?.device).toBe("flannel.1");
    await net.etcd("put", config, '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
    expect((await net.run(daemon, "reload")).output).toBe("nothing has changed\n");
  });

  test("an invalid file changes nothing and says why, whoever asks", async () => {
    const before = readFileSync(daemon.configFile, "utf8");
    edit("port = 8082", "port = 8085\nengin = 1");
    const { code, errors } = await net.run(daemon, "reload");
    expect([code, errors.includes("engin")]).toEqual([2, true]);
    // A unit may have the daemon read another file than the one who asks.
    const elsewhere = `${daemon.configFile}.right`;
    writeFileSync(elsewhere, before);
    const { code: other, output } = await net.run(daemon, "reload", "--config", elsewhere);
    expect([other, output.startsWith("nothing is changed: ") && output.includes("engin")]).toEqual([2, true]);
    process.kill(pid, "SIGHUP");
    const told = () => daemon.child.errorTail().split("the configuration is not reloaded").length - 1;
    await until("SIGHUP is answered too", () => told() === 2);
    expect(await curl(8082)).toBe("flanneld is running");
    writeFileSync(daemon.configFile, before);
  });

  test("SIGHUP applies what changed too, and without a daemon reload says so", async () => {
    edit('on_stop = "keep"', 'on_stop = "remove"');
    process.kill(pid, "SIGHUP");
    await until("it is applied", () => daemon.child.errorTail().includes('"key":"datapath.on_stop"'));
    expect((await daemon.ready(1)).pid).toBe(pid);
    await daemon.child.end();
    expect(await onHost("ip", "-br", "link")).not.toContain("flannel.1");
    const { code, errors } = await net.run(daemon, "reload");
    expect([code, errors.includes("no flannel-lite answers")]).toEqual([1, true]);
    expect(existsSync(daemon.subnetFile)).toBe(true);
  });
});
