import { FlannelError } from "../../base/error.ts";
import { certificateCodes, codeOf } from "../connection-error.ts";

/** A call that failed at one endpoint. */
export interface Failure {
  readonly error: FlannelError;
  /** The server cannot have acted on it: repeating it elsewhere is safe for any call. */
  readonly notApplied: boolean;
  /** The server wants other credentials than it got; a fresh token may help. */
  readonly credentials?: boolean;
}

/** Carries a {@link Failure} through code that knows nothing of it. */
export class EndpointFailure extends Error {
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.error.message);
    this.failure = failure;
  }
}

/** Codes of errors that come before a byte of the request is sent. */
const connectCodes = new Set([
  "ConnectionRefused",
  "EADDRNOTAVAIL",
  "EAI_AGAIN",
  "ECONNREFUSED",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "FailedToOpenSocket",
]);

const untrustedRemedy = "Check cafile, the names in etcd's certificate and the clocks of both hosts.";
const refusedRemedy =
  "Check that certfile and keyfile are set, not expired and signed by the authority etcd trusts for clients.";

/** What an exception of `fetch`, or of reading its body, means. */
export function connectionFailure(thrown: unknown, endpoint: string): Failure {
  if (thrown instanceof EndpointFailure) return thrown.failure;
  if (thrown instanceof FlannelError) return { error: thrown, notApplied: false };
  const code = codeOf(thrown);
  if (certificateCodes.has(code)) {
    return { error: untrusted(endpoint, code), notApplied: true };
  }
  if (code === "EPROTO" || code.startsWith("ERR_SSL")) {
    return { error: handshakeRefused(endpoint), notApplied: true };
  }
  if (code === "UnexpectedRedirect") {
    return { error: notEtcd(endpoint, "it redirects"), notApplied: true };
  }
  return {
    error: unreachable(endpoint, code === "" ? "the connection broke" : code),
    notApplied: connectCodes.has(code),
  };
}

/** What an HTTP answer other than 200 means; `body` as text, whatever it is. */
export function statusFailure(status: number, body: string, endpoint: string): Failure {
  const answer = parseError(body);
  if (answer === undefined) {
    if (body.startsWith(commonNameText)) return { error: commonNameRefused(endpoint), notApplied: true };
    if (status >= 500) return { error: unreachable(endpoint, `HTTP ${status}`), notApplied: false };
    return { error: notEtcd(endpoint, `HTTP ${status}`), notApplied: true };
  }
  return rpcFailure(answer, endpoint);
}

/** An error as etcd's gateway writes it: a gRPC code and text. */
export interface RpcError {
  readonly code: number;
  readonly message: string;
}

