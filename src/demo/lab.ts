import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Child, runProgram, start, tryProgram } from "./process.ts";

/** Where `ip netns` keeps its namespaces. */
const namespaceDir = "/run/netns";

/** Network namespaces and what runs in them; all of it ends with this. */
export interface Namespaces extends AsyncDisposable {
  /** Begins every namespace's name. */
  readonly name: string;
  /** A directory that vanishes with the namespaces. */
  readonly directory: string;
  /** Makes one, with loopback up. @returns its name */
  add(suffix: string): Promise<string>;
  /** Starts a program in a namespace; it is ended with them. */
  start(namespace: string, command: readonly string[], env?: Record<string, string>): Child;
}

/** Network namespaces, joined by a bridge in one of them: hosts on one Ethernet, apart from the machine's own. */
export interface Lab extends AsyncDisposable {
  /** Begins every namespace's name. */
  readonly name: string;
  /** The namespace with the bridge; it has the address {@link switchAddress}. */
  readonly switchNamespace: string;
  /** A directory that vanishes with the lab. */
  readonly directory: string;
  readonly hosts: readonly LabHost[];
  /** Adds a host with the next number. */
  addHost(): Promise<LabHost>;
  /** Starts a program in a namespace; it is ended with the lab. */
  start(namespace: string, command: readonly string[], env?: Record<string, string>): Child;
}

export interface LabHost {
  /** From 1. */
  readonly number: number;
  readonly namespace: string;
  /** On `eth0`. */
  readonly address: string;
  /** On `eth0` too, where this kernel has IPv6. */
  readonly addressV6: string;
}

/** The switch's own address, where the store listens. */
export const switchAddress = "10.77.0.254";

/**
 * Begins with none; `label` and the process's id make the name. Removes what a killed process of that label left.
 * Where `stop` aborts they end, and what runs in them fails.
 */
export async function openNamespaces(label: string, stop?: AbortSignal): Promise<Namespaces> {
  await removeStaleLabs(label);
  const name = `fl-${label}-${process.pid}`;
  const directory = mkdtempSync(`/tmp/${name}-`);
  const children: Child[] = [];
  const made: string[] = [];
  const end = async () => {
    stop?.removeEventListener("abort", end);
    await Promise.all(children.map((child) => child.end()));
    for (const namespace of made.reverse()) await tryProgram(["ip", "netns", "delete", namespace]);
    rmSync(directory, { recursive: true, force: true });
  };
  stop?.addEventListener("abort", end);
  return {
    name,
    directory,
    async add(suffix) {
      const namespace = `${name}-${suffix}`;
      made.push(namespace);
      await runProgram(["ip", "netns", "add", namespace]);
      await inside(namespace, ["ip", "link", "set", "lo", "up"]);
      return namespace;
    },
    start(namespace, command, env) {
      const child = start(["ip", "netns", "exec", namespace, ...command], env);
      children.push(child);
      return child;
    },
    [Symbol.asyncDispose]: end,
  };
}

/** Makes a lab of `hosts` hosts; `label` and `stop` as {@link openNamespaces} has them. */
export async function openLab(label: string, hosts: number, stop?: AbortSignal): Promise<Lab> {
  const namespaces = await openNamespaces(label, stop);
  const { name, directory } = namespaces;
  const switchNamespace = `${name}-sw`;
  const all: LabHost[] = [];

  const addHost = async (): Promise<LabHost> => {
    const number = all.length + 1;
    const namespace = await namespaces.add(String(number));
    const host = { number, namespace, address: `10.77.0.${number}`, addressV6: `fd77::${number}` };
    const port = `port${number}`;
    await runProgram([
      ...["ip", "-n", switchNamespace, "link", "add", port, "type", "veth"],
      ...["peer", "name", "eth0", "netns", host.namespace],
    ]);
    await runProgram(["ip", "-n", switchNamespace, "link", "set", port, "master", "br0", "up"]);
    await runProgram(["ip", "-n", host.namespace, "address", "add", `${host.address}/24`, "dev", "eth0"]);
    await runProgram(["ip", "-n", host.namespace, "link", "set", "eth0", "up"]);
    await addIpv6(host.namespace, "eth0", `${host.addressV6}/64`);
    await runProgram(["ip", "-n", host.namespace, "route", "add", "default", "via", switchAddress]);
    all.push(host);
    return host;
  };

  try {
    await namespaces.add("sw");
    await runProgram(["ip", "-n", switchNamespace, "link", "add", "br0", "type", "bridge"]);
    await runProgram(["ip", "-n", switchNamespace, "address", "add", `${switchAddress}/24`, "dev", "br0"]);
    await runProgram(["ip", "-n", switchNamespace, "link", "set", "br0", "up"]);
    await addIpv6(switchNamespace, "br0", "fd77::fe/64");
    for (let made = 0; made < hosts; made++) await addHost();
  } catch (error) {
    await namespaces[Symbol.asyncDispose]();
    throw error;
  }
  return {
    name,
    switchNamespace,
    directory,
    hosts: all,
    addHost,
    start: namespaces.start,
    [Symbol.asyncDispose]: () => namespaces[Symbol.asyncDispose](),
  };
}

/** At once, without looking for duplicates. A kernel without IPv6 goes without. */
async function addIpv6(namespace: string, device: string, address: string): Promise<void> {
  await tryProgram(["ip", "-n", namespace, "address", "add", address, "dev", device, "nodad"]);
}

/** Runs a program to its end in a namespace. */
export function inside(namespace: string, command: readonly string[], timeoutMs?: number): Promise<string> {
  return runProgram(["ip", "netns", "exec", namespace, ...command], timeoutMs);
}

/** Removes what a lab of the same label left whose process was killed. */
async function removeStaleLabs(label: string): Promise<void> {
  const pattern = new RegExp(`^fl-${label}-(\\d+)-`);
  const isStale = (entry: string) => {
    const pid = pattern.exec(entry)?.[1];
    return pid !== undefined && !existsSync(`/proc/${pid}`);
  };
  if (existsSync(namespaceDir)) {
    for (const namespace of readdirSync(namespaceDir).filter(isStale)) {
      const pids = (await tryProgram(["ip", "netns", "pids", namespace])).output
        .split("\n")
        .filter((pid) => pid !== "");
      for (const pid of pids) process.kill(Number(pid), "SIGKILL");
      await tryProgram(["ip", "netns", "delete", namespace]);
    }
  }
  for (const entry of readdirSync("/tmp").filter(isStale))
    rmSync(join("/tmp", entry), { recursive: true, force: true });
}
