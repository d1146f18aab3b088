import * as grpc from "@grpc/grpc-js";
import type { Host } from "etcd3/lib/connection-pool";
import { isIP } from "node:net";
import { checkServerIdentity } from "node:tls";
import { hostAndPort } from "./endpoint.ts";
import { loadEtcd3 } from "./etcd3.ts";
import { EndpointFailure } from "./failure.ts";
import { grpcFailure } from "./grpc-failure.ts";
import { answerBytesMax } from "./json-stream.ts";
import type { TlsMaterial } from "./tls-files.ts";
import type { EndpointCall, Method } from "./transport.ts";

/** What grpc-js has to say it says in the errors of calls. */
grpc.setLogVerbosity(grpc.logVerbosity.NONE);

const { Host: EtcdHost } = loadEtcd3();

const services = {
  authenticate: "Auth",
  range: "KV",
  txn: "KV",
  leaseGrant: "Lease",
  leaseRevoke: "Lease",
  leaseTimeToLive: "Lease",
} as const satisfies Record<Method, string>;

/**
 * One connection to one endpoint, made by the first call and made again when it broke. etcd3 gives the
 * protocol and its clients. Its pool is left aside: its retries hang for ever once etcd has forgotten a token
 * (its authenticator calls itself inside a half-open circuit breaker) and it cannot name TLS hosts by IP;
 * endpoints, logins, deadlines and watches opened anew are Cluster's and the store's.
 */
export interface GrpcConnection {
  call(method: Method, call: EndpointCall): Promise<unknown>;
  watch(call: EndpointCall): Promise<AsyncIterable<unknown>>;
  /** What is under way may end by itself. */
  close(): void;
}

/** @param tls undefined for a connection in the clear */
export function openGrpcConnection(endpoint: string, tls: TlsMaterial | undefined): GrpcConnection {
  const { host: name, port } = hostAndPort(endpoint);
  const address = `dns:${isIP(name) === 6 ? `[${name}]` : name}:${port}`;
  const credentials = tls === undefined ? grpc.credentials.createInsecure() : secured(tls, name);
  const settings = { ...channelSettings, ...(isIP(name) === 0 ? {} : namelessHost) };
  const channel = new grpc.Channel(address, credentials, settings);
  const host: Host = new EtcdHost(address, credentials, { ...settings, channelOverride: channel });
  return {
    call: (method, call) => unary(host, method, call),
    watch: (call) => openWatch(host, call),
    close: () => channel.close(),
  };
}

const channelSettings: grpc.ChannelOptions = {
  // A pinged server that says nothing is gone; etcd takes pings more often than every 5 s for an attack.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  "grpc.max_receive_message_length": answerBytesMax,
  // A closed connection is not handed to the next one.
  "grpc.use_local_subchannel_pool": 1,
  "grpc.enable_retries": 0,
  "grpc.enable_http_proxy": 0,
  "grpc.enable_channelz": 0,
  "grpc.service_config_disable_resolution": 1,
};

/** An IP address is no server name (RFC 6066 §3), and Bun refuses it as one. */
const namelessHost: grpc.ChannelOptions = { "grpc.ssl_target_name_override": "etcd.invalid" };

function secured({ ca, cert, key }: TlsMaterial, name: string): grpc.ChannelCredentials {
  return grpc.credentials.createSsl(buffer(ca), buffer(key), buffer(cert), {
    rejectUnauthorized: true, // also against the environment
    checkServerIdentity: (_, certificate) => checkServerIdentity(name, certificate),
  });
}

async function unary(
  host: Host,
  method: Method,
  { endpoint, body, token, signal }: EndpointCall,
): Promise<unknown> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const client = host.getServiceClient(services[method]) as unknown as Record<Method, Unary>;
  const call = client[method](body, metadata(token), {}, (error, answer) => {
    if (error === null) resolve(answer);
    else reject(signal.aborted ? signal.reason : new EndpointFailure(grpcFailure(error, endpoint)));
  });
  const cancel = () => call.cancel();
  signal.addEventListener("abort", cancel);
  try {
    return await promise;
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

/** The first message, which says that the watch stands, is waited for. */
async function openWatch(
  host: Host,
  { endpoint, body, token, signal }: EndpointCall,
): Promise<AsyncIterable<unknown>> {
  signal.throwIfAborted();
  const client = host.getServiceClient("Watch") as unknown as { watch: Bidirectional };
  const stream = client.watch(metadata(token), {});
  const cancel = () => stream.cancel();
  signal.addEventListener("abort", cancel);
  const end = () => {
    signal.removeEventListener("abort", cancel);
    cancel();
  };
  // An error after the last read has nobody else to hear it.
  stream.on("error", () => {});
  stream.write(body);
  const messages: AsyncIterator<unknown> = stream[Symbol.asyncIterator]();
  const next = async () => {
    try {
      return await messages.next();
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw new EndpointFailure(grpcFailure(error, endpoint));
    }
  };
  try {
    return following(await next(), next, end);
  } catch (error) {
    end();
    throw error;
  }
}

async function* following(
  first: IteratorResult<unknown>,
  next: () => Promise<IteratorResult<unknown>>,
  end: () => void,
): AsyncGenerator<unknown> {
  try {
    for (let message = first; message.done !== true; message = await next()) yield message.value;
  } finally {
    end();
  }
}

type Unary = (
  request: object,
  metadata: grpc.Metadata,
  options: grpc.CallOptions,
  done: (error: grpc.ServiceError | null, answer: unknown) => void,
) => grpc.ClientUnaryCall;

type Bidirectional = (
  metadata: grpc.Metadata,
  options: grpc.CallOptions,
) => grpc.ClientDuplexStream<object, unknown>;

function metadata(token: string): grpc.Metadata {
  const metadata = new grpc.Metadata();
  if (token !== "") metadata.set("token", token);
  return metadata;
}

function buffer(pem: string | undefined): Buffer | null {
  return pem === undefined ? null : Buffer.from(pem);
}
