import type { IpAddress } from "../net/address.ts";
import type { Mac } from "../net/mac.ts";
import type { Prefix } from "../net/prefix.ts";

/** What this machine must hold for the overlay to work: plain values, no order implied between the lists. */
export interface Plan {
  readonly links: readonly LinkItem[];
  readonly addresses: readonly AddressItem[];
  readonly neighbours: readonly NeighbourItem[];
  readonly fdb: readonly FdbItem[];
  readonly routes: readonly RouteItem[];
  readonly blackholes: readonly BlackholeItem[];
  /** Peers that an operator's commands were run for. */
  readonly extensions: readonly ExtensionItem[];
  /** Userspace tunnels: at most one per TUN link. */
  readonly tunnels: readonly TunnelItem[];
  /** Entries of the tunnels' forwarding tables. */
  readonly forwards: readonly ForwardItem[];
}

export const emptyPlan: Plan = {
  links: [],
  addresses: [],
  neighbours: [],
  fdb: [],
  routes: [],
  blackholes: [],
  extensions: [],
  tunnels: [],
  forwards: [],
};

export type LinkItem = VxlanLink | IpIpLink | TunLink;

/** The kernel's vxlan device, as flannel makes it. */
export interface VxlanLink {
  readonly kind: "vxlan";
  readonly name: string;
  readonly mtuBytes: number;
  readonly mac: Mac;
  readonly vni: number;
  /** UDP destination port. */
  readonly port: number;
  readonly local: IpAddress;
  /** Name of the underlying interface. */
  readonly uplink: string;
  readonly learning: boolean;
  readonly gbp: boolean;
}

/** The kernel's ipip device, as flannel makes it. */
export interface IpIpLink {
  readonly kind: "ipip";
  readonly name: string;
  readonly mtuBytes: number;
  /** Undefined, as `remote` is not, on a device of ours that others have changed. */
  readonly local: IpAddress | undefined;
  readonly remote?: IpAddress | undefined;
}

/** A TUN device that a userspace engine reads and writes. */
export interface TunLink {
  readonly kind: "tun";
  readonly name: string;
  readonly mtuBytes: number;
}

export interface AddressItem {
  readonly device: string;
  readonly address: IpAddress;
  readonly length: number;
}

/** A permanent neighbour: packets for `ip` on `device` go to `mac`. */
export interface NeighbourItem {
  readonly device: string;
  readonly ip: IpAddress;
  readonly mac: Mac;
}

/** A permanent forwarding entry of a vxlan device: frames for `mac` are sent to the host `via`. */
export interface FdbItem {
  readonly device: string;
  readonly mac: Mac;
  readonly via: IpAddress;
}

/** A route of the main table: over a link of ours, or over the uplink. */
export interface RouteItem {
  readonly to: Prefix;
  /** Undefined where all of `to` is behind the device itself. */
  readonly via: IpAddress | undefined;
  readonly device: string;
  readonly onLink: boolean;
}

/** A route of the main table that discards what no better route takes. */
export interface BlackholeItem {
  readonly to: Prefix;
}

/** A peer as an operator's commands are told of it; a family that it has not is absent. */
export interface ExtensionItem {
  /** Names its lease. */
  readonly key: string;
  readonly ipv4?: Prefix;
  readonly ipv6?: Prefix;
  readonly publicIp?: IpAddress;
  readonly publicIpv6?: IpAddress;
  /** What it publishes for them: whatever it likes, of bounded length. */
  readonly data: string;
}

/** Whom the userspace engine believes; see `datapath.strict`. */
export type Strict = "off" | "overlay" | "full";

/** What the native engine is to be good at; see `datapath.latency`. */
export type Latency = "auto" | "latency" | "throughput";

/** Who reads and writes a TUN link: the native engine, or the small one on node:dgram. */
export type TunnelEngine = "userspace" | "dgram";

/** What a userspace engine does for one TUN link. */
export type TunnelItem = VxlanTunnel | UdpTunnel | IpIpTunnel;

