import type { Clock } from "../../base/clock.ts";
import { FlannelError } from "../../base/error.ts";
import { asGoObject } from "../../base/go-json.ts";
import type { KubeAccess } from "./access.ts";
import { closed, connectionError, Gone, notKubernetes, statusError } from "./failure.ts";
import { readBody, readLines } from "./json-lines.ts";

export interface KubeClientOptions {
  readonly access: KubeAccess;
  readonly clock: Clock;
  /** How long one call may take; 10 s. A page of a list gets thrice that. */
  readonly callMsMax?: number;
  /** A watch that says nothing for so long is opened again: its connection may be dead on the way; 150 s. */
  readonly silenceMsMax?: number;
}

/** One page of a list, as it came. */
export interface NodePage {
  readonly items: readonly unknown[];
  /** Of the whole list: where a watch goes on. */
  readonly resourceVersion: string;
}

export type WatchEvent =
  | { readonly type: "ADDED" | "MODIFIED" | "DELETED"; readonly object: unknown }
  | { readonly type: "BOOKMARK"; readonly resourceVersion: string };

/** Nodes of one page: some 16 KB each. */
const pageLimit = 500;
const pageBytesMax = 64 * 1024 * 1024;

/** 200,000 nodes, where Kubernetes is made for 5,000: a list that is longer does not end. */
const pagesMax = 400;

/** etcd, behind the API server, takes no object longer than 1.5 MB. */
const eventBytesMax = 4 * 1024 * 1024;

/** A server ends a watch after this long, give or take; else it chooses 30 to 60 minutes. */
const watchSeconds = 600;

/** Pages of a list whose place expires again and again are begun anew this often. */
const listAttemptsMax = 3;

/**
 * The calls of Kubernetes' API that node leases need. Each throws FlannelError as Store describes, and its reason
 * when `stop` aborts.
 */
export class KubeClient {
  readonly #options: KubeClientOptions;
  readonly #closed = new AbortController();
  readonly #watches = new Set<() => void>();

  constructor(options: KubeClientOptions) {
    this.#options = options;
  }

  get description(): string {
    return this.#options.access.description;
  }

  /** Ends every call and watch; those to come fail with `store/closed`. */
  close(): void {
    this.#closed.abort();
  }

