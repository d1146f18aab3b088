import type { Family, IpAddress } from "./address.ts";

/** An interface of the host, as far as the tunnel depends on it. */
export interface UplinkInterface {
  readonly name: string;
  readonly index: number;
  readonly mtuBytes: number;
}

/** The host's interface that carries the tunnel, and the addresses it goes by. */
export interface Uplink extends UplinkInterface {
  /** Addresses on the interface: where encapsulated packets leave from. */
  readonly address?: IpAddress;
  readonly addressV6?: IpAddress;
  /** Addresses other nodes use; behind a NAT they differ from the interface's. */
  readonly publicIp?: IpAddress;
  readonly publicIpv6?: IpAddress;
  /** What has `addressV6`, where that is another interface. */
  readonly interfaceV6?: UplinkInterface;
}

/** The interface that packets of one family leave by. */
export function uplinkInterface(uplink: Uplink, family: Family): UplinkInterface {
  return family === 6 ? (uplink.interfaceV6 ?? uplink) : uplink;
}

/** Whether tunnels go the same way, under the same addresses. */
export function isSameUplink(a: Uplink, b: Uplink): boolean {
  const [nameA, nameB] = [a, b].map((one) => uplinkInterface(one, 6).name);
  return a.name === b.name && nameA === nameB && addressesText(a) === addressesText(b);
}

/** For people: `eth1 with 192.0.2.1, known to others as 198.51.100.1`. */
export function uplinkText(uplink: Uplink): string {
  return `${uplink.name} with ${addressesText(uplink)}`;
}

function addressesText({ address, addressV6, publicIp, publicIpv6 }: Uplink): string {
  const own = [address, addressV6].filter((one) => one !== undefined).join(" and ");
  const known = [publicIp, publicIpv6].filter((one) => one !== undefined).join(" and ");
  return own === known ? own : `${own}, known to others as ${known}`;
}
