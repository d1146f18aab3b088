import type { RepairStatus } from "../datapath/repair.ts";
import type { DeviceCounters } from "../host/device-counters.ts";
import type { FirewallStatus } from "../host/firewall/firewall.ts";
import type { EngineStats, RefusedPacket } from "../native/ports.ts";
import type { LeaseEvents } from "../network/keeper.ts";
import type { LeaseUpdates } from "../network/network.ts";
import type { PassCounts } from "../datapath/reconcile.ts";
import { type CertificateReport, certificateWarnDays } from "./certificates.ts";
import type { UnappliedChange } from "../reload.ts";
import type { Stage } from "./progress.ts";

/** What `status --json` and the admin socket's `/status` tell. Times are ISO 8601, ages in seconds. */
export interface StatusReport {
  readonly version: string;
  readonly pid: number;
  readonly startedAt: string;
  /** Device, routes and subnet.env stand. */
  readonly up: boolean;
  /** Traffic can flow. */
  readonly ready: boolean;
  /** What is being done or waited for, and while not ready why. */
  readonly phase: string;
  readonly stage: Stage;
  readonly store: string;
  /** Who this node says it is, beside its lease. */
  readonly node: { readonly id: string; readonly name: string };
  readonly uplink?: {
    readonly name: string;
    /** Absent on a host that has no IPv4 address for it. */
    readonly address?: string;
    readonly publicIp?: string;
    /** Where IPv6 leaves, where that is another interface. */
    readonly interfaceV6?: string;
    readonly addressV6?: string;
    readonly publicIpv6?: string;
    readonly reason: string;
  };
  readonly network?: {
    readonly ipv4?: string;
    readonly ipv6?: string;
    readonly backend: string;
    readonly mtuBytes: number;
  };
  /** Who carries the packets; `none` without a device where the backend makes none. */
  readonly engine?: {
    readonly name: string;
    readonly reason: string;
    readonly device: string | null;
    /** The second one, for IPv6. */
    readonly deviceV6?: string;
    /** Of the kernel engine: whether its device leaves checksums to others, and why; of both devices where there are two. */
    readonly txChecksum?: string;
  };
  readonly lease?: {
    readonly subnets: readonly string[];
    readonly publicIp: string;
    /** null for a backend without VTEPs. */
    readonly vtepMac: string | null;
    /** Of a network with IPv6. */
    readonly publicIpv6?: string;
    readonly vtepMacV6?: string;
    readonly expiresAt: string | null;
    readonly remainingSeconds: number | null;
    /** When the store last wrote it for us; null while it is only remembered. */
    readonly confirmedAt: string | null;
    /** Since `confirmedAt`. */
    readonly ageSeconds: number | null;
    readonly trouble: string | null;
    /** Who has our subnet in our place. */
    readonly conflict: string | null;
    /** Somebody keeps changing what it says, so that it is put back more slowly. */
    readonly contested: boolean;
    readonly events: LeaseEvents;
  };
  readonly peers: readonly PeerReport[];
  /** What the store has told of all leases. */
  readonly updates?: LeaseUpdates;
  /** Leases of others that are not used. */
  readonly refused: readonly {
    readonly subnets: string;
    readonly publicIp: string;
    readonly reason: string;
    /** What `reason` is a case of; one of a few words. */
    readonly kind: string;
  }[];
  /** Those of `peers` that the store no longer shows, and until when they are kept. */
  readonly held: readonly {
    readonly subnets: string;
    readonly publicIp: string;
    readonly since: string;
    readonly until: string;
    readonly reason: string;
  }[];
  /** Whether the machine was last compared with the latest leases; if not, a comparison is under way. */
  readonly settled: boolean;
  /** Wanted items that the machine does not hold. */
  readonly missing: readonly { readonly item: string; readonly code: string; readonly error: string }[];
  /** What all comparisons of plan and machine did together. */
  readonly passes?: PassCounts & { readonly lastAt: string | null };
  /** Masquerade and forward rules; `blocked`: why masquerading, asked for, is not in place. */
  readonly firewall?: FirewallStatus & { readonly blocked: string | null };
  /** What others changed of links, addresses, neighbours, forwarding entries and routes, and was set right. */
  readonly repairs?: RepairStatus;
  readonly engines: readonly { readonly device: string; readonly stats: EngineStats }[];
  /** Of the devices that the kernel engine has. */
  readonly devices?: readonly (DeviceCounters & { readonly name: string })[];
  /** Settings of the kernel by which this host forwards nothing of a family in use: its pods reach no other host. */
  readonly forwardingOff: readonly string[];
  /** Those that the connection to the store depends on. */
  readonly certificates: readonly (CertificateReport & { readonly remainingDays: number | null })[];
  /** Changes of the configuration and of the store's network configuration that wait for a restart. */
  readonly waiting: readonly UnappliedChange[];
  readonly process: { readonly cpuSeconds: number; readonly residentBytes: number };
}

