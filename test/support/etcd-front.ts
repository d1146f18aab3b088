/** A call of etcd's JSON gateway as it passes through a front. */
export interface FrontCall {
  readonly path: string;
  readonly body: unknown;
  readonly authorization: string | null;
}

export interface EtcdFront extends AsyncDisposable {
  readonly endpoint: string;
  readonly calls: readonly FrontCall[];
  /** Paths of the calls so far, without `/v3/`. */
  readonly paths: readonly string[];
}

/**
 * An HTTP server on loopback that answers as `answer` says; what it leaves undefined is forwarded to `etcd`,
 * or is a 404 without one.
 */
export function openEtcdFront(
  answer: (call: FrontCall) => Response | undefined | Promise<Response | undefined>,
  etcd?: string,
): EtcdFront {
  const calls: FrontCall[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    idleTimeout: 0,
    async fetch(request) {
      const { pathname: path } = new URL(request.url);
      const text = await request.text();
      const call = {
        path,
        body: JSON.parse(text) as unknown,
        authorization: request.headers.get("authorization"),
      };
      calls.push(call);
      const answered = await answer(call);
      if (answered !== undefined) return answered;
      if (etcd === undefined) return new Response("not here", { status: 404 });
      const { signal } = request;
      return await fetch(`${etcd}${path}`, { method: "POST", body: text, proxy: false, signal });
    },
    error: () => new Response("gone", { status: 502 }),
  });
  return {
    endpoint: `http://127.0.0.1:${server.port}`,
    calls,
    get paths() {
      return calls.map(({ path }) => path.replace("/v3/", ""));
    },
    async [Symbol.asyncDispose]() {
      await server.stop(true);
    },
  };
}

/** An error as etcd's gateway answers it. */
export function rpcErrorResponse(status: number, code: number, message: string): Response {
  return Response.json({ error: message, message, code }, { status });
}
