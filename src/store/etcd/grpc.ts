import { isTls } from "./endpoint.ts";
import type { GrpcConnection } from "./grpc-connection.ts";
import type { TlsMaterial, TlsSource } from "./tls-files.ts";
import type { EndpointCall, Method, Transport } from "./transport.ts";

/**
 * etcd's own protocol, for what its gateway cannot do: it may be switched off, and it knows no user by the
 * Common Name of a client certificate. The library is loaded by the first call.
 */
export class GrpcTransport implements Transport {
  readonly #tls: TlsSource;
  readonly #connections = new Map<string, Connected>();
  #closed = false;

  constructor(tls: TlsSource) {
    this.#tls = tls;
  }

  async call(method: Method, call: EndpointCall): Promise<unknown> {
    return await (await this.#connection(call)).call(method, call);
  }

  async watch(call: EndpointCall): Promise<AsyncIterable<unknown>> {
    return await (await this.#connection(call)).watch(call);
  }

  disconnect(endpoint: string): void {
    this.#connections.get(endpoint)?.connection.close();
    this.#connections.delete(endpoint);
  }

  close(): void {
    this.#closed = true;
    for (const endpoint of this.#connections.keys()) this.disconnect(endpoint);
  }

  /** The endpoint's connection, a new one where there is none or the TLS files have changed since. */
  async #connection({ endpoint, signal }: EndpointCall): Promise<GrpcConnection> {
    const { openGrpcConnection } = await (library ??= import("./grpc-connection.ts"));
    const material = isTls(endpoint) ? await this.#tls.current() : undefined;
    signal.throwIfAborted();
    const standing = this.#connections.get(endpoint);
    if (standing !== undefined && standing.material === material) return standing.connection;
    this.disconnect(endpoint);
    const connection = openGrpcConnection(endpoint, material);
    if (this.#closed) connection.close();
    else this.#connections.set(endpoint, { connection, material });
    return connection;
  }
}

interface Connected {
  readonly connection: GrpcConnection;
  readonly material: TlsMaterial | undefined;
}

let library: Promise<typeof import("./grpc-connection.ts")> | undefined;
