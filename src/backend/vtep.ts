import { createHash } from "node:crypto";
import { type Lease, type LeaseAttributes, publicAddress } from "../lease/lease.ts";
import type { Family, IpAddress } from "../net/address.ts";
import { localMac, type Mac, parseMac } from "../net/mac.ts";
import { compareSubnets, type RefusedPeer } from "./peers.ts";

/** A VTEP MAC that this host would choose again; the next ones where the first is taken. */
export function deriveVtepMac(nodeId: string, publicIp: IpAddress, vni: number, attempt = 0): Mac {
  const input = `flannel-lite vtep\0${nodeId}\0${publicIp}\0${vni}${attempt === 0 ? "" : `\0${attempt}`}`;
  return localMac(createHash("sha256").update(input).digest());
}

/** The MAC that a lease names for its VTEP of one family. @throws FlannelError `mac/invalid` */
export function leaseVtepMac({ attributes }: Lease, family: Family = 4): Mac {
  const data = family === 4 ? attributes.backendData : attributes.backendV6Data;
  const members = typeof data === "object" && data !== null ? Object.entries(data) : [];
  const text = members.find(([key]) => key.toLowerCase() === "vtepmac")?.[1];
  return parseMac(typeof text === "string" ? text : "");
}

/** The attributes with another MAC for the VTEP of one family; both have data of their own, as in flannel. */
export function withVtepMac(
  attributes: LeaseAttributes,
  { family, vni, mac }: { family: Family; vni: number; mac: Mac },
): LeaseAttributes {
  const data = { VNI: vni, VtepMAC: mac };
  return { ...attributes, ...(family === 4 ? { backendData: data } : { backendV6Data: data }) };
}

/** The same, undefined where the lease is of another backend or names no valid one. */
export function findVtepMac(lease: Lease | undefined, family: Family = 4): Mac | undefined {
  if (lease?.attributes.backendType !== "vxlan") return undefined;
  try {
    return leaseVtepMac(lease, family);
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
 * The VTEPs of the leases in one family. One MAC leads to one host, so of two hosts that claim the same MAC the one with the
 * lower subnet is believed; one host may hold several leases.
 */
export function findVteps(
  leases: readonly Lease[],
  ownMac: Mac,
  family: Family,
): { vteps: Vtep[]; refused: RefusedPeer[] } {
  const hosts = new Map<Mac, IpAddress>();
  const vteps: Vtep[] = [];
  const refused: RefusedPeer[] = [];
  for (const lease of leases) {
    const publicIp = publicAddress(lease.attributes, family);
    if (publicIp === undefined) continue;
    const mac = findVtepMac(lease, family);
    if (mac === undefined) {
      const data = family === 4 ? "BackendData" : "BackendV6Data";
      refused.push({ lease, kind: "vtep-mac", reason: `${data} has no valid VtepMAC` });
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

/** Of two nodes with one MAC in a family, the one with the higher subnet takes another. @returns which */
export function macAfterCollision(
  own: Lease,
  usable: readonly Lease[],
  { nodeId, vni, family }: { nodeId: string; vni: number; family: Family },
): Mac | undefined {
  const mac = leaseVtepMac(own, family);
  const lower = usable.filter((lease) => compareSubnets(lease.subnets, own.subnets) < 0);
  if (!lower.some((lease) => findVtepMac(lease, family) === mac)) return undefined;
  const publicIp = publicAddress(own.attributes, family);
  if (publicIp === undefined) return undefined;
  const taken = new Set(usable.map((lease) => findVtepMac(lease, family)));
  let attempt = 0;
  let derived: Mac;
  do derived = deriveVtepMac(nodeId, publicIp, vni, attempt++);
  while (taken.has(derived));
  return derived;
}