/** VXLAN (RFC 7348). */
export interface VxlanTunnel extends TunnelBase {
  readonly encapsulation: "vxlan";
  readonly vni: number;
  /** Our VTEP's MAC: source of inner frames sent, destination required of those received. */
  readonly vtepMac: Mac;
}

/** IP packets alone in UDP datagrams, as flannel's udp backend. Both ends are hops: they lower TTLs. */
export interface UdpTunnel extends TunnelBase {
  readonly encapsulation: "udp";
  /** Our addresses, at most one of each family: who sends where nobody is hears so from them, by ICMP. */
  readonly answerFrom: readonly IpAddress[];
}

/** IPv4 packets in IPv4 (RFC 2003), as the kernel's ipip device and flannel's ipip backend. */
export interface IpIpTunnel extends TunnelBase {
  readonly encapsulation: "ipip";
}

interface TunnelBase {
  readonly device: string;
  readonly engine: TunnelEngine;
  /** UDP port, ours and every peer's; of ipip its protocol. */
  readonly port: number;
  /** Source address of what we send. */
  readonly local: IpAddress;
  /** What comes in as one super-packet without the size of its segments is cut to this: what pods take. */
  readonly mtuBytes: number;
  /** The overlay networks: inner sources inside them must belong to the sender. */
  readonly overlay: readonly Prefix[];
  readonly strict: Strict;
  /** Outer sources believed although they hold no lease. */
  readonly allowSources: readonly Prefix[];
  /** Of no meaning to the reference engine. */
  readonly latency: Latency;
}

/** One line of a tunnel's forwarding table: packets to `to` go to host `via`, in VXLAN to inner MAC `mac`. */
export interface ForwardItem {
  readonly device: string;
  readonly to: Prefix;
  readonly via: IpAddress;
  readonly mac?: Mac;
}

/** One item of a plan with the list it stands in. */
export type PlanItem =
  | { readonly type: "link"; readonly value: LinkItem }
  | { readonly type: "tunnel"; readonly value: TunnelItem }
  | { readonly type: "address"; readonly value: AddressItem }
  | { readonly type: "neighbour"; readonly value: NeighbourItem }
  | { readonly type: "fdb"; readonly value: FdbItem }
  | { readonly type: "forward"; readonly value: ForwardItem }
  | { readonly type: "route"; readonly value: RouteItem }
  | { readonly type: "blackhole"; readonly value: BlackholeItem }
  | { readonly type: "extension"; readonly value: ExtensionItem };

/** One change that brings the machine closer to the plan. */
export interface Step {
  readonly op: "add" | "change" | "remove";
  /** What shall be; for a removal, what is. */
  readonly item: PlanItem;
}

/** The device that an item is or hangs on; some hang on none. */
export function itemDevice(item: PlanItem): string | undefined {
  switch (item.type) {
    case "link":
      return item.value.name;
    case "blackhole":
    case "extension":
      return undefined;
    default:
      return item.value.device;
  }
}

/** The items in the order in which they are added: what an item needs stands before it. */
export function planItems(plan: Plan): PlanItem[] {
  return [
    ...plan.links.map((value) => ({ type: "link", value }) as const),
    ...plan.tunnels.map((value) => ({ type: "tunnel", value }) as const),
    ...plan.addresses.map((value) => ({ type: "address", value }) as const),
    // A neighbour precedes its route, else the kernel would ask by ARP.
    ...plan.neighbours.map((value) => ({ type: "neighbour", value }) as const),
    ...plan.fdb.map((value) => ({ type: "fdb", value }) as const),
    ...plan.forwards.map((value) => ({ type: "forward", value }) as const),
    ...plan.routes.map((value) => ({ type: "route", value }) as const),
    ...plan.blackholes.map((value) => ({ type: "blackhole", value }) as const),
    ...plan.extensions.map((value) => ({ type: "extension", value }) as const),
  ];
}
