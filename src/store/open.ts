import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Config } from "../config/schema.ts";
import type { EtcdStoreOptions } from "./etcd/context.ts";
import { type Migration, migrateV2 } from "./etcd/migrate.ts";
import { openEtcdOperator } from "./etcd/operator.ts";
import { openEtcdStore } from "./etcd/store.ts";
import { type Transfer, transfer } from "./etcd/transfer.ts";
import type { TrustSettings } from "./embedded/trust.ts";
import { type NodeAnnotator, openNodeAnnotator } from "./kube/annotate.ts";
import type { NodeAddresses } from "./kube/codec.ts";
import { type AnnotatedAddresses, lookAtNodeAddresses, readNodeAddresses } from "./kube/addresses.ts";
import type { KubeOptions } from "./kube/context.ts";
import { namedNode } from "./kube/node-name.ts";
import { openKubeOperator } from "./kube/operator.ts";
import { type KubeStoreOptions, openKubeStore } from "./kube/store.ts";
import type { StoreOperator } from "./operator.ts";
import type { Store } from "./store.ts";

export interface StoreEnvironment {
  readonly log: Log;
  readonly clock: Clock;
  /** The term of a lease, in minutes, as it is now; absent: the configuration's. */
  readonly leaseTtl?: () => number;
  /** Names our node and the API server where Kubernetes does; the process's own by default. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Where a service account's token and the cluster's authority are, if not where a pod finds its own. */
  readonly serviceAccountDir?: string | undefined;
}

type StoreConfig = Pick<Config, "store" | "kubernetes">;

/**
 * Opens the store that the configuration names. Asks it nothing yet.
 * @throws FlannelError `store/endpoint`, `store/type`
 */
export function openStore(config: StoreConfig, environment: StoreEnvironment): Store {
  const { store } = config;
  const { type } = store;
  switch (type) {
    case "etcd":
    case "embedded":
      return openEtcdStore(etcdOptions(store, environment));
    case "kubernetes":
      return openKubeStore(kubeStoreOptions(config, environment));
    default:
      throw new FlannelError("store/type", `no such store: ${String(type)}`, {}, { exitCode: 2 });
  }
}

/**
 * Opens the store for what an operator does by hand. Asks it nothing yet.
 * @throws FlannelError `store/endpoint`
 */
export function openStoreOperator(config: StoreConfig, environment: StoreEnvironment): StoreOperator {
  return config.store.type === "kubernetes"
    ? openKubeOperator(kubeStoreOptions(config, environment))
    : openEtcdOperator(etcdOptions(config.store, environment));
}

/** By what id the store's leases name our node, where that is not the host's own: Kubernetes has names for nodes. */
export function ownHolderId(
  { store, kubernetes }: StoreConfig,
  env: Readonly<Record<string, string | undefined>>,
): string | undefined {
  return store.type === "kubernetes" ? namedNode({ configured: kubernetes.nodeName, env }) : undefined;
}

/**
 * What writes our lease to this node's annotations while the leases live elsewhere; undefined where that is not
 * wanted.
 * @throws FlannelError `config/invalid`, `store/kubeconfig`, `config/node-name`
 */
export function openAnnotator(config: StoreConfig, environment: StoreEnvironment): NodeAnnotator | undefined {
  const { store, kubernetes } = config;
  if (store.type === "kubernetes" || !kubernetes.annotateNode) return undefined;
  return openNodeAnnotator(kubeOptions(config, environment));
}

/**
 * The public addresses that this node's annotations name, which go before those of the configuration. None where
 * the store keeps no such thing, and, with a warning, where the API server does not answer.
 */
export async function readAnnotatedAddresses(
  config: StoreConfig,
  environment: StoreEnvironment,
  stop: AbortSignal,
): Promise<NodeAddresses> {
  if (config.store.type !== "kubernetes") return {};
  return await readNodeAddresses(kubeOptions(config, environment), stop);
}

/**
 * What this node's annotations say of its addresses; undefined where the store keeps no such thing.
 * @throws FlannelError as {@link lookAtNodeAddresses}
 */
export async function lookAtAnnotatedAddresses(
  config: StoreConfig,
  environment: StoreEnvironment,
  stop: AbortSignal,
): Promise<AnnotatedAddresses | undefined> {
  if (config.store.type !== "kubernetes") return undefined;
  return await lookAtNodeAddresses(kubeOptions(config, environment), stop);
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
  if (store.type === "kubernetes")
    throw new FlannelError(
      "store/type",
      "Kubernetes' nodes have no API v2 to copy from",
      {},
      { exitCode: 2 },
    );
  return await migrateV2(etcdOptions(store, environment), stop);
}

/** The other end of a migration: another store with the same prefix. */
export interface RemoteStore {
  readonly endpoints: readonly string[];
  readonly cafile: string | undefined;
  readonly certfile: string | undefined;
  readonly keyfile: string | undefined;
  readonly username: string | undefined;
  readonly passwordFile: string | undefined;
}

/**
 * Copies the network between the store that the configuration names and another one.
 * @throws FlannelError as {@link transfer}
 */