export interface PeerReport {
  readonly subnets: readonly string[];
  readonly publicIp: string;
  readonly vtepMac: string | null;
  readonly publicIpv6?: string;
  readonly vtepMacV6?: string;
  /** null for a reservation. */
  readonly expiresAt: string | null;
}

/** The report for people. */
export function statusText(report: StatusReport): string {
  const { lease, uplink, network, engine } = report;
  const lines = [
    `flannel-lite ${report.version}, pid ${report.pid}, since ${report.startedAt}`,
    `ready      ${report.ready ? "yes" : "no"}: ${report.phase}`,
    `store      ${report.store}`,
    `node       ${report.node.name}, id ${report.node.id}`,
  ];
  if (uplink !== undefined) lines.push(`uplink     ${uplink.name} ${uplinkText(uplink)}: ${uplink.reason}`);
  if (network !== undefined) {
    const ranges = [network.ipv4, network.ipv6].filter((range) => range !== undefined).join(", ");
    lines.push(`network    ${ranges}, backend ${network.backend}, MTU ${network.mtuBytes}`);
  }
  if (engine !== undefined)
    lines.push(
      `engine     ${engine.name}${engine.device === null ? "" : ` on ${engineDevices(engine)}`}: ${engine.reason}`,
    );
  if (engine?.txChecksum !== undefined) lines.push(`           checksum offload ${engine.txChecksum}`);
  if (lease !== undefined) {
    const expiry =
      lease.expiresAt === null
        ? "a reservation"
        : `expires ${lease.expiresAt} (in ${lease.remainingSeconds} s)`;
    const age = lease.ageSeconds === null ? "remembered" : `${lease.ageSeconds} s old`;
    lines.push(
      `lease      ${lease.subnets.join(", ")} for ${publicText(lease)}${vtepText(lease)}, ${age}, ${expiry}`,
    );
    if (lease.trouble !== null) lines.push(`           trouble: ${lease.trouble}`);
    if (lease.contested)
      lines.push("           contested: somebody keeps changing it; it is put back more slowly");
  }
  lines.push(`peers      ${report.peers.length}`);
  for (const peer of report.peers) {
    const expiry = peer.expiresAt === null ? "reservation" : `until ${peer.expiresAt}`;
    lines.push(`           ${peer.subnets.join(", ")} at ${publicText(peer)}${vtepText(peer)}, ${expiry}`);
  }
  for (const { subnets, publicIp, reason } of report.refused)
    lines.push(`refused    ${subnets} at ${publicIp}: ${reason}`);
  for (const { subnets, publicIp, until, reason } of report.held)
    lines.push(`held       ${subnets} at ${publicIp} until ${until}: ${reason}`);
  if (report.passes !== undefined) lines.push(passesLine(report.passes, report.settled));
  for (const { item, error } of report.missing) lines.push(`missing    ${item}: ${error}`);
  for (const setting of report.forwardingOff)
    lines.push(`forwarding ${setting} is 0 on this host: pods do not reach other hosts`);
  if (report.repairs !== undefined) lines.push(...repairLines(report.repairs));
  if (report.firewall !== undefined) lines.push(...firewallLines(report.firewall));
  for (const { device, stats } of report.engines) lines.push(...engineLines(device, stats));
  lines.push(...(report.devices ?? []).map(deviceLine));
  lines.push(...report.certificates.map(certificateLine));
  for (const { key, from, to } of report.waiting) lines.push(`restart    to apply ${key}: ${from} -> ${to}`);
  return `${lines.join("\n")}\n`;
}

const certificateNames = {
  ca: "CA",
  client: "client certificate",
  server: "our store's certificate",
} as const;

