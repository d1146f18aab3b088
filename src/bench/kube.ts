import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../base/clock.ts";
import { type Lab, type LabHost, openLab, switchAddress } from "../demo/lab.ts";
import { device, vni } from "./address.ts";
import { waitReady } from "./daemon.ts";
import { changeToPacket, farMac, joinFar } from "./far-host.ts";
import { peakResidentMiB, residentMiB } from "./memory.ts";
import { ip } from "./pair.ts";
import { runInside, startProgram } from "./program.ts";
import { pairedRow, type Row } from "./row.ts";

/**
 * Names the API server of these rows: a program that is started with an address, a port and a number of nodes, prints
 * `listening`, and serves the nodes `node-0` … over plain HTTP, each with the pod CIDR of {@link subnetAt} and, but for
 * the first, with flannel's annotations.
 */
const kubeNodesVariable = "KUBE_NODES_BIN";

/** Why these rows cannot be measured; undefined where they can. */
export function missingKubeNodes(): string | undefined {
  const program = process.env[kubeNodesVariable] ?? "";
  if (program === "") return `${kubeNodesVariable} names no API server, as make bench does`;
  return existsSync(program) ? undefined : `there is no ${program}`;
}

interface Measured {
  readonly startMs: number;
  readonly changeMs: number;
  readonly idleMiB: number;
  readonly peakMiB: number;
}

const many = 5_000;
const few = 50;

const meters: readonly {
  readonly name: string;
  readonly quantity: keyof Measured;
  readonly unit: string;
}[] = [
  { name: `kube-start/${many}-nodes`, quantity: "startMs", unit: "ms" },
  { name: `kube-change/${many}-nodes`, quantity: "changeMs", unit: "ms" },
  { name: `kube-idle-memory/${many}-nodes`, quantity: "idleMiB", unit: "MiB" },
  { name: `kube-peak-memory/${many}-nodes`, quantity: "peakMiB", unit: "MiB" },
];

/** In the order of the table. */
export const kubeRowNames: readonly string[] = meters.map(({ name }) => name);

const serverPort = 6443;
const patchMsMax = 20_000;
const idleMs = 2_000;
const prefix = "flannel.alpha.coreos.com";

/**
 * A daemon with its leases in the nodes of a large and a small cluster: start to ready, one node's change until the
 * first packet arrives at its new host, and memory.
 */
export async function benchKube(
  { rounds }: { readonly rounds: number },
  { say, stop }: { say: (text: string) => void; stop: AbortSignal },
): Promise<Row[]> {
  const measured: Record<"many" | "few", Measured[]> = { many: [], few: [] };
  await using lab = await openLab("bench", 2, stop);
  const [own, far] = lab.hosts;
  if (own === undefined || far === undefined) throw new Error("two hosts");
  await joinFar(lab, far);
  for (let round = 1; round <= rounds; round++) {
    for (const size of round % 2 === 0 ? (["many", "few"] as const) : (["few", "many"] as const)) {
      const nodes = size === "many" ? many : few;
      say(`kubernetes: round ${round} of ${rounds}, ${nodes} nodes`);
      measured[size].push(await measure({ lab, own, far }, { nodes, round }, stop));
    }
  }
  return meters.map(({ quantity, ...meter }) =>
    pairedRow(
      { ...meter, lowerIsBetter: true, of: `${many}-nodes`, against: `${few}-nodes` },
      measured.many.map((one) => one[quantity]),
      measured.few.map((one) => one[quantity]),
    ),
  );
}

async function measure(
  hosts: { readonly lab: Lab; readonly own: LabHost; readonly far: LabHost },
  { nodes, round }: { readonly nodes: number; readonly round: number },
  stop: AbortSignal,
): Promise<Measured> {
  const { lab, own, far } = hosts;
  const program = process.env[kubeNodesVariable] ?? "";
  const command = [program, switchAddress, `${serverPort}`, `${nodes}`];
  const server = await startProgram(lab, lab.switchNamespace, command, "listening");
  const directory = join(lab.directory, `kube-${nodes}-${round}`);
  const [runDir, subnetFile] = [join(directory, "run"), join(directory, "subnet.env")];
  const config = writeConfig(directory, { runDir, subnetFile });
  const startedAt = performance.now();
  const daemon = lab.start(own.namespace, [process.execPath, "run", "--config", config]);
  try {
    await waitReady(daemon, { runDir, subnetFile, peers: nodes - 1 }, stop);
    const startMs = performance.now() - startedAt;
    await systemClock.sleep(idleMs, stop);
    const idleMiB = residentMiB(daemon.pid);
    const changed = nodes - 1;
    const patch = join(directory, "patch.json");
    writeFileSync(patch, JSON.stringify({ metadata: { annotations: movedTo(far.address) } }));
    const url = `${serverUrl}/api/v1/nodes/node-${changed}`;
    const changeMs = await changeToPacket(hosts, subnetAt(changed), async () => {
      const agent = [process.execPath, "bench-patch-node", url, patch];
      return JSON.parse(await runInside(lab, lab.switchNamespace, agent, patchMsMax)) as { at: number };
    });
    return { startMs, changeMs, idleMiB, peakMiB: peakResidentMiB(daemon.pid) };
  } finally {
    await daemon.end();
    await server.child.end();
    await ip(own.namespace, `link delete ${device}`);
  }
}

const serverUrl = `http://${switchAddress}:${serverPort}`;

/** @returns the path of the configuration */
function writeConfig(
  directory: string,
  { runDir, subnetFile }: { readonly runDir: string; readonly subnetFile: string },
): string {
  mkdirSync(directory, { mode: 0o700 });
  const [path, netConf] = [join(directory, "config.toml"), join(directory, "net-conf.json")];
  writeFileSync(netConf, JSON.stringify({ Network: "100.64.0.0/10", Backend: { Type: "vxlan", VNI: vni } }));
  writeFileSync(
    path,
    `[uplink]
interface = ["eth0"]
[store]
type = "kubernetes"
[kubernetes]
api_url = "${serverUrl}"
net_config = "${netConf}"
node_name = "node-0"
[datapath]
engine = "userspace"
[host]
run_dir = "${runDir}"
state_dir = "${join(directory, "state")}"
subnet_file = "${subnetFile}"
`,
  );
  return path;
}

/** What another host that takes the node's place publishes. */
function movedTo(address: string): Readonly<Record<string, string>> {
  return {
    [`${prefix}/public-ip`]: address,
    [`${prefix}/backend-data`]: JSON.stringify({ VNI: vni, VtepMAC: farMac }),
  };
}

/** The pod CIDR of node `at` begins with it; its length is 24. */
function subnetAt(at: number): string {
  return `100.${64 + (at >> 8)}.${at & 0xff}.0`;
}
