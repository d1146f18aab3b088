import type { Family, IpAddress } from "../net/address.ts";
import type { Prefix } from "../net/prefix.ts";

/** Any value JSON can carry. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** The subnets a lease is for: at least one family. */
export interface LeaseSubnets {
  readonly ipv4?: Prefix;
  readonly ipv6?: Prefix;
}

/** What a node publishes about itself with its lease. */
export interface LeaseAttributes {
  /** Where other nodes send encapsulated packets; absent where the node has no such address. */
  readonly publicIp?: IpAddress;
  readonly publicIpv6?: IpAddress;
  /** `vxlan`, `host-gw` …; the empty string for backends that publish none (`udp`, `alloc`). */
  readonly backendType: string;
  /** The backend's own data, as found in the store: nothing in it is checked yet. */
  readonly backendData?: Json;
  readonly backendV6Data?: Json;
}

/** Where other nodes reach this one over one family. */
export function publicAddress(attributes: LeaseAttributes, family: Family): IpAddress | undefined {
  return family === 4 ? attributes.publicIp : attributes.publicIpv6;
}

/** A subnet and the node that holds it. */
export interface Lease {
  readonly subnets: LeaseSubnets;
  readonly attributes: LeaseAttributes;
  /** When it lapses unless renewed; undefined for a reservation, which never does. */
  readonly expiresAt: Date | undefined;
}

/** Who a node is, whatever address it has: the id tells nodes apart, the name is for people. */
export interface NodeIdentity {
  readonly id: string;
  readonly name: string;
}

export type LeaseChange =
  | { readonly kind: "put"; readonly lease: Lease }
  | { readonly kind: "delete"; readonly subnets: LeaseSubnets };

/** What a store's watch yields: all leases, or changes since the last update in commit order. */
export type LeaseUpdate =
  | {
      readonly kind: "snapshot";
      readonly leases: readonly Lease[];
      /**
       * The store is not the one that the updates before came from: it was wiped or restored, or another
       * cluster answers. Nobody removed what is missing.
       */
      readonly replaced?: boolean;
    }
  | { readonly kind: "changes"; readonly changes: readonly LeaseChange[] };

/** Names a lease: its subnets in flannel's key form, `10.5.34.0-24` or `10.5.34.0-24&fd00:10:0:1::-64`. */
export function leaseKey(subnets: LeaseSubnets): string {
  return subnetsOf(subnets)
    .map((subnet) => `${subnet.address}-${subnet.length}`)
    .join("&");
}

/** Both subnets, IPv4 first. */
export function subnetsOf({ ipv4, ipv6 }: LeaseSubnets): Prefix[] {
  return [ipv4, ipv6].filter((subnet) => subnet !== undefined);
}
