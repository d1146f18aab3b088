import type { Lease, LeaseAttributes } from "../lease/lease.ts";
import type { Family } from "../net/address.ts";
import type { Mac } from "../net/mac.ts";
import type { Prefix } from "../net/prefix.ts";
import type { Reach } from "../net/reach.ts";
import type { Uplink } from "../net/uplink.ts";
import type { Latency, Plan, Strict, TunnelEngine } from "../plan/plan.ts";
import type { RefusedPeer } from "./peers.ts";

/** Who carries the packets; nobody of ours where routes over the uplink do, or nothing does. */
export type EngineName = TunnelEngine | "kernel" | "none";

/** What an operator has run in place of a data path of ours, each a text for `sh -c`; as root. */
export interface ExtensionCommands {
  /** Before the lease is taken; what it prints is published as BackendData. */
  readonly preStartup?: string;
  /** Once the lease is ours. */
  readonly postStartup?: string;
  readonly subnetAdd?: string;
  readonly subnetRemove?: string;
}

/** What this host's own configuration says of such commands. */
export interface ExtensionPermission {
  /** Whether the network configuration, which whoever writes to the store can change, may name commands too. */
  readonly extensionCommands: "local" | "store";
  readonly preStartupCommand: string | undefined;
  readonly postStartupCommand: string | undefined;
  readonly subnetAddCommand: string | undefined;
  readonly subnetRemoveCommand: string | undefined;
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
  /** What commands the extension backend may run; absent: none. */
  readonly extension?: ExtensionPermission;
  /** Our own, which tells hosts apart where a MAC must be derived. */
  readonly nodeId: string;
}

/** What is known of a backend before the lease is taken. Pure: no I/O, no clock. */
export interface BackendSetup {
  /** As the network configuration names it, such as `vxlan`. */
  readonly type: string;
  /** The device it will make; undefined for a backend without one, whose engine is `none`. */
  readonly device: string | undefined;
  /** The second one, for IPv6, where each family has its own. */
  readonly deviceV6?: string;
  /** The kernel devices that flannel makes for such a network; absent: none that are this network's alone. */
  readonly flannelDevices?: readonly { readonly name: string; readonly vni: number }[];
  /** Options asked for that only the kernel's device has. */
  readonly kernelOnly: readonly string[];
  /** Whether there is no kernel device that speaks it. */
  readonly userspaceOnly?: boolean;
  /** Whether it takes a raw socket in userspace, which the dgram engine has not. */
  readonly rawSocket?: boolean;
  /** Whether its plans depend on who is one hop away. */
  readonly usesReach: boolean;
  /** What an operator has run for this backend. */
  readonly commands?: ExtensionCommands;
  /** What our lease publishes. */
  attributes(known: KnownVtep): LeaseAttributes;
  /** The backend, for leases taken with those attributes. */
  open(engine: EngineName): Backend;
}

/** The devices, those that there are. */
export function devicesOf({ device, deviceV6 }: Pick<BackendSetup, "device" | "deviceV6">): string[] {
  return [device, deviceV6].filter((one) => one !== undefined);
}

/** One with a device. */
export interface TunnelSetup extends BackendSetup {
  readonly device: string;
}

/**
 * Where our VTEP's MAC may be known from, in the order in which it is kept: a swap or a reboot must not change
 * what peers and appliances hold in static tables.
 */
export interface KnownVtep {
  /** The lease that the store holds for us. */
  readonly existing: Lease | undefined;
  /** What this host remembers, or holds. */
  readonly savedMac: Mac | undefined;
  /** That of the second device. */
  readonly savedMacV6?: Mac | undefined;
  /** What a command of the operator has said to publish. */
  readonly published?: string | undefined;
}

/** How one kind of overlay is laid out. Pure: no I/O, no clock. */
export interface Backend {
  /** What pods may send: FLANNEL_MTU of subnet.env. */
  readonly mtuBytes: number;
  /** What this machine must hold so that every usable peer's subnet is reached. */
  plan(own: Lease, peers: readonly Lease[], reach: Reach): BackendPlan;
}

export interface BackendPlan {
  readonly plan: Plan;
  /** Leases that were left out, with the reason. */
  readonly refused: readonly RefusedPeer[];
  /** What our lease must publish instead, for a peer has what only one node may have. */
  readonly republish?: LeaseAttributes;
}
