import { afterEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { linesOf, tryProgram } from "../../src/demo/process.ts";
import type { StatusReport } from "../../src/status/report.ts";
import {
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
if (refused !== undefined) console.warn(`SKIPPED test/netns/hand-over.test.ts: ${refused}`);

const storeProgram = join(import.meta.dir, "../support/descriptor-store.py");

describe.skipIf(refused !== undefined)("hand-over", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const overlay = async (backend = '{"Type":"vxlan"}', more = ""): Promise<TestOverlay> => {
    open = await openTestOverlay(2);
    await putNetwork(open, backend, more);
    return open;
  };
  const putNetwork = (net: TestOverlay, backend: string, more = "") =>
    net.etcd("put", "/coreos.com/network/config", `{"Network":"10.99.0.0/16",${more}"Backend":${backend}}`);
  const ipv6 = '"EnableIPv6":true,"IPv6Network":"fd00:99::/48",';
  const takeOver = (net: TestOverlay, host: LabHost, options: DaemonOptions) =>
    net.startDaemon(host, { ...options, args: ["--take-over", ...(options.args ?? [])] });

  /** Pings both ways every 5 ms and one TCP connection, until the work is done. */
  const underTraffic = async (
    net: TestOverlay,
    [a, b]: readonly [StatusReport, StatusReport],
    work: () => Promise<unknown>,
  ): Promise<{ lost: number[]; answered: number[]; intact: boolean }> => {
    const [first, second] = hostsOf(net);
    const families = ([4, 6] as const).filter((family) => vtepAddress(a, family) !== "");
    const start = (from: LabHost, own: StatusReport, other: StatusReport) =>
      families.map((family) =>
        net.lab.start(from.namespace, [
          ...["ping", "-n", "-i", "0.005", "-W", "5"],
          ...["-I", vtepAddress(own, family), vtepAddress(other, family)],
        ]),
      );
    const pingers = [...start(first, a, b), ...start(second, b, a)];
    const outputs = pingers.map(({ output }) => new Response(output).text());
    let working = true;
    const flows = (async () => {
      const results = [];
      while (working) {
        const from = { host: second, address: vtepAddress(b) };
        results.push(await transfer(net.lab, from, { host: first, address: vtepAddress(a) }, 4_000));
      }
      return results;
    })();
    flows.catch(() => undefined);
    await Bun.sleep(300);
    try {
      await work();
    } finally {
      working = false;
    }
    const intact = (await flows).every((flow) => flow.intact);
    for (const { pid } of pingers) process.kill(pid, "SIGINT");
    const seen = (await Promise.all(outputs)).map((text) => {
      const sequences = new Set([...text.matchAll(/icmp_seq=(\d+) ttl/g)].map((match) => Number(match[1])));
      const last = Math.max(0, ...sequences);
      // What was under way when the pings were ended is behind the last answer.
      return { answered: last, lost: last - sequences.size };
    });
    return { lost: seen.map(({ lost }) => lost), answered: seen.map(({ answered }) => answered), intact };
  };

  test.each([
    ["userspace", "IPv4", ""],
    ["userspace", "both families", ipv6],
    ["kernel", "both families", ipv6],
  ] as const)(
    "%s, %s: daemons that take over from each other lose no packet, and keep lease, address and connections",
    async (engine, _, more) => {
      const net = await overlay(undefined, more);
      const [host, otherHost] = hostsOf(net);
      let daemon = net.startDaemon(host, { engine });
      const other = net.startDaemon(otherHost, { engine: "userspace" });
      const [own, peer] = [await daemon.ready(1), await other.ready(1)];
      const traffic = await underTraffic(net, [own, peer], async () => {
        for (let round = 0; round < 4; round++) {
          const successor = takeOver(net, host, { engine });
          expect(await daemon.child.exited).toBe(0);
          const after = await successor.ready(1);
          expect(after.pid).not.toBe((await other.report()).pid);
          expect(after.pid).toBe(successor.child.pid);
          expect(after.lease).toMatchObject({
            subnets: own.lease?.subnets as string[],
            vtepMac: own.lease?.vtepMac as string,
          });
          daemon = successor;
        }
      });
      const lost = more === "" ? [0, 0] : [0, 0, 0, 0];
      expect(traffic).toMatchObject({ lost, intact: true });
      for (const count of traffic.answered) expect(count).toBeGreaterThan(200);
      // Whoever has taken over holds the claim: a third is refused, with its pid.
      const third = await net.run({ ...daemon, configFile: daemon.configFile }, "run");
      expect(third.code).toBe(1);
      expect(third.errors).toContain(`pid=${daemon.child.pid}`);
      await daemon.child.end();
      expect(existsSync(join(daemon.runDir, "hand-over/socket"))).toBe(false);
    },
    120_000,
  );

  test("a successor that cannot start leaves the running daemon as it was", async () => {
    const net = await overlay();
    const [host, otherHost] = hostsOf(net);
    const daemon = net.startDaemon(host, { engine: "userspace" });
    const other = net.startDaemon(otherHost, { engine: "userspace" });
    const [own, peer] = [await daemon.ready(1), await other.ready(1)];
    const traffic = await underTraffic(net, [own, peer], async () => {
      for (const [more, code] of [
        [["--public-ip", "192.0.2.9", "--iface", "nowhere0"], 1],
        [["--no-such-flag"], 2],
      ] as const) {
        const successor = await net.run(daemon, "run", "--take-over", ...more);
        expect(successor.code).toBe(code);
      }
      // One that dies while it asks has taken nothing.
      const rude = `use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$!"; print $s "take over\\n"; $s->flush;`;
      await inside(host.namespace, ["perl", "-e", rude, join(daemon.runDir, "hand-over/socket")]);
      await Bun.sleep(300);
    });
    expect(traffic).toMatchObject({ lost: [0, 0], intact: true });
    expect((await daemon.report()).pid).toBe(daemon.child.pid);
    await takeOver(net, host, { engine: "userspace" }).ready(1);
    expect(await daemon.child.exited).toBe(0);
  }, 60_000);

  test("nobody but root can ask for the descriptors, whatever becomes of the directory", async () => {
    const net = await overlay();
    const [host] = hostsOf(net);
    const daemon = net.startDaemon(host, { engine: "userspace" });
    await daemon.ready(0);
    const socket = join(daemon.runDir, "hand-over/socket");
    expect(statSync(dirname(socket)).mode & 0o777).toBe(0o700);
    for (let path = socket; path !== "/tmp"; path = dirname(path)) chmodSync(path, 0o777);
    const ask =
      "use IO::Socket::UNIX; use POSIX; $SIG{PIPE} = 'IGNORE'; POSIX::setuid(65534); my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die qq($!);" +
      'print $s "take over\\n"; $s->flush; my $n = sysread($s, my $m, 99); print defined $n ? "got $n" : "refused";';
    const perl = ["ip", "netns", "exec", host.namespace, "perl", "-e", ask, socket];
    const { output, errors } = await tryProgram(perl);
    expect(["got 0", "refused"], errors).toContain(output);
    expect((await daemon.ready(0)).pid).toBe(daemon.child.pid);
  });

  test("with nobody there it starts as usual; with other options it says what it could not use", async () => {
    const net = await overlay();
    const [host, otherHost] = hostsOf(net);
    const first = takeOver(net, host, { engine: "userspace" });
    const other = net.startDaemon(otherHost, { engine: "userspace" });
    const own = await first.ready(1);
    expect(first.child.errorTail()).toContain("no flannel-lite runs here");
    await other.ready(1);
    await putNetwork(net, '{"Type":"vxlan","Port":4790}');
    const [second, peer] = [
      takeOver(net, host, { engine: "userspace" }),
      takeOver(net, otherHost, { engine: "userspace" }),
    ];
    expect(await Promise.all([first.child.exited, other.child.exited])).toEqual([0, 0]);
    const [after, peerAfter] = [await second.ready(1), await peer.ready(1)];
    expect(second.child.errorTail()).toContain("it is bound to another port");
    expect(after.lease?.subnets).toEqual(own.lease?.subnets as string[]);
    await ping(host, vtepAddress(peerAfter), ["-I", vtepAddress(after)]);
    for (const engine of ["kernel", "dgram", "userspace"] as const) {
      const next = takeOver(net, host, { engine });
      const { lease } = await next.ready(1);
      expect(lease?.subnets).toEqual(own.lease?.subnets as string[]);
      await ping(host, vtepAddress(peerAfter), ["-I", vtepAddress(after)]);
    }
  }, 60_000);

  /** A daemon below a service manager that keeps descriptors. */
  const managed = async (net: TestOverlay, host: LabHost, options: DaemonOptions) => {
    const path = join(net.lab.directory, `notify${host.number}`);
    const garbage = join(net.lab.directory, `garbage${host.number}`);
    const daemon = net.startDaemon(host, {
      ...options,
      wrap: ["python3", storeProgram, path, garbage],
    });
    const heard: string[] = [];
    void (async () => {
      for await (const line of linesOf(daemon.child.output)) heard.push(line);
    })();
    const restart = async (signal: "SIGUSR1" | "SIGUSR2", code: number) => {
      const [ends, readies] = [count(heard, "ended"), count(heard, "ready")];
      process.kill(daemon.child.pid, signal);
      await until(() => count(heard, "ended") > ends && count(heard, "ready") > readies, heard, daemon);
      expect(heard.findLast((line) => line.startsWith("ended"))).toBe(`ended ${code}`);
      return daemon.ready(1);
    };
    return { daemon, heard, garbage, restart };
  };

  test.each([
    ["a stop and a start lose no packet", "SIGUSR1", 0, 0],
    // Those that it had read and not yet written; a gap would be of hundreds.
    ["kill -9 and a start lose the few packets it had in its hands", "SIGUSR2", -9, 8],
  ] as const)(
    "a service manager that keeps descriptors: %s",
    async (_, signal, code, lostMax) => {
      const net = await overlay();
      const [host, otherHost] = hostsOf(net);
      const { daemon, heard, restart } = await managed(net, host, { engine: "userspace" });
      const other = net.startDaemon(otherHost, { engine: "userspace" });
      const [own, peer] = [await daemon.ready(1), await other.ready(1)];
      const traffic = await underTraffic(net, [own, peer], async () => {
        for (let round = 0; round < 2; round++) {
          const after = await restart(signal, code);
          expect(after.lease?.subnets).toEqual(own.lease?.subnets as string[]);
          const passed = heard
            .findLast((line) => line.startsWith("started"))
            ?.split(" ")
            .slice(2);
          expect(passed).toContain("flannel.1-tun");
          expect(passed).toContain("flannel.1-udp-receive");
          expect(passed).toHaveLength(10);
        }
      });
      expect(traffic.intact).toBe(true);
      expect(Math.max(...traffic.lost)).toBeLessThanOrEqual(lostMax);
      expect(daemon.child.errorTail()).not.toContain("of no use");
    },
    120_000,
  );

  test("a service manager that keeps descriptors: what is closed for good or cannot be used is taken back", async () => {
    const net = await overlay();
    const [host, otherHost] = hostsOf(net);
    const { daemon, heard, garbage, restart } = await managed(net, host, { engine: "userspace" });
    const other = net.startDaemon(otherHost, { engine: "userspace" });
    const peer = await other.ready(1);
    await daemon.ready(1);
    // Not ours, not what their names say, and a TUN that is attached to nothing.
    writeFileSync(
      garbage,
      "flannel.1-tun /dev/net/tun\nflannel.1-udp-receive /dev/null\nflannel.1-udp-send-3 /dev/zero\nwhatever /dev/net/tun\n",
    );
    const after = await restart("SIGUSR1", 0);
    expect(daemon.child.errorTail()).toContain("it is attached to no device");
    expect(daemon.child.errorTail()).toContain("it is neither a TUN nor a UDP socket");
    for (const name of ["tun", "udp-receive", "udp-send-3"])
      expect(heard).toContain(`removed flannel.1-${name}`);
    await ping(host, vtepAddress(peer), ["-I", vtepAddress(after)]);
    writeFileSync(garbage, "");
    await putNetwork(net, '{"Type":"vxlan","Port":4790}');
    await restart("SIGUSR1", 0);
    expect(heard).toContain("removed flannel.1-udp-receive");
    await takeOver(net, otherHost, { engine: "userspace" }).ready(1);
    await ping(host, vtepAddress(peer), ["-I", vtepAddress(after)]);
    // Another engine needs the port: nothing is left in its way.
    const config = await Bun.file(daemon.configFile).text();
    writeFileSync(daemon.configFile, config.replace('engine = "userspace"', 'engine = "kernel"'));
    const links = await restart("SIGUSR1", 0);
    expect(links.engine?.name).toBe("kernel");
    await ping(host, vtepAddress(peer), ["-I", vtepAddress(after)]);
  }, 60_000);

  test("a successor below a service manager is made the service", async () => {
    const net = await overlay();
    const [host, otherHost] = hostsOf(net);
    const { daemon, heard } = await managed(net, host, { engine: "userspace" });
    net.startDaemon(otherHost, { engine: "userspace" });
    await daemon.ready(1);
    const successor = takeOver(net, host, { engine: "userspace" });
    await successor.ready(1);
    await until(() => heard.includes(`mainpid ${successor.child.pid}`), heard, daemon);
    expect(heard).toContain("removed flannel.1-tun");
  });
});

function hostsOf(net: TestOverlay): [LabHost, LabHost] {
  const [first, second] = net.lab.hosts;
  if (first === undefined || second === undefined) throw new Error("two hosts");
  return [first, second];
}

function count(lines: readonly string[], word: string): number {
  return lines.filter((line) => line.startsWith(word)).length;
}

async function until(holds: () => boolean, heard: readonly string[], daemon: Daemon): Promise<void> {
  for (const deadline = Date.now() + 20_000; !holds();) {
    if (Date.now() > deadline) throw new Error(`${heard.join("\n")}\n${daemon.child.errorTail()}`);
    await Bun.sleep(20);
  }
}
