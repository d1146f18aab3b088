import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import { type Lease, subnetsOf } from "../lease/lease.ts";
import { familyBits, type IpAddress } from "../net/address.ts";
import type { Mac } from "../net/mac.ts";
import type { Prefix } from "../net/prefix.ts";
import { isOneHop, type Reach } from "../net/reach.ts";
import { emptyPlan, type LinkItem, type Plan, type TunnelEngine } from "../plan/plan.ts";
import type { BackendContext, BackendPlan, TunnelSetup } from "./backend.ts";
import { localAddress } from "./local-address.ts";
import { nextHop, selectPeers } from "./peers.ts";
import { attributesAfterCollision, deriveVtepMac, findVtepMac, findVteps, leaseVtepMac } from "./vtep.ts";
import { mtuBytesMin, parseVxlanOptions, type VxlanOptions, vxlanOverheadBytes } from "./vxlan-options.ts";

interface VxlanContext extends BackendContext {
  readonly options: VxlanOptions;
  readonly engine: TunnelEngine | "kernel";
  readonly mtuBytes: number;
}

/** The device's name, in every engine. */
export function vxlanDevice(vni: number): string {
  return `flannel.${vni}`;
}

/**
 * Sets up the vxlan backend.
 * @throws FlannelError `network/backend`, `network/mtu`, `uplink/no-address`
 */
export function setUpVxlan(config: BackendConfig, context: BackendContext): TunnelSetup {
  const options = parseVxlanOptions(config);
  const { uplink } = context;
  const mtuBytes = (options.underlayMtuBytes ?? uplink.mtuBytes) - vxlanOverheadBytes;
  if (mtuBytes < mtuBytesMin) {
    throw new FlannelError(
      "network/mtu",
      `interface ${uplink.name} has an MTU of ${uplink.mtuBytes} bytes, too small for VXLAN`,
      {},
      { remedy: "Choose another interface or raise its MTU" },
    );
  }
  const publicIp = uplink.publicIp ?? localAddress(uplink);
  return {
    type: "vxlan",
    device: vxlanDevice(options.vni),
    // One for each family; ours carries both.
    flannelDevices: [vxlanDevice(options.vni), `flannel-v6.${options.vni}`].map((name) => ({
      name,
      vni: options.vni,
    })),
    kernelOnly: [...(options.gbp ? ["GBP"] : []), ...(options.learning ? ["Learning"] : [])],
    usesReach: options.directRouting,
    attributes({ existing, savedMac }) {
      const mac = findVtepMac(existing) ?? savedMac ?? deriveVtepMac(context.nodeId, publicIp, options.vni);
      return { publicIp, backendType: "vxlan", backendData: { VNI: options.vni, VtepMAC: mac } };
    },
    open(engine) {
      if (engine === "none") throw new Error("vxlan needs an engine");
      const vxlan = { ...context, options, engine, mtuBytes };
      return { mtuBytes, plan: (own, peers, reach) => planVxlan(own, peers, reach, vxlan) };
    },
  };
}

/** A peer's subnet and where it is. */
interface PeerSubnet {
  readonly subnet: Prefix;
  readonly publicIp: IpAddress;
  readonly mac: Mac;
  /** The peer itself, where packets go to it without a tunnel. */
  readonly direct: IpAddress | undefined;
}

function planVxlan(own: Lease, leases: readonly Lease[], reach: Reach, context: VxlanContext): BackendPlan {
  const { overlay, subnetLengths, options, engine, uplink, nodeId, mtuBytes } = context;
  const device = vxlanDevice(options.vni);
  const vtepMac = leaseVtepMac(own);
  const selection = selectPeers(leases, { own, overlay, subnetLengths, backendType: "vxlan" });
  const { vteps, refused } = findVteps(selection.usable, vtepMac);
  const republish = attributesAfterCollision(own, selection.usable, { nodeId, vni: options.vni });
  const subnets = vteps.flatMap(({ lease, publicIp, mac }) =>
    subnetsOf(lease.subnets).map((subnet): PeerSubnet => {
      const hop = options.directRouting ? nextHop(lease, subnet) : undefined;
      return { subnet, publicIp, mac, direct: hop !== undefined && isOneHop(reach, hop) ? hop : undefined };
    }),
  );
  const common: Plan = {
    ...emptyPlan,
    links: [linkItem(context, device, vtepMac, mtuBytes)],
    addresses: subnetsOf(own.subnets).map(({ address }) => ({
      device,
      address,
      length: familyBits(address.family),
    })),
    routes: subnets.map(({ subnet, direct }) =>
      direct === undefined
        ? { to: subnet, via: subnet.address, device, onLink: true }
        : { to: subnet, via: direct, device: uplink.name, onLink: false },
    ),
  };
  const byEngine =
    engine === "kernel"
      ? kernelEntries(device, subnets)
      : userspaceEntries(engine, context, { device, vtepMac, subnets });
  return {
    plan: { ...common, ...byEngine },
    refused: [...selection.refused, ...refused],
    ...(republish === undefined ? {} : { republish }),
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

/** The table has every peer: one that we route to directly may still come by the tunnel, where it sees us otherwise. */
function userspaceEntries(
  engine: TunnelEngine,
  { options, uplink, mtuBytes, overlay, strict, allowSources, latency }: VxlanContext,
  { device, vtepMac, subnets }: { device: string; vtepMac: Mac; subnets: readonly PeerSubnet[] },
): Pick<Plan, "tunnels" | "forwards"> {
  const { vni, port } = options;
  const local = localAddress(uplink);
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
  { engine, options, uplink }: VxlanContext,
  name: string,
  vtepMac: Mac,
  mtuBytes: number,
): LinkItem {
  if (engine !== "kernel") return { kind: "tun", name, mtuBytes };
  return {
    kind: "vxlan",
    name,
    mtuBytes,
    mac: vtepMac,
    vni: options.vni,
    port: options.port,
    local: localAddress(uplink),
    uplink: uplink.name,
    learning: options.learning,
    gbp: options.gbp,
  };
}
