import type { BackendConfig } from "../config/network.ts";
import type { Family } from "../net/address.ts";
import { backendOptions } from "./options.ts";

/** Bytes VXLAN adds by the family outside: IP 20 or 40, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348 §5). */
export const vxlanOverheadBytes: Readonly<Record<Family, number>> = { 4: 50, 6: 70 };

/** The Linux kernel's port for VXLAN, which flannel uses; IANA's is 4789. */
const defaultPort = 8472;

/** What the family inside needs (RFC 791, RFC 8200 §5). */
export const mtuBytesMin: Readonly<Record<Family, number>> = { 4: 68, 6: 1280 };

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

/** Reads the Backend object of the network configuration. @throws FlannelError `network/backend` */
export function parseVxlanOptions(config: BackendConfig): VxlanOptions {
  const { integer, flag } = backendOptions(config, "VXLAN");
  return {
    vni: integer("vni", 1, 2 ** 24 - 1) ?? 1,
    // flannel: 0 is the kernel's default.
    port: integer("port", 0, 65535) || defaultPort,
    underlayMtuBytes: integer("mtu", mtuBytesMin[4] + vxlanOverheadBytes[4], 65535),
    gbp: flag("gbp"),
    learning: flag("learning"),
    directRouting: flag("directrouting"),
  };
}
