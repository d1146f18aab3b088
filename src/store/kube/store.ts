import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { FlannelError } from "../../base/error.ts";
import { type NetworkConfig, parseNetworkConfig } from "../../config/network.ts";
import { type Lease, leaseKey, type LeaseSubnets, type LeaseUpdate } from "../../lease/lease.ts";
import type { AcquireRequest, AcquireResult, RenewRequest, RenewResult, Store } from "../store.ts";
import {
  annotationPatch,
  encodeAnnotations,
  noAnnotations,
  nodeSubnets,
  outsideNetwork,
  readNode,
} from "./codec.ts";
import { openConditionKeeper } from "./condition.ts";
import { type KubeContext, type KubeOptions, openKubeContext } from "./context.ts";
import { createLeaseReader } from "./lease-reader.ts";
import { type KubeNode, parseNode } from "./node.ts";
import { createPublished } from "./published.ts";
import { watchNodes } from "./watch.ts";

export interface KubeStoreOptions extends KubeOptions {
  /** The file with the network configuration. */
  readonly netConfig: string;
  /** Whether to set the node's condition NetworkUnavailable. */
  readonly setNodeNetworkUnavailable: boolean;
  /** How often our own node is looked at though nothing was seen to change; a day. */
  readonly ttlSeconds?: number;
}

const ttlSecondsUsual = 24 * 60 * 60;
const documentBytesMax = 64 * 1024;

/**
 * Leases in the annotations of Kubernetes' nodes, as flannel with `-kube-subnet-mgr` keeps them: a node's pod CIDRs
 * are its subnets, its name is its identity, and they have no term. Opening asks the API server nothing.
 * @throws FlannelError `config/invalid`, `store/kubeconfig`
 */
