import type { Clock } from "../base/clock.ts";
import { errorText } from "../base/error.ts";
import { devicesOf } from "../backend/backend.ts";
import { findVtepMac } from "../backend/vtep.ts";
import type { UserspaceEngines } from "../datapath/userspace.ts";
import { readDeviceCounters } from "../host/device-counters.ts";
import { forwardingOff } from "../host/ip-forward.ts";
import { type Lease, leaseKey, type NodeIdentity, subnetsOf } from "../lease/lease.ts";
import type { Uplink } from "../net/uplink.ts";
import type { Keeper } from "../network/keeper.ts";
import { itemText } from "../plan/text.ts";
import type { UnappliedChange } from "../reload.ts";
import type { Store } from "../store/store.ts";
import { version } from "../version.ts";
import { type CertificateReport, remainingDays } from "./certificates.ts";
import { hindrance } from "./health.ts";
import { type Progress, stageOf } from "./progress.ts";
import type { PeerReport, StatusReport } from "./report.ts";

export interface ReportContext {
  readonly node: NodeIdentity;
  readonly store: Store;
  readonly engines: UserspaceEngines;
  readonly clock: Clock;
  readonly startedAt: Date;
  readonly waiting: () => readonly UnappliedChange[];
  readonly certificates: (now: Date) => readonly CertificateReport[];
}

/** The report as of now. */
export function assembleReport(
  progress: Progress,
  { node, store, engines, clock, startedAt, waiting, certificates }: ReportContext,
): StatusReport {
  const { keeper, network, reconciler, firewall } = progress;
  const reason = hindrance(progress, engines);
  const refused = network?.refused ?? [];
  const unused = refused.filter(({ partly }) => partly !== true);
  const unusedKeys = new Set(unused.map(({ lease }) => leaseKey(lease.subnets)));
  const peers = network?.peers ?? [];
  return {
    version,
    pid: process.pid,
    startedAt: startedAt.toISOString(),
    up: progress.up,
    ready: reason === undefined,
    phase: reason ?? progress.phase,
    stage: stageOf(progress),
    store: store.description,
    node,
    ...overlayReport(progress),
    ...(keeper === undefined ? {} : { lease: leaseReport(keeper, clock) }),
    peers: peers
      .filter(({ subnets }) => !unusedKeys.has(leaseKey(subnets)))
      .map((lease) => ({
        subnets: subnetsOf(lease.subnets).map(String),
        publicIp: `${lease.attributes.publicIp ?? ""}`,
        vtepMac: findVtepMac(lease) ?? null,
        ...ipv6Report(lease),
        expiresAt: lease.expiresAt?.toISOString() ?? null,
      })),
    ...(network === undefined ? {} : { updates: { ...network.updates } }),
    refused: refused.map(({ lease, reason, kind = "other" }) => ({
      subnets: leaseKey(lease.subnets),
      publicIp: `${lease.attributes.publicIp ?? ""}`,
      reason,
      kind,
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
    ...(reconciler === undefined
      ? {}
      : { passes: { ...reconciler.counts, lastAt: reconciler.lastAt?.toISOString() ?? null } }),
    ...(firewall === undefined
      ? {}
      : { firewall: { ...firewall.status, blocked: firewall.blocked ?? null } }),
    ...(reconciler === undefined ? {} : { repairs: reconciler.repairs }),
    engines: engines.stats(),
    ...deviceReport(progress),
    forwardingOff: forwardingOff([...new Set((progress.overlay?.ranges ?? []).map(({ family }) => family))]),
    certificates: certificates(clock.now()).map((certificate) => ({
      ...certificate,
      remainingDays: remainingDays(certificate, clock.now()),
    })),
    waiting: waiting(),
    process: processReport(),
  };
}

function overlayReport({
  chosen,
  overlay,
  backend,
  txChecksums,
}: Progress): Pick<StatusReport, "uplink" | "network" | "engine"> {
  return {
    ...(chosen === undefined
      ? {}
      : {
          uplink: {
            name: chosen.uplink.name,
            ...uplinkAddresses(chosen.uplink),
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
            device: overlay.backend.device ?? null,
            ...(overlay.backend.deviceV6 === undefined ? {} : { deviceV6: overlay.backend.deviceV6 }),
            ...(txChecksums === undefined
              ? {}
              : { txChecksum: txChecksums.map(({ verdict }) => verdict).join("; ") }),
          },
        }),
  };
}

function leaseReport(
  { lease, confirmedAt, trouble, conflict, contested, events }: Keeper,
  clock: Clock,
): NonNullable<StatusReport["lease"]> {
  const { subnets, attributes, expiresAt }: Lease = lease;
  return {
    subnets: subnetsOf(subnets).map(String),
    publicIp: `${attributes.publicIp ?? ""}`,
    vtepMac: findVtepMac(lease) ?? null,
    ...ipv6Report(lease),
    expiresAt: expiresAt?.toISOString() ?? null,
    remainingSeconds:
      expiresAt === undefined ? null : Math.round((expiresAt.getTime() - clock.now().getTime()) / 1000),
    confirmedAt: confirmedAt?.toISOString() ?? null,
    ageSeconds:
      confirmedAt === undefined ? null : Math.round((clock.now().getTime() - confirmedAt.getTime()) / 1000),
    trouble: conflict === undefined ? (trouble ?? null) : `another node has our subnet: ${conflict}`,
    conflict: conflict ?? null,
    contested,
    events: { ...events },
  };
}

function ipv6Report(lease: Lease): Pick<PeerReport, "publicIpv6" | "vtepMacV6"> {
  const { publicIpv6 } = lease.attributes;
  const mac = findVtepMac(lease, 6);
  return {
    ...(publicIpv6 === undefined ? {} : { publicIpv6: `${publicIpv6}` }),
    ...(mac === undefined ? {} : { vtepMacV6: mac }),
  };
}

function uplinkAddresses({ address, publicIp, interfaceV6, addressV6, publicIpv6 }: Uplink) {
  return {
    ...(address === undefined ? {} : { address: `${address}` }),
    ...(publicIp === undefined ? {} : { publicIp: `${publicIp}` }),
    ...(interfaceV6 === undefined ? {} : { interfaceV6: interfaceV6.name }),
    ...(addressV6 === undefined ? {} : { addressV6: `${addressV6}` }),
    ...(publicIpv6 === undefined ? {} : { publicIpv6: `${publicIpv6}` }),
  };
}

/** Where an engine of ours counts, the kernel's counters of its device say nothing more. */
function deviceReport({ overlay, up }: Progress): Pick<StatusReport, "devices"> {
  if (!up || overlay?.engine.engine !== "kernel") return {};
  const devices = devicesOf(overlay.backend).flatMap((name) => {
    const counters = readDeviceCounters(name);
    return counters === undefined ? [] : [{ name, ...counters }];
  });
  return devices.length === 0 ? {} : { devices };
}

function processReport(): StatusReport["process"] {
  const { user, system } = process.cpuUsage();
  return { cpuSeconds: (user + system) / 1e6, residentBytes: process.memoryUsage.rss() };
}
