import type { Backend } from "../backend/backend.ts";
import type { Reconciler } from "../datapath/reconcile.ts";
import type { TxChecksumKeeper } from "../datapath/tx-checksum.ts";
import type { Firewall } from "../host/firewall/firewall.ts";
import type { ChosenUplink } from "../host/uplink-decision.ts";
import type { Keeper } from "../network/keeper.ts";
import type { Network } from "../network/network.ts";
import type { Overlay } from "../overlay.ts";

/** What the daemon has reached so far. */
export interface Progress {
  /** What is being done or waited for. */
  phase: string;
  /** Device and routes stand. */
  up: boolean;
  /** Traffic flowed once, and systemd was told. */
  wasReady?: boolean;
  /** A stop is under way. */
  stopping?: boolean;
  chosen?: ChosenUplink;
  overlay?: Overlay;
  backend?: Backend;
  keeper?: Keeper;
  network?: Network;
  reconciler?: Reconciler;
  firewall?: Firewall;
  /** Of the kernel engine's devices. */
  txChecksums?: readonly TxChecksumKeeper[];
}

/** The stretches of a daemon's life, in order. */
export const stages = [
  "starting",
  "waiting-for-network",
  "waiting-for-lease",
  "bringing-up",
  "carrying",
  "stopping",
] as const;
export type Stage = (typeof stages)[number];

export function stageOf({ up, stopping, chosen, overlay, keeper }: Progress): Stage {
  if (stopping === true) return "stopping";
  if (up) return "carrying";
  if (chosen === undefined) return "starting";
  if (overlay === undefined) return "waiting-for-network";
  return keeper === undefined ? "waiting-for-lease" : "bringing-up";
}
