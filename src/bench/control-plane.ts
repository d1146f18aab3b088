import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../base/clock.ts";
import { startEtcd } from "../demo/etcd.ts";
import { type Lab, type LabHost, openLab } from "../demo/lab.ts";
import { device, overlayMtuBytes, port, vni } from "./address.ts";
import type { EngineSetup } from "./agent.ts";
import { processCpuSeconds } from "./cpu.ts";
import { waitReady } from "./daemon.ts";
import { changeToPacket, farMac, joinFar } from "./far-host.ts";
import { residentMiB } from "./memory.ts";
import { ip } from "./pair.ts";
import { runInside } from "./program.ts";

/** A figure with no other to compare it with. */
export interface Fact {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
}

const network = "100.64.0.0/10";
const putMsMax = 120_000;
const packetMsMax = 20_000;
/** What a start leaves to do, such as saving the leases and freeing memory, is over by then. */
const settleSeconds = 6;
const idleSeconds = 5;

/**
 * A daemon on a real store, for each number of leases: start to ready, memory, how long a new lease takes until the
 * first packet arrives at its host, and the engine's table by itself. Progress by `say`.
 */
export async function benchControlPlane(
  leaseCounts: readonly number[],
  { say, stop }: { say: (text: string) => void; stop: AbortSignal },
): Promise<Fact[]> {
  await using lab = await openLab("bench", 2, stop);
  const [own, far] = lab.hosts;
  if (own === undefined || far === undefined) throw new Error("two hosts");
  const { endpoint } = startEtcd(lab);
  await waitEtcd(lab, endpoint);
  await joinFar(lab, far);
  const facts: Fact[] = [{ name: "binary", value: statSync(process.execPath).size / 2 ** 20, unit: "MiB" }];
  for (const leases of leaseCounts) {
    say(`control plane: ${leases} leases`);
    facts.push(...(await benchLeases({ lab, own, far, endpoint, leases }, stop)));
  }
  return facts.map((fact) => ({ ...fact, value: Number(fact.value.toPrecision(4)) }));
}

interface Bed {
  readonly lab: Lab;
  readonly own: LabHost;
  readonly far: LabHost;
  readonly endpoint: string;
  readonly leases: number;
}

async function benchLeases(bed: Bed, stop: AbortSignal): Promise<Fact[]> {
  const { lab, own, far, endpoint, leases } = bed;
  const prefix = `/bench/${leases}`;
  const directory = join(lab.directory, `leases-${leases}`);
  mkdirSync(directory, { mode: 0o700 });
  await put(bed, [
    [`${prefix}/config`, JSON.stringify({ Network: network, SubnetLen: 24, Backend: { Type: "vxlan" } })],
    ...Array.from({ length: leases }, (_, at) => leaseEntry(prefix, at, peerEndpoint(at))),
  ]);
  const [runDir, subnetFile] = [join(directory, "run"), join(directory, "subnet.env")];
  writeFileSync(
    join(directory, "config.toml"),
    `[uplink]
interface = ["eth0"]
[store.etcd]
endpoints = ["${endpoint}"]
prefix = "${prefix}"
[datapath]
engine = "userspace"
[host]
run_dir = "${runDir}"
state_dir = "${join(directory, "state")}"
subnet_file = "${subnetFile}"
`,
  );
  const startedAt = performance.now();
  const daemon = lab.start(own.namespace, [
    process.execPath,
    "run",
    "--config",
    join(directory, "config.toml"),
  ]);
  try {
    const report = await waitReady(daemon, { runDir, subnetFile, peers: leases }, stop);
    const readyMs = performance.now() - startedAt;
    await systemClock.sleep(settleSeconds * 1000, stop).catch(() => undefined);
    const cpuBefore = processCpuSeconds(daemon.pid);
    await systemClock.sleep(idleSeconds * 1000, stop).catch(() => undefined);
    const idleCpu = (processCpuSeconds(daemon.pid) - cpuBefore) / idleSeconds;
    const rssMiB = residentMiB(daemon.pid);
    // Not our own either.
    const next = firstAdded + (report.lease?.subnets[0] === `${subnetAt(firstAdded)}/24` ? 1 : 0);
    const packetMs = await changeToPacket(bed, subnetAt(next), () =>
      put(bed, [leaseEntry(prefix, next, far.address)]),
    );
    const fact = (name: string, value: number, unit: string) => ({
      name: `leases-${leases}/${name}`,
      value,
      unit,
    });
    return [
      fact("start-to-ready", readyMs, "ms"),
      fact("idle-rss", rssMiB, "MiB"),
      fact("idle-cpu", idleCpu * 100, "% of a core"),
      fact("lease-to-packet", packetMs, "ms"),
      fact("table-swap", await tableSwapMs(bed), "ms"),
    ];
  } finally {
    await daemon.end();
    await ip(own.namespace, `link delete ${device}`);
  }
}

async function tableSwapMs({ lab, own, leases }: Bed): Promise<number> {
  const setup: EngineSetup = {
    options: { device: "fl-table", port: port + 1, local: own.address, mtuBytes: overlayMtuBytes },
    table: {
      encapsulation: "vxlan",
      vni,
      vtepMac: farMac,
      overlay: [network],
      strict: "overlay",
      allowSources: [],
      peers: Array.from({ length: leases }, (_, at) => ({
        subnets: [`${subnetAt(at)}/24`],
        endpoint: peerEndpoint(at),
        mac: macAt(at),
      })),
    },
  };
  const file = join(lab.directory, `table-${leases}.json`);
  writeFileSync(file, JSON.stringify(setup));
  const output = await runInside(lab, own.namespace, [process.execPath, "bench-table", file], packetMsMax);
  return (JSON.parse(output) as { swapMs: number }).swapMs;
}

type Entry = readonly [key: string, value: string];

function leaseEntry(prefix: string, at: number, publicIp: string): Entry {
  const mac = at >= firstAdded ? farMac : macAt(at);
  const backend = { BackendType: "vxlan", BackendData: { VNI: vni, VtepMAC: mac } };
  return [`${prefix}/subnets/${subnetAt(at)}-24`, JSON.stringify({ PublicIP: publicIp, ...backend })];
}

/** Leases from here on are added while the daemon runs. */
const firstAdded = 15_000;

/** The network has 16,384. */
function subnetAt(at: number): string {
  return `100.${64 + (at >> 8)}.${at & 0xff}.0`;
}

function peerEndpoint(at: number): string {
  return `10.78.${at >> 8}.${at & 0xff}`;
}

function macAt(at: number): string {
  const hex = (byte: number) => byte.toString(16).padStart(2, "0");
  return `0e:2a:00:00:${hex(at >> 8)}:${hex(at & 0xff)}`;
}

async function put({ lab, endpoint }: Pick<Bed, "lab" | "endpoint">, entries: readonly Entry[]) {
  const file = join(lab.directory, "put.json");
  writeFileSync(file, JSON.stringify(entries));
  const command = [process.execPath, "bench-put", endpoint, file];
  return JSON.parse(await runInside(lab, lab.switchNamespace, command, putMsMax)) as { at: number };
}

async function waitEtcd(lab: Lab, endpoint: string): Promise<void> {
  const deadline = performance.now() + packetMsMax;
  for (;;) {
    try {
      await put({ lab, endpoint }, [["/bench/up", ""]]);
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await systemClock.sleep(100);
    }
  }
}
