import { afterEach, expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { systemClock } from "../../../src/base/clock.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { openStatusServers, type StatusPages, type StatusServers } from "../../../src/status/server.ts";

let opened: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of opened) await one[Symbol.asyncDispose]();
  opened = [];
});

/** A port that was free a moment ago. */
function freePort(): number {
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("") });
  const { port = 0 } = server;
  void server.stop(true);
  return port;
}

const pages = (changes: Partial<StatusPages> = {}): StatusPages => ({
  hindrance: () => undefined,
  metrics: () => "m 1\n",
  ...changes,
});

function serve(
  ports: { health?: number; metrics?: number; ip?: string },
  given = pages(),
  clock = systemClock,
): StatusServers {
  const ip = parseIpAddress(ports.ip ?? "127.0.0.1");
  const listeners = {
    health: { ip, port: ports.health ?? 0 },
    metrics: { ip, port: ports.metrics ?? 0 },
  };
  const server = openStatusServers(listeners, given, clock);
  opened.push(server);
  return server;
}

async function get(port: number, path: string, init?: RequestInit): Promise<[number, string]> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
  return [response.status, await response.text()];
}

test("status server: flannel's paths, codes and bodies, readiness asked anew each time", async () => {
  let reason: string | undefined = "waiting for a lease";
  const port = freePort();
  serve({ health: port }, pages({ hindrance: () => reason }));
  expect(await get(port, "/healthz")).toEqual([200, "flanneld is running"]);
  expect(await get(port, "/readyz")).toEqual([503, "flanneld is not ready yet\nwaiting for a lease"]);
  reason = undefined;
  expect(await get(port, "/readyz")).toEqual([200, "flanneld is ready"]);
  reason = "stopped sending";
  expect(await get(port, "/readyz?x=1")).toEqual([503, "flanneld is not ready yet\nstopped sending"]);
  expect(await get(port, "/")).toEqual([404, "404 page not found\n"]);
  for (const path of ["/metrics", "/healthz/", "/constructor", "/__proto__"])
    expect([path, (await get(port, path))[0]]).toEqual([path, 404]);
});

test("status server: HEAD is GET without a body; other methods are refused in words", async () => {
  const port = freePort();
  serve({ health: port });
  expect(await get(port, "/readyz", { method: "HEAD" })).toEqual([200, ""]);
  for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
    const response = await fetch(`http://127.0.0.1:${port}/healthz`, { method });
    expect([method, response.status, response.headers.get("Allow")]).toEqual([method, 405, "GET, HEAD"]);
  }
  const body = "x".repeat(100_000);
  const answered = await get(port, "/healthz", { method: "POST", body }).catch(() => [413]);
  expect(answered[0]).toBe(413);
});

test("status server: metrics come as Prometheus' text, on a port of their own or on the shared one", async () => {
  const [first, second, shared] = [freePort(), freePort(), freePort()];
  serve({ health: first, metrics: second });
  expect(await get(second, "/metrics")).toEqual([200, "m 1\n"]);
  expect((await get(second, "/healthz"))[0]).toBe(404);
  serve({ health: shared, metrics: shared });
  expect((await get(shared, "/healthz"))[0]).toBe(200);
  const response = await fetch(`http://127.0.0.1:${shared}/metrics`);
  expect(response.headers.get("Content-Type")).toBe("text/plain; version=0.0.4; charset=utf-8");
});

test("status server: a page that fails is a plain 500 which tells nothing of the inside", async () => {
  const port = freePort();
  const metrics = () => {
    throw new Error("s3cret");
  };
  serve({ metrics: port }, pages({ metrics }));
  expect(await get(port, "/metrics")).toEqual([500, "internal error\n"]);
});

test("status server: off without a port, which a negative one is too", async () => {
  await serve({ health: -1, metrics: 0 })[Symbol.asyncDispose]();
  await serve({})[Symbol.asyncDispose]();
});

const refusalOf = (run: () => unknown): FlannelError => {
  try {
    run();
  } catch (error) {
    if (error instanceof FlannelError) return error;
    throw error;
  }
  throw new Error("it was not refused");
};

test("status server: a port that is taken is an error that names the key, and nothing stays open", async () => {
  const [taken, other] = [freePort(), freePort()];
  serve({ health: taken });
  const error = refusalOf(() => serve({ health: other, metrics: taken }));
  expect(error).toMatchObject({ code: "status/listen", exitCode: 1, fields: { key: "metrics.port" } });
  expect(error.message).toBe(`port ${taken} of 127.0.0.1 is taken`);
  serve({ health: other });
  expect(await get(other, "/healthz")).toEqual([200, "flanneld is running"]);
});

test("status server: an address that is not of this host is named", () => {
  const error = refusalOf(() => serve({ health: freePort(), ip: "192.0.2.77" }));
  expect(error.message).toBe("192.0.2.77 is not an address of this host");
});

test("status server: IPv6", async () => {
  const port = freePort();
  serve({ health: port, ip: "::1" });
  expect(await (await fetch(`http://[::1]:${port}/healthz`)).text()).toBe("flanneld is running");
});

test("status server: closing waits for a request under way no longer than its bound, then the port is free", async () => {
  const port = freePort();
  const slept: number[] = [];
  const clock = {
    ...systemClock,
    sleep: async (ms: number) => {
      slept.push(ms);
    },
  };
  const server = serve({ health: port }, pages(), clock);
  const ended = Promise.withResolvers<void>();
  const opening = Promise.withResolvers<void>();
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: { data() {}, open: () => opening.resolve(), close: () => ended.resolve() },
  });
  await opening.promise;
  socket.write("GET /healthz HT");
  // Another request after it: then the server has read what came before.
  expect((await get(port, "/healthz"))[0]).toBe(200);
  await server[Symbol.asyncDispose]();
  await ended.promise;
  expect(slept).toEqual([3_000]);
  serve({ health: port });
});

test("status server: a surrender frees the ports at once", async () => {
  const port = freePort();
  const server = serve({ health: port, metrics: port });
  expect((await get(port, "/healthz"))[0]).toBe(200);
  server.surrender();
  serve({ health: port }, pages({ hindrance: () => "the successor" }));
  expect((await get(port, "/readyz"))[1]).toContain("the successor");
  await server[Symbol.asyncDispose]();
  expect((await get(port, "/healthz"))[0]).toBe(200);
});
