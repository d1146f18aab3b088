import type { NetworkConfig } from "../config/network.ts";
import type { Lease, LeaseAttributes, LeaseSubnets, LeaseUpdate } from "../lease/lease.ts";

/**
 * Where leases live. Every call is bounded in time and throws FlannelError: `store/unreachable`
 * (retryable), `store/unauthorized` and `store/untrusted` (retrying cannot help), `store/protocol`. When
 * `stop` aborts, a call rejects with its reason; after disposal with `store/closed`.
 */
export interface Store extends AsyncDisposable {
  /** For logs and `status`: `etcd http://127.0.0.1:2379/coreos.com/network`; no secrets. */
  readonly description: string;

  /** The network configuration document as it stands there, undefined where there is none. One try. */
  readNetworkConfig(stop: AbortSignal): Promise<string | undefined>;

  /** Publishes the document where there is none yet; tells whether it did. */
  createNetworkConfig(document: string, stop: AbortSignal): Promise<boolean>;

  /**
   * Takes a lease: the one that already carries our public IP, else `previous` while it is free, else a free
   * subnet of the range. A lost race picks again. Repeating it gives the same lease.
   * @throws FlannelError also `store/contended` (retryable) after many lost races, and
   * `network/ipv6-only`, `network/no-public-ipv4` where the store has no form for such a lease
   */
  acquire(request: AcquireRequest, stop: AbortSignal): Promise<AcquireResult>;

  /**
   * Extends our lease to a full term. A reservation is written back as a reservation.
   */
  renew(lease: Lease, stop: AbortSignal): Promise<RenewResult>;

  /** Gives the lease back. One that is gone or another node's is no error; a reservation stays. */
  release(lease: Lease, stop: AbortSignal): Promise<void>;

  /** All leases as they stand now. */
  list(stop: AbortSignal): Promise<readonly Lease[]>;

  /**
   * Watches every lease of the network, our own included. Yields one `snapshot`, then `changes` in commit
   * order; after any gap a fresh `snapshot`. Never yields an empty batch. Lost connections are retried
   * inside and reported through the log. Ends quietly when `stop` aborts.
   */
  watch(stop: AbortSignal): AsyncIterable<LeaseUpdate>;
}

export interface AcquireRequest {
  readonly network: NetworkConfig;
  /**
   * What to publish. Called with our existing lease, where the store holds one, so that what must survive a
   * restart (the VTEP MAC) can be taken from it. Must give the same public IPs each time.
   */
  readonly attributes: (existing: Lease | undefined) => LeaseAttributes;
  /** The public IPs that name us in the store, as `attributes` will give them. */
  readonly publicIp: LeaseAttributes["publicIp"];
  /** What we held last time, from subnet.env. */
  readonly previous: LeaseSubnets | undefined;
}

export type AcquireResult =
  | { readonly kind: "acquired"; readonly lease: Lease; readonly how: "own" | "previous" | "allocated" }
  /** Every subnet between SubnetMin and SubnetMax overlaps a lease. */
  | { readonly kind: "exhausted"; readonly leased: number };

export type RenewResult =
  | { readonly kind: "renewed"; readonly lease: Lease }
  /** The key is gone or another node's. */
  | { readonly kind: "lost"; readonly reason: string };
