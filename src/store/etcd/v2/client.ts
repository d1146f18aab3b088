import { Cluster, type ClusterOptions } from "../cluster.ts";
import type { EtcdKeys, GuardedPut, TimeToLive, Unchanged } from "../keys.ts";
import { type GuardOptions, guardWatch, type WatchGuard } from "../watch-guard.ts";
import type { KeyValue, RangeAnswer, WatchMessage } from "../wire.ts";
import { type KeysRequest, KeysTransport } from "./transport.ts";
import { errorCode, type KeysAnswer, KeysError, parseKeys, parsePoll, termEndMs } from "./wire.ts";

export interface EtcdV2ClientOptions extends ClusterOptions, GuardOptions {}

/** A key that was put with a full term has at least this much less of it when it is read back. */
const termSlackSeconds = 30;

/**
 * The keys of etcd's API v2, which has neither transactions nor leases: each key has a term of its own, and
 * keys that v3 writes together are written one after the other, the last first. `revision` is a key's
 * modifiedIndex; a grant is no more than a promise of the term that keys are put with.
 */
export class EtcdV2Client implements EtcdKeys {
  readonly #cluster: Cluster<"keys">;
  readonly #options: EtcdV2ClientOptions;
  readonly #grants = new Map<string, Grant>();
  #granted = 0;

  constructor(options: EtcdV2ClientOptions) {
    this.#cluster = new Cluster<"keys">(options, (tls) => new KeysTransport(tls));
    this.#options = options;
  }

  get endpoints(): readonly string[] {
    return this.#cluster.endpoints;
  }

  close(): void {
    this.#cluster.close();
  }

  forgetToken(): void {
    this.#cluster.forgetToken();
  }

