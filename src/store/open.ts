import type { Clock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Config } from "../config/schema.ts";
import type { EtcdStoreOptions } from "./etcd/context.ts";
import { type Migration, migrateV2 } from "./etcd/migrate.ts";
import { openEtcdOperator } from "./etcd/operator.ts";
import { openEtcdStore } from "./etcd/store.ts";
import type { StoreOperator } from "./operator.ts";
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

/**
 * Opens the store for what an operator does by hand. Asks it nothing yet.
 * @throws FlannelError `store/endpoint`
 */
export function openStoreOperator(
  { store }: Pick<Config, "store">,
  environment: StoreEnvironment,
): StoreOperator {
  return openEtcdOperator(etcdOptions(store, environment));
}

/**
 * Copies the network from etcd's API v2 to v3, whichever of them the configuration names.
 * @throws FlannelError as {@link migrateV2}
 */
export async function migrateStore(
  { store }: Pick<Config, "store">,
  environment: StoreEnvironment,
  stop: AbortSignal,
): Promise<Migration> {
  return await migrateV2(etcdOptions(store, environment), stop);
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
