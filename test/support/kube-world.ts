import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { allocateSubnets, type SubnetRanges } from "../../src/lease/allocate.ts";
import { leaseKey, type LeaseSubnets, subnetsOf } from "../../src/lease/lease.ts";
import { tryParsePrefix } from "../../src/net/prefix.ts";
import { encodeLeaseValue, parseLeaseValue, parseSubnetKey } from "../../src/store/etcd/codec.ts";
import { annotationNames, encodeAnnotations, readNode } from "../../src/store/kube/codec.ts";
import { parseNode } from "../../src/store/kube/node.ts";
import { type KubeStoreOptions, openKubeStore } from "../../src/store/kube/store.ts";
import type { Store } from "../../src/store/store.ts";
import type { StoreWorld } from "../contract/store.ts";
import type { NodeObject, NodeSpec } from "./kube-api.ts";

/** What the other parts of a cluster do: kubelets, the node controller, operators. */
export interface KubeCluster {
  readonly url: string;
  createNode(spec: NodeSpec): Promise<unknown> | unknown;
  deleteNode(name: string): Promise<unknown> | unknown;
  nodes(): Promise<readonly NodeObject[]> | readonly NodeObject[];
  annotate(name: string, annotations: Readonly<Record<string, string | null>>): Promise<unknown> | unknown;
}

export const names = annotationNames("flannel.alpha.coreos.com");

/** The options of a store for `url` as a test opens it. */
export function kubeOptions(url: string, more: Partial<KubeStoreOptions> = {}): KubeStoreOptions {
  return {
    kubeconfig: undefined,
    apiUrl: url,
    nodeName: undefined,
    annotationPrefix: "flannel.alpha.coreos.com",
    netConfig: "/nonexistent/net-conf.json",
    setNodeNetworkUnavailable: false,
    env: {},
    log: silentLog,
    clock: systemClock,
    ...more,
  };
}

/**
 * A cluster as a world of the store contract. A node's name is its identity, so each request goes to the store of its
 * own node, which is registered, and given a pod CIDR, when it first asks.
 */