/** gRPC codes (google.golang.org/grpc/codes) that we tell apart. */
export const rpcCode = {
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  unimplemented: 12,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/** Texts of etcd about a token that is missing, expired or made before its users changed. */
const tokenTexts = ["invalid auth token", "user name is empty", "revision of auth store is old"];

export function rpcFailure({ code, message }: RpcError, endpoint: string): Failure {
  const fields = { endpoint, reason: message, rpcCode: code };
  if (code === rpcCode.unauthenticated || tokenTexts.some((text) => message.includes(text))) {
    return { error: unauthorized("etcd wants a login", fields), notApplied: true, credentials: true };
  }
  if (message.includes("authentication failed")) {
    return { error: unauthorized("etcd refused the username or the password", fields), notApplied: true };
  }
  if (code === rpcCode.permissionDenied) {
    const error = new FlannelError("store/unauthorized", "etcd denies access to flannel's keys", fields, {
      remedy:
        "Grant the user's role readwrite on everything below the prefix (etcdctl role grant-permission).",
    });
    return { error, notApplied: true };
  }
  if (code === rpcCode.unavailable || code === rpcCode.deadlineExceeded) {
    return { error: unreachable(endpoint, message), notApplied: false };
  }
  if (code === rpcCode.resourceExhausted) {
    const error = new FlannelError("store/unreachable", "etcd takes no more writes", fields, {
      retryable: true,
      remedy: "Check etcd's alarms and the size of its database (etcdctl alarm list, endpoint status).",
    });
    return { error, notApplied: true };
  }
  const error = new FlannelError("store/protocol", "etcd refused the request", fields, {
    remedy: "Check that etcd is 3.4 or later, and its log for the same text.",
  });
  return { error, notApplied: true };
}

/** The RPC error inside a gateway's answer: the body of a failed call, or one message of a stream. */
function parseError(body: string): RpcError | undefined {
  try {
    return asRpcError(JSON.parse(body));
  } catch {
    return undefined;
  }
}

/** Both forms of the gateway: `{"error": text, "code"}` and, inside streams, `{"error": {"grpc_code", "message"}}`. */
export function asRpcError(value: unknown): RpcError | undefined {
  if (typeof value !== "object" || value === null || !("error" in value)) return undefined;
  const inner: unknown = typeof value.error === "object" ? value.error : value;
  if (typeof inner !== "object" || inner === null) return undefined;
  const { message, code, grpc_code } = inner as Record<string, unknown>;
  const number = typeof grpc_code === "number" ? grpc_code : code;
  return typeof number === "number" ? { code: number, message: String(message).slice(0, 500) } : undefined;
}

/** @param reason what about it: a code, or a text of the TLS library */
export function untrusted(endpoint: string, reason: string): FlannelError {
  return new FlannelError(
    "store/untrusted",
    "etcd's certificate is not trusted",
    { endpoint, reason },
    { remedy: untrustedRemedy },
  );
}

/** @param alert what etcd said, where that is known */
export function handshakeRefused(endpoint: string, alert?: string): FlannelError {
  return new FlannelError(
    "store/untrusted",
    "etcd refused the TLS handshake",
    { endpoint, reason: alert },
    { remedy: refusedRemedy },
  );
}

export function unreachable(endpoint: string, reason: string): FlannelError {
  return new FlannelError(
    "store/unreachable",
    "etcd does not answer",
    { endpoint, reason },
    {
      retryable: true,
      remedy:
        "Check that etcd runs, that the endpoint is right (https:// where etcd has TLS) and that no firewall is between.",
    },
  );
}

/** The endpoint answers, but not as etcd does. */
export function notEtcd(endpoint: string, reason: string): FlannelError {
  return new FlannelError(
    "store/protocol",
    "the endpoint does not answer as etcd does",
    { endpoint, reason },
    {
      remedy:
        'Check that it is the client port of etcd 3.4 or later, with https:// where etcd has TLS; where etcd runs without its JSON gateway, set store.etcd.transport = "grpc".',
    },
  );
}

/**
 * The error of a call that failed at every endpoint tried: the one failure there was, else one that lists
 * them. Retrying helps as soon as it may help at one of them.
 */
export function combinedError(failures: readonly FlannelError[]): FlannelError {
  const [first] = failures;
  if (first === undefined) throw new Error("no failure to combine");
  const worst = failures.find((error) => error.retryable) ?? first;
  if (failures.length === 1) return worst;
  const reasons = failures.map((error) => {
    return `${error.fields["endpoint"]}: ${error.message} ${error.fields["reason"] ?? ""}`.trim();
  });
  return new FlannelError(
    worst.code,
    "no endpoint of etcd answers",
    { endpoint: failures.map((error) => error.fields["endpoint"]).join(","), reason: reasons.join("; ") },
    { retryable: worst.retryable, ...(worst.remedy === undefined ? {} : { remedy: worst.remedy }) },
  );
}

/** Once etcd has users, its gateway refuses every client certificate with a Common Name, password or not. */
const commonNameText = "CommonName of client sending a request against gateway";

function commonNameRefused(endpoint: string): FlannelError {
  return new FlannelError(
    "store/unauthorized",
    "etcd's JSON gateway takes no client certificate with a Common Name while authentication is on",
    { endpoint },
    { remedy: 'Set store.etcd.transport = "grpc", or use a client certificate without Common Name.' },
  );
}

function unauthorized(message: string, fields: { endpoint: string; reason: string }): FlannelError {
  return new FlannelError("store/unauthorized", message, fields, {
    remedy:
      'Set the username and password of an etcd user, or store.etcd.transport = "grpc" for one known by the Common Name of our certificate.',
  });
}
