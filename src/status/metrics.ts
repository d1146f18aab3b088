import type { EngineStats, TrafficCounters } from "../native/ports.ts";
import { expositionText, type Family, type Sample } from "./exposition.ts";
import { stages } from "./progress.ts";
import type { StatusReport } from "./report.ts";

export const metricsPrefix = "flannel_lite_";

export interface MetricsOptions {
  /** With more peers than this there are no series for each of them. */
  readonly peersMax: number;
}

/** The report as Prometheus reads it. Pure. */
export function metricsText(report: StatusReport, options: MetricsOptions): string {
  const families = metrics.map(({ samples, ...family }) => ({
    ...family,
    samples: samples(report, options),
  }));
  return expositionText(metricsPrefix, families);
}

/** A metric, and how it is read off the report. */
export interface Metric extends Omit<Family, "samples"> {
  /** Its labels, for the documentation. */
  readonly labels: readonly string[];
  readonly samples: (report: StatusReport, options: MetricsOptions) => readonly Sample[];
}

type Values = (report: StatusReport) => number | undefined | null;

function gauge(name: string, help: string, value: Values): Metric {
  return { name, help, type: "gauge", labels: [], samples: (report) => single(value(report)) };
}

function counter(name: string, help: string, value: Values): Metric {
  return { ...gauge(name, help, value), type: "counter" };
}

function labelled(
  type: Metric["type"],
  name: string,
  labels: readonly string[],
  help: string,
  samples: Metric["samples"],
): Metric {
  return { name, help, type, labels, samples };
}

