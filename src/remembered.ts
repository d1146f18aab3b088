import { errorText } from "./base/error.ts";
import type { Log } from "./base/log.ts";
import { leaseVtepMac } from "./backend/vtep.ts";
import { parseNetworkConfig } from "./config/network.ts";
import { readSnapshot, type Snapshot } from "./host/snapshot.ts";
import { isCompatible } from "./lease/allocate.ts";
import { type NodeIdentity, subnetsOf } from "./lease/lease.ts";
import type { IpAddress } from "./net/address.ts";
import type { FoundNetwork } from "./network/network-config.ts";

/** A start without the store: what it would have said of the network, and the leases last seen. */
export interface Remembered extends FoundNetwork {
  readonly snapshot: Snapshot;
}

export interface RememberContext {
  readonly node: NodeIdentity;
  readonly publicIp: IpAddress | undefined;
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
  { node, publicIp, assigned, log }: RememberContext,
): Remembered | undefined {
  const snapshot = readSnapshot(path, log);
  if (snapshot === undefined) return undefined;
  const { document, own, nodeId } = snapshot;
  try {
    const network = parseNetworkConfig(document);
    if (nodeId !== node.id) throw new Error(`they are those of the node with id ${nodeId}`);
    if (!assigned && own.attributes.publicIp?.equals(publicIp) !== true)
      throw new Error(`our address was ${own.attributes.publicIp} then`);
    const isOurs = assigned
      ? subnetsOf(own.subnets).every((subnet) =>
          [network.ipv4, network.ipv6].some((range) => range?.network.contains(subnet) === true),
        )
      : isCompatible(network, own.subnets);
    if (!isOurs) throw new Error("our subnet is not of that network");
    if (network.backend.type === "vxlan") leaseVtepMac(own);
    return { document, network, snapshot };
  } catch (error) {
    log.warn("the saved leases are ignored", { path, reason: errorText(error) });
    return undefined;
  }
}
