import { randomUUID } from "node:crypto";

/** A Node object as the API server keeps it. */
export interface NodeObject {
  readonly metadata: {
    readonly name: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly creationTimestamp: string;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec: { readonly podCIDR?: string; readonly podCIDRs?: readonly string[] };
  readonly status: { readonly conditions?: readonly NodeCondition[]; readonly images?: readonly object[] };
}

export interface NodeCondition {
  readonly type: string;
  readonly status: string;
  readonly [member: string]: string;
}

/** What a test makes of a node; the server adds the rest. */
export interface NodeSpec {
  readonly name: string;
  readonly podCidrs?: readonly string[];
  readonly annotations?: Readonly<Record<string, string>>;
  /** Status of NetworkUnavailable, as a cloud's controller sets it; none by default. */
  readonly networkUnavailable?: string;
  /** What its kubelet has found there: most of a real node's size. */
  readonly images?: readonly object[];
}

export interface TestKubeApiOptions {
  readonly hostname?: string;
  readonly port?: number;
  /** Bearer tokens that are let in; everybody is where there are none. */
  readonly tokens?: readonly string[];
  /** PEM: the server's certificate, and the authority of the clients', which must then have one. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly clientCa?: string };
  /** How often a watch gets a bookmark; not at all by default. */
  readonly bookmarkMs?: number;
}

/** One request as it came. */
export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly query: Readonly<Record<string, string>>;
  readonly contentType: string | null;
  readonly body: string;
}

/**
 * A small API server of Kubernetes: the calls that node leases need, told as the real one tells them, and none
 * besides; `refused` has those that came nevertheless.
 */
export interface TestKubeApi extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly requests: readonly SeenRequest[];
  readonly refused: readonly string[];
  readonly watches: number;
  /** What the cluster's other parts do: kubelets, the node controller, operators. */
  createNode(spec: NodeSpec): NodeObject;
  deleteNode(name: string): void;
  getNode(name: string): NodeObject | undefined;
  nodes(): readonly NodeObject[];
  annotate(name: string, annotations: Readonly<Record<string, string | null>>): void;
  setPodCidrs(name: string, podCidrs: readonly string[]): void;
  setCondition(name: string, status: string): void;
  createPod(namespace: string, name: string, nodeName: string): void;
  /** A change that concerns nobody, as a kubelet's heartbeat is. */
  heartbeat(name: string): void;
  /** Answers `status` in place of what `matches`, until called again without. */
  deny(matches?: (request: SeenRequest) => boolean, status?: number): void;
  setTokens(tokens: readonly string[]): void;
  /** Forgets what has changed until now, as compaction does: watches from before get 410. */
  compact(): void;
  /** Places inside of lists that were given out are worth nothing any more. */
  expirePlaces(): void;
  /** Ends all watches: cleanly, or as a crash does. */
  dropWatches(): void;
}

interface Watcher {
  readonly only: string | undefined;
  send(line: string): void;
  end(): void;
}

interface Event {
  readonly revision: number;
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  readonly node: NodeObject;
}

