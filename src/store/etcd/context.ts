import { readFile } from "node:fs/promises";
import type { Clock } from "../../base/clock.ts";
import { FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import { EtcdClient } from "./client.ts";
import { encodeLeaseValue, encodeLeaseValueV2, etcdLayout } from "./codec.ts";
import { complainOnce, type EtcdContext } from "./lease-entry.ts";
import type { TlsFiles } from "./tls-files.ts";
import { EtcdV2Client } from "./v2/client.ts";

/** Term of a lease, as in flannel. */
const leaseSeconds = 24 * 60 * 60;

export interface EtcdStoreOptions {
  /** `http://host:port` or `https://host:port`; without scheme TLS is used where a client certificate is set. */
  readonly endpoints: readonly string[];
  /** Which of etcd's APIs holds the leases, v3 by default; auto: the one that holds a network configuration. */
  readonly api?: "auto" | "v3" | "v2";
  /** How API v3 is spoken: etcd's JSON gateway, the default, or its own protocol. */
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
  /** Term of a lease; a day, as in flannel. Read for each lease. */
  readonly ttlSeconds?: number;
  /** How long one endpoint may take to answer one call; 5 s. */
  readonly callMsMax?: number;
  /** How often the server of an open watch is asked for a sign of life; 10 s. */
  readonly probeMs?: number;
  /** Of [0, 1); draws subnets and spreads retries. */
  readonly random?: () => number;
}

/**
 * Leases behind one of etcd's APIs. Asks etcd nothing.
 * @throws FlannelError `store/endpoint` for what is no endpoint
 */
export function openEtcdContext(options: EtcdStoreOptions, api: "v3" | "v2"): EtcdContext {
  const { log, clock, random = Math.random, prefix } = options;
  const credentials = { ...options, password: () => readPassword(options) };
  const [client, encodeValue] =
    api === "v3"
      ? [new EtcdClient(credentials), encodeLeaseValue]
      : [new EtcdV2Client(credentials), encodeLeaseValueV2];
  return {
    api,
    client,
    // Keys of API v2 are paths.
    layout: etcdLayout(api === "v2" ? `/${prefix}` : prefix),
    encodeValue,
    log,
    clock,
    random,
    get ttlSeconds() {
      return options.ttlSeconds ?? leaseSeconds;
    },
    own: { grant: undefined },
    complain: complainOnce(log),
  };
}

/** Where the keys of a context are, for logs and `status`; no secrets. */
export function contextText({ api, client, layout }: EtcdContext): string {
  const name = api === "v3" ? "etcd" : "etcd v2";
  return `${name} ${client.endpoints.join(",")}${layout.config.replace(/\/config$/, "")}`;
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
