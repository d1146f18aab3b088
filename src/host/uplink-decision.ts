import { FlannelError } from "../base/error.ts";
import type { KernelAddress, KernelLink, KernelRoute } from "../native/ports.ts";
import { type Family, type IpAddress, tryParseIpAddress } from "../net/address.ts";
import type { Uplink, UplinkInterface } from "../net/uplink.ts";

/** What the configuration says about the uplink; all empty leaves it to the default route. */
export interface UplinkChoice {
  /** Names or addresses, tried in order. */
  readonly interfaces: readonly string[];
  /** Tried in order where none of `interfaces` is there. */
  readonly patterns: readonly RegExp[];
  /** Tried last. */
  readonly canReach?: IpAddress;
  readonly publicIp?: IpAddress;
  readonly publicIpv6?: IpAddress;
  /** An interface without any IPv4 address will do where none with one is found: the store has a form for it. */
  readonly ipv6Alone?: boolean;
}

/** What was seen of the host. */
export interface HostView {
  readonly links: readonly KernelLink[];
  readonly addresses: readonly KernelAddress[];
  /** The main table. */
  readonly routes: readonly KernelRoute[];
  /** The route to `canReach`, or why there is none. */
  readonly reach?: KernelRoute | string;
}

export interface ChosenUplink {
  readonly uplink: Uplink;
  /** Why this one, for the log and `check`. */
  readonly reason: string;
  /** What else was there, or was asked for, and why it was not taken. */
  readonly passedOver: readonly PassedOver[];
}

export interface PassedOver {
  /** An interface with its address, another address of the chosen one, or a setting that found nothing. */
  readonly candidate: string;
  readonly reason: string;
}

/** An interface that a rule found. */
interface Found {
  readonly link: KernelLink;
  /** One of the two at least. */
  readonly address?: IpAddress | undefined;
  readonly addressV6?: IpAddress | undefined;
  readonly reason: string;
  /** Why not `other`, another interface with a usable address. */
  readonly against: (other: KernelLink) => string;
}

/** One way to find the interface: `setting` names it; `find` says what was missing where it finds none. */
interface Rule {
  readonly setting: string;
  readonly find: () => Found | string;
}

/**
 * Chooses the interface that carries the tunnel: by `interfaces`, else `patterns`, else `canReach`; where none
 * of these is set, by the public IP where an interface has it, else by the default route. By IPv4 addresses and
 * routes; where these find nothing and IPv6 alone will do, by those of IPv6. Pure.
 * Differs from flannel in the last step, which there fails for the address of a NAT.
 * @throws FlannelError `uplink/not-found`, `uplink/no-address`
 */
export function decideUplink(view: HostView, choice: UplinkChoice): ChosenUplink {
  const failed: PassedOver[] = [];
  for (const family of choice.ipv6Alone === true ? ([4, 6] as const) : ([4] as const)) {
    for (const { setting, find } of rulesFor(view, choice, family)) {
      const found = find();
      if (typeof found !== "string") return chosen(view, choice, found, failed);
      const told = failed.some((one) => one.candidate === setting && one.reason === found);
      if (!told) failed.push({ candidate: setting, reason: found });
    }
  }
  throw notFound(view, choice, failed);
}

function rulesFor(view: HostView, choice: UplinkChoice, family: Family): Rule[] {
  const configured = configuredRules(view, choice, family);
  if (configured.length > 0) return configured;
  return [...publicIpRules(view, choice, family), defaultRouteRule(view, choice, family)];
}

function configuredRules(
  view: HostView,
  { interfaces, patterns, canReach }: UplinkChoice,
  family: Family,
): Rule[] {
  return [
    ...interfaces.map((wanted) => ({
      setting: `interface ${wanted}`,
      find: () => byNameOrAddress(view, wanted, family),
    })),
    ...patterns.map((pattern) => ({
      setting: `interface_regex ${pattern.source}`,
      find: () => byPattern(view, pattern, family),
    })),
    ...(canReach === undefined
      ? []
      : [{ setting: `can_reach ${canReach}`, find: () => byReach(view, canReach, family) }]),
  ];
}

