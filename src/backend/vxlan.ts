import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import { type Lease, type LeaseAttributes, subnetsOf } from "../lease/lease.ts";
import { type Family, familyBits, type IpAddress } from "../net/address.ts";
import type { Mac } from "../net/mac.ts";
import type { Prefix } from "../net/prefix.ts";
import { isOneHop, type Reach } from "../net/reach.ts";
import { type Uplink, type UplinkInterface, uplinkInterface } from "../net/uplink.ts";
import { emptyPlan, type LinkItem, type Plan, type TunnelEngine } from "../plan/plan.ts";
import type { BackendContext, BackendPlan, TunnelSetup } from "./backend.ts";
import { localAddress } from "./local-address.ts";
import { mergeRefused, nextHop, type RefusedPeer, selectPeers } from "./peers.ts";
import {
  deriveVtepMac,
  findVtepMac,
  findVteps,
  leaseVtepMac,
  macAfterCollision,
  withVtepMac,
} from "./vtep.ts";
import { mtuBytesMin, parseVxlanOptions, type VxlanOptions, vxlanOverheadBytes } from "./vxlan-options.ts";

interface VxlanContext extends BackendContext {
  readonly options: VxlanOptions;
  /** What pods may send whichever family they use. */
  readonly podMtuBytes: number;
  readonly engine: TunnelEngine | "kernel";
}

/** One family's tunnel: IPv4 goes over IPv4 and IPv6 over IPv6, each by a device of its own, as in flannel. */
interface FamilyTunnel {
  readonly family: Family;
  readonly device: string;
  /** What packets leave by, and from. */
  readonly via: UplinkInterface;
  readonly local: IpAddress;
  /** Where peers send to. */
  readonly publicIp: IpAddress;
  readonly mtuBytes: number;
}

/** The device's name, in every engine. */
function vxlanDevice(vni: number, family: Family = 4): string {
  return family === 4 ? `flannel.${vni}` : `flannel-v6.${vni}`;
}

/**
 * Sets up the vxlan backend.
 * @throws FlannelError `network/backend`, `network/mtu`, `uplink/no-address`
 */
export function setUpVxlan(config: BackendConfig, context: BackendContext): TunnelSetup {
  const options = parseVxlanOptions(config);
  const { vni } = options;
  const has = (family: Family) => context.overlay.some((network) => network.family === family);
  const ipv6 = has(6) ? openTunnel(6, context.uplink, options) : undefined;
  const ipv4 = has(4) || ipv6 === undefined ? openTunnel(4, context.uplink, options) : undefined;
  const tunnels = [ipv4, ipv6].filter((tunnel) => tunnel !== undefined);
  return {
    type: "vxlan",
    device: vxlanDevice(vni, ipv4 === undefined ? 6 : 4),
    ...(ipv4 === undefined || ipv6 === undefined ? {} : { deviceV6: ipv6.device }),
    // One for each family: what flannel left of one that is disabled now goes.
    flannelDevices: ([4, 6] as const).map((family) => ({ name: vxlanDevice(vni, family), vni })),
    kernelOnly: [...(options.gbp ? ["GBP"] : []), ...(options.learning ? ["Learning"] : [])],
    usesReach: options.directRouting,
    attributes({ existing, savedMac, savedMacV6 }) {
      let attributes: LeaseAttributes = {
        ...(ipv4 && { publicIp: ipv4.publicIp }),
        ...(ipv6 && { publicIpv6: ipv6.publicIp }),
        backendType: "vxlan",
      };
      for (const { family, publicIp } of tunnels) {
        const saved = family === 6 && ipv4 !== undefined ? savedMacV6 : savedMac;
        const mac = findVtepMac(existing, family) ?? saved ?? deriveVtepMac(context.nodeId, publicIp, vni);
        attributes = withVtepMac(attributes, { family, vni, mac });
      }
      return attributes;
    },
    open(engine) {
      if (engine === "none") throw new Error("vxlan needs an engine");
      const podMtuBytes = Math.min(...tunnels.map((tunnel) => tunnel.mtuBytes));
      const vxlan = { ...context, options, engine, podMtuBytes };
      return {
        mtuBytes: podMtuBytes,
        plan: (own, peers, reach) => planVxlan({ own, peers, reach, tunnels }, vxlan),
      };
    },
  };
}

/** @throws FlannelError `network/mtu`, `uplink/no-address` */
function openTunnel(family: Family, uplink: Uplink, { vni, underlayMtuBytes }: VxlanOptions): FamilyTunnel {
  const via = uplinkInterface(uplink, family);
  const local = localAddress(uplink, family);
  const mtuBytes = (underlayMtuBytes ?? via.mtuBytes) - vxlanOverheadBytes[family];
  if (mtuBytes < mtuBytesMin[family]) {
    const mtu =
      underlayMtuBytes === undefined
        ? `interface ${via.name} has an MTU of ${via.mtuBytes} bytes`
        : `the Backend's MTU is ${underlayMtuBytes} bytes`;
    throw new FlannelError(
      "network/mtu",
      `${mtu}, too small for IPv${family} in VXLAN`,
      {},
      { remedy: "Choose another interface or raise its MTU" },
    );
  }
  const publicIp = (family === 4 ? uplink.publicIp : uplink.publicIpv6) ?? local;
  return { family, device: vxlanDevice(vni, family), via, local, publicIp, mtuBytes };
}

/** A peer's subnet and where it is. */
interface PeerSubnet {
  readonly subnet: Prefix;
  readonly publicIp: IpAddress;
  readonly mac: Mac;
  /** The peer itself, where packets go to it without a tunnel. */
  readonly direct: IpAddress | undefined;
}

