import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { LabHost } from "../../src/demo/lab.ts";
import { runProgram } from "../../src/demo/process.ts";
import type { StatusReport } from "../../src/status/report.ts";
import {
  type Daemon,
  hostOf,
  openTestOverlay,
  overlayRefused,
  ping,
  pingAnswered,
  pingSeries,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/lease.test.ts: ${refused}`);

const prefix = "/coreos.com/network";
const engines = ["userspace", "kernel"] as const;

describe.skipIf(refused !== undefined)("lease", () => {
  let open: TestOverlay | undefined;

  const overlay = async (hosts: number): Promise<TestOverlay> => {
    open = await openTestOverlay(hosts);
    await open.etcd("put", `${prefix}/config`, '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
    return open;
  };
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  afterAll(() => {
    const left = existsSync("/run/netns") ? readdirSync("/run/netns") : [];
    expect(left.filter((name) => name.startsWith("fl-t") && name.includes(`-${process.pid}-`))).toEqual([]);
  });

  const keyOf = ({ lease }: StatusReport) => (lease?.subnets[0] ?? "").replace("/", "-");
  const subnetKey = (report: StatusReport) => `${prefix}/subnets/${keyOf(report)}`;
  const valueAt = async (net: TestOverlay, key: string) =>
    (await net.etcd("get", "--print-value-only", key)).trim();
  const valueOf = (publicIp: string, mac: string) =>
    `{"PublicIP":"${publicIp}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"${mac}"}}`;
  const routes = ({ namespace }: LabHost) =>
    runProgram(["ip", "-n", namespace, "route", "show", "proto", "241"]);
  /** Waits for a report that `wanted` accepts. */
  const reportWhen = async (daemon: Daemon, wanted: (report: StatusReport) => boolean) => {
    let last: StatusReport | undefined;
    for (const deadline = Date.now() + 20_000; Date.now() < deadline; await Bun.sleep(30)) {
      last = await daemon.report().catch(() => undefined);
      if (last !== undefined && wanted(last)) return last;
    }
    throw new Error(`it did not happen in 20 s: ${JSON.stringify(last)}\n${daemon.child.errorTail()}`);
  };
  /** Peers 1 to `count` of the network, all made up. */
  const peerKey = (at: number) => `${prefix}/subnets/10.99.${at + 200}.0-24`;
  const putPeers = async (net: TestOverlay, count: number, ttlSeconds?: number) => {
    const grant = ttlSeconds === undefined ? "" : await net.etcd("lease", "grant", String(ttlSeconds));
    const lease = /lease ([0-9a-f]+) /.exec(grant)?.[1];
    for (let at = 1; at <= count; at++) {
      const value = valueOf(`10.77.0.${at + 100}`, `0e:00:00:00:00:${(at + 16).toString(16)}`);
      await net.etcd("put", ...(lease === undefined ? [] : ["--lease", lease]), peerKey(at), value);
    }
  };

  test("beside the lease stands who holds it; an orderly stop takes that back and leaves the lease", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    const daemon = net.startDaemon(host, { engine: "kernel", host: 'node_id = "edge-7"' });
    const report = await daemon.ready(0);
    const { name } = report.node;
    const key = `${prefix}/nodes/${host.address}`;
    expect(await valueAt(net, key)).toBe(`{"id":"edge-7","name":"${name}","subnet":"${keyOf(report)}"}`);
    await daemon.child.end();
    expect(await daemon.child.exited).toBe(0);
    expect(await valueAt(net, key)).toBe("");
    expect(await valueAt(net, subnetKey(report))).toContain(host.address);
  });

  test("what says who holds a lease is put back within a minute when somebody deletes it alone", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    const daemon = net.startDaemon(host, { engine: "kernel", host: 'node_id = "edge-7"' });
    const report = await daemon.ready(0);
    const key = `${prefix}/nodes/${host.address}`;
    await net.etcd("del", key);
    for (let tries = 0; tries < 100 && (await valueAt(net, key)) === ""; tries++) await Bun.sleep(500);
    expect(await valueAt(net, key)).toContain('"id":"edge-7"');
    const { lease } = await daemon.report();
    expect(lease).toMatchObject({ subnets: report.lease?.subnets, conflict: null, trouble: null });
    expect(lease?.events).toMatchObject({ lost: 0, renewed: 1 });
  });

  test("a host that starts while the store is empty goes on from what it knew, and puts it back", async () => {
    const net = await overlay(2);
    const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
    const first = net.startDaemon(hostOf(net, 1), { engine: "userspace" });
    const [peer, before] = [await other.ready(1), await first.ready(1)];
    await snapshotWith(first, vtepAddress(peer));
    await first.child.end();
    await net.etcd("del", "--prefix", "/");
    const again = net.startDaemon(hostOf(net, 1), { engine: "userspace" });
    const report = await again.ready(1);
    expect(report.lease?.subnets).toEqual(before.lease?.subnets as string[]);
    expect(again.child.errorTail()).toContain("the store is empty; starting from the leases last seen");
    await ping(hostOf(net, 1), vtepAddress(peer), ["-I", vtepAddress(report)]);
    await net.etcd("put", `${prefix}/config`, '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
    for (let tries = 0; tries < 400 && (await valueAt(net, subnetKey(before))) === ""; tries++)
      await Bun.sleep(50);
    expect(await valueAt(net, subnetKey(before))).toContain(hostOf(net, 1).address);
    expect((await again.ready(1)).lease).toMatchObject({ trouble: null, conflict: null });
  });

  test("a stop does not wait for a store that is gone", async () => {
    const net = await overlay(1);
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
    await daemon.ready(0);
    await net.stopEtcd();
    // Shorter than one call to the store may take, and the helper kills what does not end in time.
    await daemon.child.end(4_000);
    expect(await daemon.child.exited).toBe(0);
  });

  test("a second node with our public IP is refused, both are named, and we go on", async () => {
    const net = await overlay(2);
    const first = net.startDaemon(hostOf(net, 1), { engine: "userspace", host: 'node_id = "first"' });
    const report = await first.ready(0);
    const uplink = `public_ip = "${hostOf(net, 1).address}"`;
    const clone = { engine: "userspace", host: 'node_id = "clone"', uplink } as const;
    const second = net.startDaemon(hostOf(net, 2), clone);
    expect(await second.child.exited).toBe(1);
    const said = second.child.errorTail();
    for (const text of ["first", "clone", keyOf(report), "host.node_id", `${prefix}/nodes/10.77.0.1`])
      expect(said).toContain(text);
    expect((await first.ready(0)).lease).toMatchObject({ trouble: null });
    // Once the first has stopped in order, the other may have its address and lease.
    await first.child.end();
    expect(keyOf(await net.startDaemon(hostOf(net, 2), clone).ready(0))).toBe(keyOf(report));
  });

  test.each(engines)(
    "%s: a lease that somebody deletes is taken again, and traffic goes on",
    async (engine) => {
      const net = await overlay(2);
      const daemon = net.startDaemon(hostOf(net, 1), { engine });
      const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
      const [own, peer] = [await daemon.ready(1), await other.ready(1)];
      for (let round = 0; round < 3; round++) {
        await net.etcd("del", subnetKey(own));
        await reportWhen(daemon, () => daemon.child.errorTail().split("how=previous").length > round + 1);
        expect(await valueAt(net, subnetKey(own))).toContain(own.lease?.vtepMac ?? "nothing");
      }
      expect(keyOf(await daemon.ready(1))).toBe(keyOf(own));
      await other.ready(1);
      await ping(hostOf(net, 2), vtepAddress(own), ["-I", vtepAddress(peer)]);
    },
  );

  test.each(engines)(
    "%s: while another node has our subnet we send nothing; then we go on",
    async (engine) => {
      const net = await overlay(2);
      const host = hostOf(net, 1);
      const daemon = net.startDaemon(host, { engine });
      const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
      const [own, peer] = [await daemon.ready(1), await other.ready(1)];
      const ours = await valueAt(net, subnetKey(own));
      await net.etcd("put", subnetKey(own), valueOf("10.77.0.99", "0e:00:00:00:00:99"));
      const stopped = await reportWhen(daemon, ({ ready, settled }) => !ready && settled);
      expect(stopped.lease?.trouble).toContain("10.77.0.99");
      expect(stopped.phase).toContain("10.77.0.99");
      expect(stopped.peers).toEqual([]);
      expect(await routes(host)).toBe("");
      expect(await pingAnswered(host, vtepAddress(peer), ["-I", vtepAddress(own)])).toBe(false);
      expect(daemon.child.errorTail()).toContain("another node has our subnet");
      // Ours again, be it put back or deleted by its holder.
      if (engine === "kernel") await net.etcd("put", subnetKey(own), ours);
      else await net.etcd("del", subnetKey(own));
      expect(keyOf(await daemon.ready(1))).toBe(keyOf(own));
      await other.ready(1);
      await ping(host, vtepAddress(peer), ["-I", vtepAddress(own)]);
    },
  );

  test('on_conflict = "new-subnet" takes another, and it is reached', async () => {
    const net = await overlay(2);
    const store = 'on_conflict = "new-subnet"';
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "userspace", store });
    const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
    const own = await daemon.ready(1);
    await other.ready(1);
    await net.etcd("put", subnetKey(own), valueOf("10.77.0.99", "0e:00:00:00:00:99"));
    const moved = await reportWhen(daemon, (report) => report.ready && keyOf(report) !== keyOf(own));
    const settled = await daemon.ready(2);
    await other.ready(2);
    const subnet = moved.lease?.subnets[0] ?? "";
    expect(readFileSync(daemon.subnetFile, "utf8")).toContain(subnet.replace(".0/", ".1/"));
    expect(await valueAt(net, `${prefix}/nodes/10.77.0.1`)).toContain(keyOf(moved));
    await ping(hostOf(net, 2), vtepAddress(settled));
  });

  test("a term that is taken away makes a reservation, which stays one", async () => {
    const net = await overlay(1);
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
    const report = await daemon.ready(0);
    await net.etcd("put", subnetKey(report), await valueAt(net, subnetKey(report)));
    const reserved = await reportWhen(daemon, ({ lease }) => lease?.expiresAt === null);
    expect(reserved.ready).toBe(true);
    expect(daemon.child.errorTail().split("it is a reservation now")).toHaveLength(2);
    const key = await net.etcd("get", "-w", "json", subnetKey(report));
    expect((JSON.parse(key) as { kvs: { lease?: number }[] }).kvs[0]?.lease ?? 0).toBe(0);
  });

  test("lease_ttl is the term that etcd counts down, and the margin renews before it ends", async () => {
    const net = await overlay(1);
    const options = { engine: "kernel", store: "lease_ttl = 2\nrenew_margin = 1" } as const;
    const daemon = net.startDaemon(hostOf(net, 1), options);
    const report = await daemon.ready(0);
    expect(report.lease?.remainingSeconds).toBeGreaterThan(100);
    expect(report.lease?.remainingSeconds).toBeLessThanOrEqual(120);
    const key = await net.etcd("get", "-w", "json", subnetKey(report));
    const lease = BigInt(/"lease":(\d+)/.exec(key)?.[1] ?? 0); // too long for a number
    expect(await net.etcd("lease", "timetolive", lease.toString(16))).toContain("granted with TTL(120s)");
  });

  test("the VTEP MAC outlives the lease; a file that holds no MAC is named and ignored", async () => {
    const net = await overlay(1);
    const start = async () => {
      const daemon = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
      const mac = (await daemon.ready(0)).lease?.vtepMac ?? "";
      await daemon.child.end();
      await net.etcd("del", "--prefix", `${prefix}/subnets`);
      rmSync(daemon.subnetFile);
      return { daemon, mac, file: join(daemon.stateDir, "flannel.1.mac") };
    };
    const derived = await start();
    writeFileSync(derived.file, "0E-00-00-00-00-42\n");
    expect((await start()).mac).toBe("0e:00:00:00:00:42");
    expect(readFileSync(derived.file, "utf8")).toBe("0e:00:00:00:00:42\n");
    writeFileSync(derived.file, "01:00:5e:00:00:01 and much more");
    const again = await start();
    expect(again.mac).toBe(derived.mac);
    expect(again.daemon.child.errorTail()).toContain("the saved VTEP MAC is ignored");
    expect(readFileSync(derived.file, "utf8")).toBe(`${derived.mac}\n`);
  });

  test.each(engines)(
    "%s: of two nodes with one MAC the higher subnet takes another, live",
    async (engine) => {
      const net = await overlay(2);
      const daemon = net.startDaemon(hostOf(net, 1), { engine });
      const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
      const [own, peer] = [await daemon.ready(1), await other.ready(1)];
      const mac = own.lease?.vtepMac ?? "";
      await net.etcd("put", `${prefix}/subnets/10.99.0.0-24`, valueOf("10.77.0.99", mac));
      const changed = await reportWhen(
        daemon,
        ({ lease, settled, peers }) => settled && lease?.vtepMac !== mac && peers.length === 2,
      );
      await reportWhen(other, ({ peers }) => peers.some(({ vtepMac }) => vtepMac === changed.lease?.vtepMac));
      expect(await valueAt(net, subnetKey(own))).toContain(changed.lease?.vtepMac ?? "nothing");
      expect(readFileSync(join(daemon.stateDir, "flannel.1.mac"), "utf8")).toBe(
        `${changed.lease?.vtepMac}\n`,
      );
      await other.ready(2);
      await ping(hostOf(net, 2), vtepAddress(own), ["-I", vtepAddress(peer)]);
      await ping(hostOf(net, 1), vtepAddress(peer), ["-I", vtepAddress(own)]);
    },
  );

  test("a mass deletion is held, shown and undone by renewals; its peers go at their leases' end", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    await putPeers(net, 8, 12);
    const daemon = net.startDaemon(host, { engine: "kernel" });
    await daemon.ready(8);
    for (let at = 1; at <= 4; at++) await net.etcd("del", peerKey(at));
    const halved = await daemon.ready(4);
    expect(halved.held).toEqual([]);
    await net.etcd("del", peerKey(5));
    const held = await reportWhen(daemon, (report) => report.held.length === 1 && report.settled);
    expect(held.peers).toHaveLength(4);
    expect(held.held[0]).toMatchObject({
      subnets: "10.99.205.0-24",
      reason: expect.stringContaining("of 8 peers"),
    });
    expect(await routes(host)).toContain("10.99.205.0/24");
    await net.etcd("put", peerKey(5), valueOf("10.77.0.105", "0e:00:00:00:00:15"));
    await reportWhen(daemon, (report) => report.held.length === 0 && report.peers.length === 4);
    for (let at = 6; at <= 8; at++) await net.etcd("del", peerKey(at));
    await reportWhen(daemon, (report) => report.held.length === 3);
    const after = await reportWhen(daemon, (report) => report.held.length === 0 && report.settled);
    expect(after.peers.map(({ publicIp }) => publicIp)).toEqual(["10.77.0.105"]);
    expect(await routes(host)).not.toContain("10.99.206.0/24");
  });

  test.each(engines)(
    "%s: a store that was wiped takes nothing away; every node puts its lease back",
    async (engine) => {
      const net = await overlay(3);
      const daemons = net.lab.hosts.map((host) => net.startDaemon(host, { engine }));
      const before = await Promise.all(daemons.map((daemon) => daemon.ready(2)));
      const [from, to] = [before[0], before[1]];
      if (from === undefined || to === undefined) throw new Error("three hosts");
      const flow = pingSeries(hostOf(net, 1), vtepAddress(to), ["-I", vtepAddress(from)], 60);
      await net.stopEtcd();
      await net.startEtcd({ wiped: true });
      const backIn = async (report: StatusReport, at: number) =>
        (await valueAt(net, subnetKey(report))).includes(hostOf(net, at + 1).address);
      for (const [at, report] of before.entries()) {
        for (let tries = 0; tries < 400 && !(await backIn(report, at)); tries++) await Bun.sleep(50);
        expect(await backIn(report, at)).toBe(true);
      }
      for (const [at, daemon] of daemons.entries()) {
        const after = await reportWhen(
          daemon,
          ({ held, peers, settled }) => held.length === 0 && peers.length === 2 && settled,
        );
        expect(after.lease?.subnets).toEqual(before[at]?.lease?.subnets as string[]);
      }
      await flow;
    },
  );

  test.each(engines)(
    "%s: without the store a host starts from what it knew, says so, and is normal when it is back",
    async (engine) => {
      const net = await overlay(2);
      const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
      const first = net.startDaemon(hostOf(net, 1), { engine });
      const [peer, before] = [await other.ready(1), await first.ready(1)];
      await snapshotWith(first, vtepAddress(peer));
      await first.child.end();
      await net.stopEtcd();
      await runProgram(["ip", "-n", hostOf(net, 1).namespace, "link", "delete", "flannel.1"]).catch(() => "");
      rmSync(first.subnetFile);
      const daemon = net.startDaemon(hostOf(net, 1), { engine });
      const offline = await daemon.ready(1);
      expect(offline.phase).toContain("without the store");
      expect(offline.lease?.subnets).toEqual(before.lease?.subnets as string[]);
      expect(offline.lease?.trouble).not.toBeNull();
      expect(daemon.child.errorTail()).toContain("starting from the leases last seen");
      expect(existsSync(daemon.subnetFile)).toBe(true);
      await ping(hostOf(net, 1), vtepAddress(peer), ["-I", vtepAddress(before)]);
      await net.startEtcd();
      const normal = await reportWhen(daemon, ({ lease }) => lease?.trouble === null);
      expect(normal.phase).toBe(`carrying traffic for ${keyOf(before)}`);
      await daemon.ready(1);
      await ping(hostOf(net, 1), vtepAddress(peer), ["-I", vtepAddress(before)]);
    },
  );

  test("a conflict that is found when the store is back stops what was started without it", async () => {
    const net = await overlay(2);
    const other = net.startDaemon(hostOf(net, 2), { engine: "kernel" });
    const first = net.startDaemon(hostOf(net, 1), { engine: "userspace" });
    const [peer, before] = [await other.ready(1), await first.ready(1)];
    await snapshotWith(first, vtepAddress(peer));
    await first.child.end();
    await net.etcd("put", subnetKey(before), valueOf("10.77.0.99", "0e:00:00:00:00:99"));
    await net.stopEtcd();
    const daemon = net.startDaemon(hostOf(net, 1), { engine: "userspace" });
    await daemon.ready(1);
    await net.startEtcd();
    const stopped = await reportWhen(daemon, ({ ready, settled }) => !ready && settled);
    expect(stopped.lease?.trouble).toContain("10.77.0.99");
    expect(await routes(hostOf(net, 1))).toBe("");
    await daemon.child.end();
    // Nor is anything started from what turned out to be another's.
    await net.stopEtcd();
    const again = net.startDaemon(hostOf(net, 1), { engine: "userspace" });
    await reportWhen(again, () => again.child.errorTail().includes("waiting for the network configuration"));
    expect((await again.report()).ready).toBe(false);
  });

  test("without the store nothing is started from a damaged file, or where it is switched off", async () => {
    const net = await overlay(1);
    const first = net.startDaemon(hostOf(net, 1), { engine: "kernel" });
    await first.ready(0);
    const file = await snapshotWith(first, "");
    await first.child.end();
    await net.stopEtcd();
    const whole = readFileSync(file, "utf8");
    const damaged = [
      whole.slice(0, -20),
      whole.replace("snapshot 1", "snapshot 2"),
      "",
      "\u0000".repeat(1_000),
    ];
    for (const content of [...damaged, whole]) {
      writeFileSync(file, content);
      const store = content === whole ? "offline_start = false" : "";
      const daemon = net.startDaemon(hostOf(net, 1), { engine: "kernel", store });
      await reportWhen(daemon, () =>
        daemon.child.errorTail().includes("waiting for the network configuration"),
      );
      expect(daemon.child.errorTail().includes("the saved leases are ignored")).toBe(content !== whole);
      expect((await daemon.report()).ready).toBe(false);
      await daemon.child.end();
    }
  });

  /** The daemon's saved leases, once they name `text`. */
  async function snapshotWith({ stateDir }: Daemon, text: string): Promise<string> {
    for (const deadline = Date.now() + 15_000; Date.now() < deadline; await Bun.sleep(50)) {
      const name = readdirSync(stateDir).find((entry) => entry.endsWith(".snapshot"));
      if (name === undefined || name.startsWith(".")) continue;
      const path = join(stateDir, name);
      if (readFileSync(path, "utf8").includes(text)) return path;
    }
    throw new Error("no snapshot was saved");
  }
});
