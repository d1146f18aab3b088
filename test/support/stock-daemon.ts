import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { inside, type Lab, type LabHost } from "../../src/demo/lab.ts";
import { type Child, runProgram, tryProgram } from "../../src/demo/process.ts";
import { etcdProgram } from "./etcd.ts";
import type { TestOverlay } from "./overlay.ts";

/** A real flanneld on a host of a lab. */
export interface StockDaemon {
  readonly child: Child;
  readonly subnetFile: string;
  /** Waits until it has written its subnet file. */
  ready(): Promise<void>;
}

/** The program named by FLANNELD_BIN. */
export function flanneldProgram(): string {
  const program = process.env["FLANNELD_BIN"] ?? "";
  if (!existsSync(program)) throw new Error(`FLANNELD_BIN must name a flanneld; it is "${program}"`);
  return program;
}

/** What flannel keeps in etcd, by the API that a version of it speaks. */
export interface StockRegistry {
  readonly api: "v2" | "v3";
  /** Flags that etcd takes to serve it. */
  readonly etcdFlags: readonly string[];
  putConfig(net: TestOverlay, config: object): Promise<void>;
  /** `<subnet>` of the node with this public IP, and the value of its lease. */
  leaseOf(net: TestOverlay, host: LabHost): Promise<{ readonly subnet: string; readonly value: string }>;
  deleteLease(net: TestOverlay, subnet: string): Promise<void>;
}

/** The version that the program tells; undefined where it was built without one, from today's source. */
export async function flanneldVersion(): Promise<{ major: number; minor: number } | undefined> {
  const { output, errors } = await tryProgram([flanneldProgram(), "-version"]);
  const [, major, minor] = /^v?(\d+)\.(\d+)/m.exec(`${output}${errors}`) ?? [];
  return major === undefined ? undefined : { major: Number(major), minor: Number(minor) };
}

/** etcd's API v3 came with flannel 0.18, whose predecessors know v2 alone. */
export async function stockRegistry(): Promise<StockRegistry> {
  const version = await flanneldVersion();
  return version !== undefined && version.major === 0 && version.minor < 18 ? registryV2 : registryV3;
}

const prefix = "/coreos.com/network";

const registryV3: StockRegistry = {
  api: "v3",
  etcdFlags: [],
  async putConfig(net, config) {
    await net.etcd("put", `${prefix}/config`, JSON.stringify(config));
  },
  async leaseOf(net, host) {
    const lines = (await net.etcd("get", "--prefix", `${prefix}/subnets/`)).split("\n");
    const pairs = lines.flatMap((key, at) =>
      key.startsWith("/") ? [{ key, value: lines[at + 1] ?? "" }] : [],
    );
    return findLease(pairs, host);
  },
  async deleteLease(net, subnet) {
    await net.etcd("del", `${prefix}/subnets/${subnet}`);
  },
};

const registryV2: StockRegistry = {
  api: "v2",
  etcdFlags: ["--enable-v2"],
  async putConfig(net, config) {
    await etcdctlV2(net, "set", `${prefix}/config`, JSON.stringify(config));
  },
  async leaseOf(net, host) {
    const keys = (await etcdctlV2(net, "ls", `${prefix}/subnets`)).split("\n").filter(Boolean);
    const values = keys.map(async (key) => ({ key, value: (await etcdctlV2(net, "get", key)).trim() }));
    return findLease(await Promise.all(values), host);
  },
  async deleteLease(net, subnet) {
    await etcdctlV2(net, "rm", `${prefix}/subnets/${subnet}`);
  },
};

function etcdctlV2({ lab, endpoint }: TestOverlay, ...args: string[]): Promise<string> {
  const command = ["env", "ETCDCTL_API=2", `${etcdProgram()}ctl`, "--endpoints", endpoint, ...args];
  return inside(lab.switchNamespace, command);
}

function findLease(pairs: readonly { key: string; value: string }[], { address }: LabHost) {
  const found = pairs.find(({ value }) => value.includes(`"PublicIP":"${address}"`));
  if (found === undefined) throw new Error(`no lease of ${address}: ${JSON.stringify(pairs)}`);
  return { subnet: found.key.slice(`${prefix}/subnets/`.length), value: found.value };
}

export interface StockOptions {
  /** Keeps its subnet file over restarts; by default one below the lab's directory. */
  readonly subnetFile?: string;
  readonly args?: readonly string[];
  readonly env?: Record<string, string>;
  /** A program, with its arguments, that it is started through. */
  readonly wrap?: readonly string[];
}

/** Starts it by its command line alone, with its leases in etcd. */
export function startFlanneld(
  lab: Lab,
  host: LabHost,
  { endpoint, subnetFile }: { readonly endpoint: string; readonly subnetFile?: string },
  more: readonly string[] = [],
): StockDaemon {
  const args = [`-etcd-endpoints=${endpoint}`, ...more];
  return startStock(lab, host, { args, ...(subnetFile === undefined ? {} : { subnetFile }) });
}

/** Starts it on `eth0`. */
export function startStock(
  lab: Lab,
  host: LabHost,
  { subnetFile, args = [], env = {}, wrap = [] }: StockOptions,
): StockDaemon {
  const directory = join(lab.directory, `flanneld${host.number}`);
  mkdirSync(directory, { recursive: true });
  const file = subnetFile ?? join(directory, "subnet.env");
  const command = [...wrap, flanneldProgram(), "-iface=eth0", `-subnet-file=${file}`, ...args];
  const child = lab.start(host.namespace, command, env);
  let ended: number | undefined;
  void child.exited.then((code) => {
    ended = code;
  });
  return {
    child,
    subnetFile: file,
    async ready() {
      for (const deadline = Date.now() + 20_000; Date.now() < deadline && ended === undefined;) {
        if (child.errorTail().includes("Wrote subnet file")) return;
        await Bun.sleep(20);
      }
      throw new Error(`flanneld is not ready (exit code ${ended}): ${child.errorTail()}`);
    },
  };
}

/** The bridge that pods would be on. @returns its address, the first that pods have in the subnet `10.99.1.0/24` */
export async function podBridge(host: LabHost, subnet: string): Promise<string> {
  const address = subnet.replace(/\.0[-/].*$/, ".1");
  const ip = (words: string) => runProgram(["ip", "-n", host.namespace, ...words.split(" ")]);
  if ((await tryProgram(["ip", "-n", host.namespace, "link", "show", "cni0"])).code !== 0) {
    await ip("link add cni0 type bridge");
    await ip(`address add ${address}/24 dev cni0`);
    await ip("link set cni0 up");
  }
  return address;
}

/** Whether flanneld's iptables mode can start on the host: it looks for the bridge's sysctl. */
export async function hasBridgeFilter(host: LabHost): Promise<boolean> {
  return inside(host.namespace, ["test", "-e", "/proc/sys/net/bridge/bridge-nf-call-iptables"]).then(
    () => true,
    () => false,
  );
}
