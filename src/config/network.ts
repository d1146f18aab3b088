import type { Json } from "../lease/lease.ts";
import type { IpAddress } from "../net/address.ts";
import type { Prefix } from "../net/prefix.ts";

/** flannel's network configuration (net-conf JSON): what every node of one overlay agrees on. */
export interface NetworkConfig {
  /** Absent where the family is disabled. */
  readonly ipv4?: NetworkRange;
  readonly ipv6?: NetworkRange;
  readonly backend: BackendConfig;
  readonly enableNftables: boolean;
}

/** One family's network and the subnets it is cut into. */
export interface NetworkRange {
  readonly network: Prefix;
  /** Prefix length of a node's subnet. */
  readonly subnetLength: number;
  /** Network addresses of the first and the last subnet that may be leased. */
  readonly subnetMin: IpAddress;
  readonly subnetMax: IpAddress;
}

export interface BackendConfig {
  /** Lower case; `udp` where the document has no Backend, as in flannel's code. */
  readonly type: string;
  /** All members of the Backend object but Type; keys as written (they match case-insensitively). */
  readonly options: Readonly<Record<string, Json>>;
}
