import { readFile } from "node:fs/promises";
import type { Clock } from "../../base/clock.ts";
import { FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import type { Store } from "../store.ts";
import { acquireLease } from "./acquire.ts";
import { EtcdClient } from "./client.ts";
import { etcdLayout } from "./codec.ts";
import { complainOnce, type EtcdContext, leaseOf, parseLeaseEntry, readExpiries } from "./lease-entry.ts";
import { releaseLease, renewLease, signOff } from "./renew.ts";
import type { TlsFiles } from "./tls-files.ts";
import { watchLeases } from "./watch.ts";

/** Term of a lease, as in flannel. */
const leaseSeconds = 24 * 60 * 60;

export interface EtcdStoreOptions {
  /** `http://host:port` or `https://host:port`; without scheme TLS is used where a client certificate is set. */
  readonly endpoints: readonly string[];
  /** etcd's JSON gateway, the default, or its own protocol. */
  readonly transport?: "gateway" | "grpc";
  /** `/coreos.com/network` in flannel. */
  readonly prefix: string;
  /** Read again when they change. */
  readonly tls?: TlsFiles;
  readonly username?: string;
  readonly password?: string;
  /** Read at each login, in place of `password`; one newline at its end is ignored. */
  readonly passwordFile?: string;
  readonly log: Log;
  readonly clock: Clock;
  /** Term of a lease; a day, as in flannel. */
  readonly ttlSeconds?: number;
  /** How long one endpoint may take to answer one call; 5 s. */
  readonly callMsMax?: number;
  /** How often the server of an open watch is asked for a sign of life; 10 s. */
  readonly probeMs?: number;
  /** Of [0, 1); draws subnets and spreads retries. */
  readonly random?: () => number;
}

/**
 * Leases in etcd (3.4 or later), in flannel's keys and values. Opening asks etcd nothing.
 * @throws FlannelError `store/endpoint` for what is no endpoint
 */
export function openEtcdStore(options: EtcdStoreOptions): Store {
  const { log, clock, ttlSeconds = leaseSeconds, random = Math.random } = options;
  const client = new EtcdClient({ ...options, password: () => readPassword(options) });
  const layout = etcdLayout(options.prefix);
  const context: EtcdContext = {
    client,
    layout,
    log,
    clock,
    random,
    ttlSeconds,
    own: { grant: undefined },
    complain: complainOnce(log),
  };
  return {
    description: `etcd ${client.endpoints.join(",")}${layout.config.replace(/\/config$/, "")}`,

    async readNetworkConfig(stop) {
      const entry = await client.get(layout.config, stop);
      return entry === undefined ? undefined : Buffer.from(entry.value).toString("utf8");
    },

    createNetworkConfig: (document, stop) => client.create(layout.config, document, stop),

    acquire: (request, stop) => acquireLease(context, request, stop),

    renew: (request, stop) => renewLease(context, request, stop),

    signOff: (publicIp, node, stop) => signOff(context, { publicIp, node }, stop),

    release: (lease, stop) => releaseLease(context, lease, stop),

    async list(stop) {
      const { entries: stored } = await client.list(layout.subnets, stop);
      const entries = stored
        .map((entry) => parseLeaseEntry(context, entry))
        .filter((entry) => entry !== undefined);
      const expiryOf = await readExpiries(context, entries, stop);
      return entries.map((entry) => leaseOf(entry, expiryOf(entry))).filter((lease) => lease !== undefined);
    },

    watch: (stop) => watchLeases(context, stop),

    async [Symbol.asyncDispose]() {
      client.close();
    },
  };
}

async function readPassword({ password = "", passwordFile }: EtcdStoreOptions): Promise<string> {
  if (passwordFile === undefined) return password;
  try {
    return (await readFile(passwordFile, "utf8")).replace(/\r?\n$/, "");
  } catch (cause) {
    throw new FlannelError(
      "store/unauthorized",
      "cannot read the password file",
      { path: passwordFile },
      { cause, remedy: "Check store.etcd.password_file." },
    );
  }
}
