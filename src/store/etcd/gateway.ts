import { isTls } from "./endpoint.ts";
import { asRpcError, EndpointFailure, notEtcd, rpcFailure, statusFailure } from "./failure.ts";
import { readJson, readJsonLines, readText } from "./json-stream.ts";
import type { TlsSource } from "./tls-files.ts";
import type { EndpointCall, Method, Transport } from "./transport.ts";

const paths: Readonly<Record<Method | "watch", string>> = {
  authenticate: "/v3/auth/authenticate",
  range: "/v3/kv/range",
  txn: "/v3/kv/txn",
  leaseGrant: "/v3/lease/grant",
  leaseRevoke: "/v3/lease/revoke",
  leaseTimeToLive: "/v3/lease/timetolive",
  watch: "/v3/watch",
};

/** etcd's JSON gateway, which is on its client port unless it is switched off there. */
export class GatewayTransport implements Transport {
  readonly #tls: TlsSource;

  constructor(tls: TlsSource) {
    this.#tls = tls;
  }

  async call(method: Method, call: EndpointCall): Promise<unknown> {
    return await readJson(await this.#post(paths[method], call), call.endpoint);
  }

  async watch(call: EndpointCall): Promise<AsyncIterable<unknown>> {
    return messages(await this.#post(paths.watch, call), call.endpoint);
  }

  /** A call that fails takes its connection along. */
  disconnect(): void {}

  close(): void {}

  /** Gives a response with status 200. */
  async #post(path: string, { endpoint, body, token, signal }: EndpointCall): Promise<Response> {
    const tls = isTls(endpoint) ? { ...(await this.#tls.current()), rejectUnauthorized: true } : undefined;
    const response = await fetch(`${endpoint}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...(token === "" ? {} : { authorization: token }) },
      body: JSON.stringify(body),
      redirect: "error",
      proxy: false, // of the environment: leases do not travel through it
      signal,
      ...(tls === undefined ? {} : { tls }),
    });
    if (response.status === 200) return response;
    const text = await readText(response, endpoint);
    throw new EndpointFailure(statusFailure(response.status, text, endpoint));
  }
}

/** What a streaming answer holds, each message freed of the gateway's wrapping. */
async function* messages(response: Response, endpoint: string): AsyncGenerator<unknown> {
  for await (const message of readJsonLines(response, endpoint)) {
    const error = asRpcError(message);
    if (error !== undefined) throw new EndpointFailure(rpcFailure(error, endpoint));
    if (typeof message !== "object" || message === null || !("result" in message)) {
      throw notEtcd(endpoint, "a message of its watch has no result");
    }
    yield message.result;
  }
}
