import { FlannelError } from "../../base/error.ts";
import type { Lease, LeaseUpdate } from "../../lease/lease.ts";
import type { Store } from "../store.ts";
import { acquireLease } from "./acquire.ts";
import { type EtcdApi, openEtcdApi } from "./api.ts";
import type { EtcdStoreOptions } from "./context.ts";
import { type EtcdContext, leaseOf, parseLeaseEntry, readExpiries } from "./lease-entry.ts";
import { readNodeEntry } from "./node-entry.ts";
import { releaseLease, renewLease, signOff } from "./renew.ts";
import { watchLeases } from "./watch.ts";

export type { EtcdStoreOptions } from "./context.ts";

/** As long as it is open which API holds the network, it is looked for this often. */
const searchMs = 1_000;

/**
 * Leases in etcd (by API v3, 3.4 or later; by API v2, 3.5 or earlier), in flannel's keys and values. Opening
 * asks etcd nothing.
 * @throws FlannelError `store/endpoint` for what is no endpoint
 */
export function openEtcdStore(options: EtcdStoreOptions): Store {
  const api = openEtcdApi(options);
  return {
    get description() {
      return api.description;
    },

    readNetworkConfig: (stop) => api.readConfig(stop),

    createNetworkConfig: (document, stop) => api.first.client.create(api.first.layout.config, document, stop),

    acquire: async (request, stop) => acquireLease(await api.context(stop), request, stop),

    renew: async (request, stop) => renewLease(await api.context(stop), request, stop),

    signOff: async (publicIp, node, stop) => signOff(await api.context(stop), { publicIp, node }, stop),

    attests: async (publicIp, node, stop) => {
      const { holder } = await readNodeEntry(await api.context(stop), publicIp, stop);
      return holder?.id === node.id;
    },

    release: async (lease, stop) => releaseLease(await api.context(stop), lease, stop),

    async findOwn(publicIp, stop) {
      if (publicIp === undefined) return undefined;
      const leases = await listLeases(await api.context(stop), stop);
      return leases.find(({ attributes }) => attributes.publicIp?.equals(publicIp) === true);
    },

    list: async (stop) => listLeases(await api.context(stop), stop),

    watch: (stop) => watchOnceFound(api, options, stop),

    async [Symbol.asyncDispose]() {
      api.close();
    },
  };
}

async function listLeases(context: EtcdContext, stop: AbortSignal): Promise<Lease[]> {
  const { entries: stored } = await context.client.list(context.layout.subnets, stop);
  const entries = stored
    .map((entry) => parseLeaseEntry(context, entry))
    .filter((entry) => entry !== undefined);
  const expiryOf = await readExpiries(context, entries, stop);
  return entries.map((entry) => leaseOf(entry, expiryOf(entry))).filter((lease) => lease !== undefined);
}

/** The watch itself says what is amiss with etcd; until then whoever reads the configuration does. */
async function* watchOnceFound(
  api: EtcdApi,
  { clock }: EtcdStoreOptions,
  stop: AbortSignal,
): AsyncGenerator<LeaseUpdate> {
  while (!stop.aborted) {
    try {
      yield* watchLeases(await api.context(stop), stop);
      return;
    } catch (error) {
      if (stop.aborted) return;
      if (!(error instanceof FlannelError)) throw error;
      if (error.code === "store/closed") return;
      await clock.sleep(searchMs, stop);
    }
  }
}
