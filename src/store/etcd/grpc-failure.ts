import { FlannelError } from "../../base/error.ts";
import {
  EndpointFailure,
  type Failure,
  handshakeRefused,
  notEtcd,
  rpcCode,
  rpcFailure,
  unreachable,
  untrusted,
} from "./failure.ts";

/** grpc-js gives no code for why there is no connection, only these texts of OpenSSL and Node. */
const untrustedTexts =
  /certificate has expired|not yet valid|self.signed certificate|unable to (get|verify)|ERR_TLS_CERT_ALTNAME_INVALID|does not match certificate|certificate (signature|revoked|rejected|not trusted)|invalid CA|unsuitable certificate purpose/i;

/** What an error of a gRPC call means: etcd's own, or one of grpc-js about the connection. */
export function grpcFailure(thrown: unknown, endpoint: string): Failure {
  if (thrown instanceof EndpointFailure) return thrown.failure;
  if (thrown instanceof FlannelError) return { error: thrown, notApplied: false };
  const { code, details } = rpcErrorOf(thrown);
  const short = details.slice(0, 500);
  if (details.startsWith("etcdserver:")) return rpcFailure({ code, message: short }, endpoint);
  const reason = /Last error: (?:Error: )?(.*?)(?: \(\d{4}-[^)]*\))?\. Resolution note/s.exec(details)?.[1];
  if (reason !== undefined) return { error: connectError(reason, endpoint), notApplied: true };
  if (details.startsWith("Name resolution failed")) {
    return { error: unreachable(endpoint, "its name cannot be resolved"), notApplied: true };
  }
  if (code === rpcCode.resourceExhausted && details.startsWith("Received message larger")) {
    return { error: notEtcd(endpoint, "its answer is too long"), notApplied: false };
  }
  if (code === rpcCode.unimplemented || /HTTP status code [34]/.test(details)) {
    return { error: notEtcd(endpoint, short), notApplied: true };
  }
  if (code === rpcCode.permissionDenied || code === rpcCode.unauthenticated) {
    return rpcFailure({ code, message: short }, endpoint);
  }
  // Whatever is left (unavailable, internal, cancelled, unknown) is grpc-js's word for a broken connection.
  return { error: unreachable(endpoint, short || "the connection broke"), notApplied: false };
}

function connectError(reason: string, endpoint: string): FlannelError {
  if (untrustedTexts.test(reason)) return untrusted(endpoint, reason.slice(0, 200));
  if (/SSL routines/.test(reason)) return handshakeRefused(endpoint, tlsAlert(reason));
  if (/^Protocol error/.test(reason)) return notEtcd(endpoint, "it does not speak HTTP/2");
  return unreachable(endpoint, reason.slice(0, 200));
}

/** `error:10000412:SSL routines:OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE` → `SSLV3_ALERT_BAD_CERTIFICATE`. */
function tlsAlert(reason: string): string {
  return (reason.split(":").at(-1) ?? "").slice(0, 100);
}

function rpcErrorOf(thrown: unknown): { code: number; details: string } {
  if (!(thrown instanceof Error)) return { code: rpcCode.unavailable, details: "" };
  const { code, details } = thrown as { code?: unknown; details?: unknown };
  return {
    code: typeof code === "number" ? code : rpcCode.unavailable,
    details: typeof details === "string" ? details : thrown.message,
  };
}
