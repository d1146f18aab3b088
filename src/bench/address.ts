import type { ForwardingTable } from "../native/ports.ts";

/** One of the two hosts of a pair. */
export interface BenchHost {
  /** On `eth0`. */
  readonly underlay: string;
  /** Its lease. */
  readonly subnet: string;
  /** The lease's first address, which the overlay's device has. */
  readonly vtep: string;
  readonly mac: string;
}

export const sender: BenchHost = {
  underlay: "10.77.0.1",
  subnet: "10.240.1.0/24",
  vtep: "10.240.1.0",
  mac: "0e:2a:00:00:00:01",
};

export const receiver: BenchHost = {
  underlay: "10.77.0.2",
  subnet: "10.240.2.0/24",
  vtep: "10.240.2.0",
  mac: "0e:2a:00:00:00:02",
};

/** On the sender's host: the bridge of its pods, and a pod. */
export const podGateway = "10.240.1.1";
export const pod = "10.240.1.2";

export const device = "flannel.1";
export const vni = 1;
export const port = 8472;
export const underlayMtuBytes = 1500;
/** Over IPv4, VXLAN adds 50 bytes. */
export const overlayMtuBytes = underlayMtuBytes - 50;

/** The overlay network: all leases. */
export const overlay = "10.240.0.0/12";

/** Leases beside that of the receiver, and where their hosts would be. The receiver stands in for all of them. */
const manyLeases = 1_000;
export const manySubnets = "10.244.0.0/14";
export const manyEndpoints = "10.78.0.0/16";

/** A lease with an endpoint of its own. */
export interface ManyLease {
  readonly subnet: string;
  readonly gateway: string;
  /** An address in it. */
  readonly target: string;
  readonly endpoint: string;
  /**
   * Differs by lease, so that the kernel's device has an entry for each endpoint. With the group bit, because a
   * host takes only its own unicast MAC and the receiver must take them all.
   */
  readonly mac: string;
}

function manyLease(at: number): ManyLease {
  const [high, low] = [at >> 8, at & 0xff];
  const hex = (byte: number) => byte.toString(16).padStart(2, "0");
  return {
    subnet: `10.${244 + high}.${low}.0/24`,
    gateway: `10.${244 + high}.${low}.0`,
    target: `10.${244 + high}.${low}.1`,
    endpoint: `10.78.${high}.${low}`,
    mac: `03:2a:00:00:${hex(high)}:${hex(low)}`,
  };
}

export function manyLeasesList(): ManyLease[] {
  return Array.from({ length: manyLeases }, (_, at) => manyLease(at));
}

/** The userspace engine's whole table on one of the hosts. */
export function engineTable(own: BenchHost): ForwardingTable {
  const others = own === sender ? manyLeasesList() : [];
  const opposite = own === sender ? receiver : sender;
  return {
    encapsulation: "vxlan",
    vni,
    vtepMac: own.mac,
    overlay: [overlay],
    strict: "overlay",
    allowSources: [],
    peers: [
      { subnets: [opposite.subnet], endpoint: opposite.underlay, mac: opposite.mac },
      ...others.map(({ subnet, endpoint }) => ({ subnets: [subnet], endpoint, mac: receiver.mac })),
    ],
  };
}
