/** gRPC codes (google.golang.org/grpc/codes) that we answer with, and their HTTP status at etcd 3.4's gateway. */
export const rpcStatus = {
  cancelled: { code: 1, http: 408 },
  unknown: { code: 2, http: 500 },
  invalidArgument: { code: 3, http: 400 },
  notFound: { code: 5, http: 404 },
  permissionDenied: { code: 7, http: 403 },
  resourceExhausted: { code: 8, http: 503 },
  failedPrecondition: { code: 9, http: 412 },
  outOfRange: { code: 11, http: 400 },
  unimplemented: { code: 12, http: 501 },
  unavailable: { code: 14, http: 503 },
  unauthenticated: { code: 16, http: 401 },
} as const;

/** What a call is answered with in place of a result. */
export class RpcError extends Error {
  readonly status: keyof typeof rpcStatus;
  constructor(status: keyof typeof rpcStatus, message: string) {
    super(message);
    this.status = status;
  }
}

/** etcd's own texts (etcdserver/api/v3rpc/rpctypes/error.go), which clients match on. */
export const etcdErrors = {
  emptyKey: () => new RpcError("invalidArgument", "etcdserver: key is not provided"),
  keyNotFound: () => new RpcError("invalidArgument", "etcdserver: key not found"),
  valueProvided: () => new RpcError("invalidArgument", "etcdserver: value is provided"),
  leaseProvided: () => new RpcError("invalidArgument", "etcdserver: lease is provided"),
  tooManyOps: () => new RpcError("invalidArgument", "etcdserver: too many operations in txn request"),
  duplicateKey: () => new RpcError("invalidArgument", "etcdserver: duplicate key given in txn request"),
  requestTooLarge: () => new RpcError("invalidArgument", "etcdserver: request is too large"),
  compacted: () => new RpcError("outOfRange", "etcdserver: mvcc: required revision has been compacted"),
  futureRevision: () =>
    new RpcError("outOfRange", "etcdserver: mvcc: required revision is a future revision"),
  noSpace: () => new RpcError("resourceExhausted", "etcdserver: mvcc: database space exceeded"),
  leaseNotFound: () => new RpcError("notFound", "etcdserver: requested lease not found"),
  leaseExists: () => new RpcError("failedPrecondition", "etcdserver: lease already exists"),
  leaseTtlTooLarge: () => new RpcError("outOfRange", "etcdserver: too large lease TTL"),
  permissionDenied: () => new RpcError("permissionDenied", "etcdserver: permission denied"),
  userEmpty: () => new RpcError("invalidArgument", "etcdserver: user name is empty"),
  authFailed: () =>
    new RpcError("invalidArgument", "etcdserver: authentication failed, invalid user ID or password"),
  invalidToken: () => new RpcError("unauthenticated", "etcdserver: invalid auth token"),
  tooManyRequests: () => new RpcError("resourceExhausted", "etcdserver: too many requests"),
  authNotEnabled: () => new RpcError("failedPrecondition", "etcdserver: authentication is not enabled"),
} as const;

/** What is wrong with a message before its meaning is looked at. */
export function malformed(reason: string): RpcError {
  return new RpcError("invalidArgument", reason);
}
