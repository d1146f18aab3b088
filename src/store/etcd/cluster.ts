import type { Clock } from "../../base/clock.ts";
import { FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import { parseEndpoints } from "./endpoint.ts";
import {
  combinedError,
  connectionFailure,
  EndpointFailure,
  type Failure,
  notEtcd,
  rpcCode,
  unreachable,
} from "./failure.ts";
import { openTlsSource, type TlsFiles, type TlsSource } from "./tls-files.ts";
import type { Method, Transport } from "./transport.ts";

export interface ClusterOptions {
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

/** Messages of one watch; ends when the server ends it, throws FlannelError when it breaks. */
export interface WatchStream {
  readonly endpoint: string;
  readonly messages: AsyncIterable<unknown>;
}

/**
 * etcd at several endpoints: where to send a call, as whom, how long to wait, and what its failure means.
 * The same over every transport; knows no method of etcd's API but authentication.
 */
export class Cluster<M extends string = Method> {
  readonly endpoints: readonly string[];
  readonly #options: ClusterOptions;
  readonly #callMsMax: number;
  readonly #transport: Transport<M>;
  /** Ends everything in flight. */
  readonly #closed = new AbortController();
  /** The endpoint that answered last. */
  #best = 0;
  /** The empty string where the server has authentication switched off. */
  #token: string | undefined;
  readonly #logins = new Map<string, Promise<string>>();

  constructor(options: ClusterOptions, openTransport: (tls: TlsSource) => Transport<M>) {
    const { tls = {}, log, callMsMax = 5_000 } = options;
    this.endpoints = parseEndpoints(options.endpoints, tls);
    this.#options = options;
    this.#callMsMax = callMsMax;
    this.#transport = openTransport(openTlsSource(tls, log, options.clock));
  }

  close(): void {
    this.#closed.abort(new FlannelError("store/closed", "the store is closed"));
    this.#transport.close();
  }

  /**
   * One call, at the endpoint that answered last, then at the others.
   * @throws FlannelError as Store describes, and the reason of `stop` when that aborts
   */
  async call(method: M, body: object, { stop, repeatable }: CallOptions): Promise<unknown> {
    return await this.#anywhere(
      stop,
      (endpoint) => this.callAt(endpoint, method, body, stop),
      // Another endpoint has the same users and gives the same answer to a wrong request.
      ({ error, notApplied }) =>
        error.code !== "store/unauthorized" &&
        error.fields["rpcCode"] === undefined &&
        (repeatable || notApplied),
    );
  }

  /** One call at one endpoint. @throws EndpointFailure, or the reason of `stop` */
  async callAt(endpoint: string, method: M, body: object, stop: AbortSignal): Promise<unknown> {
    return await this.#bounded(endpoint, stop, (signal) =>
      this.#asUser(endpoint, signal, (token) => {
        return this.#transport.call(method, { endpoint, body, token, signal });
      }),
    );
  }

  /**
   * Opens a watch, at the endpoint that answered last, then at the others. It ends with `stop`, and when its
   * messages, which must be iterated, are read no further.
   */
  async watch(body: object, stop: AbortSignal): Promise<WatchStream> {
    return await this.#anywhere(
      stop,
      (endpoint) => this.#openWatch(endpoint, body, stop),
      () => true,
    );
  }

  /** Forgets the token, when a watch was cancelled for reasons that may be the token's age. */
  forgetToken(): void {
    this.#token = undefined;
  }

  /** The next call starts at another endpoint than this one, and connects anew when it comes back to it. */
  avoid(endpoint: string): void {
    this.#transport.disconnect(endpoint);
    if (this.endpoints[this.#best] === endpoint) this.#best = (this.#best + 1) % this.endpoints.length;
  }

  /** Does `work` at one endpoint after the other, until it succeeds or a failure is the same everywhere. */
  async #anywhere<T>(
    stop: AbortSignal,
    work: (endpoint: string) => Promise<T>,
    goesOn: (failure: Failure) => boolean,
  ): Promise<T> {
    const failures: FlannelError[] = [];
    const first = this.#best;
    for (let offset = 0; offset < this.endpoints.length; offset++) {
      const at = (first + offset) % this.endpoints.length;
      const endpoint = this.endpoints[at] ?? "";
      try {
        const result = await work(endpoint);
        this.#best = at;
        return result;
      } catch (thrown) {
        stop.throwIfAborted();
        this.#closed.signal.throwIfAborted();
        const failure = connectionFailure(thrown, endpoint);
        failures.push(failure.error);
        const { code, fields } = failure.error;
        if (code !== "store/unauthorized" && fields["rpcCode"] === undefined) this.avoid(endpoint);
        if (!goesOn(failure)) break;
      }
    }
    throw combinedError(failures);
  }

  async #openWatch(endpoint: string, body: object, stop: AbortSignal): Promise<WatchStream> {
    // The deadline is for the opening; the watch lives until `stop`, `close` or its reader ends it.
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
      const messages = await this.#bounded(endpoint, stop, async (signal) => {
        signal.addEventListener("abort", () => life.abort(signal.reason));
        return await this.#asUser(endpoint, signal, (token) => {
          return this.#transport.watch({ endpoint, body, token, signal: life.signal });
        });
      });
      return { endpoint, messages: this.#messages(messages, endpoint, stop, release) };
    } catch (error) {
      release();
      throw error;
    }
  }

  async *#messages(
    messages: AsyncIterable<unknown>,
    endpoint: string,
    stop: AbortSignal,
    release: () => void,
  ): AsyncGenerator<unknown> {
    try {
      yield* messages;
    } catch (thrown) {
      stop.throwIfAborted();
      this.#closed.signal.throwIfAborted();
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
      const answer = await this.#transport.call("authenticate", { endpoint, body, token: "", signal });
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

  /** Runs `work` with a signal that aborts after the deadline of a call, with `stop`, and with the cluster. */
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
