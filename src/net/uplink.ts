import type { IpAddress } from "./address.ts";

/** The host's interface that carries the tunnel, and the addresses it goes by. */
export interface Uplink {
  readonly name: string;
  readonly index: number;
  readonly mtuBytes: number;
  /** Addresses on the interface: where encapsulated packets leave from. */
  readonly address?: IpAddress;
  readonly addressV6?: IpAddress;
  /** Addresses other nodes use; behind a NAT they differ from the interface's. */
  readonly publicIp?: IpAddress;
  readonly publicIpv6?: IpAddress;
}