export async function transferStore(
  { store }: Pick<Config, "store">,
  { remote, direction }: { readonly remote: RemoteStore; readonly direction: "to" | "from" },
  environment: StoreEnvironment,
  stop: AbortSignal,
): Promise<Transfer> {
  const here = etcdOptions(store, environment);
  const { cafile, certfile, keyfile, ...rest } = remote;
  const tls = defined({ caFile: cafile, certFile: certfile, keyFile: keyfile });
  const there = { ...defined(rest), tls, prefix: store.etcd.prefix, ...environment };
  return await (direction === "to" ? transfer(here, there, stop) : transfer(there, here, stop));
}

/** How the embedded store tells its clients from strangers. */
export function trustSettings({ store: { etcd, embedded } }: Pick<Config, "store">): TrustSettings {
  const { certfile, keyfile, clientCafile, usersFile } = embedded;
  const files = { certFile: certfile, keyFile: keyfile, clientCaFile: clientCafile, usersFile };
  return { ...defined(files), prefix: etcd.prefix };
}

/**
 * Serves the embedded store where the configuration has this host do so; undefined elsewhere. The store of
 * {@link openStore} is its client, as those of other hosts are.
 * @param patient whether to wait for another process that still serves it, in place of failing
 * @throws FlannelError of openStoreServer
 */
export async function openServedStore(
  config: Pick<Config, "store">,
  { version, patient, log, clock }: StoreEnvironment & { version: string; patient: boolean },
): Promise<AsyncDisposable | undefined> {
  const { type, embedded } = config.store;
  if (type !== "embedded" || !embedded.serve) return undefined;
  const { openStoreServer } = await import("./embedded/serve.ts");
  const { dataDir, listen } = embedded;
  const open = () => openStoreServer({ dataDir, listen, log, version, trust: trustSettings(config) });
  return patient ? openPatiently(open, { log, clock }) : await open();
}

const handOverPollMs = 200;

/** Opens it as soon as the predecessor is gone; until then that one answers. */
function openPatiently(
  open: () => Promise<AsyncDisposable>,
  { log, clock }: StoreEnvironment,
): AsyncDisposable {
  const stop = new AbortController();
  const opening = (async () => {
    while (!stop.signal.aborted) {
      try {
        return await open();
      } catch (error) {
        if (!(error instanceof FlannelError)) throw error;
        if (error.code !== "store/in-use" && error.code !== "store/listen") {
          log.error("the lease store cannot be served", { error: errorText(error) });
        }
        await clock.sleep(handOverPollMs, stop.signal);
      }
    }
    return undefined;
  })();
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await (await opening)?.[Symbol.asyncDispose]();
    },
  };
}

function kubeOptions(
  { kubernetes }: StoreConfig,
  { log, clock, env = process.env, serviceAccountDir }: StoreEnvironment,
): KubeOptions {
  const { kubeconfig, apiUrl, nodeName, annotationPrefix } = kubernetes;
  const account = serviceAccountDir === undefined ? {} : { serviceAccountDir };
  return { kubeconfig, apiUrl, nodeName, annotationPrefix, env, log, clock, ...account };
}

function kubeStoreOptions(config: StoreConfig, environment: StoreEnvironment): KubeStoreOptions {
  const { netConfig, setNodeNetworkUnavailable } = config.kubernetes;
  const { leaseTtl = () => config.store.leaseTtl } = environment;
  return {
    ...kubeOptions(config, environment),
    netConfig,
    setNodeNetworkUnavailable,
    get ttlSeconds() {
      return leaseTtl() * 60;
    },
  };
}

function etcdOptions(
  { type, etcd, embedded, leaseTtl }: Config["store"],
  { log, clock, leaseTtl: leaseTtlNow = () => leaseTtl }: StoreEnvironment,
): EtcdStoreOptions {
  const { cafile, certfile, keyfile, ...rest } = etcd;
  const tls = defined({ caFile: cafile, certFile: certfile, keyFile: keyfile });
  return {
    ...(type === "embedded" ? embeddedClient(etcd, embedded) : defined(rest)),
    tls,
    log,
    clock,
    get ttlSeconds() {
      return leaseTtlNow() * 60;
    },
  };
}

/** How the embedded store is reached, which this host may serve itself. */
function embeddedClient(
  { username, password, passwordFile, prefix }: Config["store"]["etcd"],
  { certfile, listen }: Config["store"]["embedded"],
) {
  const scheme = certfile === undefined ? "http" : "https";
  const credentials = defined({ username, password, passwordFile });
  return { endpoints: [`${scheme}://${reachable(listen)}`], ...credentials, prefix };
}

/** Where this host reaches what listens there: on every address means on loopback too. */
function reachable(listen: string): string {
  return listen.replace(/^0\.0\.0\.0:/, "127.0.0.1:").replace(/^\[::\]:/, "[::1]:");
}

/** Without the members that are undefined. */
function defined<T extends object>(members: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const entries = Object.entries(members).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]: Exclude<T[K], undefined> };
}
