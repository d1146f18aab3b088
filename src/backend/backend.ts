import type { Lease, LeaseAttributes } from "../lease/lease.ts";
import type { Plan } from "../plan/plan.ts";
import type { RefusedPeer } from "./peers.ts";

/** Who carries the packets. */
export type EngineName = "userspace" | "kernel";

/** What is known of a backend before the lease is taken. Pure: no I/O, no clock. */
export interface BackendSetup {
  /** As it stands in leases, such as `vxlan`. */
  readonly type: string;
  /** The device it will make. */
  readonly device: string;
  /** Options asked for that only the kernel's device has. */
  readonly kernelOnly: readonly string[];
  /** Options asked for that have no effect here, for the log. */
  readonly ignored: readonly string[];
  /** What our lease publishes; `existing` is the lease the store holds for us, whose VTEP MAC is kept. */
  attributes(existing: Lease | undefined): LeaseAttributes;
  /** The backend for our lease, once taken. */
  open(own: Lease, engine: EngineName): Backend;
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
}