  async get(key: string, stop: AbortSignal): Promise<KeyValue | undefined> {
    const answer = await this.#call({ verb: "GET", key, query: { quorum: "true" } }, true, stop);
    if (answer.body instanceof KeysError) return undefined;
    return parseKeys(answer, this.#nowMs()).find((found) => found.key === key);
  }

  /** Every key in the directory `prefix`, those of directories in it too. */
  async list(prefix: string, stop: AbortSignal): Promise<RangeAnswer> {
    const query = { quorum: "true", recursive: "true" };
    const answer = await this.#call({ verb: "GET", key: prefix, query }, true, stop);
    const { index: revision, clusterId } = answer;
    const entries = answer.body instanceof KeysError ? [] : parseKeys(answer, this.#nowMs());
    return { revision, clusterId, entries: entries.filter(({ key }) => key.startsWith(`${prefix}/`)) };
  }

  async put(puts: readonly GuardedPut[], stop: AbortSignal): Promise<boolean> {
    const made: Unchanged[] = [];
    for (const put of puts.toReversed()) {
      const revision = await this.#put(put, stop);
      if (revision === undefined) {
        await this.#undo(made, stop);
        return false;
      }
      if (put.ifRevision === 0n) made.push({ key: put.key, ifRevision: revision });
    }
    return true;
  }

  async create(key: string, value: string, stop: AbortSignal): Promise<boolean> {
    const answer = await this.#call({ verb: "PUT", key, query: { value, prevExist: "false" } }, false, stop);
    return !(answer.body instanceof KeysError);
  }

  async delete(keys: readonly Unchanged[], stop: AbortSignal): Promise<boolean> {
    for (const { key, ifRevision } of keys.toReversed()) {
      if (!(await this.#delete(key, ifRevision, stop))) return false;
    }
    return true;
  }

  async grant(ttlSeconds: number): Promise<{ id: string; ttlSeconds: number }> {
    // Of the grants only the last one's keys are ever asked after.
    for (const oldest of [...this.#grants.keys()].slice(0, -grantsMax)) this.#grants.delete(oldest);
    const id = `for:${this.#granted++}`;
    this.#grants.set(id, { ttlSeconds, key: undefined });
    return { id, ttlSeconds };
  }

  async revoke(): Promise<void> {}

  /** A grant is gone once the first key that was put with it is. */
  async timeToLive(id: string, stop: AbortSignal): Promise<TimeToLive> {
    const endMs = termEndMs(id);
    // The key that it stands for hangs on it, so that nobody takes it for unused.
    if (endMs !== undefined) return { ttlSeconds: Math.max((endMs - this.#nowMs()) / 1_000, 0), keyCount: 1 };
    const grant = this.#grants.get(id);
    if (grant?.key === undefined) return { ttlSeconds: -1, keyCount: 0 };
    const found = await this.get(grant.key, stop);
    return found === undefined
      ? { ttlSeconds: -1, keyCount: 0 }
      : { ttlSeconds: grant.ttlSeconds, keyCount: 1 };
  }

  async *watch(prefix: string, from: bigint, stop: AbortSignal): AsyncGenerator<WatchMessage> {
    let next = from;
    for (;;) {
      let told = false;
      for await (const message of this.#poll(prefix, next, stop)) {
        told = message.kind === "events";
        if (message.kind === "events" || message.kind === "progress") next = message.next;
        yield message;
      }
      if (!told) return;
    }
  }

  /** One long poll: `open`, then what happened first. */
  async *#poll(prefix: string, from: bigint, stop: AbortSignal): AsyncGenerator<WatchMessage> {
    const connection = new AbortController();
    const end = () => connection.abort(stop.reason);
    stop.addEventListener("abort", end);
    if (stop.aborted) end();
    const request: KeysRequest = {
      verb: "GET",
      key: prefix,
      query: { wait: "true", recursive: "true", waitIndex: `${from}` },
    };
    let guard: WatchGuard | undefined;
    let openedAt = 0n;
    try {
      const stream = await this.#cluster.watch(request, connection.signal);
      guard = guardWatch(this.#options, connection, {
        cluster: this.#cluster,
        endpoint: stream.endpoint,
        method: "keys",
        body: { verb: "GET", key: prefix, query: { quorum: "true" } } satisfies KeysRequest,
      });
      for await (const message of stream.messages) {
        guard.heard();
        const answer = message as KeysAnswer;
        openedAt = answer.index;
        yield parsePoll(answer, prefix, from, this.#nowMs());
      }
    } catch (error) {
      if (guard?.silent !== true) throw error;
      // Nothing of ours had happened when it was opened. Asked again from there, history is not soon cleared.
      if (openedAt >= from) yield { kind: "progress", next: openedAt + 1n };
    } finally {
      stop.removeEventListener("abort", end);
      connection.abort();
      await guard?.ended;
    }
  }

  /** The revision of the key as it was put; undefined where it is not as it was read. */
  async #put({ key, value, lease, ifRevision }: GuardedPut, stop: AbortSignal): Promise<bigint | undefined> {
    const grant = this.#grants.get(lease);
    if (lease !== "0" && grant === undefined) throw new Error(`no grant: ${lease}`);
    const query = {
      value,
      ...(grant === undefined ? {} : { ttl: String(grant.ttlSeconds) }),
      ...(ifRevision === 0n ? { prevExist: "false" } : { prevIndex: `${ifRevision}` }),
    };
    const answer = await this.#call({ verb: "PUT", key, query }, true, stop);
    const refused = answer.body instanceof KeysError;
    const [put] = refused ? [await this.get(key, stop)] : parseKeys(answer, this.#nowMs());
    // It was repeated when the answer was lost: what we would have written is found.
    if (put === undefined || (refused && !this.#isWritten(put, value, grant?.ttlSeconds))) return undefined;
    if (grant !== undefined) grant.key ??= key;
    return put.revision;
  }

  #isWritten(found: KeyValue, value: string, ttlSeconds: number | undefined): boolean {
    if (Buffer.from(found.value).toString("utf8") !== value) return false;
    const endMs = termEndMs(found.lease);
    if (ttlSeconds === undefined || endMs === undefined)
      return ttlSeconds === undefined && endMs === undefined;
    const leftSeconds = (endMs - this.#nowMs()) / 1_000;
    return leftSeconds > ttlSeconds - Math.min(termSlackSeconds, ttlSeconds / 2);
  }

  /** Tells whether the key is gone now. */
  async #delete(key: string, ifRevision: bigint, stop: AbortSignal): Promise<boolean> {
    const query = { prevIndex: `${ifRevision}` };
    const { body } = await this.#call({ verb: "DELETE", key, query }, true, stop);
    return !(body instanceof KeysError) || body.code === errorCode.keyNotFound;
  }

  /** Takes back what came into being with a write that as a whole was not done. */
  async #undo(made: readonly Unchanged[], stop: AbortSignal): Promise<void> {
    for (const { key, ifRevision } of made) await this.#delete(key, ifRevision, stop);
  }

  async #call(request: KeysRequest, repeatable: boolean, stop: AbortSignal): Promise<KeysAnswer> {
    return (await this.#cluster.call("keys", request, { stop, repeatable })) as KeysAnswer;
  }

  #nowMs(): number {
    return this.#options.clock.now().getTime();
  }
}

interface Grant {
  readonly ttlSeconds: number;
  /** The first key that was put with it. */
  key: string | undefined;
}

/** How many grants are remembered. */
const grantsMax = 16;
