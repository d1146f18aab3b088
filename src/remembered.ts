import { errorText } from "./base/error.ts";
import type { Log } from "./base/log.ts";
import { leaseVtepMac } from "./backend/vtep.ts";
import { parseNetworkConfig } from "./config/network.ts";
import { readSnapshot, type Snapshot } from "./host/snapshot.ts";
import { isCompatible } from "./lease/allocate.ts";
import { type Lease, type NodeIdentity, publicAddress, subnetsOf } from "./lease/lease.ts";
import type { Uplink } from "./net/uplink.ts";
import type { FoundNetwork } from "./network/network-config.ts";

/** A start without the store: what it would have said of the network, and the leases last seen. */
export interface Remembered extends FoundNetwork {
  readonly snapshot: Snapshot;
}

export interface RememberContext {
  readonly node: NodeIdentity;
  readonly uplink: Pick<Uplink, "publicIp" | "publicIpv6">;
  /** Others give us our subnets, and maybe our public IP: neither tells whether the snapshot is ours. */
  readonly assigned: boolean;
  readonly log: Log;
}

/**
 * What was saved at `path`, where it is this node's and of an address that it still has. Undefined where there
 * is nothing, or, with a warning, nothing that could be started from.
 */
export function remember(
  path: string,
  { node, uplink, assigned, log }: RememberContext,
): Remembered | undefined {
  const snapshot = readSnapshot(path, log);
  if (snapshot === undefined) return undefined;
  const { document, own, nodeId } = snapshot;
  try {
    const network = parseNetworkConfig(document);
    if (nodeId !== node.id) throw new Error(`they are those of the node with id ${nodeId}`);
    if (!assigned) refuseMoved(own, uplink);
    const isOurs = assigned
      ? subnetsOf(own.subnets).every((subnet) =>
          [network.ipv4, network.ipv6].some((range) => range?.network.contains(subnet) === true),
        )
      : isCompatible(network, own.subnets);
    if (!isOurs) throw new Error("our subnet is not of that network");
    if (network.backend.type === "vxlan")
      for (const { family } of subnetsOf(own.subnets)) leaseVtepMac(own, family);
    return { document, network, snapshot };
  } catch (error) {
    log.warn("the saved leases are ignored", { path, reason: errorText(error) });
    return undefined;
  }
}

/** The lease that was this node's when it was saved at `path`, whatever address it had then. */
export function rememberedLease(path: string, node: NodeIdentity, log: Log): Lease | undefined {
  const snapshot = readSnapshot(path, log);
  return snapshot?.nodeId === node.id ? snapshot.own : undefined;
}

/** @throws Error where our address is another than it was; not every backend publishes the IPv6 one */
function refuseMoved({ subnets, attributes }: Lease, uplink: RememberContext["uplink"]): void {
  for (const { family } of subnetsOf(subnets)) {
    const then = publicAddress(attributes, family);
    if (family === 6 && then === undefined) continue;
    if (then?.equals(family === 4 ? uplink.publicIp : uplink.publicIpv6) !== true)
      throw new Error(`our address was ${then} then`);
  }
}
