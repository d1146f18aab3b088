import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { FlannelError } from "../base/error.ts";
import { inside, type Namespaces } from "../demo/lab.ts";
import { runProgram } from "../demo/process.ts";
import {
  manyEndpoints,
  manySubnets,
  overlayMtuBytes,
  pod,
  podGateway,
  receiver,
  sender,
  underlayMtuBytes,
} from "./address.ts";
import { type Mode, passesSuperPackets, setMode } from "./mode.ts";
import type { Program } from "./program.ts";

/** Two hosts joined by a veth, in a mode; what joins them above that is a design's. */
export interface Pair {
  readonly namespaces: Namespaces;
  /** The design's. */
  readonly name: string;
  readonly mode: Mode;
  readonly hosts: { readonly sender: string; readonly receiver: string };
  /** A namespace behind a bridge on the sender's host. */
  readonly pod: string | undefined;
  /** Where the receiver is reached through the design, set by it. */
  target: string;
  /** Engines of ours, to be asked for their counters. */
  readonly engines: Program[];
}

/** Makes the hosts, their link and, where it is wanted, a pod. */
export async function openPair(
  namespaces: Namespaces,
  { name, mode, withPod }: { name: string; mode: Mode; withPod: boolean },
): Promise<Pair> {
  const from = await namespaces.add(`${name}-a`);
  const to = await namespaces.add(`${name}-b`);
  await ip(
    from,
    `link add eth0 mtu ${underlayMtuBytes} type veth peer name eth0 mtu ${underlayMtuBytes} netns ${to}`,
  );
  for (const [namespace, { underlay }] of [
    [from, sender],
    [to, receiver],
  ] as const) {
    await ip(namespace, `address add ${underlay}/24 dev eth0`);
    await ip(namespace, "link set eth0 up");
    await setMode(namespace, "eth0", mode);
    await inside(namespace, ["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
  }
  await ip(from, `route add ${manyEndpoints} via ${receiver.underlay}`);
  await ip(to, `route add local ${manyEndpoints} dev lo`);
  await ip(to, `route add local ${manySubnets} dev lo`);
  const podNamespace = withPod ? await addPod(namespaces, name, from) : undefined;
  return {
    namespaces,
    name,
    mode,
    hosts: { sender: from, receiver: to },
    pod: podNamespace,
    target: receiver.underlay,
    engines: [],
  };
}

/** As a CNI plugin does it: a bridge with the lease's second address, and a veth with its offloads as they are. */
async function addPod(namespaces: Namespaces, name: string, host: string): Promise<string> {
  const namespace = await namespaces.add(`${name}-pod`);
  await ip(host, "link add cni0 type bridge");
  await ip(host, `link set cni0 mtu ${overlayMtuBytes} up`);
  await ip(host, `address add ${podGateway}/24 dev cni0`);
  await ip(
    host,
    `link add pod0 mtu ${overlayMtuBytes} type veth peer name eth0 mtu ${overlayMtuBytes} netns ${namespace}`,
  );
  await ip(host, "link set pod0 master cni0 up");
  await ip(namespace, `address add ${pod}/24 dev eth0`);
  await ip(namespace, "link set eth0 up");
  await ip(namespace, `route add default via ${podGateway}`);
  return namespace;
}

export function ip(namespace: string, command: string): Promise<string> {
  return runProgram(["ip", "-n", namespace, ...command.split(" ")]);
}

/** Runs many lines of `ip` or `bridge` at once. */
export async function batch(
  pair: Pair,
  namespace: string,
  program: "ip" | "bridge",
  lines: readonly string[],
) {
  const file = join(pair.namespaces.directory, `${namespace}.${program}`);
  writeFileSync(file, `${lines.join("\n")}\n`);
  await runProgram([program, "-n", namespace, "-batch", file]);
}

/** What crossed the link towards the receiver, counted before GRO. */
export interface LinkCount {
  readonly packets: number;
  readonly bytes: number;
}

export async function countLink({ hosts }: Pair): Promise<LinkCount> {
  const text = await runProgram(["ip", "-n", hosts.receiver, "-json", "-stats", "link", "show", "eth0"]);
  const [{ stats64 } = { stats64: undefined }] = JSON.parse(text) as { stats64?: { rx: LinkCount } }[];
  if (stats64 === undefined) throw new FlannelError("bench/link", "eth0 has no counters");
  return { packets: stats64.rx.packets, bytes: stats64.rx.bytes };
}

/**
 * Looks whether what crossed were packets that fit a wire.
 * @throws FlannelError `bench/mode`: the figure would be another mode's
 */
export function assertOnWire({ mode, name }: Pair, before: LinkCount, after: LinkCount): void {
  const bytes = (after.bytes - before.bytes) / Math.max(1, after.packets - before.packets);
  if (passesSuperPackets(mode) || bytes <= underlayMtuBytes + ethernetBytes) return;
  throw new FlannelError("bench/mode", `${name}: packets crossed the link unsegmented`, {
    bytes: Math.round(bytes),
  });
}

const ethernetBytes = 14;
