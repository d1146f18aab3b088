import type { Json, Lease } from "../../src/lease/lease.ts";
import { parseIpAddress } from "../../src/net/address.ts";
import { parsePrefix } from "../../src/net/prefix.ts";
import type { Uplink } from "../../src/net/uplink.ts";

/** A vxlan lease as another node would write it; with an IPv6 subnet, what goes with it unless given. */
export function vxlanLease(
  subnet: string,
  publicIp: string,
  mac: Json = `02:00:00:00:00:${publicIp.split(".")[3]?.padStart(2, "0")}`,
  subnetV6?: string,
  v6: { readonly publicIp?: string | null; readonly mac?: Json } = {},
): Lease {
  const host = publicIp.split(".")[3];
  const {
    publicIp: publicIpv6 = `2001:db8::${host}`,
    mac: macV6 = `02:06:00:00:00:${host?.padStart(2, "0")}`,
  } = v6;
  return {
    subnets: {
      ipv4: parsePrefix(subnet),
      ...(subnetV6 === undefined ? {} : { ipv6: parsePrefix(subnetV6) }),
    },
    attributes: {
      publicIp: parseIpAddress(publicIp),
      ...(subnetV6 === undefined || publicIpv6 === null ? {} : { publicIpv6: parseIpAddress(publicIpv6) }),
      backendType: "vxlan",
      backendData: { VNI: 1, VtepMAC: mac },
      ...(subnetV6 === undefined ? {} : { backendV6Data: { VNI: 1, VtepMAC: macV6 } }),
    },
    expiresAt: new Date("2030-01-01T00:00:00Z"),
  };
}

/** A host-gw lease as another node would write it. */
export function hostGwLease(
  subnet: string,
  publicIp: string,
  v6?: { subnet: string; publicIp?: string },
): Lease {
  return {
    subnets: {
      ipv4: parsePrefix(subnet),
      ...(v6 === undefined ? {} : { ipv6: parsePrefix(v6.subnet) }),
    },
    attributes: {
      publicIp: parseIpAddress(publicIp),
      ...(v6?.publicIp === undefined ? {} : { publicIpv6: parseIpAddress(v6.publicIp) }),
      backendType: "host-gw",
    },
    expiresAt: new Date("2030-01-01T00:00:00Z"),
  };
}

export const testUplink: Uplink = {
  name: "eth0",
  index: 2,
  mtuBytes: 1500,
  address: parseIpAddress("192.0.2.1"),
  publicIp: parseIpAddress("192.0.2.1"),
};

/** The same with IPv6. */
export const dualUplink: Uplink = {
  ...testUplink,
  addressV6: parseIpAddress("2001:db8::1"),
  publicIpv6: parseIpAddress("2001:db8::1"),
};
