import type { Clock } from "../../base/clock.ts";
import { FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import {
  asRpcError,
  combinedError,
  connectionFailure,
  EndpointFailure,
  type Failure,
  notEtcd,
  rpcCode,
  rpcFailure,
  statusFailure,
  unreachable,
} from "./failure.ts";
import { readJson, readJsonLines, readText } from "./json-stream.ts";
import { openTlsSource, type TlsFiles } from "./tls-files.ts";

export interface GatewayOptions {
  /** `http://host:port`, `https://host:port`, or `host:port`, which is TLS where a client certificate is set. */
  readonly endpoints: readonly string[];
  readonly tls?: TlsFiles;
  readonly username?: string;
  /** Gives the user's password; asked at each login, so that it may change. */
  readonly password?: () => Promise<string>;
  readonly log: Log;
  readonly clock: Clock;
  /** How long one endpoint may take to answer one call. */
  readonly callMsMax?: number;
}

export interface CallOptions {
  readonly stop: AbortSignal;
  /** Doing it twice is the same as doing it once: it goes to the next endpoint after any failure. */
  readonly repeatable: boolean;
}

/** Messages of one streaming call; ends when the server ends it, throws FlannelError when it breaks. */
export interface GatewayStream {
  readonly endpoint: string;
  readonly messages: AsyncIterable<unknown>;
}

/**
 * etcd's JSON gateway (grpc-gateway on the client port) at several endpoints: where to send a call, as whom,
 * and what its failure means. Knows no method of etcd's API but authentication.
 */
export class Gateway {
  readonly endpoints: readonly string[];
  readonly #options: GatewayOptions;
  readonly #callMsMax: number;
  readonly #tls;
  /** Ends everything in flight. */
  readonly #closed = new AbortController();
  /** The endpoint that answered last. */
  #best = 0;
  /** The empty string where the server has authentication switched off. */
  #token: string | undefined;
  readonly #logins = new Map<string, Promise<string>>();

  constructor(options: GatewayOptions) {
    const { tls = {}, log, callMsMax = 5_000 } = options;
    this.endpoints = options.endpoints.map((endpoint) => parseEndpoint(endpoint, tls));
    if (this.endpoints.length === 0) throw badEndpoint("", "no endpoint is given");
    this.#options = options;
    this.#callMsMax = callMsMax;
    this.#tls = openTlsSource(tls, log);
  }

  close(): void {
    this.#closed.abort(new FlannelError("store/closed", "the store is closed"));
  }

  /**
   * One call, at the endpoint that answered last, then at the others.
   * @throws FlannelError as Store describes, and the reason of `stop` when that aborts
   */
  async call(path: string, body: object, { stop, repeatable }: CallOptions): Promise<unknown> {
    const failures: FlannelError[] = [];
    const first = this.#best;
    for (let offset = 0; offset < this.endpoints.length; offset++) {
      const at = (first + offset) % this.endpoints.length;
      try {
        const answer = await this.callAt(this.endpoints[at] ?? "", path, body, stop);
        this.#best = at;
        return answer;
      } catch (thrown) {
        stop.throwIfAborted();
        this.#closed.signal.throwIfAborted();
        const { error, notApplied } = connectionFailure(thrown, this.endpoints[at] ?? "");
        failures.push(error);
        // Another endpoint has the same users and gives the same answer to a wrong request.
        if (error.code === "store/unauthorized" || error.fields["rpcCode"] !== undefined) break;
        if (this.#best === at) this.#best = (at + 1) % this.endpoints.length;
        if (!repeatable && !notApplied) break;
      }
    }
    throw combinedError(failures);
  }

  /** One call at one endpoint. @throws EndpointFailure, or the reason of `stop` */
  async callAt(endpoint: string, path: string, body: object, stop: AbortSignal): Promise<unknown> {
    return await this.#bounded(endpoint, stop, (signal) =>
      this.#asUser(endpoint, signal, async (token) => {
        const response = await this.#post(endpoint, path, body, token, signal);
        return await readJson(response, endpoint);
      }),
    );
  }

  /**
   * Opens a streaming call, at the endpoint that answered last, then at the others. It ends with `stop`, and
   * when its messages, which must be iterated, are read no further.
   */
  async stream(path: string, body: object, stop: AbortSignal): Promise<GatewayStream> {
    const failures: FlannelError[] = [];
    const first = this.#best;
    for (let offset = 0; offset < this.endpoints.length; offset++) {
      const at = (first + offset) % this.endpoints.length;
      const endpoint = this.endpoints[at] ?? "";
      try {
        const stream = await this.#openStream(endpoint, path, body, stop);
        this.#best = at;
        return stream;
      } catch (thrown) {
        stop.throwIfAborted();
        this.#closed.signal.throwIfAborted();
        failures.push(connectionFailure(thrown, endpoint).error);
      }
    }
    throw combinedError(failures);
  }

  /** Forgets the token, when a stream was cancelled for reasons that may be the token's age. */
  forgetToken(): void {
    this.#token = undefined;
  }

  /** The next call starts at another endpoint than this one. */
  avoid(endpoint: string): void {
    if (this.endpoints[this.#best] === endpoint) this.#best = (this.#best + 1) % this.endpoints.length;
  }

  async #openStream(endpoint: string, path: string, body: object, stop: AbortSignal): Promise<GatewayStream> {
    // The deadline is for the headers; the body lives until `stop`, `close` or its reader ends it.
    const life = new AbortController();
    const end = () => life.abort(stop.aborted ? stop.reason : this.#closed.signal.reason);
    const release = () => {
      stop.removeEventListener("abort", end);
      this.#closed.signal.removeEventListener("abort", end);
      end();
    };
    stop.addEventListener("abort", end);
    this.#closed.signal.addEventListener("abort", end);
    try {
      const response = await this.#bounded(endpoint, stop, async (signal) => {
        signal.addEventListener("abort", () => life.abort(signal.reason));
        return await this.#asUser(endpoint, signal, (token) => {
          return this.#post(endpoint, path, body, token, life.signal);
        });
      });
      return { endpoint, messages: this.#messages(response, endpoint, stop, release) };
    } catch (error) {
      release();
      throw error;
    }
  }

  async *#messages(
    response: Response,
    endpoint: string,
    stop: AbortSignal,
    release: () => void,
  ): AsyncGenerator<unknown> {
    try {
      for await (const message of readJsonLines(response, endpoint)) {
        const error = asRpcError(message);
        if (error !== undefined) throw new EndpointFailure(rpcFailure(error, endpoint));
        yield message;
      }
    } catch (thrown) {
      stop.throwIfAborted();
      const failure = connectionFailure(thrown, endpoint);
      if (failure.credentials === true) this.forgetToken();
      throw failure.error;
    } finally {
      release();
    }
  }

  /** Runs `work` with a token; once more with a fresh one where etcd refused it before doing anything. */
  async #asUser<T>(endpoint: string, signal: AbortSignal, work: (token: string) => Promise<T>): Promise<T> {
    const token = this.#token ?? (await this.#login(endpoint, signal));
    try {
      return await work(token);
    } catch (thrown) {
      const retry = thrown instanceof EndpointFailure && thrown.failure.credentials === true;
      if (!retry || this.#options.username === undefined) throw thrown;
      if (this.#token === token) this.#token = undefined;
      return await work(this.#token ?? (await this.#login(endpoint, signal)));
    }
  }

  /** One login at a time per endpoint, shared by all who wait for it. */
  async #login(endpoint: string, signal: AbortSignal): Promise<string> {
    if (this.#options.username === undefined) return "";
    let login = this.#logins.get(endpoint);
    if (login === undefined) {
      login = this.#bounded(endpoint, this.#closed.signal, (own) => this.#authenticate(endpoint, own));
      this.#logins.set(endpoint, login);
      const forget = () => this.#logins.delete(endpoint);
      login.then(forget, forget);
    }
    return await untilAborted(login, signal);
  }

  async #authenticate(endpoint: string, signal: AbortSignal): Promise<string> {
    const { username: name, password } = this.#options;
    const body = { name, password: (await password?.()) ?? "" };
    try {
      const response = await this.#post(endpoint, "/v3/auth/authenticate", body, "", signal);
      const answer = await readJson(response, endpoint);
      const token: unknown =
        typeof answer === "object" && answer !== null && "token" in answer ? answer.token : "";
      if (typeof token !== "string" || token === "") throw notEtcd(endpoint, "it gives no token");
      return (this.#token = token);
    } catch (thrown) {
      // Authentication is switched off there: go on without, as flannel does.
      const off =
        thrown instanceof EndpointFailure &&
        thrown.failure.error.fields["rpcCode"] === rpcCode.failedPrecondition;
      if (!off) throw thrown;
      return (this.#token = "");
    }
  }

  /** Gives a response with status 200. */
  async #post(
    endpoint: string,
    path: string,
    body: object,
    token: string,
    signal: AbortSignal,
  ): Promise<Response> {
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

  /** Runs `work` with a signal that aborts after the deadline of a call, with `stop`, and with the gateway. */
  async #bounded<T>(
    endpoint: string,
    stop: AbortSignal,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const abort = new AbortController();
    const done = new AbortController();
    const end = () => abort.abort(stop.aborted ? stop.reason : this.#closed.signal.reason);
    if (stop.aborted || this.#closed.signal.aborted) end();
    stop.addEventListener("abort", end);
    this.#closed.signal.addEventListener("abort", end);
    const late: Failure = {
      error: unreachable(endpoint, `no answer within ${this.#callMsMax} ms`),
      notApplied: false,
    };
    void this.#options.clock.sleep(this.#callMsMax, done.signal).then(() => {
      if (!done.signal.aborted) abort.abort(new EndpointFailure(late));
    });
    try {
      abort.signal.throwIfAborted();
      return await work(abort.signal);
    } catch (thrown) {
      abort.signal.throwIfAborted();
      throw new EndpointFailure(connectionFailure(thrown, endpoint));
    } finally {
      done.abort();
      stop.removeEventListener("abort", end);
      this.#closed.signal.removeEventListener("abort", end);
    }
  }
}

function parseEndpoint(text: string, tls: TlsFiles): string {
  const secure = tls.certFile !== undefined && tls.keyFile !== undefined;
  const url = URL.parse(text.includes("://") ? text : `${secure ? "https" : "http"}://${text}`);
  if (url === null || url.hostname === "") throw badEndpoint(text, "not a URL");
  if (url.protocol !== "http:" && url.protocol !== "https:")
    throw badEndpoint(text, "neither http nor https");
  if (url.username !== "" || url.password !== "") {
    throw badEndpoint(url.host, "credentials do not belong into the endpoint");
  }
  if (url.pathname !== "/" || url.search !== "" || url.hash !== "") {
    throw badEndpoint(text, "host and port only, no path");
  }
  return url.origin;
}

function badEndpoint(endpoint: string, reason: string): FlannelError {
  return new FlannelError(
    "store/endpoint",
    `not an etcd endpoint: ${reason}`,
    { endpoint: endpoint.slice(0, 200) },
    { exitCode: 2, remedy: "Write it as http://host:2379 or https://host:2379." },
  );
}

function isTls(endpoint: string): boolean {
  return endpoint.startsWith("https:");
}

async function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise, reject } = Promise.withResolvers<never>();
  const end = () => reject(signal.reason);
  signal.addEventListener("abort", end);
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", end);
  }
}
