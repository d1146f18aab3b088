import { FlannelError } from "../base/error.ts";
import type { IpAddress } from "../net/address.ts";
import type { Uplink } from "../net/uplink.ts";

/** The uplink's own IPv4 address, from which tunnel packets leave. @throws FlannelError `uplink/no-address` */
export function localAddress(uplink: Uplink): IpAddress {
  if (uplink.address !== undefined) return uplink.address;
  throw new FlannelError(
    "uplink/no-address",
    `interface ${uplink.name} has no IPv4 address`,
    {},
    { exitCode: 1 },
  );
}
