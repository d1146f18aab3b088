import { FlannelError } from "../base/error.ts";
import type { Family, IpAddress } from "../net/address.ts";
import { type Uplink, uplinkInterface } from "../net/uplink.ts";

const remedies = {
  4: "Give it one, name another interface with uplink.interface, or, where leases are in Kubernetes nodes, make the network one of IPv6 alone (EnableIPv4 false, EnableIPv6 true, IPv6Network; vxlan or host-gw)",
  6: "Give it one that is not link-local, name one elsewhere with uplink.public_ipv6, or take EnableIPv6 out of the network configuration",
} as const;

/** The uplink's own address of one family, from which tunnel packets leave. @throws FlannelError `uplink/no-address` */
export function localAddress(uplink: Uplink, family: Family = 4): IpAddress {
  const address = family === 4 ? uplink.address : uplink.addressV6;
  if (address !== undefined) return address;
  throw new FlannelError(
    "uplink/no-address",
    `interface ${uplinkInterface(uplink, family).name} has no usable IPv${family} address, and the network has IPv${family}`,
    {},
    { exitCode: 1, remedy: remedies[family] },
  );
}
