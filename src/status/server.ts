import type { Clock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import type { IpAddress } from "../net/address.ts";

/** What is answered, asked anew for each request. */
export interface StatusPages {
  /** Why traffic cannot flow; undefined when it can. */
  hindrance(): string | undefined;
  /** The metrics in Prometheus' text format. */
  metrics(): string;
}

export interface StatusServers extends AsyncDisposable {
  /**
   * Listens elsewhere from now on; what is under way is cut off.
   * @throws FlannelError `status/listen`, naming the key; then it listens where it did
   */
  move(to: StatusListeners): void;
  /** Frees the ports before it returns, for a successor; what is under way is cut off. */
  surrender(): void;
}

/** A port of 0 or less is off. */
export interface StatusListeners {
  readonly health: Listener;
  readonly metrics: Listener;
}

interface Listener {
  readonly ip: IpAddress;
  readonly port: number;
}

/** Requests under way at a stop get this long, as in flannel. */
const closeMsMax = 3_000;

/** A connection on which nothing happens is closed. */
const idleSeconds = 10;

/** Nobody has reason to send a body. */
const bodyBytesMax = 1_024;

type Page = (pages: StatusPages) => Response;

/** flannel's bodies; what keeps us from being ready stands on a second line. */
const healthPages: Readonly<Record<string, Page>> = {
  "/healthz": () => text("flanneld is running"),
  "/readyz": (pages) => {
    const reason = pages.hindrance();
    return reason === undefined
      ? text("flanneld is ready")
      : text(`flanneld is not ready yet\n${reason}`, 503);
  },
};

const metricsPages: Readonly<Record<string, Page>> = {
  "/metrics": (pages) => text(pages.metrics(), 200, "text/plain; version=0.0.4; charset=utf-8"),
};

/**
 * Serves /healthz, /readyz and /metrics over HTTP, on one listener where both have one address and port.
 * @throws FlannelError `status/listen`, naming the key
 */
export function openStatusServers(
  listeners: StatusListeners,
  pages: StatusPages,
  clock: Clock,
): StatusServers {
  let at = listeners;
  let servers = listenAll(at, pages);
  const surrender = () => {
    for (const server of servers.splice(0)) void server.stop(true);
  };
  return {
    move(to) {
      surrender();
      try {
        servers = listenAll(to, pages);
        at = to;
      } catch (error) {
        servers = listenAll(at, pages);
        throw error;
      }
    },
    surrender,
    async [Symbol.asyncDispose]() {
      await Promise.all(servers.map((server) => close(server, clock)));
    },
  };
}

/** @throws FlannelError `status/listen`; then it listens nowhere */
function listenAll({ health, metrics }: StatusListeners, pages: StatusPages): Bun.Server<undefined>[] {
  const isShared = health.port === metrics.port && health.ip.equals(metrics.ip);
  const wanted = isShared
    ? [{ key: "health", at: health, routes: { ...healthPages, ...metricsPages } }]
    : [
        { key: "health", at: health, routes: healthPages },
        { key: "metrics", at: metrics, routes: metricsPages },
      ];
  const servers: Bun.Server<undefined>[] = [];
  try {
    for (const { key, at, routes } of wanted)
      if (at.port > 0) servers.push(listen(key, at, (request) => answer(request, routes, pages)));
    return servers;
  } catch (error) {
    for (const server of servers) void server.stop(true);
    throw error;
  }
}

function listen(
  key: string,
  { ip, port }: Listener,
  fetch: (request: Request) => Response,
): Bun.Server<undefined> {
  try {
    return Bun.serve({
      hostname: `${ip}`,
      port,
      fetch,
      development: false,
      // In production mode Bun would share a port that is taken, without a word.
      reusePort: false,
      idleTimeout: idleSeconds,
      maxRequestBodySize: bodyBytesMax,
      error: () => text("internal error\n", 500),
    });
  } catch (error) {
    const errno = error instanceof Error && "code" in error ? String(error.code) : undefined;
    throw new FlannelError(
      "status/listen",
      errno === "EADDRINUSE"
        ? `port ${port} of ${ip} is taken`
        : errno === "EADDRNOTAVAIL"
          ? `${ip} is not an address of this host`
          : `cannot listen on port ${port} of ${ip}`,
      { key: `${key}.port`, errno },
      { cause: error, remedy: `Choose others with ${key}.ip and ${key}.port; port 0 switches it off` },
    );
  }
}

function answer(request: Request, routes: Readonly<Record<string, Page>>, pages: StatusPages): Response {
  const path = URL.parse(request.url)?.pathname ?? "";
  const page = Object.hasOwn(routes, path) ? routes[path] : undefined;
  if (page === undefined) return text("404 page not found\n", 404);
  if (request.method === "GET" || request.method === "HEAD") return page(pages);
  const refused = text("405 method not allowed\n", 405);
  refused.headers.set("Allow", "GET, HEAD");
  return refused;
}

function text(body: string, status = 200, type = "text/plain; charset=utf-8"): Response {
  return new Response(body, {
    status,
    headers: { "Content-Type": type, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store" },
  });
}

async function close(server: Bun.Server<undefined>, clock: Clock): Promise<void> {
  const ended = new AbortController();
  await Promise.race([server.stop(), clock.sleep(closeMsMax, ended.signal)]);
  ended.abort();
  await server.stop(true);
}
