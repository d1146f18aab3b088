/** Who asks, as far as the connection and the call tell. */
export interface Identity {
  /** Common Name of the client certificate, which the listener has verified; undefined without one. */
  readonly commonName: string | undefined;
  /** What the call carries as its token; the empty string for none. */
  readonly token: string;
}

/** What is asked: a call by its name in etcd's protocol, and its message (protocol.ts). */
export interface Operation {
  /** `/etcdserverpb.KV/Put`. */
  readonly rpc: string;
  readonly request: unknown;
}

/**
 * Lets an operation pass or throws RpcError permissionDenied or unauthenticated. Asked for each call, and
 * for each message of a stream.
 */
export type Authorize = (identity: Identity, operation: Operation) => void;

/** For a listener that only this host can reach. */
export const allowAll: Authorize = () => {};
