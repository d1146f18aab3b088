/** The calls of etcd's v3 API that leases need, by their names in etcd's protocol. */
export type Method = "authenticate" | "range" | "txn" | "leaseGrant" | "leaseRevoke" | "leaseTimeToLive";

/** One call at one endpoint. */
export interface EndpointCall {
  /** `http://host:port` or `https://host:port`. */
  readonly endpoint: string;
  /**
   * The request as JSON: members as etcd's protocol names them, int64 as text, bytes as base64 and enum
   * members as numbers, since not every form of the protocol has the same names for them.
   */
  readonly body: object;
  /** The empty string for none. */
  readonly token: string;
  /** Ends the call, whose promise then rejects. */
  readonly signal: AbortSignal;
}

/**
 * How a call reaches one endpoint. Answers have the form of requests, but bytes may be a Uint8Array, enum
 * members are text, and zero values may be there or not. Deadlines, logins and the choice of an endpoint are
 * Cluster's; what fails throws EndpointFailure.
 */
export interface Transport<M extends string = Method> {
  call(method: M | "authenticate", call: EndpointCall): Promise<unknown>;
  /** Resolves once the endpoint has taken the request; it lives until `signal` aborts. */
  watch(call: EndpointCall): Promise<AsyncIterable<unknown>>;
  /** The next call at this endpoint is not to use a connection that stands. */
  disconnect(endpoint: string): void;
  close(): void;
}