/** All there are, in the order of the page. */
export const metrics: readonly Metric[] = [
  labelled("gauge", "build_info", ["version"], "1; the version that runs.", ({ version }) => [
    { labels: { version }, value: 1 },
  ]),
  gauge("up", "Whether device, routes and subnet.env stand.", ({ up }) => Number(up)),
  gauge("ready", "Whether traffic can flow, as /readyz tells.", ({ ready }) => Number(ready)),
  labelled(
    "gauge",
    "stage",
    ["stage"],
    "1 for the stretch of its life that the daemon is in, 0 for others.",
    (r) => stages.map((stage) => ({ labels: { stage }, value: Number(stage === r.stage) })),
  ),
  labelled(
    "gauge",
    "engine_info",
    ["engine", "device", "backend"],
    "1; who carries the packets.",
    ({ engine, network }) =>
      engine === undefined || network === undefined
        ? []
        : [
            {
              labels: { engine: engine.name, device: engine.device ?? "", backend: network.backend },
              value: 1,
            },
          ],
  ),
  gauge("mtu_bytes", "MTU of the overlay.", ({ network }) => network?.mtuBytes),

  gauge("lease_expiry_timestamp_seconds", "When our lease expires; none for a reservation.", ({ lease }) =>
    timestamp(lease?.expiresAt),
  ),
  gauge(
    "lease_confirmed_timestamp_seconds",
    "When the store last wrote our lease for us; none while it is only remembered.",
    ({ lease }) => timestamp(lease?.confirmedAt),
  ),
  gauge(
    "lease_conflict",
    "Whether another node has our subnet, so that nothing is sent for it.",
    ({ lease }) => lease && Number(lease.conflict !== null),
  ),
  gauge(
    "lease_contested",
    "Whether somebody keeps changing our lease, so that it is put back more slowly.",
    ({ lease }) => lease && Number(lease.contested),
  ),
  gauge(
    "store_trouble",
    "Whether the store does not confirm our lease.",
    ({ lease }) => lease && Number(lease.trouble !== null && lease.conflict === null),
  ),
  labelled(
    "counter",
    "lease_events_total",
    ["event"],
    "What befell our own lease; failed: a renewal that the store did not answer or refused.",
    ({ lease }) => byLabel("event", lease?.events ?? {}),
  ),
  labelled(
    "counter",
    "lease_updates_total",
    ["kind"],
    "What the store told of all leases: whole lists, and leases put and deleted.",
    ({ updates }) => byLabel("kind", updates ?? {}),
  ),

  gauge("peers", "Leases of others that are used, those held included.", ({ peers }) => peers.length),
  gauge("peers_held", "Peers that the store no longer shows and that are kept.", ({ held }) => held.length),
  labelled("gauge", "peers_refused", ["reason"], "Leases of others that are not used.", ({ refused }) =>
    refused.map(({ kind }) => ({ labels: { reason: kind }, value: 1 })),
  ),

  counter("reconcile_passes_total", "Comparisons of plan and machine.", ({ passes }) => passes?.passes),
  counter("reconcile_steps_total", "Steps tried to make the plan true.", ({ passes }) => passes?.steps),
  counter("reconcile_failures_total", "Steps that failed.", ({ passes }) => passes?.failures),
  gauge("reconcile_last_pass_timestamp_seconds", "When plan and machine were last compared.", ({ passes }) =>
    timestamp(passes?.lastAt),
  ),
  gauge("reconcile_settled", "Whether the last comparison aimed at the latest plan.", ({ settled }) =>
    Number(settled),
  ),
  gauge("missing_items", "Wanted items that the machine does not hold.", ({ missing }) => missing.length),

  labelled(
    "counter",
    "repairs_total",
    ["kind"],
    "Times that something others had deleted or changed was set right; what hung on a device counts with it.",
    ({ repairs }) => byLabel("kind", repairs?.byKind ?? {}),
  ),
  gauge(
    "forwarding_off",
    "Families of the network that this host does not forward, so that its pods reach no other host.",
    ({ forwardingOff }) => forwardingOff.length,
  ),
  gauge(
    "contested_items",
    "Items that somebody keeps undoing, so that their repairs are slowed down.",
    ({ repairs }) => repairs?.contested.length,
  ),

  gauge("firewall_rules", "Masquerade and forward rules wanted.", ({ firewall }) => firewall?.rules),
  counter(
    "firewall_repairs_total",
    "Times that others' changes to our rules were set right.",
    ({ firewall }) => firewall?.repairs,
  ),
  gauge(
    "firewall_contested",
    "Whether somebody keeps changing our rules, so that repairs are slowed down.",
    ({ firewall }) => firewall && Number(firewall.contested),
  ),
  gauge(
    "firewall_blocked",
    "Whether masquerading, asked for, is not in place.",
    ({ firewall }) => firewall && Number(firewall.blocked !== null),
  ),

  labelled(
    "counter",
    "datapath_packets_total",
    ["device", "direction"],
    "Inner packets carried; segments count one by one, with the kernel engine as its device counts.",
    traffic("packets"),
  ),
  labelled(
    "counter",
    "datapath_bytes_total",
    ["device", "direction"],
    "Inner bytes carried, from the IP header on; with the kernel engine as its device counts.",
    traffic("bytes"),
  ),
  labelled(
    "counter",
    "datapath_drops_total",
    ["device", "direction", "reason"],
    "Packets dropped; direction any: the reason does not tell. The kernel engine tells errors and dropped.",
    ({ engines, devices = [] }) => [
      ...engines.flatMap(({ device: name, stats }) =>
        Object.entries(stats.drops).map(([reason, value]) => ({
          labels: { device: name, direction: directionOf(reason), reason },
          value,
        })),
      ),
      ...devices.flatMap(deviceDrops),
    ],
  ),
  labelled(
    "gauge",
    "datapath_failed",
    ["device"],
    "Whether a packet thread has ended, so that nothing is carried.",
    ({ engines }) =>
      engines.map(({ device, stats }) => ({
        labels: { device },
        value: Number(stats.failure !== undefined),
      })),
  ),
  labelled(
    "gauge",
    "datapath_offload",
    ["device", "offload"],
    "Whether an offload is in use.",
    ({ engines }) =>
      engines.flatMap(({ device, stats }) =>
        Object.entries(stats.offloads).map(([offload, used]) => ({
          labels: { device, offload },
          value: Number(used),
        })),
      ),
  ),
  labelled(
    "counter",
    "peer_packets_total",
    ["peer", "direction"],
    "Inner packets to and from a peer, by its public address; none beyond metrics.peers_max peers.",
    peerTraffic("packets"),
  ),
  labelled(
    "counter",
    "peer_bytes_total",
    ["peer", "direction"],
    "Inner bytes to and from a peer, by its public address; none beyond metrics.peers_max peers.",
    peerTraffic("bytes"),
  ),

  labelled(
    "gauge",
    "certificate_expiry_timestamp_seconds",
    ["certificate"],
    "When a certificate for the store expires, ours as client or server: the next in its file.",
    ({ certificates }) =>
      certificates.flatMap(({ role, expiresAt }) =>
        single(timestamp(expiresAt)).map(({ value }) => ({ labels: { certificate: role }, value })),
      ),
  ),

  gauge("process_start_time_seconds", "When the daemon started.", ({ startedAt }) => timestamp(startedAt)),
  counter(
    "process_cpu_seconds_total",
    "CPU time used, all threads, user and system.",
    (r) => r.process.cpuSeconds,
  ),
  gauge("process_resident_memory_bytes", "Memory in use.", (r) => r.process.residentBytes),
];

