import type { IpAddress } from "./address.ts";
import type { Prefix } from "./prefix.ts";

/** What the main routing table says of who is one hop away over the uplink. */
export interface Reach {
  /** The longest prefix that contains an address decides; of equal prefixes the first. */
  readonly routes: readonly ReachRoute[];
}

export interface ReachRoute {
  readonly to: Prefix;
  /** Over the uplink and without a gateway. */
  readonly direct: boolean;
}

/** Whether a packet to `address` leaves by the uplink for the host itself, not for a router. */
export function isOneHop({ routes }: Reach, address: IpAddress): boolean {
  let best: ReachRoute | undefined;
  for (const route of routes)
    if ((best === undefined || route.to.length > best.to.length) && route.to.contains(address)) best = route;
  return best?.direct === true;
}
