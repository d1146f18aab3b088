import { FlannelError } from "../base/error.ts";
import type { Kernel, KernelEdit, KernelLink, KernelRoute, RouteSpec } from "../native/ports.ts";
import { parseIpAddress, tryParseIpAddress } from "../net/address.ts";
import type { Mac } from "../net/mac.ts";
import { type Prefix, tryParsePrefix } from "../net/prefix.ts";
import { type Adoption, adoptableLinks, isFlannelRoute, isSameRoute } from "./adopt.ts";

import {
  type BlackholeItem,
  emptyPlan,
  type IpIpLink,
  type LinkItem,
  type Plan,
  type RouteItem,
  type TunLink,
  type VxlanLink,
  type Step,
} from "../plan/plan.ts";

/**
 * rtm_protocol of every route we install, so that `ip route` shows whose it is and we touch no other.
 * Values above 4 are the administrator's to give (rtnetlink(7)); none that a routing daemon uses.
 */
export const routeProtocol = 241;

/**
 * Metric of our blackhole routes: every other route to the same destination goes before them, also that of a
 * bridge which is given our subnet later. (Without a metric, as flannel makes it, it would hide the bridge's.)
 */
const blackholeMetric = 2 ** 32 - 2;

/** The kernel's word for what is ours. */
export interface KernelScope {
  /** IFLA_IFALIAS of our links: names the network, so that two daemons on one host tell theirs apart. */
  readonly owner: string;
  /** The overlay networks; empty where they are not known, then only what hangs on our links is ours. */
  readonly overlay: readonly Prefix[];
  /** What a stopped flanneld left and is ours now; undefined: nothing is. */
  readonly adopt?: Adoption | undefined;
}

/** What the kernel holds of ours. */
export interface KernelState {
  readonly plan: Plan;
  /** By name, of all links; kept current by {@link applyKernelStep}. */
  readonly linkIndex: Map<string, number>;
  /** Links whose name a plan may want but that are not ours. */
  readonly foreignLinks: ReadonlyMap<string, KernelLink>;
  /** Routes of others, by destination. */
  readonly foreignRoutes: ReadonlyMap<string, KernelRoute>;
  /** Our links that are not up, or whose alias is missing: right in all that a plan says, yet unusable. */
  readonly unfinishedLinks: ReadonlySet<string>;
  /** What is adopted and does not carry our mark yet: links by name, routes by destination. */
  readonly unmarked: {
    readonly links: ReadonlySet<string>;
    readonly routes: ReadonlyMap<string, KernelRoute>;
  };
}