function single(value: number | undefined | null): Sample[] {
  return value === undefined || value === null ? [] : [{ value }];
}

function timestamp(time: string | null | undefined): number | undefined {
  return time === null || time === undefined ? undefined : Date.parse(time) / 1000;
}

function byLabel(label: string, values: Readonly<Record<string, number>>): Sample[] {
  return Object.entries(values).map(([name, value]) => ({ labels: { [label]: name }, value }));
}

const directions = ["sent", "received"] as const;

function traffic(unit: keyof TrafficCounters): Metric["samples"] {
  return ({ engines, devices = [] }) => {
    const counted = engines.map(({ device: name, stats }) => ({ name, ...stats }));
    return [...counted, ...devices].flatMap(({ name, ...counters }) =>
      directions.map((direction) => ({
        labels: { device: name, direction },
        value: counters[direction][unit],
      })),
    );
  };
}

function deviceDrops({ name, ...counters }: NonNullable<StatusReport["devices"]>[number]): Sample[] {
  return directions.flatMap((direction) =>
    (["errors", "dropped"] as const).map((reason) => ({
      labels: { device: name, direction, reason },
      value: counters[direction][reason],
    })),
  );
}

function peerTraffic(unit: keyof TrafficCounters): Metric["samples"] {
  return ({ engines }, { peersMax }) => {
    const peers: EngineStats["peers"] = engines.flatMap(({ stats }) => stats.peers);
    if (new Set(peers.map(({ endpoint }) => endpoint)).size > peersMax) return [];
    return peers.flatMap((peer) =>
      directions.map((direction) => ({
        labels: { peer: peer.endpoint, direction },
        value: peer[direction][unit],
      })),
    );
  };
}

/** Which way a packet was going that was dropped for `reason`, where that tells; see the engine's reasons. */
function directionOf(reason: string): "sent" | "received" | "any" {
  if (outbound.has(reason)) return "sent";
  return inbound.has(reason) ? "received" : "any";
}

const outbound = new Set([
  "noRoute",
  "multicast",
  "badOffload",
  "socketError",
  "sendQueueFull",
  "tunQueueFull",
]);
const inbound = new Set([
  "badVxlan",
  "receiveBufferFull",
  "wrongVni",
  "wrongMac",
  "arp",
  "notIpFrame",
  "unknownSender",
  "spoofedSource",
  "outsideOverlay",
  "ecnCe",
  "tunDown",
]);
