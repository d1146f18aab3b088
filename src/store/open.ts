import type { Clock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Config } from "../config/schema.ts";
import type { EtcdStoreOptions } from "./etcd/context.ts";
import { openEtcdStore } from "./etcd/store.ts";
import type { Store } from "./store.ts";

export interface StoreEnvironment {
  readonly log: Log;
  readonly clock: Clock;
}

/**
 * Opens the store that the configuration names. Asks it nothing yet.
 * @throws FlannelError `store/endpoint`, `store/type`
 */
export function openStore({ store }: Pick<Config, "store">, environment: StoreEnvironment): Store {
  const { type } = store;
  switch (type) {
    case "etcd":
      return openEtcdStore(etcdOptions(store, environment));
    default:
      throw new FlannelError("store/type", `no such store: ${String(type)}`, {}, { exitCode: 2 });
  }
}

function etcdOptions({ etcd, leaseTtl }: Config["store"], environment: StoreEnvironment): EtcdStoreOptions {
  const { cafile, certfile, keyfile, ...rest } = etcd;
  const tls = defined({ caFile: cafile, certFile: certfile, keyFile: keyfile });
  return { ...defined(rest), tls, ttlSeconds: leaseTtl * 60, ...environment };
}

/** Without the members that are undefined. */
function defined<T extends object>(members: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const entries = Object.entries(members).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]: Exclude<T[K], undefined> };
}
