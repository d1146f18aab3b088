import { RpcError } from "./errors.ts";
import { type History, inRange, type KeyRange, keyRange, type Version } from "./history.ts";
import type { Event, ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse } from "./protocol.ts";
import { toKeyValue } from "./transaction.ts";

/** Where the messages of one stream go. */
export interface WatchSink {
  send(message: WatchResponse): void;
  /** Whether the client has yet to take what was sent; WatchStream.resume is called when it has. */
  readonly blocked: boolean;
  /** Ends the stream with an error. */
  fail(error: RpcError): void;
}

export interface WatchContext {
  readonly history: History;
  /** With the store's revision, unless another is given. */
  header(revision?: number): ResponseHeader;
}

const watchersPerStreamMax = 5_000;
/** Answers to requests that a client does not read, before its stream is ended. */
const unreadAnswersMax = 1_000;
/** How long a client may leave its stream unread. It can go on from where it was on a new one. */
const stalledMsMax = 60_000;
const messageEventsMax = 1_000;
const messageBytesMax = 256 * 1024;
/** As etcd's: how often a watch that asked for it hears that nothing happened. */
const progressMs = 10 * 60_000;

/** All watches. What one has yet to send is kept nowhere but in the history, so a slow one costs nothing. */
export class WatchHub {
  readonly #context: WatchContext;
  readonly #streams = new Set<WatchStream>();

  constructor(context: WatchContext) {
    this.#context = context;
  }

  get size(): number {
    return this.#streams.size;
  }

