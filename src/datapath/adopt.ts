import type { KernelAddress, KernelLink, KernelRoute, RouteSpec } from "../native/ports.ts";
import { tryParseIpAddress } from "../net/address.ts";
import { type Mac, parseMac } from "../net/mac.ts";
import type { Prefix } from "../net/prefix.ts";

/** What a stopped flanneld of this network may have left, and becomes ours. */
export interface Adoption {
  /** Its vxlan devices. */
  readonly devices: readonly { readonly name: string; readonly vni: number }[];
  /** The overlay networks, today's and those of its last run. */
  readonly networks: readonly Prefix[];
}

/** rtm_protocol of the routes that flannel makes (RTPROT_BOOT, what netlink libraries and `ip route` give). */
const flannelRouteProtocol = 3;

/** The TUN of flannel's udp backend. */
const udpBackendDevice = "flannel0";

/**
 * Indices of the links that are flannel's and nobody's now: its vxlan devices by name, kind and VNI, and a TUN of
 * its udp backend that nobody reads. One that carries addresses, but none of this network, is another network's.
 * Pure.
 */
export function adoptableLinks(
  { devices, networks }: Adoption,
  links: readonly KernelLink[],
  addresses: readonly KernelAddress[],
): ReadonlySet<number> {
  const isFlannels = (link: KernelLink) =>
    link.name === udpBackendDevice
      ? link.kind === "tun" && !link.carrier
      : devices.some(({ name, vni }) => link.name === name && link.vxlan?.vni === vni);
  const found = links.filter((link) => {
    if (link.alias !== "" || !isFlannels(link)) return false;
    const own = globalAddresses(link, addresses);
    return own.length === 0 || own.some((address) => inOneOf(networks, address));
  });
  return new Set(found.map(({ index }) => index));
}

/**
 * Whether the route is one that flannel made on one of its vxlan devices: `<subnet> via <subnet's first address>
 * onlink`, without a metric of its own. Pure.
 */
export function isFlannelRoute(route: KernelRoute, to: Prefix, { networks }: Adoption): boolean {
  return (
    route.protocol === flannelRouteProtocol &&
    route.type === "unicast" &&
    route.onLink &&
    !route.multipath &&
    route.metric === (to.family === 6 ? 1024 : 0) &&
    tryParseIpAddress(route.via)?.equals(to.address) === true &&
    networks.some((network) => network.contains(to))
  );
}

/**
 * Whether the route is the wanted one already, in all but our mark: what a flanneld made that has no device of its
 * own for it (host-gw, DirectRouting). Only wanted ones are known, for these routes look like anybody's. Pure.
 */
export function isSameRoute(route: KernelRoute, wanted: RouteSpec): boolean {
  return (
    route.protocol === flannelRouteProtocol &&
    route.type === "unicast" &&
    !route.multipath &&
    route.linkIndex === wanted.linkIndex &&
    route.via === wanted.via
  );
}

/**
 * The TUN of a live flanneld with the udp backend in this network: only a reader gives one a carrier, in whatever
 * container it runs. Pure.
 */
export function findHeldTun(
  networks: readonly Prefix[],
  links: readonly KernelLink[],
  addresses: readonly KernelAddress[],
): string | undefined {
  const held = links.find(
    (link) =>
      link.name === udpBackendDevice &&
      link.kind === "tun" &&
      link.carrier &&
      link.alias === "" &&
      globalAddresses(link, addresses).some((address) => inOneOf(networks, address)),
  );
  return held?.name;
}

/** The MAC of the adoptable device `name`, which peers may hold. Pure. */
export function adoptableMac(
  adoption: Adoption,
  name: string,
  links: readonly KernelLink[],
  addresses: readonly KernelAddress[],
): Mac | undefined {
  const adoptable = adoptableLinks(adoption, links, addresses);
  const link = links.find((candidate) => candidate.name === name && adoptable.has(candidate.index));
  return link?.mac ? parseMac(link.mac) : undefined;
}

function globalAddresses({ index }: KernelLink, addresses: readonly KernelAddress[]): string[] {
  return addresses
    .filter(({ linkIndex, scope }) => linkIndex === index && scope === "global")
    .map(({ address }) => address);
}

function inOneOf(networks: readonly Prefix[], text: string): boolean {
  const address = tryParseIpAddress(text);
  return address !== undefined && networks.some((network) => network.contains(address));
}