export function kubeWorld(cluster: KubeCluster, kubeconfig?: string): StoreWorld {
  const directory = mkdtempSync(join(tmpdir(), "fl-kube-"));
  const netConfig = join(directory, "net-conf.json");
  const opened: Store[] = [];
  const timers: Timer[] = [];
  let registering: Promise<unknown> = Promise.resolve();

  const all = async () =>
    (await cluster.nodes()).flatMap((object) => {
      const node = parseNode(object, names.prefix);
      return node === undefined ? [] : [{ object, node }];
    });
  const subnetsOfSpec = ({ spec }: NodeObject): LeaseSubnets => {
    const prefixes = (spec.podCIDRs ?? []).map(tryParsePrefix);
    const ipv4 = prefixes.find((prefix) => prefix?.family === 4);
    const ipv6 = prefixes.find((prefix) => prefix?.family === 6);
    return { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) };
  };
  const holderOf = async (key: string) =>
    (await all()).find(({ object }) => leaseKey(subnetsOfSpec(object)) === key);

  /** What kubelet and the controller manager do, one node at a time. */
  const register = (name: string, ranges: SubnetRanges) => {
    registering = registering.then(async () => {
      const present = await all();
      if (present.some(({ node }) => node.name === name)) return;
      const taken = present.map(({ object }) => subnetsOfSpec(object));
      const subnets = allocateSubnets(ranges, taken, Math.random);
      if (subnets === undefined) throw new Error("the cluster has no pod CIDR left");
      await cluster.createNode({ name, podCidrs: subnetsOf(subnets).map(String) });
    });
    return registering;
  };

  return {
    open(options = {}) {
      const stores = new Map<string, Store>();
      const storeOf = (nodeName: string): Store => {
        const access = kubeconfig === undefined ? {} : { kubeconfig, apiUrl: undefined };
        const known =
          stores.get(nodeName) ??
          openKubeStore(kubeOptions(cluster.url, { netConfig, nodeName, ...access, ...options }));
        stores.set(nodeName, known);
        return known;
      };
      const watching = storeOf("somebody-else");
      const store: Store = {
        ...watching,
        async acquire(request, stop) {
          await register(request.node.name, request.network);
          return await storeOf(request.node.name).acquire(request, stop);
        },
        renew: (request, stop) => storeOf(request.node.name).renew(request, stop),
        async [Symbol.asyncDispose]() {
          for (const one of stores.values()) await one[Symbol.asyncDispose]();
        },
      };
      opened.push(store);
      return store;
    },
    async putConfig(document) {
      writeFileSync(netConfig, document);
    },
    async put(subnet, value, ttlSeconds) {
      const subnets = parseSubnetKey(subnet);
      if (subnets === undefined) throw new Error(`no subnet: ${subnet}`);
      const attributes = parseLeaseValue(Buffer.from(value));
      const annotations: Record<string, string | null> =
        attributes === undefined
          ? { [names.managed]: "true", [names.backendData]: value }
          : Object.fromEntries(encodeAnnotations(attributes, names));
      const present = await holderOf(subnet);
      const name = present?.node.name ?? `node-${subnet.replaceAll(/[^0-9a-z]+/g, "-")}`;
      if (present === undefined) {
        const given = Object.entries(annotations).filter(
          (entry): entry is [string, string] => entry[1] !== null,
        );
        await cluster.createNode({
          name,
          podCidrs: subnetsOf(subnets).map(String),
          annotations: Object.fromEntries(given),
        });
      } else await cluster.annotate(name, annotations);
      // A node that is gone for long is deleted by its cloud's controller.
      if (ttlSeconds !== undefined)
        timers.push(setTimeout(() => void cluster.deleteNode(name), ttlSeconds * 1_000));
    },
    async delete(subnet) {
      const found = await holderOf(subnet);
      if (found !== undefined) await cluster.deleteNode(found.node.name);
    },
    async get(subnet) {
      const found = await holderOf(subnet);
      const reading = found && readNode(found.node, names, undefined);
      if (reading?.kind !== "lease") return undefined;
      return { value: encodeLeaseValue(reading.lease.attributes), lapses: false };
    },
    getNode: refuse,
    putNode: refuse,
    deleteNode: refuse,
    async putGarbage() {
      const managed = { [names.managed]: "true" };
      const good = { ...managed, [names.publicIp]: "192.0.2.9", [names.backendType]: "vxlan" };
      const garbage: NodeSpec[] = [
        { name: "no-annotations", podCidrs: ["10.3.201.0/24"] },
        {
          name: "another-tool",
          podCidrs: ["10.3.202.0/24"],
          annotations: { ...good, [names.managed]: "yes" },
        },
        { name: "no-cidr", annotations: good },
        { name: "no-address", podCidrs: ["10.3.203.0/24"], annotations: managed },
        {
          name: "bad-address",
          podCidrs: ["10.3.204.0/24"],
          annotations: { ...good, [names.publicIp]: "1.2.3.4.5" },
        },
        {
          name: "ipv6-address",
          podCidrs: ["10.3.205.0/24"],
          annotations: { ...good, [names.publicIp]: "2001:db8::1" },
        },
        {
          name: "bad-data",
          podCidrs: ["10.3.206.0/24"],
          annotations: { ...good, [names.backendData]: '1,"x":{' },
        },
        {
          name: "long-data",
          podCidrs: ["10.3.207.0/24"],
          annotations: { ...good, [names.backendData]: `"${"x".repeat(100_000)}"` },
        },
        {
          name: "deep-data",
          podCidrs: ["10.3.208.0/24"],
          annotations: { ...good, [names.backendData]: "[".repeat(20_000) + "]".repeat(20_000) },
        },
      ];
      const present = new Set((await all()).map(({ node }) => node.name));
      for (const spec of garbage) if (!present.has(spec.name)) await cluster.createNode(spec);
    },
    async [Symbol.asyncDispose]() {
      for (const timer of timers) clearTimeout(timer);
      for (const store of opened) await store[Symbol.asyncDispose]();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function refuse(): never {
  throw new Error("in Kubernetes nothing stands beside a lease: the node's name says whose it is");
}

const noTerm = "a lease lasts as long as its node: it has no term";
const given = "the cluster gives each node its subnet: nothing is allocated, reserved or taken here";
const named = "the node's name is the identity: nothing stands beside the lease";

/** The contract's cases that cannot hold in Kubernetes. */
export const kubeDiffers: Readonly<Record<string, string>> = {
  "a lease is one key with flannel's exact value, a term, and gone after release": noTerm,
  "the previous subnet is taken again while it is free, in range and of the right length": given,
  "a changed network gives a subnet of the new range and the old lease back": given,
  "our own lease is found once it is there, beside others": named,
  "a network without IPv4 is refused by name": "annotations have a form for IPv6 alone",
  "a range without a free subnet is an answer, and a reservation counts as leased": given,
  "a reservation for this node is used and stays a reservation": noTerm,
  "a reservation for this node that does not fit the network is left alone": given,
  "renewing extends the term and keeps the value": noTerm,
  "renewing a lease that is gone, or another's, says that it is lost and changes nothing": named,
  "beside a lease stands who holds it, with the same term, renewed with it": named,
  "a lease of our public IP that nobody says is his is taken over": named,
  "what cannot be read beside a lease is nobody's and is written anew": named,
  "another node that is alive with our public IP is not robbed, and both are named": named,
  "renewing after another node took our public IP over is a conflict that names it": named,
  "a conflict over the subnet names the other node where it says who it is": named,
  "a node that signs off leaves its lease and lets another take over; another's word stays": named,
  "a node that comes back under another address keeps its subnet and its VTEP": named,
  "a node that has a lease of its new address gives the old one back": named,
  "a moved node whose subnet does not fit the network gives it back and draws another": named,
  "a moved node takes no lease that may be somebody else's by now": named,
  "the same node id alone moves no lease: a clone's may be alive": named,
  "who has a public IP is attested until the key is gone or another's; renewing says it again": named,
  "who holds a reservation is said with a term, and renewed; the reservation has none": named,
  "a renewal may publish something else; from then on that is what is ours":
    "what stands in our own node's annotations is ours to put right, whoever wrote it",
  "asked for exactly one subnet, a store gives that one or says whose it is": given,
  "a watch begins with a snapshot, then tells puts and deletes in order": noTerm,
  "a subnet whose value cannot be read is not given to anybody else": given,
};
