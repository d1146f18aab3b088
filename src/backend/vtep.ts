import { createHash } from "node:crypto";
import type { Lease, LeaseAttributes } from "../lease/lease.ts";
import type { IpAddress } from "../net/address.ts";
import { localMac, type Mac, parseMac } from "../net/mac.ts";
import { compareSubnets, type RefusedPeer } from "./peers.ts";

/** A VTEP MAC that this host would choose again; the next ones where the first is taken. */
export function deriveVtepMac(nodeId: string, publicIp: IpAddress, vni: number, attempt = 0): Mac {
  const input = `flannel-lite vtep\0${nodeId}\0${publicIp}\0${vni}${attempt === 0 ? "" : `\0${attempt}`}`;
  return localMac(createHash("sha256").update(input).digest());
}

/** The MAC that a lease names for its VTEP. @throws FlannelError `mac/invalid` */
export function leaseVtepMac({ attributes: { backendData } }: Lease): Mac {
  const members = typeof backendData === "object" && backendData !== null ? Object.entries(backendData) : [];
  const text = members.find(([key]) => key.toLowerCase() === "vtepmac")?.[1];
  return parseMac(typeof text === "string" ? text : "");
}

/** The same, undefined where the lease is of another backend or names no valid one. */
export function findVtepMac(lease: Lease | undefined): Mac | undefined {
  if (lease?.attributes.backendType !== "vxlan") return undefined;
  try {
    return leaseVtepMac(lease);
  } catch {
    return undefined;
  }
}

export interface Vtep {
  readonly lease: Lease;
  readonly publicIp: IpAddress;
  readonly mac: Mac;
}

/**
 * The VTEPs of the leases. One MAC leads to one host, so of two hosts that claim the same MAC the one with the
 * lower subnet is believed; one host may hold several leases.
 */
export function findVteps(leases: readonly Lease[], ownMac: Mac): { vteps: Vtep[]; refused: RefusedPeer[] } {
  const hosts = new Map<Mac, IpAddress>();
  const vteps: Vtep[] = [];
  const refused: RefusedPeer[] = [];
  for (const lease of leases) {
    const { publicIp } = lease.attributes;
    if (publicIp === undefined) continue;
    const mac = findVtepMac(lease);
    if (mac === undefined) {
      refused.push({ lease, kind: "vtep-mac", reason: "BackendData has no valid VtepMAC" });
      continue;
    }
    const host = hosts.get(mac);
    if (mac === ownMac) refused.push({ lease, kind: "vtep-mac", reason: `VtepMAC ${mac} is our own` });
    else if (host !== undefined && !host.equals(publicIp)) {
      refused.push({ lease, kind: "vtep-mac", reason: `VtepMAC ${mac} is that of ${host}` });
    } else {
      hosts.set(mac, publicIp);
      vteps.push({ lease, publicIp, mac });
    }
  }
  return { vteps, refused };
}

/** Of two nodes with one MAC, the one with the higher subnet takes another. */
export function attributesAfterCollision(
  own: Lease,
  usable: readonly Lease[],
  { nodeId, vni }: { nodeId: string; vni: number },
): LeaseAttributes | undefined {
  const mac = leaseVtepMac(own);
  const lower = usable.filter((lease) => compareSubnets(lease.subnets, own.subnets) < 0);
  if (!lower.some((lease) => findVtepMac(lease) === mac)) return undefined;
  const { publicIp } = own.attributes;
  if (publicIp === undefined) return undefined;
  const taken = new Set(usable.map(findVtepMac));
  let attempt = 0;
  let derived: Mac;
  do derived = deriveVtepMac(nodeId, publicIp, vni, attempt++);
  while (taken.has(derived));
  return { ...own.attributes, backendData: { VNI: vni, VtepMAC: derived } };
}