function publicIpRules(view: HostView, { publicIp, publicIpv6 }: UplinkChoice, family: Family): Rule[] {
  const wanted = family === 4 ? (publicIp ?? publicIpv6) : publicIpv6;
  if (wanted === undefined) return [];
  const find = () => {
    const found = byAddress(view, wanted, family);
    if (typeof found === "string") return found;
    return { ...found, reason: `it has the public IP ${wanted}`, against: () => "has another address" };
  };
  return [{ setting: `public IP ${wanted}`, find }];
}

function byNameOrAddress(view: HostView, wanted: string, family: Family): Found | string {
  const address = tryParseIpAddress(wanted);
  if (address !== undefined) return byAddress(view, address, family);
  const link = view.links.find(({ name }) => name === wanted);
  if (link === undefined) return `there is no interface named ${JSON.stringify(wanted)}`;
  const first = usableAddresses(view, link, family)[0];
  return first === undefined ? noAddressText(link, family) : configuredLink(link, first, wanted);
}

function byAddress(view: HostView, wanted: IpAddress, family: Family): Found | string {
  const owner = view.addresses.find(({ address }) => tryParseIpAddress(address)?.equals(wanted) === true);
  const link = view.links.find(({ index }) => index === owner?.linkIndex);
  if (link === undefined) return `no interface has the address ${wanted}`;
  if (wanted.family === family) return configuredLink(link, wanted, `${wanted}`);
  const first = usableAddresses(view, link, family)[0];
  if (first === undefined) return noAddressText(link, family);
  return { ...configuredLink(link, first, `${wanted}`), ...addressOf(wanted) };
}

function configuredLink(link: KernelLink, address: IpAddress, wanted: string): Found {
  const reason = `interface ${wanted} is configured`;
  return { link, ...addressOf(address), reason, against: () => "another one is configured" };
}

/** The address in the place of its family. */
function addressOf(address: IpAddress): Pick<Found, "address" | "addressV6"> {
  return address.family === 4 ? { address } : { addressV6: address };
}

/** Addresses first, in the order of the kernel's index, then names; as flannel does. */
function byPattern(view: HostView, pattern: RegExp, family: Family): Found | string {
  const links = view.links.filter(isCandidate).toSorted((a, b) => a.index - b.index);
  const matching = (link: KernelLink, of: Family) =>
    usableAddresses(view, link, of).find((address) => pattern.test(`${address}`));
  const against = (by: "address" | "name") => (other: KernelLink) => {
    if (!isCandidate(other)) return "it belongs to an overlay";
    const matches = by === "address" ? matching(other, family) !== undefined : pattern.test(other.name);
    if (matches) return `its ${by} matches too, but its index is higher`;
    return pattern.test(other.name) ? "only its name matches" : "does not match";
  };
  for (const link of links) {
    const address = matching(link, family);
    if (address === undefined) continue;
    const reason = `its address matches ${pattern.source}`;
    return {
      ...{ link, addressV6: matching(link, 6), ...addressOf(address) },
      ...{ reason, against: against("address") },
    };
  }
  for (const link of links.filter(({ name }) => pattern.test(name))) {
    const address = usableAddresses(view, link, family)[0];
    const reason = `its name matches ${pattern.source}`;
    if (address !== undefined) return { link, ...addressOf(address), reason, against: against("name") };
  }
  return `no interface with a usable IPv${family} address matches`;
}

function byReach(
  { reach = "it was not looked up", ...view }: HostView,
  target: IpAddress,
  family: Family,
): Found | string {
  if (typeof reach === "string") return reach;
  const link = view.links.find(({ index }) => index === reach.linkIndex);
  if (link === undefined) return "the way there has no single interface";
  if (link.loopback) return "it is an address of this host";
  const source = tryParseIpAddress(reach.source);
  const address = source?.family === family ? source : usableAddresses(view, link, family)[0];
  if (address === undefined) return noAddressText(link, family);
  const reason = `the kernel reaches ${target} over it`;
  const addressV6 = usableAddresses(view, link, 6).find((one) => source?.equals(one) === true);
  const against = () => `${target} is not reached over it`;
  return { link, addressV6, ...addressOf(address), reason, against };
}

const anywhere = { 4: "0.0.0.0/0", 6: "::/0" } as const;