interface PlanInput {
  readonly own: Lease;
  readonly peers: readonly Lease[];
  readonly reach: Reach;
}

function planVxlan(
  { tunnels, ...input }: PlanInput & { readonly tunnels: readonly FamilyTunnel[] },
  context: VxlanContext,
): BackendPlan {
  const parts = tunnels.map((tunnel) => planTunnel(tunnel, input, context));
  const newMacs = parts.flatMap(({ newMac, family }) =>
    newMac === undefined ? [] : [{ family, mac: newMac }],
  );
  const { vni } = context.options;
  const republish = newMacs.reduce<LeaseAttributes>(
    (attributes, { family, mac }) => withVtepMac(attributes, { family, vni, mac }),
    input.own.attributes,
  );
  const all = <Item>(list: (plan: Plan) => readonly Item[]) => parts.flatMap(({ plan }) => list(plan));
  return {
    plan: {
      ...emptyPlan,
      links: all(({ links }) => links),
      addresses: all(({ addresses }) => addresses),
      neighbours: all(({ neighbours }) => neighbours),
      fdb: all(({ fdb }) => fdb),
      routes: all(({ routes }) => routes),
      tunnels: all((plan) => plan.tunnels),
      forwards: all(({ forwards }) => forwards),
    },
    refused: mergeRefused(
      parts.flatMap(({ refused }) => refused),
      new Set(parts.flatMap(({ used }) => used)),
    ),
    ...(newMacs.length === 0 ? {} : { republish }),
  };
}

/** What one family's device needs. */
interface TunnelPlan {
  readonly family: Family;
  readonly plan: Plan;
  readonly used: readonly Lease[];
  readonly refused: readonly RefusedPeer[];
  /** Ours, where a peer has the one we had. */
  readonly newMac: Mac | undefined;
}

function planTunnel(
  tunnel: FamilyTunnel,
  { own, peers, reach }: PlanInput,
  context: VxlanContext,
): TunnelPlan {
  const { overlay, subnetLengths, options, engine, nodeId } = context;
  const { family, device, via } = tunnel;
  const vtepMac = leaseVtepMac(own, family);
  const ofFamily = (lease: Lease) => subnetsOf(lease.subnets).filter((subnet) => subnet.family === family);
  const selection = selectPeers(peers, { own, overlay, subnetLengths, backendType: "vxlan", family });
  const { vteps, refused } = findVteps(selection.usable, vtepMac, family);
  const subnets = vteps.flatMap(({ lease, publicIp, mac }) =>
    ofFamily(lease).map((subnet): PeerSubnet => {
      const hop = options.directRouting ? nextHop(lease, subnet) : undefined;
      return { subnet, publicIp, mac, direct: hop !== undefined && isOneHop(reach, hop) ? hop : undefined };
    }),
  );
  const common: Plan = {
    ...emptyPlan,
    links: [linkItem(context, tunnel, vtepMac)],
    addresses: ofFamily(own).map(({ address }) => ({ device, address, length: familyBits(family) })),
    routes: subnets.map(({ subnet, direct }) =>
      direct === undefined
        ? { to: subnet, via: subnet.address, device, onLink: true }
        : { to: subnet, via: direct, device: via.name, onLink: false },
    ),
  };
  const byEngine =
    engine === "kernel"
      ? kernelEntries(device, subnets)
      : userspaceEntries(engine, context, { tunnel, vtepMac, subnets });
  return {
    family,
    plan: { ...common, ...byEngine },
    used: vteps.map(({ lease }) => lease),
    refused: [...selection.refused, ...refused],
    newMac: macAfterCollision(own, selection.usable, { nodeId, vni: options.vni, family }),
  };
}

/** Whom the tunnel leads to. What comes in by it the kernel's device accepts from anybody. */
function kernelEntries(device: string, all: readonly PeerSubnet[]): Pick<Plan, "neighbours" | "fdb"> {
  const subnets = all.filter(({ direct }) => direct === undefined);
  const hosts = new Map(subnets.map(({ mac, publicIp }) => [mac, publicIp]));
  return {
    neighbours: subnets.map(({ subnet, mac }) => ({ device, ip: subnet.address, mac })),
    fdb: [...hosts].map(([mac, via]) => ({ device, mac, via })),
  };
}

/**
 * The table has every peer: one that we route to directly may still come by the tunnel, where it sees us otherwise.
 * Each tunnel knows the networks of both families: nobody may send for the one in the tunnel of the other.
 */
function userspaceEntries(
  engine: TunnelEngine,
  { options, podMtuBytes, overlay, strict, allowSources, latency }: VxlanContext,
  { tunnel, vtepMac, subnets }: { tunnel: FamilyTunnel; vtepMac: Mac; subnets: readonly PeerSubnet[] },
): Pick<Plan, "tunnels" | "forwards"> {
  const { vni, port } = options;
  const { device, local } = tunnel;
  // What comes in too long to be one packet is cut to this, and must get through to a pod.
  const mtuBytes = podMtuBytes;
  return {
    tunnels: [
      {
        ...{ encapsulation: "vxlan", vni, vtepMac },
        ...{ device, engine, port, local, mtuBytes, overlay, strict, allowSources, latency },
      },
    ],
    forwards: subnets.map(({ subnet, publicIp, mac }) => ({ device, to: subnet, via: publicIp, mac })),
  };
}

function linkItem(
  { engine, options }: VxlanContext,
  { device: name, local, via, mtuBytes }: FamilyTunnel,
  mac: Mac,
): LinkItem {
  if (engine !== "kernel") return { kind: "tun", name, mtuBytes };
  const { vni, port, learning, gbp } = options;
  return { kind: "vxlan", name, mtuBytes, mac, vni, port, local, uplink: via.name, learning, gbp };
}
