import { FlannelError } from "../base/error.ts";
import { type Lease, subnetsOf } from "../lease/lease.ts";
import type { Prefix } from "../net/prefix.ts";
import { isOneHop, type Reach } from "../net/reach.ts";
import { type Uplink, uplinkInterface } from "../net/uplink.ts";
import { emptyPlan, type RouteItem } from "../plan/plan.ts";
import type { BackendContext, BackendPlan, BackendSetup } from "./backend.ts";
import { localAddress } from "./local-address.ts";
import { nextHop, type RefusedPeer, selectPeers } from "./peers.ts";

/**
 * Sets up the host-gw backend: plain routes over the uplink, each peer the gateway of its subnet. Nothing is
 * encapsulated, so all nodes must share one layer-2 network.
 * @throws FlannelError `uplink/nat`
 */
export function setUpHostGw(context: BackendContext): BackendSetup {
  const { uplink, overlay } = context;
  const { publicIp, publicIpv6 } = publicAddresses(uplink, overlay);
  return {
    type: "host-gw",
    device: undefined,
    kernelOnly: [],
    usesReach: true,
    attributes: () => ({
      ...(publicIp === undefined ? {} : { publicIp }),
      ...(publicIpv6 === undefined ? {} : { publicIpv6 }),
      backendType: "host-gw",
    }),
    open: () => ({
      mtuBytes: uplink.mtuBytes,
      plan: (own, peers, reach) => planHostGw(own, peers, reach, context),
    }),
  };
}

function planHostGw(
  own: Lease,
  leases: readonly Lease[],
  reach: Reach,
  { overlay, subnetLengths, uplink }: BackendContext,
): BackendPlan {
  const selection = selectPeers(leases, { own, overlay, subnetLengths, backendType: "host-gw" });
  const routes: RouteItem[] = [];
  const refused: RefusedPeer[] = [...selection.refused];
  for (const lease of selection.usable) {
    const reasons: string[] = [];
    for (const to of subnetsOf(lease.subnets)) {
      const via = nextHop(lease, to);
      const device = uplinkInterface(uplink, to.family).name;
      if (via === undefined) reasons.push(`no route to ${to}: it has no PublicIPv6`);
      else if (isOneHop(reach, via)) routes.push({ to, via, device, onLink: false });
      else reasons.push(`no route to ${to}: ${via} is not on the network of ${device}, as host-gw needs it`);
    }
    if (reasons.length > 0) refused.push({ lease, kind: "unreachable", reason: reasons.join("; ") });
  }
  return { plan: { ...emptyPlan, routes }, refused };
}

/**
 * What peers use as gateways: addresses on the uplink itself, one for each family of the network. As flannel does,
 * only the IPv4 one is compared.
 */
function publicAddresses(uplink: Uplink, overlay: readonly Prefix[]) {
  const [hasIpv4, hasIpv6] = [4, 6].map((wanted) => overlay.some(({ family }) => family === wanted));
  const address = hasIpv4 ? localAddress(uplink) : uplink.address;
  const { publicIp, publicIpv6 } = uplink;
  if (publicIp !== undefined && address !== undefined && !publicIp.equals(address)) {
    throw new FlannelError(
      "uplink/nat",
      "your PublicIP differs from interface IP, meaning that probably you're on a NAT, which is not supported by host-gw backend",
      { publicIp: `${publicIp}`, interface: `${address}` },
      {
        exitCode: 2,
        remedy: "Leave public-ip out, name the interface that has it with -iface, or use the vxlan backend",
      },
    );
  }
  return { publicIp: address, publicIpv6: hasIpv6 ? (publicIpv6 ?? localAddress(uplink, 6)) : undefined };
}