export function startKubeApi(options: TestKubeApiOptions = {}): TestKubeApi {
  const { hostname = "127.0.0.1", port = 0, tls, bookmarkMs } = options;
  const nodes = new Map<string, NodeObject>();
  const pods = new Map<string, string>();
  const watchers = new Set<Watcher>();
  const places = new Map<string, readonly NodeObject[]>();
  const requests: SeenRequest[] = [];
  const refused: string[] = [];
  let tokens = options.tokens ?? [];
  let history: Event[] = [];
  let revision = 100;
  let oldest = 100;
  let denied: { matches: (request: SeenRequest) => boolean; status: number } | undefined;

  const store = (type: Event["type"], node: NodeObject): NodeObject => {
    revision++;
    const written = { ...node, metadata: { ...node.metadata, resourceVersion: String(revision) } };
    if (type === "DELETED") nodes.delete(node.metadata.name);
    else nodes.set(node.metadata.name, written);
    history.push({ revision, type, node: written });
    for (const watcher of watchers) tell(watcher, { revision, type, node: written });
    return written;
  };

  const update = (name: string, change: (node: NodeObject) => NodeObject): NodeObject => {
    const node = nodes.get(name);
    if (node === undefined) throw new Error(`no node ${name}`);
    return store("MODIFIED", change(node));
  };

  const list = (query: URLSearchParams): Response => {
    const only = onlyOf(query);
    const limit = Number(query.get("limit") ?? "0");
    const place = query.get("continue");
    let rest: readonly NodeObject[];
    let version = String(revision);
    if (place === null) {
      rest = [...nodes.values()]
        .filter(({ metadata }) => only === undefined || metadata.name === only)
        .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
    } else {
      const kept = places.get(place);
      if (kept === undefined) return status(410, "Expired", "The provided continue parameter is too old");
      rest = kept;
      version = place.split("-")[0] ?? "";
    }
    const items = limit > 0 ? rest.slice(0, limit) : rest;
    const left = rest.slice(items.length);
    const next = left.length === 0 ? "" : `${version}-${randomUUID()}`;
    if (next !== "") places.set(next, left);
    return Response.json({
      kind: "NodeList",
      apiVersion: "v1",
      metadata: { resourceVersion: version, ...(next === "" ? {} : { continue: next }) },
      items,
    });
  };

  const watch = (query: URLSearchParams): Response => {
    const only = onlyOf(query);
    const from = Number(query.get("resourceVersion"));
    let watcher: Watcher | undefined;
    let bookmarks: Timer | undefined;
    let ending: Timer | undefined;
    const close = () => {
      clearInterval(bookmarks);
      clearTimeout(ending);
      if (watcher !== undefined) watchers.delete(watcher);
    };
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        const encoder = new TextEncoder();
        const one: Watcher = {
          only,
          send: (line) => controller.enqueue(encoder.encode(`${line}\n`)),
          end() {
            close();
            controller.close();
          },
        };
        watcher = one;
        if (from < oldest) {
          one.send(
            JSON.stringify({
              type: "ERROR",
              object: statusObject(410, "Expired", "too old resource version"),
            }),
          );
          return one.end();
        }
        for (const event of history) if (event.revision > from) tell(one, event);
        watchers.add(one);
        const bookmark = () =>
          one.send(
            JSON.stringify({
              type: "BOOKMARK",
              object: { kind: "Node", apiVersion: "v1", metadata: { resourceVersion: String(revision) } },
            }),
          );
        if (bookmarkMs !== undefined) bookmarks = setInterval(bookmark, bookmarkMs);
        ending = setTimeout(() => one.end(), Number(query.get("timeoutSeconds")) * 1_000);
      },
      cancel: close,
    });
    return new Response(body, { headers: { "content-type": "application/json" } });
  };

  const patchStatus = (name: string, { contentType, body }: SeenRequest): Response => {
    if (contentType !== "application/strategic-merge-patch+json")
      return refuse(`PATCH with content type ${contentType}`);
    const node = nodes.get(name);
    if (node === undefined) return status(404, "NotFound", `nodes "${name}" not found`);
    const patch = JSON.parse(body) as {
      metadata?: { annotations?: Record<string, string | null> };
      status?: { conditions?: NodeCondition[] };
    };
    const known = (value: object | undefined, member: string) =>
      Object.keys(value ?? {}).every((key) => key === member);
    if (!known(patch.metadata, "annotations") || !known(patch.status, "conditions"))
      return refuse(`a patch of other members: ${body}`);
    const changed = {
      ...node,
      metadata: { ...node.metadata, ...merged(node, patch.metadata?.annotations ?? {}) },
      status: {
        ...node.status,
        ...(patch.status === undefined
          ? {}
          : { conditions: mergedConditions(node.status.conditions ?? [], patch.status.conditions ?? []) }),
      },
    };
    // What changes nothing is not written, and nobody is told of it.
    if (Bun.deepEquals(changed, node)) return Response.json(node);
    return Response.json(store("MODIFIED", changed));
  };

  const refuse = (what: string): Response => {
    refused.push(what);
    return status(405, "MethodNotAllowed", `not a call that this server knows: ${what}`);
  };

  const answer = async (request: Request): Promise<Response> => {
    const url = new URL(request.url);
    const seen: SeenRequest = {
      method: request.method,
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      contentType: request.headers.get("content-type"),
      body: await request.text(),
    };
    requests.push(seen);
    const [scheme, token = ""] = (request.headers.get("authorization") ?? "").split(" ");
    if (tokens.length > 0 && (scheme !== "Bearer" || !tokens.includes(token)))
      return status(401, "Unauthorized", "Unauthorized");
    if (denied?.matches(seen) === true)
      return status(
        denied.status,
        "Forbidden",
        `nodes is forbidden: User "flannel" cannot ${request.method}`,
      );
    return route(seen, url.searchParams);
  };

  const route = (seen: SeenRequest, query: URLSearchParams): Response => {
    const { method, path } = seen;
    const unknown = [...query.keys()].filter((key) => !parameters.includes(key));
    if (unknown.length > 0) return refuse(`${method} ${path} with ${unknown.join()}`);
    if (path === "/api/v1/nodes" && method === "GET")
      return query.get("watch") === "true" ? watch(query) : list(query);
    const [, name, subresource] = /^\/api\/v1\/nodes\/([^/]+)(\/status)?$/.exec(path) ?? [];
    if (name !== undefined && subresource === undefined && method === "GET") {
      const node = nodes.get(name);
      return node === undefined ? status(404, "NotFound", `nodes "${name}" not found`) : Response.json(node);
    }
    if (name !== undefined && subresource === "/status" && method === "PATCH") return patchStatus(name, seen);
    const [, namespace, pod] = /^\/api\/v1\/namespaces\/([^/]+)\/pods\/([^/]+)$/.exec(path) ?? [];
    if (pod !== undefined && method === "GET") {
      const nodeName = pods.get(`${namespace}/${pod}`);
      return nodeName === undefined
        ? status(404, "NotFound", `pods "${pod}" not found`)
        : Response.json({ kind: "Pod", metadata: { name: pod, namespace }, spec: { nodeName } });
    }
    return refuse(`${method} ${path}`);
  };

  const server = Bun.serve({
    hostname,
    port,
    idleTimeout: 0,
    ...(tls === undefined
      ? {}
      : {
          tls: {
            cert: tls.cert,
            key: tls.key,
            ...(tls.clientCa === undefined
              ? {}
              : { ca: tls.clientCa, requestCert: true, rejectUnauthorized: true }),
          },
        }),
    fetch: answer,
  });

  return {
    url: `${tls === undefined ? "http" : "https"}://${hostname}:${server.port}`,
    port: server.port ?? 0,
    requests,
    refused,
    get watches() {
      return watchers.size;
    },
    createNode: ({ name, podCidrs = [], annotations, networkUnavailable, images }) =>
      store("ADDED", {
        metadata: {
          name,
          uid: randomUUID(),
          resourceVersion: "",
          creationTimestamp: new Date(1_700_000_000_000 + revision * 1_000).toISOString(),
          ...(annotations === undefined ? {} : { annotations }),
        },
        spec: specOf(podCidrs),
        status: {
          ...(networkUnavailable === undefined
            ? {}
            : { conditions: [{ type: "NetworkUnavailable", status: networkUnavailable }] }),
          ...(images === undefined ? {} : { images }),
        },
      }),
    deleteNode(name) {
      const node = nodes.get(name);
      if (node !== undefined) store("DELETED", node);
    },
    getNode: (name) => nodes.get(name),
    nodes: () => [...nodes.values()],
    annotate: (name, annotations) =>
      void update(name, (node) => ({
        ...node,
        metadata: { ...node.metadata, ...merged(node, annotations) },
      })),
    setPodCidrs: (name, podCidrs) => void update(name, (node) => ({ ...node, spec: specOf(podCidrs) })),
    setCondition: (name, state) =>
      void update(name, (node) => ({
        ...node,
        status: { conditions: [{ type: "NetworkUnavailable", status: state }] },
      })),
    createPod: (namespace, name, nodeName) => void pods.set(`${namespace}/${name}`, nodeName),
    heartbeat: (name) => void update(name, (node) => node),
    deny(matches, statusCode = 403) {
      denied = matches === undefined ? undefined : { matches, status: statusCode };
    },
    setTokens(wanted) {
      tokens = wanted;
    },
    compact() {
      history = [];
      revision++;
      oldest = revision;
    },
    expirePlaces: () => places.clear(),
    dropWatches() {
      for (const watcher of [...watchers]) watcher.end();
    },
    async [Symbol.asyncDispose]() {
      await server.stop(true);
    },
  };
}

