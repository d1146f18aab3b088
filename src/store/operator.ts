import type { LeaseAttributes, LeaseSubnets, NodeIdentity } from "../lease/lease.ts";

/** What an operator does to a store by hand, beside the daemons. Calls are bounded and fail as Store's do. */
export interface StoreOperator extends AsyncDisposable {
  /** For people; no secrets. */
  readonly description: string;

  /** The network configuration document as it stands there, undefined where there is none. */
  readNetworkConfig(stop: AbortSignal): Promise<string | undefined>;

  /** Writes the document while what stands there is `before`, undefined for none; tells whether it did. */
  replaceNetworkConfig(
    change: { readonly before: string | undefined; readonly document: string },
    stop: AbortSignal,
  ): Promise<boolean>;

  /** Every key that names subnets, in key order, be it otherwise usable or not. */
  leases(stop: AbortSignal): Promise<readonly StoredLease[]>;

  /** Puts a lease without a term where there is no key for these subnets; tells whether it did. */
  reserve(
    lease: { readonly subnets: LeaseSubnets; readonly attributes: LeaseAttributes },
    stop: AbortSignal,
  ): Promise<boolean>;

  /** Deletes a lease, and what says who holds it, while it is as it was read; tells whether it is gone. */
  remove(lease: StoredLease, stop: AbortSignal): Promise<boolean>;
}

/** A lease as it stands in a store. */
export interface StoredLease {
  readonly key: string;
  readonly subnets: LeaseSubnets;
  /** Undefined where no node can use it: the value cannot be read, or the key is not as flannel writes it. */
  readonly attributes: LeaseAttributes | undefined;
  /** Undefined for a reservation. */
  readonly expiresAt: Date | undefined;
  /** The node that says that it is alive and holds just this lease; stock nodes say nothing. */
  readonly holder: NodeIdentity | undefined;
  /** Of the key, as it was read. */
  readonly revision: bigint;
}