function certificateLine({
  role,
  path,
  expiresAt,
  remainingDays,
  trouble,
}: StatusReport["certificates"][number]): string {
  const start = `tls        ${certificateNames[role]} ${path}`;
  if (expiresAt === null || remainingDays === null) return `${start}: trouble: ${trouble}`;
  if (remainingDays < 0) return `${start} EXPIRED ${expiresAt}: renew it`;
  const advice = remainingDays < certificateWarnDays ? ": renew it" : "";
  return `${start} expires ${expiresAt} (in ${remainingDays} days)${advice}`;
}

function passesLine({ passes, lastAt }: NonNullable<StatusReport["passes"]>, settled: boolean): string {
  const last = lastAt === null ? "" : `, last ${lastAt}`;
  return `compared   plan and machine ${times(passes)}${last}${settled ? "" : "; under way again"}`;
}

function times(count: number): string {
  return count === 1 ? "once" : `${count} times`;
}

function deviceLine({ name, sent, received }: NonNullable<StatusReport["devices"]>[number]): string {
  const way = ({ packets, bytes, errors, dropped }: DeviceCounters["sent"]) =>
    `${packets} packets, ${bytes} bytes, ${errors} errors, ${dropped} dropped`;
  return `traffic    ${name}: sent ${way(sent)}; received ${way(received)}`;
}

function repairLines({ total, byKind, contested }: RepairStatus): string[] {
  const kinds = Object.entries(byKind).filter(([, count]) => count > 0);
  return [
    `repairs    ${total === 0 ? "none" : kinds.map(([kind, count]) => `${kind} ${count}`).join(", ")}`,
    ...contested.map(
      ({ item, repairs, waitSeconds, by }) =>
        `contested  ${item}: repaired ${repairs} times, again in ${waitSeconds} s at the earliest; last undone by ${by}`,
    ),
  ];
}

function uplinkText({
  name,
  interfaceV6 = name,
  address,
  publicIp,
  addressV6,
  publicIpv6,
}: NonNullable<StatusReport["uplink"]>): string {
  const elsewhere = interfaceV6 === name ? "" : `${interfaceV6} `;
  return [
    ...(address === undefined ? [] : [`${address} (public ${publicIp})`]),
    ...(addressV6 === undefined ? [] : [`${elsewhere}${addressV6} (public ${publicIpv6})`]),
  ].join(" and ");
}

function engineDevices({ device, deviceV6 }: NonNullable<StatusReport["engine"]>): string {
  return [device, deviceV6].filter((one) => typeof one === "string").join(" and ");
}

function publicText({ publicIp, publicIpv6 }: Pick<PeerReport, "publicIp" | "publicIpv6">): string {
  return [publicIp, publicIpv6].filter((one) => one !== undefined && one !== "").join(" and ");
}

function vtepText({ vtepMac, vtepMacV6 }: Pick<PeerReport, "vtepMac" | "vtepMacV6">): string {
  const macs = [vtepMac, vtepMacV6].filter((mac) => typeof mac === "string");
  return macs.length === 0 ? "" : `, VTEP ${macs.join(" and ")}`;
}

function firewallLines({ engine, rules, repairs, contested, trouble }: FirewallStatus): string[] {
  const fight = contested ? ", somebody keeps changing them" : "";
  return [
    `firewall   ${engine ?? "none"}: ${rules} rules, repaired ${times(repairs)}${fight}`,
    ...(trouble === null ? [] : [`           trouble: ${trouble}`]),
  ];
}

function engineLines(
  device: string,
  { sent, received, drops, offloads, failure, lastRefused }: EngineStats,
): string[] {
  const met = Object.entries(drops).filter(([, count]) => count > 0);
  const lacking = Object.entries(offloads).filter(([, present]) => !present);
  return [
    `traffic    ${device}: sent ${sent.packets} packets, ${sent.bytes} bytes; received ${received.packets} packets, ${received.bytes} bytes`,
    `drops      ${met.length === 0 ? "none" : met.map(([reason, count]) => `${reason} ${count}`).join(", ")}`,
    `offloads   ${lacking.length === 0 ? "all" : `all but ${lacking.map(([name]) => name).join(", ")}`}`,
    ...(lastRefused === undefined ? [] : [refusedLine(lastRefused)]),
    ...(failure === undefined ? [] : [`failure    nothing is carried any more: ${failure}`]),
  ];
}

function refusedLine({ reason, outerSource, innerSource, innerDestination }: RefusedPacket): string {
  return `           last refused: ${reason}, from ${outerSource}, inside ${innerSource} to ${innerDestination}`;
}