/** Reads what the kernel holds of ours. */
export async function observeKernel(kernel: Kernel, scope: KernelScope): Promise<KernelState> {
  const [links, addresses] = await Promise.all([kernel.links(), kernel.addresses()]);
  const { adopt } = scope;
  const adopted = adopt === undefined ? new Set<number>() : adoptableLinks(adopt, links, addresses);
  const own = links.filter((link) => isOwn(link, scope) || adopted.has(link.index));
  const networks = [...scope.overlay, ...(adopt?.networks ?? [])];
  const nameByIndex = new Map(links.map((link) => [link.index, link.name]));
  const ownByIndex = new Map(own.map((link) => [link.index, link]));
  const vxlans = own.filter((link) => link.vxlan !== undefined);
  const [routes, neighbours, fdb] = await Promise.all([
    kernel.routes(),
    Promise.all(vxlans.map((link) => kernel.neighbours(link.index))),
    Promise.all(vxlans.map((link) => kernel.fdb(link.index))),
  ]);
  const routeItems: RouteItem[] = [];
  const blackholes: BlackholeItem[] = [];
  const foreignRoutes = new Map<string, KernelRoute>();
  const unmarkedRoutes = new Map<string, KernelRoute>();
  for (const route of routes) {
    const to = tryParsePrefix(route.to);
    if (to === undefined) continue;
    const unmarked =
      adopt !== undefined &&
      ownByIndex.get(route.linkIndex)?.vxlan !== undefined &&
      isFlannelRoute(route, to, adopt);
    const ours =
      unmarked ||
      (route.protocol === routeProtocol &&
        (ownByIndex.has(route.linkIndex) || scope.overlay.some((network) => network.contains(to))));
    if (unmarked) unmarkedRoutes.set(`${to}`, route);
    // An IPv6 route without a metric is given 1024 by the kernel; that is the one we would collide with.
    if (!ours) {
      if (route.metric === 0 || (to.family === 6 && route.metric === 1024)) foreignRoutes.set(`${to}`, route);
      continue;
    }
    if (route.type === "blackhole" && route.metric === blackholeMetric) blackholes.push({ to });
    const via = tryParseIpAddress(route.via);
    const device = nameByIndex.get(route.linkIndex);
    const isKnown = via !== undefined || (route.via === "" && route.type === "unicast");
    if (isKnown && device !== undefined) routeItems.push({ to, via, device, onLink: route.onLink });
  }
  return {
    plan: {
      ...emptyPlan,
      links: own.map((link) => linkItem(link, nameByIndex)),
      addresses: addresses.flatMap(({ linkIndex, address: text, length }) => {
        const device = ownByIndex.get(linkIndex)?.name;
        const address = tryParseIpAddress(text);
        if (device === undefined || address === undefined) return [];
        // Addresses outside the overlay are others': IPv6 link-local ones are the kernel's.
        return networks.some((network) => network.contains(address)) ? [{ device, address, length }] : [];
      }),
      neighbours: neighbours.flat().flatMap(({ linkIndex, ip: text, mac, permanent }) => {
        const device = ownByIndex.get(linkIndex)?.name;
        const ip = tryParseIpAddress(text);
        return device === undefined || ip === undefined || !permanent
          ? []
          : [{ device, ip, mac: mac as Mac }];
      }),
      fdb: fdb.flat().flatMap(({ linkIndex, mac, via: text, permanent }) => {
        const device = ownByIndex.get(linkIndex)?.name;
        const via = tryParseIpAddress(text);
        return device === undefined || via === undefined || !permanent
          ? []
          : [{ device, mac: mac as Mac, via }];
      }),
      routes: routeItems,
      blackholes,
      extensions: [],
    },
    linkIndex: new Map(links.map((link) => [link.name, link.index])),
    foreignLinks: new Map(
      links.filter((link) => !ownByIndex.has(link.index)).map((link) => [link.name, link]),
    ),
    foreignRoutes,
    unfinishedLinks: new Set(
      own.filter((link) => !link.up || adopted.has(link.index)).map((link) => link.name),
    ),
    unmarked: {
      links: new Set(own.filter((link) => adopted.has(link.index)).map((link) => link.name)),
      routes: unmarkedRoutes,
    },
  };
}

/**
 * Applies one step to links, addresses, neighbours, FDB or routes. A TUN is made by the engine that attaches
 * to it; here it only gets its MTU and mark and goes up.
 * @throws FlannelError of the failed operation, or `reconcile/foreign` where something of another owner is in
 * the way.
 */
export async function applyKernelStep(
  kernel: Kernel,
  { op, item }: Step,
  state: KernelState,
  scope: KernelScope,
): Promise<void> {
  switch (item.type) {
    case "link":
      return applyLink(kernel, op, item.value, state, scope);
    case "address": {
      const index = indexOf(state, item.value.device);
      const address = `${item.value.address}`;
      if (op === "remove") return kernel.deleteAddress(index, address, item.value.length);
      return kernel.addAddress(index, address, item.value.length);
    }
    case "neighbour":
    case "fdb":
    case "route": {
      const edit = kernelEdit({ op, item }, state, scope);
      if (edit.table === "route" && !isKernelEdit({ op, item })) return kernel.deleteRoute(edit);
      const [failure] = await kernel.apply([edit]);
      if (failure !== undefined) throw failure;
      return undefined;
    }
    case "blackhole": {
      const spec = { to: `${item.value.to}`, metric: blackholeMetric, protocol: routeProtocol };
      return op === "remove" ? kernel.deleteBlackhole(spec) : kernel.putBlackhole(spec);
    }
    case "tunnel":
    case "forward":
    case "extension":
      throw new Error(`${item.type} is no kernel item`);
  }
}

