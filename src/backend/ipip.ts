import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import { type Lease, subnetsOf } from "../lease/lease.ts";
import { familyBits, type IpAddress } from "../net/address.ts";
import { isOneHop, type Reach } from "../net/reach.ts";
import { emptyPlan, type RouteItem } from "../plan/plan.ts";
import type { BackendContext, BackendPlan, TunnelSetup } from "./backend.ts";
import { localAddress } from "./local-address.ts";
import { backendOptions } from "./options.ts";
import { selectPeers } from "./peers.ts";
import { mtuBytesMin } from "./vxlan-options.ts";

/** Bytes of the outer IPv4 header (RFC 2003). */
const ipipOverheadBytes = 20;

/** IP in IPv4 among the protocols of IP (RFC 2003 §3.1). */
const ipipProtocol = 4;

/** The device's name, as flannel's. */
const device = "flannel.ipip";

interface IpIpContext extends BackendContext {
  readonly engine: "userspace" | "kernel";
  readonly directRouting: boolean;
  readonly local: IpAddress;
  readonly mtuBytes: number;
}

/**
 * Sets up the ipip backend: IPv4 packets in IPv4, over a raw socket of the userspace engine or by the kernel's device.
 * What either sends and takes is what flannel's kernel device does.
 * @throws FlannelError `network/backend`, `network/mtu`, `uplink/no-address`
 */
export function setUpIpIp(config: BackendConfig, context: BackendContext): TunnelSetup {
  const directRouting = backendOptions(config, "IPIP").flag("directrouting");
  const { uplink, overlay } = context;
  if (overlay.some(({ family }) => family === 6)) {
    throw new FlannelError(
      "network/backend",
      "the ipip backend carries IPv4 alone, and the network has IPv6",
      {},
      { exitCode: 2, remedy: "Set EnableIPv6 to false, or choose the vxlan backend" },
    );
  }
  const local = localAddress(uplink);
  const mtuBytes = uplink.mtuBytes - ipipOverheadBytes;
  if (mtuBytes < mtuBytesMin[4]) {
    throw new FlannelError(
      "network/mtu",
      `MTU ${uplink.mtuBytes} of interface ${uplink.name} is too small for ipip mode to work`,
      {},
      { remedy: "Choose another interface or raise its MTU" },
    );
  }
  return {
    type: "ipip",
    device,
    kernelOnly: [],
    rawSocket: true,
    usesReach: directRouting,
    attributes: () => ({ publicIp: uplink.publicIp ?? local, backendType: "ipip" }),
    open(engine) {
      if (engine !== "userspace" && engine !== "kernel") throw new Error(`ipip has no engine ${engine}`);
      const ipip = { ...context, engine, directRouting, local, mtuBytes };
      return { mtuBytes, plan: (own, peers, reach) => planIpIp(own, peers, reach, ipip) };
    },
  };
}

function planIpIp(own: Lease, leases: readonly Lease[], reach: Reach, context: IpIpContext): BackendPlan {
  const { overlay, subnetLengths, engine, directRouting, uplink, local, mtuBytes } = context;
  const { usable, refused } = selectPeers(leases, { own, overlay, subnetLengths, backendType: "ipip" });
  const hops = usable.flatMap(({ subnets: { ipv4 }, attributes: { publicIp } }) =>
    ipv4 === undefined || publicIp === undefined ? [] : [{ to: ipv4, via: publicIp }],
  );
  const routes = hops.map(({ to, via }): RouteItem => {
    const direct = directRouting && isOneHop(reach, via);
    return { to, via, device: direct ? uplink.name : device, onLink: !direct };
  });
  const addresses = subnetsOf(own.subnets).map(({ address }) => ({
    device,
    address,
    length: familyBits(address.family),
  }));
  if (engine === "kernel") {
    const links = [{ kind: "ipip", name: device, mtuBytes, local }] as const;
    return { plan: { ...emptyPlan, links, addresses, routes }, refused };
  }
  const { strict, allowSources, latency } = context;
  return {
    plan: {
      ...emptyPlan,
      links: [{ kind: "tun", name: device, mtuBytes }],
      addresses,
      routes,
      tunnels: [
        {
          ...{ encapsulation: "ipip", engine, port: ipipProtocol },
          ...{ device, local, mtuBytes, overlay, strict, allowSources, latency },
        },
      ],
      // The table has every peer: one that we route to directly may still come by the tunnel.
      forwards: hops.map(({ to, via }) => ({ device, to, via })),
    },
    refused,
  };
}
