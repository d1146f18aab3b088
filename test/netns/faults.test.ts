import { afterEach, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/demo/lab.ts";
import { runProgram } from "../../src/demo/process.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";
import { type Random, seededRandom } from "../support/random.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/faults.test.ts: ${refused}`);

const seed = Number(process.env["FL_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const prefix = "/coreos.com/network";
const engines = ["userspace", "kernel"] as const;

/** What happens to the store while traffic flows; the data path must not notice. */
const storeFaults = [
  "killed and restarted",
  "paused",
  "compacted",
  "wiped",
  "cut off",
  "garbage written",
  "a peer moved while we were cut off",
] as const;

describe.skipIf(refused !== undefined)(`faults (FL_SEED=${seed})`, () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    open?.resumeEtcd();
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const overlay = async (hosts: number): Promise<TestOverlay> => {
    open = await openTestOverlay(hosts);
    await open.etcd("put", `${prefix}/config`, '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
    return open;
  };

  const putStock = (net: TestOverlay, publicIp: string) => {
    const value = { PublicIP: publicIp, BackendType: "vxlan", BackendData: { VtepMAC: "0e:2a:00:00:00:77" } };
    return net.etcd("put", `${prefix}/subnets/10.99.77.0-24`, JSON.stringify(value));
  };

  const cutOff = async (host: LabHost, whileCut: () => Promise<unknown>) => {
    const route = ["route", "add", "blackhole", "10.77.0.254/32"];
    await runProgram(["ip", "-n", host.namespace, ...route]);
    await whileCut();
    await runProgram(["ip", "-n", host.namespace, "route", "delete", "blackhole", "10.77.0.254/32"]);
  };

  const inflict = async (
    fault: (typeof storeFaults)[number],
    net: TestOverlay,
    daemon: Daemon,
    random: Random,
  ): Promise<void> => {
    const waitMs = 300 + random.below(2_000);
    switch (fault) {
      case "killed and restarted":
        await net.stopEtcd();
        await Bun.sleep(waitMs);
        return net.startEtcd();
      case "paused":
        net.pauseEtcd();
        await Bun.sleep(waitMs);
        return net.resumeEtcd();
      case "compacted": {
        const status = await net.etcd("endpoint", "status", "--write-out=json");
        const revision = /"revision":(\d+)/.exec(status)?.[1] ?? "1";
        await net.etcd("compact", revision, "--physical").catch(() => ""); // compacted already at that revision
        return;
      }
      case "wiped":
        await net.stopEtcd();
        await net.startEtcd({ wiped: true });
        await net.etcd("put", `${prefix}/config`, '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
        await putStock(net, "10.77.0.77");
        return;
      case "cut off":
        return cutOff(daemon.host, () => Bun.sleep(waitMs));
      case "garbage written":
        await net.etcd(
          "put",
          `${prefix}/subnets/garbage-${random.below(1_000)}`,
          "{[\u001b".repeat(random.below(99) + 1),
        );
        await net.etcd("put", `${prefix}/subnets/10.99.250.0-24`, '{"PublicIP":');
        return;
      case "a peer moved while we were cut off": {
        const address = `10.77.0.${100 + random.below(100)}`;
        await cutOff(daemon.host, async () => {
          await putStock(net, address);
          await Bun.sleep(waitMs);
        });
        for (let tries = 0; tries < 600; tries++) {
          const { peers, settled } = await daemon.report();
          if (settled && peers.some(({ publicIp }) => publicIp === address)) return;
          await Bun.sleep(30);
        }
        throw new Error(`the peer's move to ${address} was not noticed`);
      }
    }
  };

  test.each(engines)(
    "%s: through every fault of the store not one packet is lost and the lease stays ours",
    async (engine) => {
      console.log(`FL_SEED=${seed}`);
      const random = seededRandom(seed);
      const net = await overlay(2);
      const [first, second] = net.lab.hosts.map((host) => net.startDaemon(host, { engine }));
      if (first === undefined || second === undefined) throw new Error("two hosts");
      await putStock(net, "10.77.0.77");
      const [a, b] = [await first.ready(2), await second.ready(2)];
      const faults = [...storeFaults].map((fault) => ({ fault, at: random.below(1_000_000) }));
      const pinger = net.lab.start(first.host.namespace, [
        ...["ping", "-n", "-i", "0.02", "-W", "2", "-I", vtepAddress(a), vtepAddress(b)],
      ]);
      const pinged = new Response(pinger.output).text();
      const flow = transfer(
        net.lab,
        { host: second.host, address: vtepAddress(b) },
        { host: first.host, address: vtepAddress(a) },
        8_000,
      );
      for (const { fault } of faults.sort((x, y) => x.at - y.at)) {
        await inflict(fault, net, first, random);
        for (const daemon of [first, second]) await daemon.ready(2);
      }
      expect((await flow).intact).toBe(true);
      process.kill(pinger.pid, "SIGINT");
      const answered = [...(await pinged).matchAll(/icmp_seq=(\d+)/g)].map((match) => Number(match[1]));
      answered.sort((x, y) => x - y);
      expect(answered.length).toBeGreaterThan(100);
      // None missing but, at the most, the one that was under way when the pings were ended.
      expect(answered).toEqual(answered.map((_, at) => at + 1));
      // Whom an operator deletes, the others forget; the node takes its subnet again at once.
      await net.etcd("del", `${prefix}/subnets/${a.lease?.subnets[0]?.replace("/", "-")}`);
      for (const [daemon, before] of [
        [first, a],
        [second, b],
      ] as const) {
        for (let tries = 0; tries < 600; tries++) {
          const key = `${prefix}/subnets/${before.lease?.subnets[0]?.replace("/", "-")}`;
          if ((await net.etcd("get", "--print-value-only", key)).includes(daemon.host.address)) break;
          await Bun.sleep(50);
        }
        expect((await daemon.report()).lease).toMatchObject({
          subnets: before.lease?.subnets as string[],
          vtepMac: before.lease?.vtepMac as string,
        });
      }
    },
    180_000,
  );

  test.each(engines)("%s: killed at any moment of its start, the next start is whole", async (engine) => {
    console.log(`FL_SEED=${seed}`);
    const random = seededRandom(seed);
    const net = await overlay(2);
    const [host, otherHost] = net.lab.hosts;
    if (host === undefined || otherHost === undefined) throw new Error("two hosts");
    const other = net.startDaemon(otherHost, { engine: "kernel" });
    await other.ready(0);
    for (let round = 0; round < 12; round++) {
      const victim = net.startDaemon(host, { engine });
      await Bun.sleep(random.below(150));
      process.kill(victim.child.pid, "SIGKILL");
      await victim.child.exited;
    }
    const daemon = net.startDaemon(host, { engine });
    const [own, peer] = [await daemon.ready(1), await other.ready(1)];
    await ping(host, vtepAddress(peer), ["-I", vtepAddress(own)]);
    await ping(otherHost, vtepAddress(own));
    const links = (await runProgram(["ip", "-n", host.namespace, "-o", "link"])).match(/flannel/g) ?? [];
    const routes = await runProgram(["ip", "-n", host.namespace, "route", "show", "proto", "241"]);
    expect(links.length).toBeGreaterThan(0);
    expect(routes.trim().split("\n")).toHaveLength(1);
  });
});
