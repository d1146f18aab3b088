import { createServer, isIPv6, type Socket } from "node:net";
import { errorText, FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import { type Access, allowAll, type ClientCertificate } from "./authorize.ts";
import { bodyBytesMax, openGateway } from "./gateway.ts";
import { type Budget, HttpConnection, type HttpLimits } from "./http.ts";
import type { ServerTls } from "./server-tls.ts";
import type { StoreService } from "./service.ts";

export interface ListenerOptions {
  readonly service: StoreService;
  readonly host: string;
  /** 0 for one that is free. */
  readonly port: number;
  readonly log: Log;
  /** Without it everything is in the clear. */
  readonly tls?: ServerTls;
  readonly access?: Access;
  readonly limits?: Partial<ListenerLimits>;
}

export interface ListenerLimits extends HttpLimits {
  /** Beyond it a connection without a request gives way. */
  readonly connectionsMax: number;
  /** Of unfinished requests, all connections together. */
  readonly requestBytesMax: number;
}

export interface Listener extends AsyncDisposable {
  readonly port: number;
  readonly connections: number;
}

const defaultLimits: ListenerLimits = {
  connectionsMax: 4_096,
  requestBytesMax: 64 * 1024 * 1024,
  bodyBytesMax,
  requestMsMax: 15_000,
  idleMsMax: 5 * 60_000,
};

/** What HTTP/2 begins with (RFC 9113 §3.4), as far as it takes to tell it from a request of HTTP/1.1. */
const http2Start = "PRI";

/** One that has said nothing yet. */
interface Connection {
  readonly socket: Socket;
  readonly certificate: ClientCertificate | undefined;
  /** Undefined until the first bytes tell. */
  face: HttpConnection | "grpc" | undefined;
}

/**
 * One port for both of etcd's faces: the first bytes of a connection choose.
 * @throws FlannelError `store/listen`
 */
export async function openListener(options: ListenerOptions): Promise<Listener> {
  const { service, log, host, port } = options;
  const limits = { ...defaultLimits, ...options.limits };
  const onBug = (error: unknown) =>
    log.error("a call to the lease store failed", { error: errorText(error) });
  const context = { service, access: options.access ?? allowAll, onBug };
  const gateway = openGateway(context);
  const budget: Budget = { bytesLeft: limits.requestBytesMax };
  const connections = new Set<Connection>();
  let grpc: Promise<import("./grpc.ts").GrpcFace> | undefined;

  const choose = (connection: Connection, first: Buffer) => {
    const { socket } = connection;
    if (first.toString("latin1", 0, http2Start.length) === http2Start) {
      connection.face = "grpc";
      socket.pause();
      socket.unshift(first);
      grpc ??= import("./grpc.ts").then(({ openGrpcFace }) => openGrpcFace(context));
      grpc.then(
        (face) => face.take(socket, connection.certificate),
        (error) => {
          onBug(error);
          socket.destroy();
        },
      );
      return;
    }
    connection.face = new HttpConnection(socket, {
      handle: (request, reply) => gateway(request, reply, connection.certificate),
      limits,
      budget,
    });
    socket.emit("data", first);
  };

  const makeRoom = () => {
    if (connections.size < limits.connectionsMax) return true;
    for (const connection of connections) {
      const { face } = connection;
      if (face === "grpc" || face?.idle === false) continue;
      connections.delete(connection);
      connection.socket.destroy();
      return true;
    }
    return false;
  };

  const accept = (socket: Socket, certificate?: ClientCertificate) => {
    socket.on("error", () => socket.destroy());
    if (!makeRoom()) return void socket.destroy();
    const connection: Connection = { socket, certificate, face: undefined };
    connections.add(connection);
    const timer = setTimeout(() => socket.destroy(), limits.requestMsMax);
    socket.on("close", () => {
      clearTimeout(timer);
      connections.delete(connection);
    });
    let seen: Buffer = Buffer.alloc(0);
    const look = (chunk: Buffer) => {
      seen = Buffer.concat([seen, chunk]);
      if (seen.length < http2Start.length && http2Start.startsWith(seen.toString("latin1"))) return;
      socket.off("data", look);
      clearTimeout(timer);
      choose(connection, seen);
    };
    socket.on("data", look);
  };
  const server =
    options.tls === undefined
      ? createServer({ noDelay: true, keepAlive: true }, (socket) => accept(socket))
      : options.tls.createServer(accept);
  await listen(server, host, port);
  const address = server.address();
  const bound = typeof address === "object" && address !== null ? address.port : port;
  return {
    port: bound,
    get connections() {
      return connections.size;
    },
    async [Symbol.asyncDispose]() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      (await grpc)?.close();
      for (const { socket } of connections) socket.destroy();
      await closed;
    },
  };
}

function listen(server: ReturnType<typeof createServer>, host: string, port: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", (cause: Error) => {
    reject(
      new FlannelError(
        "store/listen",
        "the lease store cannot listen",
        { address: isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`, reason: cause.message },
        { cause, remedy: "Choose an address of this host and a port that is free." },
      ),
    );
  });
  server.listen({ host, port, backlog: 1024 }, () => resolve());
  return promise;
}
