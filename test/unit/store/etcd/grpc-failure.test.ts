import { expect, test } from "bun:test";
import { grpcFailure } from "../../../../src/store/etcd/grpc-failure.ts";

const endpoint = "https://192.0.2.1:2379";

function rpcError(code: number, details: string): Error {
  return Object.assign(new Error(`${code} NAME: ${details}`), { code, details });
}

/** As grpc-js wraps the reason for which it has no connection. */
function noConnection(reason: string): string {
  return `No connection established. Last error: ${reason}. Resolution note: `;
}

const stamp = "(2026-11-21T14:32:01.828Z)";
const alert = "error:10000412:SSL routines:OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE";

const connecting: [details: string, code: string, reason: string][] = [
  [
    noConnection("Error: connect ECONNREFUSED 192.0.2.1:2379"),
    "store/unreachable",
    "connect ECONNREFUSED 192.0.2.1:2379",
  ],
  [noConnection("Error: read ECONNRESET"), "store/unreachable", "read ECONNRESET"],
  [noConnection(`Failed to connect ${stamp}`), "store/unreachable", "Failed to connect"],
  [
    "Name resolution failed for target dns:etcd.invalid:2379",
    "store/unreachable",
    "its name cannot be resolved",
  ],
  [
    noConnection("Error: unable to verify the first certificate"),
    "store/untrusted",
    "unable to verify the first certificate",
  ],
  [
    noConnection("Error: self-signed certificate in certificate chain"),
    "store/untrusted",
    "self-signed certificate in certificate chain",
  ],
  [noConnection("Error: self signed certificate"), "store/untrusted", "self signed certificate"],
  [noConnection("Error: certificate has expired"), "store/untrusted", "certificate has expired"],
  [noConnection("Error: certificate is not yet valid"), "store/untrusted", "certificate is not yet valid"],
  [
    noConnection(
      "Error [ERR_TLS_CERT_ALTNAME_INVALID]: Hostname/IP does not match certificate's altnames: IP: 192.0.2.1 is not in the cert's list: ",
    ),
    "store/untrusted",
    "Error [ERR_TLS_CERT_ALTNAME_INVALID]: Hostname/IP does not match certificate's altnames: IP: 192.0.2.1 is not in the cert's list: ",
  ],
  [noConnection(`${alert} ${stamp}`), "store/untrusted", "SSLV3_ALERT_BAD_CERTIFICATE"],
  [noConnection(`Protocol error ${stamp}`), "store/protocol", "it does not speak HTTP/2"],
];

test.each(connecting)("etcd grpc: nothing was sent where %j", (details, code, reason) => {
  const { error: failure, notApplied } = grpcFailure(rpcError(14, details), endpoint);
  expect(failure).toMatchObject({
    code,
    fields: { endpoint, reason },
    retryable: code === "store/unreachable",
    remedy: expect.any(String),
  });
  expect(notApplied).toBe(true);
});

const answering: [rpc: number, details: string, code: string, retryable: boolean, notApplied: boolean][] = [
  [16, "etcdserver: invalid auth token", "store/unauthorized", false, true],
  [3, "etcdserver: user name is empty", "store/unauthorized", false, true],
  [3, "etcdserver: authentication failed, invalid user ID or password", "store/unauthorized", false, true],
  [7, "etcdserver: permission denied", "store/unauthorized", false, true],
  [16, "Received HTTP status code 401", "store/protocol", false, true],
  [14, "etcdserver: no leader", "store/unreachable", true, false],
  [8, "etcdserver: mvcc: database space exceeded", "store/unreachable", true, true],
  [8, "Received message larger than max (70000000 vs. 67108864)", "store/protocol", false, false],
  [12, "unknown service etcdserverpb.KV", "store/protocol", false, true],
  [12, "Received HTTP status code 404", "store/protocol", false, true],
  [14, "Received HTTP status code 503", "store/unreachable", true, false],
  [14, "Connection dropped", "store/unreachable", true, false],
  [13, "Received RST_STREAM with code 2", "store/unreachable", true, false],
  [1, "Call cancelled", "store/unreachable", true, false],
];

test.each(answering)(
  "etcd grpc: %d %j is told as what it is",
  (rpc, details, code, retryable, notApplied) => {
    const failure = grpcFailure(rpcError(rpc, details), endpoint);
    expect(failure.error).toMatchObject({ code, retryable, remedy: expect.any(String) });
    expect(failure.notApplied).toBe(notApplied);
  },
);

test("etcd grpc: only a token that etcd refused is worth another login", () => {
  const wants = (error: Error) => grpcFailure(error, endpoint).credentials === true;
  expect(wants(rpcError(16, "etcdserver: invalid auth token"))).toBe(true);
  expect(wants(rpcError(3, "etcdserver: authentication failed, invalid user ID or password"))).toBe(false);
  expect(wants(rpcError(7, "etcdserver: permission denied"))).toBe(false);
});

test("etcd grpc: a text of any length and kind is an error of bounded length", () => {
  const long = "x".repeat(1_000_000);
  for (const details of [long, `etcdserver: ${long}`, `Last error: ${long}. Resolution note`]) {
    for (let code = 0; code <= 17; code++) {
      const { error } = grpcFailure(rpcError(code, details), endpoint);
      expect(`${error.fields["reason"]}`.length).toBeLessThanOrEqual(500);
    }
  }
  for (const thrown of [undefined, null, 7, "text", {}, { code: 14 }, new Error("something else")]) {
    expect(grpcFailure(thrown, endpoint).error).toMatchObject({ code: "store/unreachable" });
  }
});