  open(sink: WatchSink): WatchStream {
    const stream = new WatchStream(this.#context, sink, () => this.#streams.delete(stream));
    this.#streams.add(stream);
    return stream;
  }

  /** After each commit and each compaction. */
  publish(): void {
    for (const stream of this.#streams) stream.resume();
  }

  /** Every few seconds: ends streams that nobody reads, tells idle watches how far they are. */
  tick(nowMs: number): void {
    for (const stream of this.#streams) stream.tick(nowMs);
  }

  close(): void {
    for (const stream of this.#streams) stream.fail(new RpcError("unavailable", "the store is closed"));
  }
}

interface Watcher {
  readonly id: number;
  readonly range: KeyRange;
  /** The first revision whose changes it has not been sent. */
  next: number;
  readonly puts: boolean;
  readonly deletes: boolean;
  readonly previous: boolean;
  readonly fragment: boolean;
  readonly progress: boolean;
  lastSentMs: number;
}

/** One client's stream with any number of watches (etcdserver/api/v3rpc/watch.go). */
export class WatchStream {
  readonly #context: WatchContext;
  readonly #sink: WatchSink;
  readonly #forget: () => void;
  readonly #watchers = new Map<number, Watcher>();
  #nextId = 0;
  #unreadAnswers = 0;
  #blockedSinceMs: number | undefined;
  #nowMs = 0;

  constructor(context: WatchContext, sink: WatchSink, forget: () => void) {
    this.#context = context;
    this.#sink = sink;
    this.#forget = forget;
  }

  request({ create_request, cancel_request, progress_request }: WatchRequest): void {
    if (create_request !== undefined) this.#create(create_request);
    else if (cancel_request !== undefined) this.#cancel(cancel_request.watch_id);
    else if (progress_request !== undefined) this.#answer({ header: this.#context.header(), watch_id: -1 });
  }

  /** Sends what has not been sent, as far as the client takes it. */
  resume(): void {
    if (!this.#sink.blocked) {
      this.#unreadAnswers = 0;
      this.#blockedSinceMs = undefined;
    }
    for (const watcher of this.#watchers.values()) {
      while (watcher.next <= this.#context.history.revision) {
        if (this.#sink.blocked) return;
        if (!this.#sendNext(watcher)) break;
      }
    }
  }

  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#sink.blocked) {
      this.#blockedSinceMs ??= nowMs;
      if (nowMs - this.#blockedSinceMs > stalledMsMax) {
        this.fail(new RpcError("cancelled", "the watch was not read for too long"));
      }
      return;
    }
    this.#blockedSinceMs = undefined;
    for (const watcher of this.#watchers.values()) {
      if (!watcher.progress || nowMs - watcher.lastSentMs < progressMs) continue;
      this.#sink.send({ header: this.#context.header(), watch_id: watcher.id });
      watcher.lastSentMs = nowMs;
    }
  }

  fail(error: RpcError): void {
    this.close();
    this.#sink.fail(error);
  }

  /** The client is gone. */
  close(): void {
    this.#watchers.clear();
    this.#forget();
  }

  #create(request: WatchCreateRequest): void {
    const { history } = this.#context;
    const range = keyRange(request.key === "" ? "\0" : request.key, request.range_end);
    const refusal = this.#refusal(request.watch_id, range);
    const id = refusal === undefined ? this.#freeId(request.watch_id) : -1;
    const answer = { header: this.#context.header(), watch_id: id, created: true };
    if (refusal !== undefined) {
      this.#answer({ ...answer, canceled: true, cancel_reason: refusal });
      return;
    }
    this.#answer(answer);
    this.#watchers.set(id, {
      id,
      range,
      next: request.start_revision === 0 ? history.revision + 1 : request.start_revision,
      puts: !request.filters.includes("NOPUT"),
      deletes: !request.filters.includes("NODELETE"),
      previous: request.prev_kv,
      fragment: request.fragment,
      progress: request.progress_notify,
      lastSentMs: this.#nowMs,
    });
    this.resume();
  }

  #refusal(id: number, { key, end }: KeyRange): string | undefined {
    if (end !== undefined && end !== "" && key >= end) return "mvcc: watcher range is empty";
    if (id !== 0 && this.#watchers.has(id)) return "mvcc: duplicate watch ID provided on the WatchStream";
    if (this.#watchers.size >= watchersPerStreamMax) return "too many watches on one stream";
    return undefined;
  }

  #freeId(wanted: number): number {
    if (wanted !== 0) return wanted;
    while (this.#watchers.has(this.#nextId)) this.#nextId++;
    return this.#nextId++;
  }

  #cancel(id: number): void {
    if (this.#watchers.delete(id)) {
      this.#answer({ header: this.#context.header(), watch_id: id, canceled: true });
    }
  }

  #answer(message: WatchResponse): void {
    this.#sink.send(message);
    if (!this.#sink.blocked) return;
    this.#unreadAnswers++;
    if (this.#unreadAnswers > unreadAnswersMax) {
      this.fail(new RpcError("resourceExhausted", "the stream's answers are not read"));
    }
  }

  /** One message, of whole revisions; whether the watch goes on. */
  #sendNext(watcher: Watcher): boolean {
    const { history } = this.#context;
    if (history.compacted > 0 && watcher.next < history.compacted) {
      this.#watchers.delete(watcher.id);
      this.#sink.send({
        header: this.#context.header(0),
        watch_id: watcher.id,
        canceled: true,
        compact_revision: history.compacted,
      });
      return false;
    }
    watcher.next = Math.max(watcher.next, 1);
    const events: Event[] = [];
    let bytes = 0;
    while (watcher.next <= history.revision && events.length < messageEventsMax && bytes < messageBytesMax) {
      for (const change of history.changesAt(watcher.next)) {
        if (!inRange(watcher.range, change.key)) continue;
        if (change.value === undefined ? !watcher.deletes : !watcher.puts) continue;
        // As in etcd, a key just created had none, even if the same transaction deleted one.
        const hasPrevious = watcher.previous && change.created !== change.modified;
        const event = toEvent(change, hasPrevious ? history.at(change.key, change.modified - 1) : undefined);
        events.push(event);
        bytes += sizeOf(event);
      }
      watcher.next++;
    }
    if (events.length > 0) this.#sendEvents(watcher, events);
    return true;
  }

  #sendEvents(watcher: Watcher, events: readonly Event[]): void {
    const base = { header: this.#context.header(), watch_id: watcher.id };
    const parts = watcher.fragment ? fragments(events) : [events];
    for (const [at, part] of parts.entries()) {
      this.#sink.send({ ...base, fragment: at < parts.length - 1, events: part });
    }
    watcher.lastSentMs = this.#nowMs;
  }
}

function toEvent(change: Version, before: Version | undefined): Event {
  const kv = toKeyValue(change);
  const previous = before === undefined ? {} : { prev_kv: toKeyValue(before) };
  return change.value === undefined ? { type: "DELETE", kv, ...previous } : { kv, ...previous };
}

/** Events in pieces of about a message's size, at least one each. */
function fragments(events: readonly Event[]): Event[][] {
  const parts: Event[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const event of events) {
    bytes += sizeOf(event);
    if (bytes > messageBytesMax) {
      parts.push([]);
      bytes = sizeOf(event);
    }
    parts.at(-1)?.push(event);
  }
  return parts;
}

function sizeOf({ kv, prev_kv }: Event): number {
  const one = (value: Event["kv"]) => (value?.key?.length ?? 0) + (value?.value?.length ?? 0);
  return one(kv) + one(prev_kv) + 64;
}
