import { readJsonLines } from "../../src/store/etcd/json-stream.ts";

/** A watch at a JSON gateway that writes down what it is told. */
export interface WatchRecorder {
  /**
   * `created`, the events one by one, and how it was cancelled. How events are put into messages is not told.
   */
  readonly told: readonly object[];
  /** Revision of each event, in the order they came. */
  readonly revisions: readonly number[];
  /** When the stream is over, however it ended; never rejects. */
  readonly ended: Promise<void>;
  close(): void;
}

interface Message {
  readonly header?: { readonly revision?: string };
  readonly watch_id?: string;
  readonly created?: boolean;
  readonly canceled?: boolean;
  readonly compact_revision?: string;
  readonly cancel_reason?: string;
  readonly events?: readonly { readonly kv: { readonly mod_revision: string } }[];
}

/** Resolves once the watch is answered. */
export async function openWatchRecorder(endpoint: string, request: object): Promise<WatchRecorder> {
  const abort = new AbortController();
  const told: object[] = [];
  const revisions: number[] = [];
  const response = await fetch(`${endpoint}/v3/watch`, {
    method: "POST",
    body: JSON.stringify(request),
    proxy: false,
    signal: abort.signal,
  });
  const { promise: answered, resolve } = Promise.withResolvers<void>();
  const read = async () => {
    for await (const line of readJsonLines(response, endpoint)) {
      const {
        header,
        created,
        canceled,
        compact_revision,
        cancel_reason,
        watch_id,
        events = [],
      } = (line as { result: Message }).result;
      if (created === true || canceled === true) {
        told.push({
          revision: header?.revision,
          created,
          canceled,
          compact_revision,
          cancel_reason,
          watch_id,
        });
      }
      told.push(...events);
      revisions.push(...events.map(({ kv }) => Number(kv.mod_revision)));
      resolve();
    }
  };
  const ended = read()
    .catch(() => {}) // by close, or by the end of its server
    .finally(resolve);
  await answered;
  return { told, revisions, ended, close: () => abort.abort() };
}
