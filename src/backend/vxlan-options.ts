import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import type { Json } from "../lease/lease.ts";

/** Bytes VXLAN adds to a packet over IPv4: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348 §5). */
export const vxlanOverheadBytes = 50;

/** The Linux kernel's port for VXLAN, which flannel uses; IANA's is 4789. */
const defaultPort = 8472;

/** IPv4 needs 68 (RFC 791); below 1280 IPv6 would not work (RFC 8200 §5). */
export const mtuBytesMin = 68;

/** Backend options as flannel names them, with its defaults. */
export interface VxlanOptions {
  readonly vni: number;
  readonly port: number;
  /** The underlay's MTU, before the overhead is taken off; undefined for the uplink's. */
  readonly underlayMtuBytes: number | undefined;
  readonly gbp: boolean;
  readonly learning: boolean;
  readonly directRouting: boolean;
}

/**
 * Reads the Backend object of the network configuration. Members match case-insensitively, unknown ones are
 * ignored, as in flannel.
 * @throws FlannelError `network/backend`
 */
export function parseVxlanOptions({ options }: BackendConfig): VxlanOptions {
  const members = new Map(Object.entries(options).map(([key, value]) => [key.toLowerCase(), { key, value }]));
  const integer = (name: string, min: number, max: number): number | undefined => {
    const member = members.get(name);
    if (member === undefined || member.value === null) return undefined;
    if (!Number.isInteger(member.value) || Number(member.value) < min || Number(member.value) > max) {
      throw optionError(member.key, member.value, `an integer from ${min} to ${max}`);
    }
    return Number(member.value);
  };
  const flag = (name: string): boolean => {
    const member = members.get(name);
    if (member === undefined || member.value === null) return false;
    if (typeof member.value !== "boolean") throw optionError(member.key, member.value, "true or false");
    return member.value;
  };
  return {
    vni: integer("vni", 1, 2 ** 24 - 1) ?? 1,
    // flannel: 0 is the kernel's default.
    port: integer("port", 0, 65535) || defaultPort,
    underlayMtuBytes: integer("mtu", mtuBytesMin + vxlanOverheadBytes, 65535),
    gbp: flag("gbp"),
    learning: flag("learning"),
    directRouting: flag("directrouting"),
  };
}

function optionError(key: string, value: Json, allowed: string): FlannelError {
  return new FlannelError(
    "network/backend",
    `error decoding VXLAN backend config: ${key} is ${JSON.stringify(value)}, it must be ${allowed}`,
    {},
    { remedy: "Correct the Backend object of the network configuration" },
  );
}
