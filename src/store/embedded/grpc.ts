import * as grpc from "@grpc/grpc-js";
import type { Socket } from "node:net";
import type { ClientCertificate, Identity } from "./authorize.ts";
import { etcdErrors, RpcError, rpcStatus } from "./errors.ts";
import { type FaceContext, requestBytesMax } from "./gateway.ts";
import { keepAliveMethod, type Unary, unaryMethods, unimplemented, watchMethod } from "./methods.ts";
import {
  leaseKeepAliveRequest,
  leaseKeepAliveResponse,
  watchRequest,
  watchResponse,
  type WatchResponse,
} from "./protocol.ts";
import { fromProtobuf, toProtobuf } from "./protobuf.ts";

grpc.setLogVerbosity(grpc.logVerbosity.NONE);

/** etcd's own protocol, for etcdctl and stock flanneld. Loaded by the first connection that speaks HTTP/2. */
export interface GrpcFace {
  /** Takes a connection over, whose first bytes were put back. */
  take(socket: Socket, certificate: ClientCertificate | undefined): void;
  close(): void;
}

const settings: grpc.ServerOptions = {
  // As etcd: what is over the limit by little gets its own error, not the transport's.
  "grpc.max_receive_message_length": requestBytesMax + 512 * 1024,
  "grpc.max_send_message_length": -1,
  "grpc.max_concurrent_streams": 10_000,
  // A client that is gone without a word is noticed.
  "grpc.keepalive_time_ms": 60_000,
  "grpc.keepalive_timeout_ms": 20_000,
};

type AnyCall = grpc.ServerUnaryCall<Buffer, Buffer> | grpc.ServerDuplexStream<Buffer, Buffer>;

interface GrpcContext extends FaceContext {
  identityOf(call: AnyCall): Identity;
}

export function openGrpcFace(face: FaceContext): GrpcFace {
  const server = new grpc.Server(settings);
  // The library tells of a connection only whom it is with.
  const certificates = new Map<string, ClientCertificate>();
  const context: GrpcContext = {
    ...face,
    identityOf(call) {
      const [token = ""] = call.metadata.get("token");
      return { certificate: certificates.get(call.getPeer()), token: token.toString() };
    },
  };
  const methods = [
    ...unaryMethods.map((method) => unaryEntry(context, method)),
    watchEntry(context),
    keepAliveEntry(context),
    snapshotEntry,
  ];
  server.addService(
    Object.fromEntries(methods.map(({ definition }) => [definition.path, definition])),
    Object.fromEntries(methods.map(({ definition, handler }) => [definition.path, handler])),
  );
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
  return {
    take(socket, certificate) {
      const peer = `${socket.remoteAddress}:${socket.remotePort}`;
      // What an earlier connection from there proved is not this one's.
      certificates.delete(peer);
      if (certificate !== undefined) {
        certificates.set(peer, certificate);
        socket.once("close", () => {
          if (certificates.get(peer) === certificate) certificates.delete(peer);
        });
      }
      injector.injectConnection(socket);
      socket.resume();
    },
    close() {
      injector.destroy();
      server.forceShutdown();
    },
  };
}

interface Entry {
  readonly definition: grpc.MethodDefinition<Buffer, Buffer>;
  readonly handler: grpc.UntypedHandleCall;
}

/** Messages pass as bytes: what is wrong with one is answered in etcd's words, not the library's. */
function definitionOf(rpc: string, isStream: { request: boolean; response: boolean }): Entry["definition"] {
  const asIs = (bytes: Buffer) => bytes;
  return {
    path: rpc,
    requestStream: isStream.request,
    responseStream: isStream.response,
    requestSerialize: asIs,
    requestDeserialize: asIs,
    responseSerialize: asIs,
    responseDeserialize: asIs,
  };
}

function unaryEntry(context: GrpcContext, method: Unary): Entry {
  const answer = async (call: grpc.ServerUnaryCall<Buffer, Buffer>) => {
    const bytes = call.request;
    const request = fromProtobuf(method.request, bytes);
    if (bytes.length > requestBytesMax) throw etcdErrors.requestTooLarge();
    context.access.authorize(context.identityOf(call), { rpc: method.rpc, request });
    return toProtobuf(method.response, await method.call(context.service, request, context.access));
  };
  return {
    definition: definitionOf(method.rpc, { request: false, response: false }),
    handler: (call: grpc.ServerUnaryCall<Buffer, Buffer>, done: grpc.sendUnaryData<Buffer>) => {
      answer(call).then(
        (bytes) => done(null, bytes),
        (error: unknown) => done(statusOf(context, error), null),
      );
    },
  };
}

type Stream = grpc.ServerDuplexStream<Buffer, Buffer>;

function watchEntry(context: GrpcContext): Entry {
  const handler = (call: Stream) => {
    let blocked = false;
    const stream = context.service.watches.open({
      send(message: WatchResponse) {
        if (!call.write(toProtobuf(watchResponse, message))) blocked = true;
      },
      get blocked() {
        return blocked;
      },
      fail: (error) => call.emit("error", statusOf(context, error)),
    });
    call.on("drain", () => {
      blocked = false;
      stream.resume();
    });
    call.on("data", (bytes: Buffer) => {
      try {
        const request = fromProtobuf(watchRequest, bytes);
        context.access.authorize(context.identityOf(call), { rpc: watchMethod.rpc, request });
        stream.request(request);
      } catch (error) {
        stream.close();
        call.emit("error", statusOf(context, error));
      }
    });
    // A client that has said all it will still reads.
    call.on("cancelled", () => stream.close());
    call.on("close", () => stream.close());
    call.on("error", () => stream.close());
  };
  return { definition: definitionOf(watchMethod.rpc, { request: true, response: true }), handler };
}

function keepAliveEntry(context: GrpcContext): Entry {
  const answer = async (call: Stream) => {
    for await (const bytes of call as AsyncIterable<Buffer>) {
      const request = fromProtobuf(leaseKeepAliveRequest, bytes);
      context.access.authorize(context.identityOf(call), { rpc: keepAliveMethod.rpc, request });
      const header = context.service.header();
      const TTL = await context.service.keepAlive(request.ID);
      call.write(toProtobuf(leaseKeepAliveResponse, { header, ID: request.ID, TTL }));
    }
    call.end();
  };
  const handler = (call: Stream) => {
    call.on("error", () => {});
    answer(call).catch((error: unknown) => {
      if (!call.cancelled) call.emit("error", statusOf(context, error));
    });
  };
  return { definition: definitionOf(keepAliveMethod.rpc, { request: true, response: true }), handler };
}

/** The library names all other methods that are not there; this one has a counterpart to be named. */
const snapshotEntry: Entry = {
  definition: definitionOf("/etcdserverpb.Maintenance/Snapshot", { request: false, response: true }),
  handler(call: grpc.ServerWritableStream<Buffer, Buffer>) {
    call.emit("error", asStatus(unimplemented(snapshotEntry.definition.path)));
  },
};

function statusOf({ onBug }: GrpcContext, error: unknown): grpc.StatusObject {
  if (error instanceof RpcError) return asStatus(error);
  onBug(error);
  return asStatus(new RpcError("unknown", "an error of flannel-lite"));
}

function asStatus({ status, message }: RpcError): grpc.StatusObject {
  return { code: rpcStatus[status].code, details: message, metadata: new grpc.Metadata() };
}
