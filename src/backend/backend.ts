import type { Lease, LeaseAttributes } from "../lease/lease.ts";
import type { Mac } from "../net/mac.ts";
import type { Plan, TunnelEngine } from "../plan/plan.ts";
import type { RefusedPeer } from "./peers.ts";

/** Who carries the packets. */
export type EngineName = TunnelEngine | "kernel";

/** What is known of a backend before the lease is taken. Pure: no I/O, no clock. */
export interface BackendSetup {
  /** As it stands in leases, such as `vxlan`. */
  readonly type: string;
  /** The device it will make. */
  readonly device: string;
  /** The kernel devices that flannel makes for such a network; absent: none that are this network's alone. */
  readonly flannelDevices?: readonly { readonly name: string; readonly vni: number }[];
  /** Options asked for that only the kernel's device has. */
  readonly kernelOnly: readonly string[];
  /** Options asked for that have no effect here, for the log. */
  readonly ignored: readonly string[];
  /** What our lease publishes. */
  attributes(known: KnownVtep): LeaseAttributes;
  /** The backend, for leases taken with those attributes. */
  open(engine: EngineName): Backend;
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
}

/** How one kind of overlay is laid out. Pure: no I/O, no clock. */
export interface Backend {
  /** What pods may send: FLANNEL_MTU of subnet.env. */
  readonly mtuBytes: number;
  /** What this machine must hold so that every usable peer's subnet is reached. */
  plan(own: Lease, peers: readonly Lease[]): BackendPlan;
}

export interface BackendPlan {
  readonly plan: Plan;
  /** Leases that were left out, with the reason. */
  readonly refused: readonly RefusedPeer[];
  /** What our lease must publish instead, for a peer has what only one node may have. */
  readonly republish?: LeaseAttributes;
}
