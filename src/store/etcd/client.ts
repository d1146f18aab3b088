import { FlannelError } from "../../base/error.ts";
import { Cluster, type ClusterOptions } from "./cluster.ts";
import { rpcCode } from "./failure.ts";
import { GatewayTransport } from "./gateway.ts";
import { GrpcTransport } from "./grpc.ts";
import type { EtcdKeys, GuardedPut, TimeToLive, Unchanged } from "./keys.ts";
import {
  type KeyValue,
  parseLease,
  parseRange,
  parseTxn,
  parseWatchMessage,
  type RangeAnswer,
  type TxnAnswer,
  type WatchMessage,
} from "./wire.ts";
import { guardWatch, type GuardOptions, type WatchGuard } from "./watch-guard.ts";

export interface EtcdClientOptions extends ClusterOptions, GuardOptions {
  /** etcd's JSON gateway, the default, or its own protocol. */
  readonly transport?: "gateway" | "grpc";
}

/** The part of etcd's v3 API that leases need. Every call throws FlannelError as Store describes. */
export class EtcdClient implements EtcdKeys {
  readonly #cluster: Cluster;
  readonly #options: EtcdClientOptions;

  constructor(options: EtcdClientOptions) {
    this.#cluster = new Cluster(options, (tls) =>
      options.transport === "grpc" ? new GrpcTransport(tls) : new GatewayTransport(tls),
    );
    this.#options = options;
  }

  /** As origins, `http://host:port`. */
  get endpoints(): readonly string[] {
    return this.#cluster.endpoints;
  }

  /** Ends every call and watch; those to come fail with `store/closed`. */
  close(): void {
    this.#cluster.close();
  }

  /** After a watch that was cancelled: a token made before the users changed shows as that. */
  forgetToken(): void {
    this.#cluster.forgetToken();
  }

  /** One key, linearizable. */
  async get(key: string, stop: AbortSignal): Promise<KeyValue | undefined> {
    const answer = await this.#cluster.call("range", { key: base64(key) }, { stop, repeatable: true });
    return parseRange(answer).entries[0];
  }

  /** Every key that begins with `prefix`, in key order, linearizable. */
  async list(prefix: string, stop: AbortSignal): Promise<RangeAnswer> {
    const body = { key: base64(prefix), range_end: prefixEnd(prefix) };
    return parseRange(await this.#cluster.call("range", body, { stop, repeatable: true }));
  }

  /**
   * Puts all keys in one transaction if the revision of each is still the one given; tells whether it did.
   * Repeated inside when the answer was lost: writes of ours that are found are done.
   */
  async put(puts: readonly GuardedPut[], stop: AbortSignal): Promise<boolean> {
    const requests = puts.map(({ key, value, lease }) => ({
      request_put: { key: base64(key), value: base64(value), lease },
    }));
    const answer = await this.#txn(puts, requests, true, stop);
    if (answer.succeeded) return true;
    // With a lease of our own making nobody else can have written it; without one the outcome is the same.
    return puts.every(({ value, lease }, at) => {
      const found = answer.found[at];
      return found?.lease === lease && Buffer.from(found.value).toString("utf8") === value;
    });
  }

  /** Puts a key that does not exist; tells whether it did. Not repeated once it may have been applied. */
  async create(key: string, value: string, stop: AbortSignal): Promise<boolean> {
    const put = { key: base64(key), value: base64(value) };
    return (await this.#txn([{ key, ifRevision: 0n }], [{ request_put: put }], false, stop)).succeeded;
  }

  /** Deletes all keys if the revision of each is still the one given; tells whether they are gone now. */
  async delete(keys: readonly Unchanged[], stop: AbortSignal): Promise<boolean> {
    const requests = keys.map(({ key }) => ({ request_delete_range: { key: base64(key) } }));
    const answer = await this.#txn(keys, requests, true, stop);
    return answer.succeeded || answer.found.every((found) => found === undefined);
  }

  /** A new lease: its id and the seconds the server gives it. */
  async grant(ttlSeconds: number, stop: AbortSignal): Promise<{ id: string; ttlSeconds: number }> {
    const body = { TTL: String(ttlSeconds) };
    const lease = parseLease(await this.#cluster.call("leaseGrant", body, { stop, repeatable: true }));
    return { id: lease.id, ttlSeconds: lease.ttlSeconds };
  }

  /** Ends a lease and deletes the keys attached to it. One that is gone already is no error. */
  async revoke(id: string, stop: AbortSignal): Promise<void> {
    try {
      await this.#cluster.call("leaseRevoke", { ID: id }, { stop, repeatable: true });
    } catch (error) {
      if (!(error instanceof FlannelError) || error.fields["rpcCode"] !== rpcCode.notFound) throw error;
    }
  }

  /** Seconds left, -1 for a lease that is gone; and how many keys hang on it, where `keys` asks for that. */
  async timeToLive(id: string, stop: AbortSignal, keys = false): Promise<TimeToLive> {
    const body = { ID: id, ...(keys ? { keys } : {}) };
    const answer = await this.#cluster.call("leaseTimeToLive", body, { stop, repeatable: true });
    return parseLease(answer);
  }

  /**
   * Changes of the keys that begin with `prefix` from revision `from` on, over one connection. Returns when
   * the server ends it or has been silent for long, throws FlannelError when it breaks or its server stops
   * answering; either way watch again from the revision after the last one seen.
   */
  async *watch(prefix: string, from: bigint, stop: AbortSignal): AsyncGenerator<WatchMessage> {
    const connection = new AbortController();
    const end = () => connection.abort(stop.reason);
    stop.addEventListener("abort", end);
    if (stop.aborted) end();
    const create_request = {
      key: base64(prefix),
      range_end: prefixEnd(prefix),
      start_revision: String(from),
      progress_notify: true,
    };
    let guard: WatchGuard | undefined;
    try {
      const stream = await this.#cluster.watch({ create_request }, connection.signal);
      guard = guardWatch(this.#options, connection, {
        cluster: this.#cluster,
        endpoint: stream.endpoint,
        method: "range",
        body: { key: base64(prefix), count_only: true },
      });
      for await (const message of stream.messages) {
        guard.heard();
        yield parseWatchMessage(message, from);
      }
    } catch (error) {
      if (guard?.silent !== true) throw error;
    } finally {
      stop.removeEventListener("abort", end);
      connection.abort();
      await guard?.ended;
    }
  }

  /** Writes, done if every key's revision is its `ifRevision` (0: if it does not exist); else the keys are read. */
  async #txn(
    keys: readonly Unchanged[],
    requests: readonly object[],
    repeatable: boolean,
    stop: AbortSignal,
  ): Promise<TxnAnswer> {
    const body = {
      compare: keys.map(({ key, ifRevision }) => ({
        key: base64(key),
        ...modRevisionEquals,
        mod_revision: String(ifRevision),
      })),
      success: requests,
      failure: keys.map(({ key }) => ({ request_range: { key: base64(key) } })),
    };
    return parseTxn(await this.#cluster.call("txn", body, { stop, repeatable }));
  }
}

/** Compare.CompareTarget MOD and Compare.CompareResult EQUAL. */
const modRevisionEquals = { target: 2, result: 0 };

function base64(text: string): string {
  return Buffer.from(text, "utf8").toString("base64");
}

/** The first key behind all that begin with `prefix` (etcd's clientv3.GetPrefixRangeEnd). */
function prefixEnd(prefix: string): string {
  const bytes = Buffer.from(prefix, "utf8");
  // The last byte of UTF-8 text is below 0xff.
  bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) + 1;
  return bytes.toString("base64");
}