/** The query parameters that this server knows. */
const parameters = [
  ...["limit", "continue", "fieldSelector"],
  ...["watch", "resourceVersion", "allowWatchBookmarks", "timeoutSeconds"],
];

function tell(watcher: Watcher, { type, node }: Event): void {
  if (watcher.only !== undefined && watcher.only !== node.metadata.name) return;
  watcher.send(JSON.stringify({ type, object: { kind: "Node", apiVersion: "v1", ...node } }));
}

function onlyOf(query: URLSearchParams): string | undefined {
  const selector = query.get("fieldSelector");
  if (selector === null) return undefined;
  const name = /^metadata\.name=(.+)$/.exec(selector)?.[1];
  if (name === undefined) throw new Error(`a field selector that this server does not know: ${selector}`);
  return name;
}

function specOf(podCidrs: readonly string[]): NodeObject["spec"] {
  const [podCIDR] = podCidrs;
  return podCIDR === undefined ? {} : { podCIDR, podCIDRs: podCidrs };
}

function merged(
  { metadata }: NodeObject,
  changes: Readonly<Record<string, string | null>>,
): { annotations?: Record<string, string> } {
  const entries = Object.entries({ ...metadata.annotations, ...changes });
  const annotations = Object.fromEntries(
    entries.filter((entry): entry is [string, string] => entry[1] !== null),
  );
  return metadata.annotations === undefined && Object.keys(annotations).length === 0 ? {} : { annotations };
}

function mergedConditions(
  present: readonly NodeCondition[],
  changes: readonly NodeCondition[],
): NodeCondition[] {
  const kept = present.filter(({ type }) => !changes.some((change) => change.type === type));
  return [...kept, ...changes];
}

function statusObject(code: number, reason: string, message: string): object {
  return { kind: "Status", apiVersion: "v1", status: "Failure", message, reason, code };
}

function status(code: number, reason: string, message: string): Response {
  return Response.json(statusObject(code, reason, message), { status: code });
}