function defaultRouteRule(view: HostView, { publicIp, publicIpv6 }: UplinkChoice, family: Family): Rule {
  const elsewhere = family === 4 ? (publicIp ?? publicIpv6) : publicIpv6;
  const nat = elsewhere === undefined ? "" : `; the public IP ${elsewhere} is on none, so it counts as NATed`;
  const which = family === 4 ? "default route" : "IPv6 default route";
  const routes = view.routes
    .filter(({ to, type }) => to === anywhere[family] && type === "unicast")
    .toSorted((a, b) => a.metric - b.metric);
  const against = ({ index }: KernelLink) => {
    const route = routes.find(({ linkIndex }) => linkIndex === index);
    return route === undefined ? `no ${which}` : `its ${which} has metric ${route.metric}`;
  };
  const find = () => {
    const link = view.links.find(({ index }) => index === routes[0]?.linkIndex);
    if (link === undefined) {
      const hops = routes[0]?.multipath === true;
      return hops ? `the ${which} has several next hops` : `there is no ${which}`;
    }
    const address = usableAddresses(view, link, family)[0];
    return address === undefined
      ? noAddressText(link, family)
      : { link, ...addressOf(address), reason: `it has the ${which}${nat}`, against };
  };
  return { setting: "default route", find };
}

function chosen(
  view: HostView,
  choice: UplinkChoice,
  found: Found,
  failed: readonly PassedOver[],
): ChosenUplink {
  const { publicIp } = choice;
  const { link, reason, against } = found;
  const address = found.address ?? usableAddresses(view, link, 4)[0];
  const family = found.address === undefined ? 6 : 4;
  const taken = found.address ?? found.addressV6;
  const v6 = findIpv6(view, choice, found);
  const publicIpv6 = v6 && (choice.publicIpv6 ?? v6.address);
  const others = view.links.filter((other) => other.index !== link.index && !other.loopback);
  return {
    uplink: {
      name: link.name,
      index: link.index,
      mtuBytes: link.mtuBytes,
      ...(address && { address, publicIp: publicIp ?? address }),
      ...(v6 && { addressV6: v6.address }),
      ...(publicIpv6 && { publicIpv6 }),
      ...(v6 && v6.link !== link && { interfaceV6: interfaceOf(v6.link) }),
    },
    reason:
      v6 === undefined || v6.link === link ? reason : `${reason}; IPv6 by ${v6.link.name}: ${v6.reason}`,
    passedOver: [
      ...failed,
      ...usableAddresses(view, link, family)
        .filter((other) => !other.equals(taken))
        .map((other) => ({ candidate: `${other} on ${link.name}`, reason: `${taken} is taken` })),
      ...others.flatMap((other) => {
        const first = usableAddresses(view, other, family)[0];
        if (first === undefined) return [];
        return [{ candidate: `${other.name} (${first})`, reason: against(other) }];
      }),
    ],
  };
}

interface FoundV6 {
  readonly link: KernelLink;
  readonly address: IpAddress;
  /** Why this interface, where it is another than IPv4's. */
  readonly reason: string;
}

/**
 * Where IPv6 leaves. As in flannel by IPv4's interface, where it has an address for that; where flannel would fail,
 * by another that is configured, that has the public IPv6 address, or, where nothing is configured, that has the
 * default route. Undefined where there is none, which harms only networks with IPv6.
 */
function findIpv6(view: HostView, choice: UplinkChoice, { link, addressV6 }: Found): FoundV6 | undefined {
  const { interfaces, patterns, canReach, publicIpv6 } = choice;
  const on = (other: KernelLink | undefined, reason: string, preferred?: IpAddress): FoundV6 | undefined => {
    const usable = other === undefined ? [] : usableAddresses(view, other, 6);
    const address = usable.find((one) => publicIpv6?.equals(one) === true) ?? preferred ?? usable[0];
    return other === undefined || address === undefined ? undefined : { link: other, address, reason };
  };
  const linkOf = (index: number | undefined) => view.links.find((other) => other.index === index);
  const ownerOf = (wanted: IpAddress | undefined) =>
    linkOf(view.addresses.find((one) => tryParseIpAddress(one.address)?.equals(wanted) === true)?.linkIndex);
  const byPublicIp = () => on(ownerOf(publicIpv6), "it has the public IPv6 address");
  const same = on(link, "", addressV6);
  if (interfaces.length > 0 || patterns.length > 0 || canReach !== undefined) {
    const others = [
      ...interfaces.map((wanted) => {
        const address = tryParseIpAddress(wanted);
        const preferred = address?.family === 6 ? address : undefined;
        const other =
          address === undefined ? view.links.find(({ name }) => name === wanted) : ownerOf(address);
        return on(other, `interface ${wanted} is configured`, preferred);
      }),
      ...patterns.map((pattern) => {
        const matches = view.links
          .filter(isCandidate)
          .toSorted((a, b) => a.index - b.index)
          .flatMap((other) => {
            const address = usableAddresses(view, other, 6).find((one) => pattern.test(`${one}`));
            return address === undefined && !pattern.test(other.name) ? [] : [{ other, address }];
          });
        const best = matches.find(({ address }) => address !== undefined) ?? matches[0];
        return on(best?.other, `it matches ${pattern.source}`, best?.address);
      }),
    ];
    return same ?? byPublicIp() ?? others.find((one) => one !== undefined);
  }
  const [route] = view.routes
    .filter(({ to, type }) => to === "::/0" && type === "unicast")
    .toSorted((a, b) => a.metric - b.metric);
  const byRoute = () => on(linkOf(route?.linkIndex), "it has the IPv6 default route");
  return byPublicIp() ?? byRoute() ?? same;
}

