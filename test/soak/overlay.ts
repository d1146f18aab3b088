import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import type { LabHost } from "../../src/demo/lab.ts";
import type { EngineStats } from "../../src/native/ports.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";
import { seededRandom } from "../support/random.ts";

/** `make soak SOAK_MINUTES=30`: traffic, churn and faults for that long; nothing may leak, stall or be delivered broken. */
const minutes = Number(process.env["SOAK_MINUTES"] ?? 30);
const seed = Number(process.env["FL_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const prefix = "/coreos.com/network";

/** Churning leases of hosts that do not exist, beside the real ones. */
const churnLeases = 500;
/** What the runtime's heap may still grow by once it has settled. */
const growthMiBMax = 24;

interface Sample {
  readonly rssMiB: number;
  readonly descriptors: number;
  readonly threads: number;
}

function sample(pid: number): Sample {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1]);
  return {
    rssMiB: field("VmRSS") / 1024,
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    threads: field("Threads"),
  };
}

const median = (values: readonly number[]) =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

async function churn(net: TestOverlay, round: number): Promise<void> {
  const at = (index: number) => {
    const number = (round * 200 + index) % 2_000;
    return { third: Math.floor(number / 250) + 1, fourth: (number % 250) + 1, number };
  };
  const lines = Array.from({ length: churnLeases }, (_, index) => {
    const { third, fourth, number } = at(index);
    const key = `${prefix}/subnets/10.${100 + third}.${fourth}.0-24`;
    const mac = `0e:00:00:00:${(number >> 8).toString(16).padStart(2, "0")}:${(number & 255).toString(16).padStart(2, "0")}`;
    const value = {
      PublicIP: `198.51.${third}.${fourth}`,
      BackendType: "vxlan",
      BackendData: { VtepMAC: mac },
    };
    return index % 5 < 3 ? `put ${key} ${JSON.stringify(JSON.stringify(value))}` : `del ${key}`;
  });
  // etcd takes 128 operations of a transaction.
  for (let from = 0; from < lines.length; from += 100)
    await net.etcdTransaction(lines.slice(from, from + 100));
}

async function engineStats(daemon: Daemon): Promise<EngineStats | undefined> {
  return (await daemon.report()).engines[0]?.stats;
}

const refused = overlayRefused();
if (refused !== undefined) throw new Error(`the soak cannot run: ${refused}`);

test(
  `${minutes} minutes of traffic, churn and faults (FL_SEED=${seed})`,
  async () => {
    const random = seededRandom(seed);
    await using net = await openTestOverlay(3);
    await net.etcd(
      "put",
      `${prefix}/config`,
      '{"Network":"10.96.0.0/12","SubnetLen":24,"SubnetMin":"10.96.1.0","SubnetMax":"10.96.250.0","Backend":{"Type":"vxlan"}}',
    );
    const [hostA, hostB, hostC] = net.lab.hosts as [LabHost, LabHost, LabHost];
    const a = net.startDaemon(hostA, { engine: "userspace" });
    const b = net.startDaemon(hostB, { engine: "userspace" });
    let c = net.startDaemon(hostC, { engine: "kernel" });
    const vtep = async (daemon: Daemon) => vtepAddress(await daemon.settled());
    const samples: { readonly a: Sample[]; readonly b: Sample[] } = { a: [], b: [] };
    let last = { sent: 0, received: 0 };
    const deadline = Date.now() + minutes * 60_000;
    let rounds = 0;
    for (; Date.now() < deadline || rounds < 2; rounds++) {
      await churn(net, rounds);
      const [first, second] = random.pick([
        [a, b],
        [b, a],
        [a, c],
        [c, b],
      ] as const);
      const ends = { from: await vtep(first), to: await vtep(second) };
      const flow = transfer(
        net.lab,
        { host: first.host, address: ends.from },
        { host: second.host, address: ends.to },
        3_000,
      );
      if (rounds % 5 === 4) {
        await net.stopEtcd();
        await Bun.sleep(random.below(1_000));
        await net.startEtcd();
      }
      expect((await flow).intact).toBe(true);
      if (rounds % 7 === 6) {
        process.kill(c.child.pid, "SIGKILL");
        await c.child.exited;
        c = net.startDaemon(hostC, { engine: "kernel" });
      }
      for (const [from, to] of [
        [a, b],
        [b, c],
        [c, a],
      ] as const)
        await ping(from.host, await vtep(to), ["-I", await vtep(from)]);
      const stats = await engineStats(a);
      if (stats === undefined) throw new Error("no engine");
      expect(stats.failure).toBeUndefined();
      expect(stats.peers.length).toBeGreaterThan(churnLeases / 2);
      const now = { sent: stats.sent.bytes, received: stats.received.bytes };
      expect(now.sent).toBeGreaterThan(last.sent);
      expect(now.received).toBeGreaterThan(last.received);
      last = now;
      samples.a.push(sample(a.child.pid));
      samples.b.push(sample(b.child.pid));
    }
    for (const [name, all] of Object.entries(samples)) {
      // What is measured first still grows for good reasons: caches, compiled code, buffers of their largest size.
      const settled = all.slice(Math.floor(all.length / 4));
      const third = Math.max(1, Math.floor(settled.length / 3));
      const of = (part: Sample[], field: keyof Sample) => median(part.map((one) => one[field]));
      const [early, late] = [settled.slice(0, third), settled.slice(-third)];
      console.log(
        `${name}: ${rounds} rounds; RSS ${of(early, "rssMiB").toFixed(0)} → ${of(late, "rssMiB").toFixed(0)} MiB,`,
        `descriptors ${of(early, "descriptors")} → ${of(late, "descriptors")}, threads ${of(early, "threads")} → ${of(late, "threads")}`,
      );
      expect(of(late, "rssMiB")).toBeLessThan(of(early, "rssMiB") + growthMiBMax);
      expect(of(late, "descriptors")).toBeLessThanOrEqual(of(early, "descriptors") + 2);
      expect(of(late, "threads")).toBeLessThanOrEqual(of(early, "threads") + 2);
    }
  },
  (minutes + 5) * 60_000,
);
