import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { EngineOptions } from "../native/ports.ts";
import type { EngineSetup } from "./agent.ts";
import {
  type BenchHost,
  device,
  engineTable,
  manyLeasesList,
  overlayMtuBytes,
  port,
  receiver,
  sender,
  vni,
} from "./address.ts";
import { flanneldVariable, joinFlannelUdp } from "./flannel-udp.ts";
import { batch, ip, type Pair } from "./pair.ts";
import { startAgent } from "./program.ts";
import { joinTinc } from "./tinc.ts";
import { joinWireguardGo } from "./wireguard-go.ts";

/** A way to carry packets from one host of a pair to the other. */
export interface Design {
  readonly name: string;
  /** For people. */
  readonly doc: string;
  /** Why it cannot be measured here; undefined where it can. */
  readonly missing?: () => string | undefined;
  /** Joins the hosts and sets the pair's target. */
  join(pair: Pair): Promise<void>;
}

export const designs: readonly Design[] = [
  { name: "bare", doc: "the link itself, no overlay", join: async () => undefined },
  {
    name: "kernel",
    doc: "the kernel's vxlan device at both ends, as flannel makes it",
    join: (pair) => joinVxlan(pair, kernelEnd(), kernelEnd()),
  },
  {
    name: "userspace",
    doc: "our engine at both ends",
    join: (pair) => joinVxlan(pair, engineEnd(), engineEnd()),
  },
  {
    name: "latency",
    doc: "our engine at both ends, told to be good at latency",
    join: (pair) => joinVxlan(pair, engineEnd({ latency: "latency" }), engineEnd({ latency: "latency" })),
  },
  {
    name: "from-kernel",
    doc: "the kernel's vxlan device without outer checksum sends, our engine receives",
    join: (pair) => joinVxlan(pair, kernelEnd("noudpcsum"), engineEnd()),
  },
  {
    name: "from-kernel-checksum",
    doc: "the kernel's vxlan device with outer checksum sends, our engine receives",
    join: (pair) => joinVxlan(pair, kernelEnd("udpcsum"), engineEnd()),
  },
  {
    name: "to-kernel",
    doc: "our engine sends, the kernel's vxlan device receives",
    join: (pair) => joinVxlan(pair, engineEnd(), kernelEnd()),
  },
  {
    name: "wireguard-go",
    doc: "wireguard-go at both ends; it encrypts",
    missing: () => (Bun.which("wireguard-go") === null ? "wireguard-go is not installed" : undefined),
    join: joinWireguardGo,
  },
  {
    name: "tinc",
    doc: "tinc at both ends, encryption and authentication of data off",
    missing: () => (Bun.which("tincd") === null ? "tinc is not installed" : undefined),
    join: joinTinc,
  },
  {
    name: "flannel-udp",
    doc: "flannel's udp backend at both ends",
    missing: () => (process.env[flanneldVariable] ? undefined : `${flanneldVariable} names no flanneld`),
    join: joinFlannelUdp,
  },
];

/** Makes the overlay's device on one host. */
type End = (pair: Pair, namespace: string, own: BenchHost) => Promise<void>;

async function joinVxlan(pair: Pair, from: End, to: End): Promise<void> {
  await from(pair, pair.hosts.sender, sender);
  await to(pair, pair.hosts.receiver, receiver);
  pair.target = receiver.vtep;
}

/** The kernel's device. Without a word on the outer checksum it is what the kernel takes: so does flannel. */
function kernelEnd(checksum = ""): End {
  return async (pair, namespace, own) => {
    const options = `id ${vni} local ${own.underlay} dev eth0 dstport ${port} nolearning ${checksum}`.trim();
    await ip(namespace, `link add ${device} address ${own.mac} mtu ${overlayMtuBytes} type vxlan ${options}`);
    await ip(namespace, `address add ${own.vtep}/32 dev ${device}`);
    await ip(namespace, `link set ${device} up`);
    const opposite = own === sender ? receiver : sender;
    const peers = [
      { subnet: opposite.subnet, gateway: opposite.vtep, endpoint: opposite.underlay, mac: opposite.mac },
      ...(own === sender ? manyLeasesList() : []),
    ];
    await batch(pair, namespace, "bridge", [
      ...peers.map(({ mac, endpoint }) => `fdb add ${mac} dev ${device} dst ${endpoint} self permanent`),
    ]);
    await batch(pair, namespace, "ip", [
      ...peers.map(
        ({ gateway, mac }) => `neighbour add ${gateway} lladdr ${mac} dev ${device} nud permanent`,
      ),
      ...peers.map(({ subnet, gateway }) => `route add ${subnet} via ${gateway} dev ${device} onlink`),
    ]);
  };
}

/** Our engine; `more` are options beside those every engine gets. */
function engineEnd(more: Partial<EngineOptions> = {}): End {
  return async (pair, namespace, own) => {
    const setup: EngineSetup = {
      options: { device, port, local: own.underlay, mtuBytes: overlayMtuBytes, ...more },
      table: engineTable(own),
    };
    const file = join(pair.namespaces.directory, `${namespace}.json`);
    writeFileSync(file, JSON.stringify(setup));
    pair.engines.push(await startAgent(pair.namespaces, namespace, ["bench-engine", file]));
    // As the daemon sets up a TUN.
    await ip(namespace, `link set ${device} mtu ${overlayMtuBytes} txqueuelen 1000 up`);
    await ip(namespace, `address add ${own.vtep}/32 dev ${device}`);
    const subnets = setup.table.peers.flatMap((peer) => peer.subnets);
    const routes = subnets.map((subnet) => `route add ${subnet} dev ${device}`);
    await batch(pair, namespace, "ip", routes);
  };
}
