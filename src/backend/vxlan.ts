import { createHash } from "node:crypto";
import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import { type Json, type Lease, type LeaseAttributes, subnetsOf } from "../lease/lease.ts";
import { type Family, type IpAddress, familyBits } from "../net/address.ts";
import { localMac, type Mac, parseMac } from "../net/mac.ts";
import type { Prefix } from "../net/prefix.ts";
import type { Uplink } from "../net/uplink.ts";
import { emptyPlan, type Latency, type LinkItem, type Plan, type Strict } from "../plan/plan.ts";
import type { BackendPlan, BackendSetup, EngineName } from "./backend.ts";
import { compareSubnets, type RefusedPeer, selectPeers } from "./peers.ts";

/** Bytes VXLAN adds to a packet over IPv4: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348 §5). */
export const vxlanOverheadBytes = 50;

/** The Linux kernel's port for VXLAN, which flannel uses; IANA's is 4789. */
const defaultPort = 8472;

/** IPv4 needs 68 (RFC 791); below 1280 IPv6 would not work (RFC 8200 §5). */
const mtuBytesMin = 68;

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

/** What a backend is told about its surroundings. */
export interface BackendContext {
  readonly uplink: Uplink;
  readonly overlay: readonly Prefix[];
  /** The length of the subnets that nodes allocate, by family. */
  readonly subnetLengths: Readonly<Partial<Record<Family, number>>>;
  readonly strict: Strict;
  readonly allowSources: readonly Prefix[];
  readonly latency: Latency;
  /** Our own, which tells hosts apart where a MAC must be derived. */
  readonly nodeId: string;
}

