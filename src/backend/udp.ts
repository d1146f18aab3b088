import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import { type Lease, subnetsOf } from "../lease/lease.ts";
import { familyBits, type IpAddress } from "../net/address.ts";
import { emptyPlan, type ForwardItem, type TunnelEngine } from "../plan/plan.ts";
import type { BackendContext, BackendPlan, TunnelSetup } from "./backend.ts";
import { localAddress } from "./local-address.ts";
import { backendOptions } from "./options.ts";
import { selectPeers } from "./peers.ts";
import { mtuBytesMin } from "./vxlan-options.ts";

/** Bytes that carrying a packet bare adds over IPv4: IP 20, UDP 8. */
const udpOverheadBytes = 28;

const defaultPort = 8285;

/** flannel takes the first name of `flannel%d` that is free. */
const device = "flannel0";

interface UdpContext extends BackendContext {
  readonly engine: TunnelEngine;
  readonly port: number;
  readonly local: IpAddress;
  readonly mtuBytes: number;
}

/**
 * Sets up the udp backend, which a network configuration without a Backend means: IP packets alone in UDP datagrams,
 * as flannel has it on amd64. Inner IPv6, which flannel's does not have, goes the same way.
 * @throws FlannelError `network/backend`, `network/mtu`, `uplink/no-address`
 */
export function setUpUdp(config: BackendConfig, context: BackendContext): TunnelSetup {
  const port = backendOptions(config, "UDP").integer("port", 1, 65535) ?? defaultPort;
  const { uplink } = context;
  const local = localAddress(uplink);
  const mtuBytes = uplink.mtuBytes - udpOverheadBytes;
  if (mtuBytes < mtuBytesMin[4]) {
    throw new FlannelError(
      "network/mtu",
      `interface ${uplink.name} has an MTU of ${uplink.mtuBytes} bytes, too small for the udp backend`,
      {},
      { remedy: "Choose another interface or raise its MTU" },
    );
  }
  return {
    type: "udp",
    device,
    kernelOnly: [],
    userspaceOnly: true,
    usesReach: false,
    // flannel's udp publishes no type.
    attributes: () => ({ publicIp: uplink.publicIp ?? local, backendType: "" }),
    open(engine) {
      if (engine !== "userspace" && engine !== "dgram") throw new Error(`udp has no engine ${engine}`);
      const udp = { ...context, engine, port, local, mtuBytes };
      return { mtuBytes, plan: (own, peers) => planUdp(own, peers, udp) };
    },
  };
}

/** One route leads the whole network into the device: who asks for nobody's subnet gets an answer from there. */
function planUdp(own: Lease, leases: readonly Lease[], context: UdpContext): BackendPlan {
  const { overlay, subnetLengths, engine, port, local, mtuBytes, strict, allowSources, latency } = context;
  // As flannel's, it takes leases of every type: its own carry none.
  const { usable, refused } = selectPeers(leases, { own, overlay, subnetLengths, backendType: undefined });
  const addresses = subnetsOf(own.subnets).map(({ address }) => address);
  const forwards = usable.flatMap(({ subnets, attributes: { publicIp } }): ForwardItem[] =>
    publicIp === undefined ? [] : subnetsOf(subnets).map((to) => ({ device, to, via: publicIp })),
  );
  return {
    plan: {
      ...emptyPlan,
      links: [{ kind: "tun", name: device, mtuBytes }],
      addresses: addresses.map((address) => ({ device, address, length: familyBits(address.family) })),
      routes: overlay.map((to) => ({ to, via: undefined, device, onLink: false })),
      tunnels: [
        {
          ...{ encapsulation: "udp", answerFrom: addresses },
          ...{ device, engine, port, local, mtuBytes, overlay, strict, allowSources, latency },
        },
      ],
      forwards,
    },
    refused,
  };
}