function interfaceOf({ name, index, mtuBytes }: KernelLink): UplinkInterface {
  return { name, index, mtuBytes };
}

/**
 * Addresses of the family that may carry the tunnel, the best first: global before link-local, permanent before
 * dynamic, lasting before temporary, then the kernel's order. Never a loopback or a deprecated one, nor a
 * link-local one of IPv6, which means nothing without an interface: flannel takes those, and publishes them.
 */
function usableAddresses(
  { addresses }: Pick<HostView, "addresses">,
  { index }: KernelLink,
  family: Family,
): IpAddress[] {
  const rank = ({ scope, permanent, temporary }: KernelAddress) =>
    (scope === "link" ? 4 : 0) + (permanent ? 0 : 2) + (temporary ? 1 : 0);
  return addresses
    .filter(
      ({ linkIndex, address, scope, deprecated }) =>
        linkIndex === index &&
        !deprecated &&
        scope !== "host" &&
        !(scope === "link" && family === 6) &&
        !address.startsWith("127."),
    )
    .toSorted((a, b) => rank(a) - rank(b))
    .flatMap(({ address }) => tryParseIpAddress(address) ?? [])
    .filter((address) => address.family === family);
}

/** Whether a pattern may find it: not loopback, and no overlay's device, which an earlier run may have left. */
function isCandidate({ loopback, name }: KernelLink): boolean {
  return !loopback && !/^flannel(\.|-|\d|$)/.test(name);
}

function noAddressText({ name }: KernelLink, family: Family): string {
  return `interface ${name} has no usable IPv${family} address`;
}

function notFound(view: HostView, choice: UplinkChoice, failed: readonly PassedOver[]): FlannelError {
  const families = choice.ipv6Alone === true ? ([4, 6] as const) : ([4] as const);
  const none = families.length === 1 ? "no IPv4 address" : "no usable address";
  const here = view.links
    .filter(({ loopback }) => !loopback)
    .map(
      (link) => `${link.name} (${families.flatMap((one) => usableAddresses(view, link, one))[0] ?? none})`,
    );
  const interfaces = `Interfaces here: ${here.length === 0 ? "none but loopback" : here.join(", ")}`;
  const reasons = failed.map(({ candidate, reason }) => `${candidate}: ${reason}`).join("; ");
  const isAddressless = failed.every(({ reason }) => /has no usable IPv[46] address$/.test(reason));
  const isConfigured =
    choice.interfaces.length > 0 || choice.patterns.length > 0 || choice.canReach !== undefined;
  const remedies = [
    ...(isConfigured ? [] : ["Name one with uplink.interface or -iface."]),
    ...(families.length === 1 && hasIpv6Alone(view)
      ? [
          "IPv6 alone will do only for leases in Kubernetes nodes: those in etcd name nodes by their IPv4 address.",
        ]
      : []),
    interfaces,
  ];
  return new FlannelError(
    isAddressless ? "uplink/no-address" : "uplink/not-found",
    `cannot tell which interface carries the tunnel: ${reasons}`,
    {},
    { remedy: remedies.join(" ") },
  );
}

/** Whether this host has addresses for a tunnel, and none of IPv4. */
function hasIpv6Alone(view: HostView): boolean {
  const has = (family: Family) =>
    view.links.some((link) => !link.loopback && usableAddresses(view, link, family).length > 0);
  return has(6) && !has(4);
}
