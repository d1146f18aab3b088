import type { NetworkConfig } from "../config/network.ts";
import type { IpAddress } from "../net/address.ts";
import type { Lease, LeaseAttributes, LeaseSubnets, LeaseUpdate, NodeIdentity } from "../lease/lease.ts";

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
   * Takes a lease: the one that already carries our public IP, else the one that we held under another address,
   * else `previous` while it is free, else a free subnet of the range. A lost race picks again. Repeating it gives the same lease. Says beside it who we
   * are; where that is said by nobody, a lease of our public IP is taken over.
   * @throws FlannelError also `lease/owned` where another node that is alive has our public IP,
   * `store/contended` (retryable) after many lost races, and `network/ipv6-only`, `network/no-public-ipv4`
   * where the store has no form for such a lease
   */
  acquire(request: AcquireRequest, stop: AbortSignal): Promise<AcquireResult>;

  /**
   * Extends our lease to a full term, and what says who we are with it. Written only while both are as they
   * were read. A reservation is written back as a reservation.
   */
  renew(request: RenewRequest, stop: AbortSignal): Promise<RenewResult>;

  /**
   * Says no longer that we have this public IP, so that another node may take over at once; the lease stays.
   * Does nothing where that is said by nobody or by another node.
   */
  signOff(publicIp: IpAddress, node: NodeIdentity, stop: AbortSignal): Promise<void>;

  /** Whether it still says that this node has this public IP, beside the lease or by the lease itself. */
  attests(publicIp: IpAddress, node: NodeIdentity, stop: AbortSignal): Promise<boolean>;

  /** Gives the lease back. One that is gone or another node's is no error; a reservation stays. */
  release(lease: Lease, stop: AbortSignal): Promise<void>;

  /**
   * The lease that is ours as it stands now: that of this public IP, or, where the store knows its nodes by name, that
   * of our node. Undefined where there is none.
   */
  findOwn(publicIp: LeaseAttributes["publicIp"], stop: AbortSignal): Promise<Lease | undefined>;

  /** All leases as they stand now. */
  list(stop: AbortSignal): Promise<readonly Lease[]>;

  /**
   * Watches every lease of the network, our own included. Yields one `snapshot`, then `changes` in commit
   * order; after any gap a fresh `snapshot`. Never yields an empty batch. Lost connections are retried
   * inside and reported through the log. Ends quietly when `stop` aborts.
   */
  watch(stop: AbortSignal): AsyncIterable<LeaseUpdate>;

  /** Where the store has a place for it: says, and keeps it said, that this node's traffic can flow. */
  announceReady?(): void;
}

export interface AcquireRequest {
  readonly network: NetworkConfig;
  /**
   * What to publish. Called with our existing lease, where the store holds one, so that what must survive a
   * restart (the VTEP MAC) can be taken from it. Must give the same public IPs each time.
   */
  readonly attributes: (existing: Lease | undefined) => LeaseAttributes;
  /** The public IP that names us in the store, as `attributes` will give it. */
  readonly publicIp: LeaseAttributes["publicIp"];
  readonly node: NodeIdentity;
  /** What we held last time, from subnet.env. */
  readonly previous: LeaseSubnets | undefined;
  /**
   * The lease that this host held when it last ran, as it saved it. Where it provably still is ours and only our
   * address is another, it goes with us.
   */
  readonly remembered?: Lease | undefined;
  /** Nothing but these subnets will do. */
  readonly exactly?: LeaseSubnets;
}

export type AcquireResult =
  | {
      readonly kind: "acquired";
      readonly lease: Lease;
      readonly how: "own" | "moved" | "previous" | "allocated";
      readonly heldUntil: Date;
    }
  /** Every subnet between SubnetMin and SubnetMax overlaps a lease. */
  | { readonly kind: "exhausted"; readonly leased: number }
  /** The subnets asked for with `exactly` overlap another's; `owner` is for people. */
  | { readonly kind: "taken"; readonly owner: string };

export interface RenewRequest {
  /** As it was last acquired or renewed. */
  readonly lease: Lease;
  readonly node: NodeIdentity;
  /** What to publish from now on, where it shall change. */
  readonly attributes?: LeaseAttributes;
}

export type RenewResult =
  /** `heldUntil`: until then it must be renewed, a reservation too, for what says who holds it. */
  | { readonly kind: "renewed"; readonly lease: Lease; readonly heldUntil: Date }
  /** The key is gone. */
  | { readonly kind: "lost"; readonly reason: string }
  /** Another node has our subnet or our public IP; `owner` is for people. */
  | { readonly kind: "conflict"; readonly owner: string };
