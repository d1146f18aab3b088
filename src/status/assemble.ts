import type { Clock } from "../base/clock.ts";
import { errorText } from "../base/error.ts";
import type { Backend } from "../backend/backend.ts";
import { leaseVtepMac } from "../backend/vxlan.ts";
import type { Reconciler } from "../datapath/reconcile.ts";
import type { UserspaceEngines } from "../datapath/userspace.ts";
import type { Firewall } from "../host/firewall/firewall.ts";
import type { ChosenUplink } from "../host/uplink-decision.ts";
import { type Lease, leaseKey, type NodeIdentity, subnetsOf } from "../lease/lease.ts";
import type { Keeper } from "../network/keeper.ts";
import type { Network } from "../network/network.ts";
import type { Overlay } from "../overlay.ts";
import { itemText } from "../plan/text.ts";
import type { Store } from "../store/store.ts";
import { version } from "../version.ts";
import type { StatusReport } from "./report.ts";

/** What the daemon has reached so far. */
export interface Progress {
  /** What is being done or waited for. */
  phase: string;
  /** Device and routes stand. */
  up: boolean;
  chosen?: ChosenUplink;
  overlay?: Overlay;
  backend?: Backend;
  keeper?: Keeper;
  network?: Network;
  reconciler?: Reconciler;
  firewall?: Firewall;
}

export interface ReportContext {
  readonly node: NodeIdentity;
  readonly store: Store;
  readonly engines: UserspaceEngines;
  readonly clock: Clock;
  readonly startedAt: Date;
}

/** Traffic can flow: everything stands, our subnet is ours, and pods are masqueraded where that is asked for. */
export function isReady({ up, keeper, firewall }: Progress): boolean {
  return up && keeper?.conflict === undefined && firewall?.blocked === undefined;
}

/** The report as of now. */
export function assembleReport(
  progress: Progress,
  { node, store, engines, clock, startedAt }: ReportContext,
): StatusReport {
  const { keeper, network, reconciler } = progress;
  const refused = network?.refused ?? [];
  const refusedKeys = new Set(refused.map(({ lease }) => leaseKey(lease.subnets)));
  const peers = network?.peers ?? [];
  return {
    version,
    pid: process.pid,
    startedAt: startedAt.toISOString(),
    ready: isReady(progress),
    phase: progress.phase,
    store: store.description,
    node,
    ...overlayReport(progress),
    ...(keeper === undefined ? {} : { lease: leaseReport(keeper, clock) }),
    peers: peers
      .filter(({ subnets }) => !refusedKeys.has(leaseKey(subnets)))
      .map((lease) => ({
        subnets: subnetsOf(lease.subnets).map(String),
        publicIp: `${lease.attributes.publicIp ?? ""}`,
        vtepMac: leaseVtepMac(lease),
        expiresAt: lease.expiresAt?.toISOString() ?? null,
      })),
    refused: refused.map(({ lease, reason }) => ({
      subnets: leaseKey(lease.subnets),
      publicIp: `${lease.attributes.publicIp ?? ""}`,
      reason,
    })),
    held: (network?.held ?? []).map(({ lease, since, until, reason }) => ({
      subnets: leaseKey(lease.subnets),
      publicIp: `${lease.attributes.publicIp ?? ""}`,
      since: since.toISOString(),
      until: until.toISOString(),
      reason,
    })),
    settled: reconciler?.settled ?? false,
    missing: (reconciler?.last?.failed ?? []).map(({ step, error }) => ({
      item: itemText(step.item),
      code: error.code,
      error: errorText(error),
    })),
    ...(progress.firewall === undefined ? {} : { firewall: progress.firewall.status }),
    engines: engines.stats(),
  };
}

function overlayReport({
  chosen,
  overlay,
  backend,
}: Progress): Pick<StatusReport, "uplink" | "network" | "engine"> {
  return {
    ...(chosen === undefined
      ? {}
      : {
          uplink: {
            name: chosen.uplink.name,
            address: `${chosen.uplink.address}`,
            publicIp: `${chosen.uplink.publicIp}`,
            reason: chosen.reason,
          },
        }),
    ...(overlay === undefined || backend === undefined
      ? {}
      : {
          network: {
            ...(overlay.network.ipv4 === undefined ? {} : { ipv4: `${overlay.network.ipv4.network}` }),
            ...(overlay.network.ipv6 === undefined ? {} : { ipv6: `${overlay.network.ipv6.network}` }),
            backend: overlay.backend.type,
            mtuBytes: backend.mtuBytes,
          },
          engine: {
            name: overlay.engine.engine,
            reason: overlay.engine.reason,
            device: overlay.backend.device,
          },
        }),
  };
}

function leaseReport(
  { lease, confirmedAt, trouble, conflict }: Keeper,
  clock: Clock,
): NonNullable<StatusReport["lease"]> {
  const { subnets, attributes, expiresAt }: Lease = lease;
  return {
    subnets: subnetsOf(subnets).map(String),
    publicIp: `${attributes.publicIp ?? ""}`,
    vtepMac: leaseVtepMac(lease),
    expiresAt: expiresAt?.toISOString() ?? null,
    remainingSeconds:
      expiresAt === undefined ? null : Math.round((expiresAt.getTime() - clock.now().getTime()) / 1000),
    ageSeconds:
      confirmedAt === undefined ? null : Math.round((clock.now().getTime() - confirmedAt.getTime()) / 1000),
    trouble: conflict === undefined ? (trouble ?? null) : `another node has our subnet: ${conflict}`,
  };
}
