import type { Store } from "../../src/store/store.ts";
import { type StoreWorld, valueOf } from "../contract/store.ts";
import type { Etcd } from "./etcd.ts";

export type EtcdKeys = Pick<Etcd, "put" | "get" | "delete">;

/** The network below `prefix` in an etcd, or in what answers as one. */
export function etcdWorld<At extends EtcdKeys>(
  etcd: At,
  prefix: string,
  storeOn: (etcd: At, prefix: string, options: { ttlSeconds?: number }) => Store,
): StoreWorld {
  const key = (subnet: string) => `${prefix}/subnets/${subnet}`;
  const opened: Store[] = [];
  return {
    open(options = {}) {
      const store = storeOn(etcd, prefix, options);
      opened.push(store);
      return store;
    },
    putConfig: (document) => etcd.put(`${prefix}/config`, document),
    put: (subnet, value, ttlSeconds) => etcd.put(key(subnet), value, ttlSeconds),
    delete: (subnet) => etcd.delete(key(subnet)),
    async get(subnet) {
      const found = await etcd.get(key(subnet));
      return found === undefined ? undefined : { value: found.value, lapses: found.lease !== "0" };
    },
    async getNode(publicIp) {
      const found = await etcd.get(`${prefix}/nodes/${publicIp}`);
      return found === undefined ? undefined : { value: found.value, lapses: found.lease !== "0" };
    },
    putNode: (publicIp, value, ttlSeconds) => etcd.put(`${prefix}/nodes/${publicIp}`, value, ttlSeconds),
    deleteNode: (publicIp) => etcd.delete(`${prefix}/nodes/${publicIp}`),
    async putGarbage() {
      await etcd.put(key("notes"), "not a lease");
      await etcd.put(key("10.3.300.0-24"), valueOf("192.0.2.9"));
      await etcd.put(key("10.3.201.7-24"), valueOf("192.0.2.9"));
      await etcd.put(key("x10.3.202.0-24"), valueOf("192.0.2.9"));
      await etcd.put(key("10.3.203.0-24"), "null");
      await etcd.put(key("10.3.204.0-24"), `{"PublicIP":"${"1".repeat(100_000)}"}`);
      await etcd.put(key("10.3.205.0-24"), `${"[".repeat(20_000)}`);
      await etcd.put(key("10.3.206.0-24"), '{"PublicIP":"2001:db8::1"}');
      await etcd.put(`${prefix}/subnets-of-somebody/10.3.207.0-24`, valueOf("192.0.2.9"));
      await etcd.put(`${prefix}/subnets/../../\u0000\n`, "");
    },
    async [Symbol.asyncDispose]() {
      for (const store of opened) await store[Symbol.asyncDispose]();
    },
  };
}
