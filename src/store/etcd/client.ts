import { FlannelError } from "../../base/error.ts";
import { connectionFailure, rpcCode } from "./failure.ts";
import { Gateway, type GatewayOptions } from "./gateway.ts";
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

export interface EtcdClientOptions extends GatewayOptions {
  /** How often the server of an open watch is asked for a sign of life. */
  readonly probeMs?: number;
  /** A watch that said nothing for so long is opened again: its connection may be dead on the way. */
  readonly silenceMsMax?: number;
}

/** A put that happens only while the key is as it was read. */
export interface GuardedPut {
  readonly key: string;
  readonly value: string;
  /** Lease to attach, `0` for none. */
  readonly lease: string;
  /** The revision at which the key was read, 0 where it must not exist. */
  readonly ifRevision: bigint;
}

export type GuardedPutResult =
  { readonly done: true } | { readonly done: false; readonly found: KeyValue | undefined };

/** The part of etcd's v3 API that leases need. Every call throws FlannelError as Store describes. */
export class EtcdClient {
  readonly gateway: Gateway;
  readonly #options: EtcdClientOptions;

  constructor(options: EtcdClientOptions) {
    this.gateway = new Gateway(options);
    this.#options = options;
  }

  /** One key, linearizable. */
  async get(key: string, stop: AbortSignal): Promise<KeyValue | undefined> {
    const answer = await this.gateway.call("/v3/kv/range", { key: base64(key) }, { stop, repeatable: true });
    return parseRange(answer).entries[0];
  }

  /** Every key that begins with `prefix`, in key order, linearizable. */
  async list(prefix: string, stop: AbortSignal): Promise<RangeAnswer> {
    const body = { key: base64(prefix), range_end: prefixEnd(prefix) };
    return parseRange(await this.gateway.call("/v3/kv/range", body, { stop, repeatable: true }));
  }

  /**
   * Puts the key if its revision is still the one given, else gives what stands there. Repeated inside when
   * the answer was lost: a write of ours that is found is done.
   */
  async put({ key, value, lease, ifRevision }: GuardedPut, stop: AbortSignal): Promise<GuardedPutResult> {
    const put = { key: base64(key), value: base64(value), lease };
    const answer = await this.#txn(key, ifRevision, { request_put: put }, true, stop);
    if (answer.succeeded) return { done: true };
    const ours = answer.found?.lease === lease && Buffer.from(answer.found.value).toString("utf8") === value;
    // With a lease of our own making nobody else can have written it; without one the outcome is the same.
    return ours ? { done: true } : { done: false, found: answer.found };
  }

  /** Puts a key that does not exist; tells whether it did. Not repeated once it may have been applied. */
  async create(key: string, value: string, stop: AbortSignal): Promise<boolean> {
    const put = { key: base64(key), value: base64(value) };
    return (await this.#txn(key, 0n, { request_put: put }, false, stop)).succeeded;
  }

  /** Deletes the key if its revision is still the one given; tells whether the key is gone now. */
  async delete(key: string, ifRevision: bigint, stop: AbortSignal): Promise<boolean> {
    const request = { request_delete_range: { key: base64(key) } };
    const answer = await this.#txn(key, ifRevision, request, true, stop);
    return answer.succeeded || answer.found === undefined;
  }

  /** A new lease: its id and the seconds the server gives it. */
  async grant(ttlSeconds: number, stop: AbortSignal): Promise<{ id: string; ttlSeconds: number }> {
    const body = { TTL: String(ttlSeconds) };
    const lease = parseLease(await this.gateway.call("/v3/lease/grant", body, { stop, repeatable: true }));
    return { id: lease.id, ttlSeconds: lease.ttlSeconds };
  }

  /** Ends a lease and deletes the keys attached to it. One that is gone already is no error. */
  async revoke(id: string, stop: AbortSignal): Promise<void> {
    try {
      await this.gateway.call("/v3/lease/revoke", { ID: id }, { stop, repeatable: true });
    } catch (error) {
      if (!(error instanceof FlannelError) || error.fields["rpcCode"] !== rpcCode.notFound) throw error;
    }
  }

  /** Seconds left, -1 for a lease that is gone; and how many keys hang on it, where `keys` asks for that. */
  async timeToLive(
    id: string,
    stop: AbortSignal,
    keys = false,
  ): Promise<{ ttlSeconds: number; keyCount: number }> {
    const body = { ID: id, ...(keys ? { keys } : {}) };
    const answer = await this.gateway.call("/v3/lease/timetolive", body, { stop, repeatable: true });
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
      const stream = await this.gateway.stream("/v3/watch", { create_request }, connection.signal);
      guard = this.#guard(prefix, stream.endpoint, connection);
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

  /**
   * A paused or cut-off server keeps its connections open and says nothing. So it is asked now and then, and
   * the watch ends when it does not answer.
   */
  #guard(prefix: string, endpoint: string, connection: AbortController): WatchGuard {
    const { clock, probeMs = 10_000, silenceMsMax = 300_000 } = this.#options;
    const { signal } = connection;
    let heardAt = clock.now().getTime();
    const guard = { heard: () => (heardAt = clock.now().getTime()), silent: false, ended: Promise.resolve() };
    const run = async () => {
      while (!signal.aborted) {
        await clock.sleep(probeMs, signal);
        if (signal.aborted) return;
        guard.silent = clock.now().getTime() - heardAt > silenceMsMax;
        if (guard.silent) return connection.abort();
        try {
          await this.gateway.callAt(
            endpoint,
            "/v3/kv/range",
            { key: base64(prefix), count_only: true },
            signal,
          );
        } catch (error) {
          if (signal.aborted) return;
          this.gateway.avoid(endpoint);
          connection.abort(connectionFailure(error, endpoint).error);
        }
      }
    };
    guard.ended = run();
    return guard;
  }

  /** One write, done if the key's revision is `ifRevision` (0: if it does not exist); else the key is read. */
  async #txn(
    key: string,
    ifRevision: bigint,
    request: object,
    repeatable: boolean,
    stop: AbortSignal,
  ): Promise<TxnAnswer> {
    const compare = { key: base64(key), target: "MOD", result: "EQUAL", mod_revision: String(ifRevision) };
    const body = {
      compare: [compare],
      success: [request],
      failure: [{ request_range: { key: base64(key) } }],
    };
    return parseTxn(await this.gateway.call("/v3/kv/txn", body, { stop, repeatable }));
  }
}

interface WatchGuard {
  heard(): void;
  /** It ended the watch because nothing came for long, which is no failure. */
  readonly silent: boolean;
  readonly ended: Promise<void>;
}

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
