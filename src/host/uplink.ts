import { errorText, FlannelError } from "../base/error.ts";
import type { Config } from "../config/schema.ts";
import type { Kernel, KernelAddress, KernelLink } from "../native/ports.ts";
import { type Family, type IpAddress, parseIpAddress, tryParseIpAddress } from "../net/address.ts";
import type { Uplink } from "../net/uplink.ts";

/** What the configuration says about the uplink; empty members leave it to the default route. */
export interface UplinkChoice {
  /** Names or addresses, tried in order. */
  readonly interfaces: readonly string[];
  readonly publicIp?: IpAddress;
}

/** The choice that a configuration's `[uplink]` makes. */
export function uplinkChoice({
  uplink: { interface: interfaces, publicIp },
}: Pick<Config, "uplink">): UplinkChoice {
  return { interfaces: interfaces.map(String), ...(publicIp === undefined ? {} : { publicIp }) };
}

export interface ChosenUplink {
  readonly uplink: Uplink;
  /** Why this one, for the log and `check`. */
  readonly reason: string;
}

/**
 * Chooses the interface that carries the tunnel: by `interfaces`, else by the public IP where an interface
 * has it, else by the default route. Its address is the one named, or its first usable one.
 * @throws FlannelError `uplink/not-found`, `uplink/no-address`
 */
export async function chooseUplink(kernel: Kernel, choice: UplinkChoice): Promise<ChosenUplink> {
  const links = await kernel.links();
  const addresses = await kernel.addresses();
  const { publicIp } = choice;
  const describe = (link: KernelLink, address: IpAddress, reason: string): ChosenUplink => {
    const addressV6 = firstAddress(addresses, link.index, 6);
    return {
      uplink: {
        name: link.name,
        index: link.index,
        mtuBytes: link.mtuBytes,
        address,
        publicIp: publicIp ?? address,
        ...(addressV6 === undefined ? {} : { addressV6 }),
      },
      reason,
    };
  };

  const failures: string[] = [];
  for (const wanted of choice.interfaces) {
    const found = findInterface(wanted, links, addresses);
    if (typeof found !== "string")
      return describe(found.link, found.address, `interface ${wanted} is configured`);
    failures.push(found);
  }
  if (choice.interfaces.length > 0) {
    throw new FlannelError(
      "uplink/not-found",
      failures.join("; "),
      {},
      { remedy: `Interfaces here: ${linksText(links, addresses)}` },
    );
  }

  if (publicIp !== undefined) {
    const found = findInterface(`${publicIp}`, links, addresses);
    if (typeof found !== "string")
      return describe(found.link, found.address, `it has the public IP ${publicIp}`);
  }

  const link = await defaultRouteLink(kernel, links, addresses);
  const address = firstAddress(addresses, link.index, 4);
  if (address === undefined) throw noAddress(link.name);
  const because =
    publicIp === undefined ? "" : `; no interface has the public IP ${publicIp}, so it counts as NATed`;
  return describe(link, address, `it has the default route${because}`);
}

function findInterface(
  wanted: string,
  links: readonly KernelLink[],
  addresses: readonly KernelAddress[],
): { link: KernelLink; address: IpAddress } | string {
  const wantedAddress = tryParseIpAddress(wanted);
  if (wantedAddress !== undefined) {
    const owner = addresses.find(({ address }) => tryParseIpAddress(address)?.equals(wantedAddress) === true);
    const link = links.find(({ index }) => index === owner?.linkIndex);
    if (link === undefined) return `no interface has the address ${wanted}`;
    return wantedAddress.family === 4 ? { link, address: wantedAddress } : `${wanted} is an IPv6 address`;
  }
  const link = links.find(({ name }) => name === wanted);
  if (link === undefined) return `there is no interface named ${JSON.stringify(wanted)}`;
  const address = firstAddress(addresses, link.index, 4);
  return address === undefined ? errorText(noAddress(link.name)) : { link, address };
}

async function defaultRouteLink(
  kernel: Kernel,
  links: readonly KernelLink[],
  addresses: readonly KernelAddress[],
): Promise<KernelLink> {
  const routes = (await kernel.routes()).filter(({ to, type }) => to === "0.0.0.0/0" && type === "unicast");
  routes.sort((a, b) => a.metric - b.metric);
  const link = links.find(({ index }) => index === routes[0]?.linkIndex);
  if (link !== undefined) return link;
  const why =
    routes[0]?.multipath === true ? "the default route has several next hops" : "there is no default route";
  throw new FlannelError(
    "uplink/not-found",
    `cannot tell which interface carries the tunnel: ${why}`,
    {},
    { remedy: `Name one with uplink.interface or -iface. Interfaces here: ${linksText(links, addresses)}` },
  );
}

/** Global before link-local, permanent before dynamic, then the kernel's order; never a loopback address. */
function firstAddress(
  addresses: readonly KernelAddress[],
  index: number,
  family: Family,
): IpAddress | undefined {
  const usable = addresses.filter(
    ({ linkIndex, address, scope, deprecated }) =>
      linkIndex === index &&
      !deprecated &&
      scope !== "host" &&
      tryParseIpAddress(address)?.family === family &&
      !address.startsWith("127."),
  );
  const rank = ({ scope, permanent, temporary }: KernelAddress) =>
    (scope === "link" ? 4 : 0) + (permanent ? 0 : 2) + (temporary ? 1 : 0);
  const best = usable.sort((a, b) => rank(a) - rank(b))[0];
  return best === undefined ? undefined : parseIpAddress(best.address);
}

function noAddress(name: string): FlannelError {
  return new FlannelError("uplink/no-address", `interface ${name} has no usable IPv4 address`);
}

function linksText(links: readonly KernelLink[], addresses: readonly KernelAddress[]): string {
  const texts = links
    .filter(({ loopback }) => !loopback)
    .map(({ name, index }) => `${name} (${firstAddress(addresses, index, 4) ?? "no IPv4 address"})`);
  return texts.length === 0 ? "none but loopback" : texts.join(", ");
}
