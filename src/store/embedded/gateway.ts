import type { Access, ClientCertificate, Identity } from "./authorize.ts";
import { etcdErrors, malformed, RpcError, rpcStatus } from "./errors.ts";
import type { HttpReply, HttpRequest } from "./http.ts";
import { fromJson, toJson } from "./json.ts";
import type { MessageType } from "./message.ts";
import { keepAliveMethod, type Unary, unaryMethods, unimplemented, watchMethod } from "./methods.ts";
import {
  leaseKeepAliveRequest,
  leaseKeepAliveResponse,
  watchRequest,
  type WatchResponse,
  watchResponse,
} from "./protocol.ts";
import type { StoreService } from "./service.ts";

/** As etcd's --max-request-bytes. */
export const requestBytesMax = 1.5 * 1024 * 1024;
/** Room for what JSON and base64 make of it. */
export const bodyBytesMax = 3 * 1024 * 1024;

export interface FaceContext {
  readonly service: StoreService;
  readonly access: Access;
  /** Told of what is no answer to a client's mistake but a mistake of ours. */
  readonly onBug: (error: unknown) => void;
}

const unaryByPath = new Map(unaryMethods.flatMap((method) => method.paths.map((path) => [path, method])));
const json = "application/json";
const text = "text/plain; charset=utf-8";

/** etcd's JSON gateway (grpc-gateway): a POST for each call, a stream of lines for watches. */
export function openGateway(context: FaceContext) {
  return (request: HttpRequest, reply: HttpReply, certificate: ClientCertificate | undefined): void => {
    const identity = { certificate, token: request.headers.get("authorization") ?? "" };
    void answer(context, { request, reply, identity }).catch((error: unknown) => {
      if (!(error instanceof RpcError)) context.onBug(error);
      const { status, message } =
        error instanceof RpcError ? error : new RpcError("unknown", "an error of flannel-lite");
      const { code, http } = rpcStatus[status];
      reply.send(http, json, JSON.stringify({ error: message, message, code }));
    });
  };
}

interface Call {
  readonly request: HttpRequest;
  readonly reply: HttpReply;
  readonly identity: Identity;
}

async function answer(context: FaceContext, call: Call): Promise<void> {
  const { request, reply } = call;
  const { path } = request;
  const isGet = request.method === "GET";
  // No page of a browser has business here: it would act for whoever looks at it.
  if (request.headers.has("origin")) reply.send(403, text, "not for browsers\n");
  else if (isGet && path === "/health") answerHealth(context, reply);
  else if (isGet && path === "/version") answerVersion(context, reply);
  else if (!/^\/v3\/[a-z]+(\/[a-z/-]+)?$/.test(path)) reply.send(404, text, "Not Found\n");
  else if (request.method !== "POST") reply.send(405, text, "Method Not Allowed\n");
  else if (watchMethod.paths.includes(path)) answerWatch(context, call);
  else if (keepAliveMethod.paths.includes(path)) await answerKeepAlive(context, call);
  else await answerUnary(context, call, unaryByPath.get(path));
}

async function answerUnary(
  { service, access }: FaceContext,
  { request: { path, body }, reply, identity }: Call,
  method: Unary | undefined,
): Promise<void> {
  if (method === undefined) throw unimplemented(path);
  const [request = fromJson(method.request, {})] = parseMessages(method.request, body);
  if (body.length > requestBytesMax && valueBytes(request) > requestBytesMax)
    throw etcdErrors.requestTooLarge();
  access.authorize(identity, { rpc: method.rpc, request });
  const response = await method.call(service, request, access);
  reply.send(200, json, toJson(method.response, response));
}

async function answerKeepAlive(
  { service, access }: FaceContext,
  { request: { body }, reply, identity }: Call,
): Promise<void> {
  const requests = parseMessages(leaseKeepAliveRequest, body);
  for (const request of requests) access.authorize(identity, { rpc: keepAliveMethod.rpc, request });
  const answers: string[] = [];
  for (const { ID } of requests) {
    const header = service.header();
    const TTL = await service.keepAlive(ID);
    answers.push(toJson(leaseKeepAliveResponse, { header, ID, TTL }));
  }
  reply.open(json);
  for (const one of answers) reply.write(`{"result":${one}}\n`);
  reply.end();
}

function answerWatch({ service, access }: FaceContext, { request: { body }, reply, identity }: Call): void {
  const requests = parseMessages(watchRequest, body);
  for (const request of requests) access.authorize(identity, { rpc: watchMethod.rpc, request });
  reply.open(json);
  const stream = service.watches.open({
    send: (message: WatchResponse) => reply.write(`{"result":${toJson(watchResponse, message)}}\n`),
    get blocked() {
      return reply.blocked;
    },
    fail({ status, message }) {
      // One that does not read cannot be told.
      if (reply.blocked) {
        reply.abort();
        return;
      }
      const { code, http } = rpcStatus[status];
      const error = { grpc_code: code, http_code: http, message };
      reply.write(`${JSON.stringify({ error })}\n`);
      reply.end();
    },
  });
  reply.onDrain = () => stream.resume();
  reply.onClose = () => stream.close();
  for (const request of requests) stream.request(request);
}

function answerHealth({ service }: FaceContext, reply: HttpReply): void {
  const isHealthy = service.trouble === undefined;
  reply.send(isHealthy ? 200 : 503, json, JSON.stringify({ health: String(isHealthy) }));
}

function answerVersion({ service }: FaceContext, reply: HttpReply): void {
  reply.send(200, json, JSON.stringify({ etcdserver: service.version, etcdcluster: "3.4.0" }));
}

/** A body is one JSON value after the other; an empty one is none. */
function parseMessages<Value>(type: MessageType<Value>, body: Buffer): Value[] {
  const source = body.toString("utf8");
  if (source.trim() === "") return [];
  try {
    return [fromJson(type, JSON.parse(source))];
  } catch (error) {
    if (error instanceof RpcError) throw error;
  }
  try {
    const lines = source.split("\n").filter((line) => line.trim() !== "");
    return lines.map((line) => fromJson(type, JSON.parse(line)));
  } catch (error) {
    if (error instanceof RpcError) throw error;
    throw malformed("the body is not JSON");
  }
}

/** Bytes of all keys and values in a message. */
function valueBytes(value: unknown): number {
  if (typeof value === "string" || value instanceof Uint8Array) return value.length;
  if (typeof value !== "object" || value === null) return 0;
  return Object.values(value).reduce((sum: number, member) => sum + valueBytes(member), 0);
}
