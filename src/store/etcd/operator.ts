import { type LeaseSubnets, leaseKey } from "../../lease/lease.ts";
import type { StoredLease, StoreOperator } from "../operator.ts";
import { openEtcdApi } from "./api.ts";
import { parseLeaseValue, parseSubnetKey } from "./codec.ts";
import type { EtcdStoreOptions } from "./context.ts";
import { type EtcdContext, readExpiries } from "./lease-entry.ts";
import { type NodeHolder, parseNodeValue } from "./node-entry.ts";
import type { KeyValue } from "./wire.ts";
import { retire } from "./write.ts";

/** @throws FlannelError `store/endpoint` for what is no endpoint */
export function openEtcdOperator(options: EtcdStoreOptions): StoreOperator {
  const api = openEtcdApi(options);
  return {
    get description() {
      return api.description;
    },

    readNetworkConfig: (stop) => api.readConfig(stop),

    async replaceNetworkConfig({ before, document }, stop) {
      const { client, layout } = before === undefined ? api.first : await api.context(stop);
      if (before === undefined) return await client.create(layout.config, document, stop);
      const found = await client.get(layout.config, stop);
      if (found === undefined || Buffer.from(found.value).toString("utf8") !== before) return false;
      const put = { key: layout.config, value: document, lease: "0", ifRevision: found.revision };
      return await client.put([put], stop);
    },

    leases: async (stop) => readLeases(await api.context(stop), stop),

    async reserve({ subnets, attributes }, stop) {
      const { client, layout, encodeValue } = await api.context(stop);
      return await client.create(layout.leaseKey(subnets), encodeValue(attributes), stop);
    },

    async remove(lease, stop) {
      const context = await api.context(stop);
      const { client, layout } = context;
      const keys = [{ key: lease.key, ifRevision: lease.revision }];
      const publicIp = lease.attributes?.publicIp;
      const node =
        publicIp === undefined || lease.holder === undefined
          ? undefined
          : await client.get(layout.nodeKey(publicIp), stop);
      if (node !== undefined && isHeldBy(lease.subnets, parseNodeValue(node.value)))
        keys.push({ key: node.key, ifRevision: node.revision });
      if (!(await client.delete(keys, stop))) return false;
      if (node !== undefined) await retire(context, node.lease, stop);
      return true;
    },

    async [Symbol.asyncDispose]() {
      api.close();
    },
  };
}

async function readLeases(context: EtcdContext, stop: AbortSignal): Promise<StoredLease[]> {
  const { client, layout } = context;
  const [{ entries: stored }, { entries: nodes }] = await Promise.all([
    client.list(layout.subnets, stop),
    client.list(layout.nodes, stop),
  ]);
  const holders = new Map(nodes.map(({ key, value }) => [key, parseNodeValue(value)]));
  const entries = stored.flatMap((entry) => {
    const subnets = parseSubnetKey(entry.key);
    return subnets === undefined
      ? []
      : [{ ...entry, subnets, attributes: usable(context, entry), leaseId: entry.lease }];
  });
  const expiryOf = await readExpiries(context, entries, stop);
  return entries.map((entry) => {
    const { key, subnets, attributes, revision } = entry;
    const ip = attributes?.publicIp;
    const said = ip === undefined ? undefined : holders.get(layout.nodeKey(ip));
    const holder = isHeldBy(subnets, said) ? said : undefined;
    return { key, subnets, attributes, expiresAt: expiryOf(entry), holder, revision };
  });
}

function usable({ layout }: EtcdContext, { key, value }: KeyValue) {
  return layout.parseLeaseKey(key) === undefined ? undefined : parseLeaseValue(value);
}

function isHeldBy(subnets: LeaseSubnets, holder: NodeHolder | undefined): boolean {
  return holder?.subnet === leaseKey(subnets);
}
