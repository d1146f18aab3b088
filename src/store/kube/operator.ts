import { FlannelError } from "../../base/error.ts";
import type { StoredLease, StoreOperator } from "../operator.ts";
import { nodeSubnets, readNode } from "./codec.ts";
import { openKubeContext } from "./context.ts";
import { type KubeNode, parseNode } from "./node.ts";
import { type KubeStoreOptions, readDocument } from "./store.ts";

/**
 * What an operator sees of the leases in nodes. Nothing is changed from here: subnets are the cluster's to give, and
 * the network configuration is a ConfigMap.
 */
export function openKubeOperator(options: KubeStoreOptions): StoreOperator {
  const { client, names } = openKubeContext(options);

  const storedOf = (node: KubeNode): StoredLease | undefined => {
    const reading = readNode(node, names, undefined);
    if (reading.kind === "unmanaged") return undefined;
    const subnets = reading.kind === "lease" ? reading.lease.subnets : trySubnets(node);
    return (
      subnets && {
        key: node.name,
        subnets,
        attributes: reading.kind === "lease" ? reading.lease.attributes : undefined,
        expiresAt: undefined,
        holder: { id: node.name, name: node.name },
        revision: /^\d{1,20}$/.test(node.resourceVersion) ? BigInt(node.resourceVersion) : 0n,
      }
    );
  };

  return {
    description: `kubernetes ${client.description}`,

    async readNetworkConfig(stop) {
      stop.throwIfAborted();
      return readDocument(options.netConfig);
    },

    replaceNetworkConfig: () =>
      Promise.reject(
        notHere(
          `the network configuration is the file ${options.netConfig}`,
          "Change the ConfigMap that it comes from (kube-flannel-cfg), and restart the daemons",
        ),
      ),

    async leases(stop) {
      let stored: StoredLease[] = [];
      const begin = () => (stored = []);
      const add = (item: unknown) => {
        const node = parseNode(item, names.prefix);
        const lease = node && storedOf(node);
        if (lease !== undefined) stored.push(lease);
      };
      await client.list({ begin }, ({ items }) => items.forEach(add), stop);
      return stored.sort((a, b) => (a.key < b.key ? -1 : 1));
    },

    reserve: () =>
      Promise.reject(
        notHere(
          "the cluster gives out subnets, to nodes",
          "For a gateway make a Node object with its podCIDR and flannel's annotations: docs/kubernetes.md",
        ),
      ),

    remove: (lease) =>
      Promise.reject(
        notHere(`${lease.key} holds it as long as that node is there`, `kubectl delete node ${lease.key}`),
      ),

    async [Symbol.asyncDispose]() {
      client.close();
    },
  };
}

function trySubnets(node: KubeNode): StoredLease["subnets"] | undefined {
  try {
    return nodeSubnets(node, undefined);
  } catch {
    return undefined;
  }
}

function notHere(message: string, remedy: string): FlannelError {
  return new FlannelError("store/read-only", message, {}, { exitCode: 2, remedy });
}