  /** Has watches return as if the server had ended them. */
  endWatches(): void {
    for (const end of this.#watches) end();
  }

  /** Undefined where there is no such node. */
  async getNode(name: string, stop: AbortSignal): Promise<unknown> {
    return await this.#get(`/api/v1/nodes/${encodeURIComponent(name)}`, stop);
  }

  /** Undefined where there is no such pod. */
  async getPod(namespace: string, name: string, stop: AbortSignal): Promise<unknown> {
    const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(name)}`;
    return await this.#get(path, stop);
  }

  /**
   * Changes annotations and conditions through the status subresource, which is all the rights flannel has.
   * @returns the node as it stands then
   * @throws FlannelError also `store/no-node` (retryable) where there is none
   */
  async patchNodeStatus(name: string, patch: object, stop: AbortSignal): Promise<unknown> {
    const path = `/api/v1/nodes/${encodeURIComponent(name)}/status`;
    const body = { contentType: "application/strategic-merge-patch+json", text: JSON.stringify(patch) };
    return await this.#call(path, { method: "PATCH", body, stop });
  }

  /**
   * All nodes, or the one that is named, in pages, which together are one consistent list. One whose place expires
   * is begun anew: then `begin` is called again.
   */
  async list(
    { only, begin }: { readonly only?: string; readonly begin: () => void },
    take: (page: NodePage) => void,
    stop: AbortSignal,
  ): Promise<string> {
    for (let attempt = 1; ; attempt++) {
      begin();
      try {
        return await this.#pages(only, take, stop);
      } catch (error) {
        if (!(error instanceof Gone)) throw error;
        if (attempt === listAttemptsMax) throw notKubernetes("its lists expire while they are read");
      }
    }
  }

  async #pages(only: string | undefined, take: (page: NodePage) => void, stop: AbortSignal): Promise<string> {
    let place = "";
    for (let pages = 1; ; pages++) {
      if (pages > pagesMax) throw notKubernetes("its list of nodes does not end");
      const query = new URLSearchParams({ limit: String(pageLimit) });
      if (only !== undefined) query.set("fieldSelector", `metadata.name=${only}`);
      if (place !== "") query.set("continue", place);
      const answer = await this.#call(`/api/v1/nodes?${query}`, { method: "GET", stop, slow: true });
      const list = asGoObject(answer);
      const metadata = asGoObject(list?.get("metadata"));
      const items: unknown = list?.get("items") ?? [];
      const resourceVersion = metadata?.get("resourceVersion");
      if (!Array.isArray(items) || typeof resourceVersion !== "string")
        throw notKubernetes("its list of nodes is none");
      take({ items, resourceVersion });
      const next: unknown = metadata?.get("continue") ?? "";
      if (typeof next !== "string" || next === "") return resourceVersion;
      place = next;
    }
  }

  /**
   * Changes since `from`, over one connection. Returns when the server ends it or it has been silent for long;
   * @throws Gone when `from` is too old: list again; FlannelError when it breaks
   */
  async *watch(
    { from, only }: { readonly from: string; readonly only?: string },
    stop: AbortSignal,
  ): AsyncGenerator<WatchEvent> {
    const { clock, silenceMsMax = 150_000 } = this.#options;
    const query = new URLSearchParams({
      watch: "true",
      resourceVersion: from,
      allowWatchBookmarks: "true",
      timeoutSeconds: String(watchSeconds),
    });
    if (only !== undefined) query.set("fieldSelector", `metadata.name=${only}`);
    const connection = new AbortController();
    const signal = AbortSignal.any([stop, this.#closed.signal, connection.signal]);
    let ended = false;
    const end = () => {
      ended = true;
      connection.abort();
    };
    this.#watches.add(end);
    let heardMs = clock.now().getTime();
    const silenceMs = () => {
      const nowMs = clock.now().getTime();
      heardMs = Math.min(heardMs, nowMs); // the clock may have been set back
      return nowMs - heardMs;
    };
    const guard = (async () => {
      while (!signal.aborted) {
        await clock.sleep(silenceMsMax - silenceMs(), signal);
        if (!signal.aborted && silenceMs() >= silenceMsMax) end();
      }
    })();
    try {
      const response = await this.#fetch(`/api/v1/nodes?${query}`, { method: "GET", signal });
      for await (const line of readLines(response, eventBytesMax)) {
        heardMs = clock.now().getTime();
        yield parseEvent(line);
      }
    } catch (error) {
      if (ended) return;
      throw this.#failure(error, stop);
    } finally {
      this.#watches.delete(end);
      connection.abort();
      await guard;
    }
  }

  async #get(path: string, stop: AbortSignal): Promise<unknown> {
    try {
      return await this.#call(path, { method: "GET", stop });
    } catch (error) {
      if (error instanceof FlannelError && error.code === "store/no-node") return undefined;
      throw error;
    }
  }

  async #call(
    path: string,
    { method, body, stop, slow = false }: CallOptions & { stop: AbortSignal; slow?: boolean },
  ): Promise<unknown> {
    const { callMsMax = 10_000 } = this.#options;
    const limitMs = slow ? callMsMax * 3 : callMsMax;
    const signal = AbortSignal.any([stop, this.#closed.signal]);
    try {
      return await readBody(await this.#fetch(path, { method, body, signal, limitMs }), pageBytesMax);
    } catch (error) {
      throw this.#failure(error, stop);
    }
  }

  /**
   * A response with status 200 or 201; credentials that a plugin gave are asked for once more when refused. `limitMs`
   * bounds what the server takes, its body included, and not how long the plugin takes, which has a limit of its own.
   */
  async #fetch(
    path: string,
    { method, body, signal, limitMs }: CallOptions & { signal: AbortSignal; limitMs?: number },
  ): Promise<Response> {
    const { access } = this.#options;
    signal.throwIfAborted();
    for (let attempt = 1; ; attempt++) {
      const { server, tls, serverName, token } = await access.connect(signal);
      const limits = limitMs === undefined ? [] : [AbortSignal.timeout(limitMs)];
      const response = await fetch(`${server}${path}`, {
        method,
        headers: {
          accept: "application/json",
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { "content-type": body.contentType }),
        },
        ...(body === undefined ? {} : { body: body.text }),
        redirect: "error",
        proxy: false, // of the environment: leases do not travel through it
        signal: AbortSignal.any([signal, ...limits]),
        ...(server.startsWith("https:")
          ? { tls: { ...tls, rejectUnauthorized: true, ...(serverName === undefined ? {} : { serverName }) } }
          : {}),
      });
      if (response.status === 200 || response.status === 201) return response;
      const text = JSON.stringify(await readBody(response, eventBytesMax).catch(() => null));
      if (response.status === 401 && attempt === 1 && access.refused()) continue;
      throw statusError(response.status, text, method);
    }
  }

  #failure(thrown: unknown, stop: AbortSignal): unknown {
    if (stop.aborted) return stop.reason;
    if (this.#closed.signal.aborted) return closed();
    if (thrown instanceof FlannelError || thrown instanceof Gone) return thrown;
    return connectionError(thrown, this.description);
  }
}

interface CallOptions {
  readonly method: "GET" | "PATCH";
  readonly body?: { readonly contentType: string; readonly text: string } | undefined;
}

function parseEvent(line: unknown): WatchEvent {
  const event = asGoObject(line);
  const type = event?.get("type");
  const object = asGoObject(event?.get("object"));
  switch (type) {
    case "ADDED":
    case "MODIFIED":
    case "DELETED":
      return { type, object: event?.get("object") };
    case "BOOKMARK": {
      const resourceVersion = asGoObject(object?.get("metadata"))?.get("resourceVersion");
      if (typeof resourceVersion === "string") return { type, resourceVersion };
      break;
    }
    case "ERROR": {
      const code = object?.get("code");
      throw statusError(typeof code === "number" ? code : 500, JSON.stringify(event?.get("object")), "GET");
    }
  }
  throw notKubernetes("an event of its watch is none");
}
