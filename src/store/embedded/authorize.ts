import { etcdErrors } from "./errors.ts";

/** Who asks, as far as the connection and the call tell. */
export interface Identity {
  /** The client certificate, which the listener has verified; undefined without one. */
  readonly certificate: ClientCertificate | undefined;
  /** What the call carries as its token; the empty string for none. */
  readonly token: string;
}

/** What a verified client certificate says of its owner. */
export interface ClientCertificate {
  readonly commonName: string;
  readonly organization: string | undefined;
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

/** Who may do what. */
export interface Access {
  readonly authorize: Authorize;
  /**
   * @returns a token
   * @throws RpcError with etcd's texts, for a wrong password and an unknown user alike
   */
  authenticate(name: string, password: string): Promise<string>;
}

/** For a listener that only this host can reach. */
export const allowAll: Access = {
  authorize: () => {},
  // What etcd says while it has no users; clients then go on without a token.
  authenticate: () => Promise.reject(etcdErrors.authNotEnabled()),
};