/** Whether a step can be one of many in {@link Kernel.apply}. */
export function isKernelEdit({ op, item }: Step): boolean {
  const isOne = item.type === "neighbour" || item.type === "fdb" || item.type === "route";
  return isOne && !(op === "remove" && item.type === "route" && isUnguidedIpv6(item.value));
}

/**
 * A step on a neighbour, a forwarding entry or a route as the kernel is told of it.
 * @throws FlannelError `reconcile/foreign` where a route of another owner is in the way; `reconcile/no-link`
 */
export function kernelEdit({ op, item }: Step, state: KernelState, scope: KernelScope): KernelEdit {
  const gone = op === "remove";
  switch (item.type) {
    case "neighbour": {
      const { device, ip, mac } = item.value;
      return { table: "neighbour", gone, linkIndex: indexOf(state, device), ip: `${ip}`, mac };
    }
    case "fdb": {
      const { device, mac, via } = item.value;
      return { table: "fdb", gone, linkIndex: indexOf(state, device), mac, via: `${via}` };
    }
    case "route": {
      const spec = routeSpec(item.value, indexOf(state, item.value.device));
      if (!gone) refuseForeignRoute(spec, state, scope);
      const protocol = (gone ? state.unmarked.routes.get(spec.to)?.protocol : undefined) ?? spec.protocol;
      return { table: "route", gone, ...spec, protocol };
    }
    default:
      throw new Error(`${item.type} is not changed by itself`);
  }
}

/** Without a gateway, the kernel's IPv6 side would delete a route with one as well: this takes a look. */
function isUnguidedIpv6({ to, via }: RouteItem): boolean {
  return via === undefined && to.family === 6;
}

function refuseForeignRoute(spec: RouteSpec, { foreignRoutes }: KernelState, { adopt }: KernelScope): void {
  const foreign = foreignRoutes.get(spec.to);
  if (foreign === undefined || (adopt !== undefined && isSameRoute(foreign, spec))) return;
  throw new FlannelError(
    "reconcile/foreign",
    `a route to ${spec.to} that is not ours is in the way`,
    { protocol: foreign.protocol, via: foreign.via, linkIndex: foreign.linkIndex },
    { remedy: "Remove that route, or choose a network that does not overlap it" },
  );
}

/** Gives a TUN, just made by its engine, what a new device lacks. */
export async function finishTun(
  kernel: Kernel,
  { name, mtuBytes }: TunLink,
  state: KernelState,
  owner: string,
): Promise<void> {
  await readIndex(kernel, state, name);
  // The default of 500 packets is short for bursts of super-packets.
  await kernel.setLink(indexOf(state, name), { mtuBytes, alias: owner, txQueueLength: 1000, up: true });
}

async function applyLink(
  kernel: Kernel,
  op: Step["op"],
  link: LinkItem,
  state: KernelState,
  { owner }: KernelScope,
): Promise<void> {
  if (op === "remove") {
    const index = state.linkIndex.get(link.name);
    return index === undefined ? undefined : kernel.deleteLink(index);
  }
  if (op === "add" && link.kind !== "tun") refuseForeign(state, link.name);
  if (link.kind === "tun") return finishTun(kernel, link, state, owner);
  if (op === "add") await addDevice(kernel, link, state, owner);
  const held = state.plan.links.find(({ name }) => name === link.name);
  // Even the same MAC, given again, makes the kernel forget the device's neighbours.
  const mac =
    op === "change" && link.kind === "vxlan" && !(held?.kind === "vxlan" && held.mac === link.mac)
      ? { mac: link.mac }
      : {};
  await kernel.setLink(indexOf(state, link.name), {
    mtuBytes: link.mtuBytes,
    ...mac,
    ...(op === "change" ? { alias: owner } : {}),
    up: true,
  });
}

