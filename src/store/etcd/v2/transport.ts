import { FlannelError } from "../../../base/error.ts";
import { isTls } from "../endpoint.ts";
import { EndpointFailure, type Failure, notEtcd, unreachable } from "../failure.ts";
import { readJson, readText } from "../json-stream.ts";
import type { TlsSource } from "../tls-files.ts";
import type { EndpointCall, Transport } from "../transport.ts";
import { errorCode, type KeysAnswer, parseKeysError } from "./wire.ts";

/** A request to the keys API; `query` is what stands behind the question mark. */
export interface KeysRequest {
  readonly verb: "GET" | "PUT" | "DELETE";
  readonly key: string;
  readonly query: Readonly<Record<string, string>>;
}

/** Answers that the caller decides about: what was asked for is not so. */
const answers: ReadonlySet<number> = new Set(Object.values(errorCode));

/**
 * etcd's v2 keys API. It knows no login: name and password go with every request, so `authenticate` asks
 * nobody and gives the header that carries them.
 */
export class KeysTransport implements Transport<"keys"> {
  readonly #tls: TlsSource;

  constructor(tls: TlsSource) {
    this.#tls = tls;
  }

  async call(method: "keys" | "authenticate", call: EndpointCall): Promise<unknown> {
    if (method === "authenticate") return { token: basicToken(call.body as Credentials) };
    const response = await this.#request(call);
    if (response.status === 200 || response.status === 201) {
      return this.#answer(response, call.endpoint, await readJson(response, call.endpoint));
    }
    const body = await readText(response, call.endpoint);
    const error = parseKeysError(body);
    if (error !== undefined && answers.has(error.code)) return this.#answer(response, call.endpoint, error);
    throw new EndpointFailure(keysFailure(response.status, body, call.endpoint));
  }

  /** The headers as a first message, without a body; then at most one event: the API tells one at a time. */
  async watch(call: EndpointCall): Promise<AsyncIterable<unknown>> {
    const response = await this.#request(call);
    if (response.status !== 200) {
      const body = await readText(response, call.endpoint);
      const error = parseKeysError(body);
      if (error?.code !== errorCode.eventIndexCleared)
        throw new EndpointFailure(keysFailure(response.status, body, call.endpoint));
      return one(this.#answer(response, call.endpoint, error));
    }
    return event(this.#answer(response, call.endpoint, undefined), response, call.endpoint);
  }

  /** A call that fails takes its connection along. */
  disconnect(): void {}

  close(): void {}

  async #request({ endpoint, body, token, signal }: EndpointCall): Promise<Response> {
    const { verb, key, query } = body as KeysRequest;
    const path = key.split("/").map(encodeURIComponent).join("/");
    const text = new URLSearchParams(query).toString();
    const isPut = verb === "PUT";
    const tls = isTls(endpoint) ? { ...(await this.#tls.current()), rejectUnauthorized: true } : undefined;
    return await fetch(`${endpoint}/v2/keys${path}${isPut || text === "" ? "" : `?${text}`}`, {
      method: verb,
      headers: {
        ...(isPut ? { "content-type": "application/x-www-form-urlencoded" } : {}),
        ...(token === "" ? {} : { authorization: token }),
      },
      ...(isPut ? { body: text } : {}),
      redirect: "error",
      proxy: false, // of the environment: leases do not travel through it
      signal,
      ...(tls === undefined ? {} : { tls }),
    });
  }

  #answer({ headers }: Response, endpoint: string, body: unknown): KeysAnswer {
    const index = headers.get("x-etcd-index") ?? "";
    if (!/^\d{1,19}$/.test(index)) {
      throw new EndpointFailure({ error: notEtcd(endpoint, "no X-Etcd-Index"), notApplied: false });
    }
    const clusterId = (headers.get("x-etcd-cluster-id") ?? "").slice(0, 64);
    return { index: BigInt(index), clusterId, body };
  }
}

interface Credentials {
  readonly name: string;
  readonly password: string;
}

function basicToken({ name, password }: Credentials): string {
  return `Basic ${Buffer.from(`${name}:${password}`, "utf8").toString("base64")}`;
}

async function* one(answer: KeysAnswer): AsyncGenerator<unknown> {
  yield answer;
}

async function* event(head: KeysAnswer, response: Response, endpoint: string): AsyncGenerator<unknown> {
  yield head;
  const text = await readText(response, endpoint);
  // A server that stops ends the answer without one.
  if (text.trim() === "") return;
  yield { ...head, body: parse(text, endpoint) };
}

function parse(text: string, endpoint: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new EndpointFailure({ error: notEtcd(endpoint, "its answer is not JSON"), notApplied: false });
  }
}

/** What any other answer than the expected ones means. */
function keysFailure(status: number, body: string, endpoint: string): Failure {
  const error = parseKeysError(body);
  if (status === 401 || status === 403) {
    const reason = error?.message ?? `HTTP ${status}`;
    return {
      error: new FlannelError(
        "store/unauthorized",
        "etcd refuses the user or his password, or denies flannel's keys",
        { endpoint, reason },
        {
          remedy:
            "Set username and password of a v2 user with a role that may read and write below the prefix (etcdctl user, role; API v2 has users of its own).",
        },
      ),
      notApplied: true,
      credentials: status === 401,
    };
  }
  if (status >= 500) {
    return {
      error: unreachable(endpoint, error?.message ?? `HTTP ${status}`),
      notApplied: false,
    };
  }
  if (error === undefined) return { error: noV2(endpoint, status), notApplied: true };
  return {
    error: new FlannelError(
      "store/protocol",
      "etcd refused the request",
      { endpoint, reason: error.message, errorCode: error.code },
      { remedy: "Check that store.etcd.prefix names a directory and its `config` and leases are keys." },
    ),
    notApplied: true,
  };
}

function noV2(endpoint: string, status: number): FlannelError {
  return new FlannelError(
    "store/protocol",
    "the endpoint does not serve etcd's API v2",
    { endpoint, reason: `HTTP ${status}` },
    { remedy: 'Start etcd (3.5 or earlier) with --enable-v2, or set store.etcd.api = "v3".' },
  );
}
