import { asGoObject, parseGoObject } from "../../base/go-json.ts";
import { type Json, type LeaseAttributes, type LeaseSubnets, leaseKey } from "../../lease/lease.ts";
import { type IpAddress, tryParseIpAddress } from "../../net/address.ts";
import { type Prefix, tryParsePrefix } from "../../net/prefix.ts";

/** Longest lease value that is read; flannel's own have about two hundred bytes. */
export const valueBytesMax = 64 * 1024;

/** Where flannel keeps what under one prefix of etcd's keys. */
export interface EtcdLayout {
  readonly config: string;
  /** What all lease keys begin with. No slash at its end, as in flannel: other keys match too. */
  readonly subnets: string;
  /** What all keys begin with in which nodes say who they are. */
  readonly nodes: string;
  leaseKey(subnets: LeaseSubnets): string;
  /** Where the node with this public IP says who it is. No key of flannel's, which scans `subnets` only. */
  nodeKey(publicIp: IpAddress): string;
  /** The subnets that `key` stands for, if it is written as flannel writes it. */
  parseLeaseKey(key: string): LeaseSubnets | undefined;
}

/** The layout under `prefix`, `/coreos.com/network` by default in flannel; superfluous slashes are dropped. */
export function etcdLayout(prefix: string): EtcdLayout {
  const base = prefix.replace(/\/+/g, "/").replace(/\/$/, "");
  const subnets = `${base}/subnets`;
  const keyOf = (lease: LeaseSubnets) => `${subnets}/${leaseKey(lease)}`;
  return {
    config: `${base}/config`,
    subnets,
    nodes: `${base}/nodes`,
    leaseKey: keyOf,
    nodeKey: (publicIp) => `${base}/nodes/${publicIp}`,
    parseLeaseKey: (key) => {
      const parsed = parseSubnetKey(key);
      // One lease has one key: host bits, other spellings and longer paths would be second names for it.
      return parsed !== undefined && keyOf(parsed) === key ? parsed : undefined;
    },
  };
}

/** flannel's pattern (pkg/subnet/subnet.go), open on the left so that whole key paths match. */
const subnetKeyPattern = /(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$/;

/** Longest key that is looked at: the pattern is open on the left. */
const keyLengthMax = 1024;

/**
 * The subnets that end `key`, `10.5.34.0-24` or `10.5.34.0-24&fd00:10:0:1::-64`; host bits are cleared.
 * Undefined for anything flannel does not take for a subnet.
 */
export function parseSubnetKey(key: string): LeaseSubnets | undefined {
  const match = key.length > keyLengthMax ? null : subnetKeyPattern.exec(key);
  if (match === null) return undefined;
  const [, address = "", length = "", addressV6, lengthV6] = match;
  const ipv4 = subnetOf(address, length, 31);
  if (ipv4 === undefined || ipv4.family !== 4) return undefined;
  if (addressV6 === undefined || lengthV6 === undefined) return { ipv4 };
  const ipv6 = subnetOf(addressV6, lengthV6, 127);
  return ipv6 === undefined || ipv6.family !== 6 ? undefined : { ipv4, ipv6 };
}

/** The value flannel writes for a lease, byte for byte as Go's encoding/json orders and escapes it. */
export function encodeLeaseValue(attributes: LeaseAttributes): string {
  return encodeMembers(attributes, { PublicIPv6: attributes.publicIpv6?.toString() ?? null });
}

/**
 * The value as flannel 0.11 writes it: no PublicIPv6 where there is none, no VNI among a vxlan node's data.
 * What 0.11 has no word for is written as later flannels do.
 */
export function encodeLeaseValueV2(attributes: LeaseAttributes): string {
  const { publicIpv6, backendType, backendData } = attributes;
  const data = backendType === "vxlan" ? asGoObject(backendData)?.without("VNI") : undefined;
  return encodeMembers(
    data === undefined ? attributes : { ...attributes, backendData: data as Json },
    publicIpv6 === undefined ? {} : { PublicIPv6: publicIpv6.toString() },
  );
}

function encodeMembers(
  { publicIp, backendType, backendData, backendV6Data }: LeaseAttributes,
  publicIpv6: { readonly PublicIPv6?: string | null },
): string {
  const text = JSON.stringify({
    PublicIP: publicIp?.toString() ?? "0.0.0.0",
    ...publicIpv6,
    ...(backendType === "" ? {} : { BackendType: backendType }),
    ...(backendData === undefined ? {} : { BackendData: backendData }),
    ...(backendV6Data === undefined ? {} : { BackendV6Data: backendV6Data }),
  });
  return text.replace(/[<>&\u2028\u2029]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

/**
 * What a node published, as flannel reads it: member names in any case, unknown ones ignored, values of
 * flannel 0.11 (no PublicIPv6) accepted. Undefined for what flannel cannot read or is longer than 64 KiB.
 */
export function parseLeaseValue(value: Uint8Array): LeaseAttributes | undefined {
  if (value.byteLength > valueBytesMax) return undefined;
  try {
    const members = parseGoObject(new TextDecoder("utf-8", { ignoreBOM: true }).decode(value));
    const publicIp = readAddress(members.get("PublicIP"));
    const publicIpv6 = readAddress(members.get("PublicIPv6") ?? undefined);
    const backendType = members.get("BackendType") ?? "";
    // The IPv4 field is no place for null or an IPv6 address; the IPv6 field takes both families.
    if (publicIp === null || publicIpv6 === null || publicIp?.family === 6) return undefined;
    if (typeof backendType !== "string") return undefined;
    const backendData = members.get("BackendData") as Json | undefined;
    const backendV6Data = members.get("BackendV6Data") as Json | undefined;
    return {
      ...(publicIp === undefined || publicIp.value === 0n ? {} : { publicIp }),
      ...(publicIpv6?.family !== 6 || publicIpv6.value === 0n ? {} : { publicIpv6 }),
      backendType,
      ...(backendData === undefined ? {} : { backendData }),
      ...(backendV6Data === undefined ? {} : { backendV6Data }),
    };
  } catch {
    return undefined; // not JSON, or no object
  }
}

/** Undefined for an absent member, null for one that is no address. */
function readAddress(value: unknown): IpAddress | undefined | null {
  if (value === undefined) return undefined;
  return (typeof value === "string" ? tryParseIpAddress(value) : undefined) ?? null;
}

function subnetOf(address: string, length: string, lengthMax: number): Prefix | undefined {
  const prefix = tryParsePrefix(`${address}/${length}`);
  return prefix !== undefined && prefix.length <= lengthMax ? prefix : undefined;
}