export function openKubeStore(options: KubeStoreOptions): Store {
  const context = openKubeContext(options);
  const { client, clock, names, log } = context;
  const { netConfig } = options;
  const condition = options.setNodeNetworkUnavailable ? openConditionKeeper(context) : undefined;
  /** What we have taken; the watch must not show our node with other subnets before we have taken those. */
  const own: { name: string | undefined; subnets: LeaseSubnets | undefined } = {
    name: undefined,
    subnets: undefined,
  };
  const published = createPublished(names);
  let network: NetworkConfig | undefined;
  let hasAnswered = false;

  const heldUntil = () => new Date(clock.now().getTime() + (options.ttlSeconds ?? ttlSecondsUsual) * 1_000);

  const take = (node: KubeNode, lease: Lease): Lease => {
    const isOther = own.subnets !== undefined && leaseKey(own.subnets) !== leaseKey(lease.subnets);
    own.name = node.name;
    own.subnets = lease.subnets;
    // The watch has kept our node back with these subnets, and looks again when it opens its next connection.
    if (isOther) client.endWatches();
    return lease;
  };

  /** Publishes, where anything differs from what stands there. */
  const publish = async (
    node: KubeNode,
    attributes: Lease["attributes"],
    stop: AbortSignal,
  ): Promise<void> => {
    const patch = annotationPatch(node.annotations, encodeAnnotations(attributes, names));
    if (patch !== undefined) await client.patchNodeStatus(node.name, patch, stop);
  };

  const openReader = () => {
    const written = tryParse(netConfig);
    return createLeaseReader({ names, log, families: () => network ?? written, own: () => own, published });
  };

  return {
    description: `kubernetes ${client.description}`,

    /** A file; but whoever asks for it wants to know as well whether the store can be reached. */
    async readNetworkConfig(stop) {
      stop.throwIfAborted();
      if (!hasAnswered) await context.ownNode(stop);
      hasAnswered = true;
      return readDocument(netConfig);
    },

    async createNetworkConfig(document, stop) {
      stop.throwIfAborted();
      return createDocument(netConfig, document);
    },

    async acquire(request: AcquireRequest, stop): Promise<AcquireResult> {
      network = request.network;
      const node = await requireNode(context, stop);
      const subnets = nodeSubnets(node, request.network);
      const outside = outsideNetwork(subnets, request.network, node.name);
      if (outside !== undefined)
        throw new FlannelError(
          "lease/outside",
          outside,
          {},
          {
            remedy: "Make Network of the net-conf and the cluster's pod CIDR agree",
          },
        );
      if (request.exactly !== undefined && leaseKey(request.exactly) !== leaseKey(subnets))
        return { kind: "taken", owner: `the pod CIDR of node ${node.name} is ${leaseKey(subnets)} now` };
      const reading = readNode(node, names, request.network);
      const existing = reading.kind === "lease" ? reading.lease : undefined;
      const attributes = published.wanted(request.attributes(existing), node.annotations);
      await publish(node, attributes, stop);
      const lease = take(node, { subnets, attributes, expiresAt: undefined });
      const how = existing === undefined ? "allocated" : "own";
      return { kind: "acquired", lease, how, heldUntil: heldUntil() };
    },

    /** Whatever pod CIDR the node has now is its lease; one outside of the network is nobody's to use. */
    async renew({ lease, attributes = lease.attributes }: RenewRequest, stop): Promise<RenewResult> {
      const node = await context.ownNode(stop);
      if (node === undefined) return { kind: "lost", reason: "the node is gone" };
      const subnets = nodeSubnets(node, network ?? lease.subnets);
      const outside = network && outsideNetwork(subnets, network, node.name);
      if (outside !== undefined) return { kind: "conflict", owner: outside };
      if (leaseKey(subnets) !== leaseKey(lease.subnets)) {
        log.warn(
          "the node's pod CIDR is another one now: pods with addresses of the old one must be made anew",
          {
            before: leaseKey(lease.subnets),
            now: leaseKey(subnets),
          },
        );
      }
      const wanted = published.wanted(attributes, node.annotations);
      await publish(node, wanted, stop);
      const renewed = take(node, { subnets, attributes: wanted, expiresAt: undefined });
      return { kind: "renewed", lease: renewed, heldUntil: heldUntil() };
    },

    /** The node's name says who we are: nobody else may have it, so there is nothing to take back. */
    async signOff() {},

    /** The node's name says it, which nobody can take away. */
    attests: async () => true,

    async release({ subnets }, stop) {
      const node = await context.ownNode(stop);
      if (node === undefined) return;
      const reading = readNode(node, names, network);
      if (reading.kind === "lease" && leaseKey(reading.lease.subnets) !== leaseKey(subnets)) return;
      const patch = annotationPatch(node.annotations, noAnnotations(names));
      if (patch !== undefined) await client.patchNodeStatus(node.name, patch, stop);
      own.subnets = undefined;
    },

    /** The node's name says it, whatever address its annotations name. */
    async findOwn(_publicIp, stop) {
      const node = await context.ownNode(stop);
      const reading = node && readNode(node, names, network ?? tryParse(netConfig));
      return reading?.kind === "lease" ? reading.lease : undefined;
    },

    async list(stop) {
      let nodes: KubeNode[] = [];
      const begin = () => (nodes = []);
      const add = (item: unknown) => {
        const node = parseNode(item, names.prefix);
        if (node !== undefined) nodes.push(node);
      };
      await client.list({ begin }, ({ items }) => items.forEach(add), stop);
      return openReader().snapshot(nodes);
    },

    async *watch(stop): AsyncGenerator<LeaseUpdate> {
      const leases = openReader();
      for await (const update of watchNodes(context, undefined, stop)) {
        if (update.kind === "snapshot") {
          const mine = update.nodes.find(({ name }) => name === own.name);
          if (mine !== undefined) condition?.saw(mine);
          const distrusted = update.replaced ? { replaced: true } : {};
          yield { kind: "snapshot", leases: leases.snapshot(update.nodes), ...distrusted };
          continue;
        }
        if (update.kind === "change") {
          const { kind, node } = update.change;
          if (kind === "put" && node.name === own.name) condition?.saw(node);
        }
        const changes = update.kind === "open" ? leases.ownChanged() : leases.change(update.change);
        if (changes.length > 0) yield { kind: "changes", changes };
      }
    },

    announceReady: () => condition?.available(),

    async [Symbol.asyncDispose]() {
      await condition?.[Symbol.asyncDispose]();
      client.close();
    },
  };
}

async function requireNode(context: KubeContext, stop: AbortSignal): Promise<KubeNode> {
  const node = await context.ownNode(stop);
  if (node !== undefined) return node;
  throw new FlannelError(
    "store/no-node",
    "the API server has no such node",
    { node: await context.ownName(stop) },
    { retryable: true, remedy: "Check NODE_NAME; a node is there once its kubelet has registered it" },
  );
}

/** Undefined where there is no such file. @throws FlannelError `store/net-config` (retryable) */
export function readDocument(path: string): string | undefined {
  try {
    const found = statSync(path);
    if (!found.isFile()) throw new Error("it is no regular file");
    if (found.size > documentBytesMax) throw new Error(`longer than ${documentBytesMax} bytes`);
    return readFileSync(path, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw new FlannelError(
      "store/net-config",
      "failed to read net conf",
      { path },
      { cause, retryable: true },
    );
  }
}

function createDocument(path: string, document: string): boolean {
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, document, { flag: "wx", mode: 0o644 });
    return true;
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "EEXIST") return false;
    throw new FlannelError(
      "store/net-config",
      "the network configuration cannot be written",
      { path },
      {
        cause,
        exitCode: 2,
        remedy: "Put it into the ConfigMap that kubernetes.net_config is mounted from",
      },
    );
  }
}

function tryParse(path: string): NetworkConfig | undefined {
  try {
    const document = readDocument(path);
    return document === undefined ? undefined : parseNetworkConfig(document);
  } catch {
    return undefined; // whoever reads it to go by it says so
  }
}