/** @throws FlannelError `reconcile/foreign` where a device of that name exists and is not ours */
export function refuseForeign({ foreignLinks }: KernelState, name: string): void {
  const foreign = foreignLinks.get(name);
  if (foreign === undefined) return;
  throw new FlannelError(
    "reconcile/foreign",
    `a device named ${name} exists and is not ours`,
    { kind: foreign.kind, alias: foreign.alias || undefined },
    { remedy: `Stop the program that made it, then remove it: ip link delete ${name}` },
  );
}

async function addDevice(
  kernel: Kernel,
  link: VxlanLink | IpIpLink,
  state: KernelState,
  owner: string,
): Promise<void> {
  try {
    if (link.kind === "vxlan") await addVxlan(kernel, link, state, owner);
    else await addIpip(kernel, link, owner);
  } catch (error) {
    if (!(error instanceof FlannelError) || error.fields["errno"] !== "EOPNOTSUPP") throw error;
    throw new FlannelError(
      `engine/no-${link.kind}`,
      `this kernel has no ${link.kind} devices`,
      {},
      {
        cause: error,
        remedy: `Load the module (modprobe ${link.kind}; some distributions have it in an extra package), or set datapath.engine to "userspace"`,
      },
    );
  }
  await readIndex(kernel, state, link.name);
}

async function addIpip(kernel: Kernel, { name, mtuBytes, local }: IpIpLink, owner: string): Promise<void> {
  await kernel.addIpip({ name, mtuBytes, local: `${local ?? ""}`, alias: owner });
}

async function addVxlan(kernel: Kernel, link: VxlanLink, state: KernelState, owner: string): Promise<void> {
  const uplink = state.linkIndex.get(link.uplink);
  if (uplink === undefined)
    throw new FlannelError("uplink/missing", `interface ${link.uplink} does not exist`);
  const { name, mtuBytes, mac, vni, port, learning, gbp } = link;
  const spec = {
    name,
    mtuBytes,
    mac,
    vni,
    port,
    local: `${link.local}`,
    linkIndex: uplink,
    learning,
    gbp,
    alias: owner,
  };
  await kernel.addVxlan(spec);
}

async function readIndex(kernel: Kernel, { linkIndex }: KernelState, name: string): Promise<void> {
  const link = (await kernel.links()).find((candidate) => candidate.name === name);
  if (link !== undefined) linkIndex.set(name, link.index);
}

function indexOf({ linkIndex }: KernelState, name: string): number {
  const index = linkIndex.get(name);
  if (index === undefined) throw new FlannelError("reconcile/no-link", `device ${name} does not exist`);
  return index;
}

function routeSpec({ to, via, onLink }: RouteItem, index: number): RouteSpec {
  return { to: `${to}`, via: `${via ?? ""}`, linkIndex: index, onLink, protocol: routeProtocol };
}

function isOwn(link: KernelLink, { owner }: KernelScope): boolean {
  const isKind = link.kind === "tun" || link.vxlan !== undefined || link.ipip !== undefined;
  return link.alias === owner && isKind;
}

function linkItem(link: KernelLink, nameByIndex: ReadonlyMap<number, string>): LinkItem {
  const { name, mtuBytes, vxlan, ipip } = link;
  if (ipip !== undefined) {
    const [local, remote] = [tryParseIpAddress(ipip.local), tryParseIpAddress(ipip.remote)];
    return { kind: "ipip", name, mtuBytes, local, remote };
  }
  if (vxlan === undefined) return { kind: "tun", name, mtuBytes };
  return {
    kind: "vxlan",
    name,
    mtuBytes,
    mac: link.mac as Mac,
    vni: vxlan.vni,
    port: vxlan.port,
    local: parseIpAddress(vxlan.local === "" ? "0.0.0.0" : vxlan.local),
    uplink: nameByIndex.get(vxlan.linkIndex) ?? "",
    learning: vxlan.learning,
    gbp: vxlan.gbp,
  };
}