interface VxlanContext extends BackendContext {
  readonly options: VxlanOptions;
  readonly engine: EngineName;
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

/** The device's name, in every engine. */
export function vxlanDevice(vni: number): string {
  return `flannel.${vni}`;
}

/**
 * Sets up the vxlan backend.
 * @throws FlannelError `network/backend`, `network/mtu`, `uplink/no-address`
 */
export function setUpVxlan(config: BackendConfig, context: BackendContext): BackendSetup {
  const options = parseVxlanOptions(config);
  const { uplink } = context;
  const mtuBytes = (options.underlayMtuBytes ?? uplink.mtuBytes) - vxlanOverheadBytes;
  if (mtuBytes < mtuBytesMin) {
    throw new FlannelError(
      "network/mtu",
      `interface ${uplink.name} has an MTU of ${uplink.mtuBytes} bytes, too small for VXLAN`,
      {},
      { remedy: "Choose another interface or raise its MTU" },
    );
  }
  const publicIp = uplink.publicIp ?? localAddress(uplink);
  return {
    type: "vxlan",
    device: vxlanDevice(options.vni),
    // One for each family; ours carries both.
    flannelDevices: [vxlanDevice(options.vni), `flannel-v6.${options.vni}`].map((name) => ({
      name,
      vni: options.vni,
    })),
    kernelOnly: [...(options.gbp ? ["GBP"] : []), ...(options.learning ? ["Learning"] : [])],
    ignored: options.directRouting ? ["DirectRouting"] : [],
    attributes({ existing, savedMac }) {
      const mac = keptMac(existing) ?? savedMac ?? deriveVtepMac(context.nodeId, publicIp, options.vni);
      return { publicIp, backendType: "vxlan", backendData: { VNI: options.vni, VtepMAC: mac } };
    },
    open(engine) {
      const vxlan = { ...context, options, engine };
      return { mtuBytes, plan: (own, peers) => planVxlan(own, peers, vxlan, mtuBytes) };
    },
  };
}

function keptMac(existing: Lease | undefined): Mac | undefined {
  if (existing?.attributes.backendType !== "vxlan") return undefined;
  try {
    return leaseVtepMac(existing);
  } catch {
    return undefined;
  }
}

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

interface Vtep {
  readonly lease: Lease;
  readonly publicIp: IpAddress;
  readonly mac: Mac;
}

function planVxlan(
  own: Lease,
  leases: readonly Lease[],
  context: VxlanContext,
  mtuBytes: number,
): BackendPlan {
  const { overlay, subnetLengths, options, engine } = context;
  const device = vxlanDevice(options.vni);
  const vtepMac = leaseVtepMac(own);
  const selection = selectPeers(leases, { own, overlay, subnetLengths, backendType: "vxlan" });
  const { vteps, refused } = findVteps(selection.usable, vtepMac);
  const republish = attributesAfterCollision(own, selection.usable, context);
  const subnets = vteps.flatMap(({ lease, publicIp, mac }) =>
    subnetsOf(lease.subnets).map((subnet) => ({ subnet, publicIp, mac })),
  );
  const common: Plan = {
    ...emptyPlan,
    links: [linkItem(context, device, vtepMac, mtuBytes)],
    addresses: subnetsOf(own.subnets).map(({ address }) => ({
      device,
      address,
      length: familyBits(address.family),
    })),
    routes: subnets.map(({ subnet }) => ({ to: subnet, via: subnet.address, device, onLink: true })),
  };
  const byEngine: Partial<Plan> =
    engine === "kernel"
      ? {
          neighbours: subnets.map(({ subnet, mac }) => ({ device, ip: subnet.address, mac })),
          fdb: [...new Map(vteps.map(({ mac, publicIp }) => [mac, publicIp]))].map(([mac, via]) => ({
            device,
            mac,
            via,
          })),
        }
      : {
          tunnels: [
            {
              device,
              engine,
              vni: options.vni,
              port: options.port,
              local: localAddress(context.uplink),
              vtepMac,
              mtuBytes,
              overlay,
              strict: context.strict,
              allowSources: context.allowSources,
              latency: context.latency,
            },
          ],
          forwards: subnets.map(({ subnet, publicIp, mac }) => ({ device, to: subnet, via: publicIp, mac })),
        };
  return {
    plan: { ...common, ...byEngine },
    refused: [...selection.refused, ...refused],
    ...(republish === undefined ? {} : { republish }),
  };
}

/** Of two nodes with one MAC, the one with the higher subnet takes another. */
function attributesAfterCollision(
  own: Lease,
  usable: readonly Lease[],
  { nodeId, options: { vni } }: VxlanContext,
): LeaseAttributes | undefined {
  const mac = leaseVtepMac(own);
  const lower = usable.filter((lease) => compareSubnets(lease.subnets, own.subnets) < 0);
  if (!lower.some((lease) => keptMac(lease) === mac)) return undefined;
  const { publicIp } = own.attributes;
  if (publicIp === undefined) return undefined;
  const taken = new Set(usable.map(keptMac));
  let attempt = 0;
  let derived: Mac;
  do derived = deriveVtepMac(nodeId, publicIp, vni, attempt++);
  while (taken.has(derived));
  return { ...own.attributes, backendData: { VNI: vni, VtepMAC: derived } };
}

function linkItem(
  { engine, options, uplink }: VxlanContext,
  name: string,
  vtepMac: Mac,
  mtuBytes: number,
): LinkItem {
  if (engine !== "kernel") return { kind: "tun", name, mtuBytes };
  return {
    kind: "vxlan",
    name,
    mtuBytes,
    mac: vtepMac,
    vni: options.vni,
    port: options.port,
    local: localAddress(uplink),
    uplink: uplink.name,
    learning: options.learning,
    gbp: options.gbp,
  };
}

/**
 * The VTEPs of the leases. One MAC leads to one host, so of two hosts that claim the same MAC the one with the
 * lower subnet is believed; one host may hold several leases.
 */
function findVteps(leases: readonly Lease[], ownMac: Mac): { vteps: Vtep[]; refused: RefusedPeer[] } {
  const hosts = new Map<Mac, IpAddress>();
  const vteps: Vtep[] = [];
  const refused: RefusedPeer[] = [];
  for (const lease of leases) {
    const { publicIp } = lease.attributes;
    if (publicIp === undefined) continue;
    let mac: Mac;
    try {
      mac = leaseVtepMac(lease);
    } catch {
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

function localAddress(uplink: Uplink): IpAddress {
  if (uplink.address !== undefined) return uplink.address;
  throw new FlannelError(
    "uplink/no-address",
    `interface ${uplink.name} has no IPv4 address`,
    {},
    { exitCode: 1 },
  );
}

function optionError(key: string, value: Json, allowed: string): FlannelError {
  return new FlannelError(
    "network/backend",
    `error decoding VXLAN backend config: ${key} is ${JSON.stringify(value)}, it must be ${allowed}`,
    {},
    { remedy: "Correct the Backend object of the network configuration" },
  );
}
