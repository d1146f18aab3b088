import type { EngineStats } from "../../src/native/ports.ts";
import type { StatusReport } from "../../src/status/report.ts";

/** A daemon that carries traffic with two peers, one of which is held. */
export function statusReport(changes: Partial<StatusReport> = {}): StatusReport {
  return {
    version: "1.2.3",
    pid: 42,
    startedAt: "2026-01-01T00:00:00.000Z",
    up: true,
    ready: true,
    phase: "carrying traffic for 10.5.1.0/24",
    stage: "carrying",
    store: "etcd http://127.0.0.1:2379/coreos.com/network",
    node: { id: "id-1", name: "host1" },
    uplink: { name: "eth0", address: "192.0.2.1", publicIp: "192.0.2.1", reason: "default route" },
    network: { ipv4: "10.5.0.0/16", backend: "vxlan", mtuBytes: 1450 },
    engine: { name: "userspace", reason: "/dev/net/tun opens", device: "flannel.1" },
    lease: {
      subnets: ["10.5.1.0/24"],
      publicIp: "192.0.2.1",
      vtepMac: "02:00:00:00:00:01",
      expiresAt: "2026-01-02T00:00:00.000Z",
      remainingSeconds: 86_340,
      confirmedAt: "2026-01-01T00:00:00.500Z",
      ageSeconds: 60,
      trouble: null,
      conflict: null,
      contested: false,
      events: { acquired: 1, renewed: 2, lost: 0, conflict: 0, failed: 3 },
    },
    peers: [peer(2), peer(3)],
    updates: { snapshot: 1, put: 4, delete: 1 },
    refused: [
      { subnets: "10.5.9.0/24", publicIp: "192.0.2.9", reason: "VtepMAC x is our own", kind: "vtep-mac" },
      { subnets: "10.5.8.0/24", publicIp: "192.0.2.8", reason: "VtepMAC y is our own", kind: "vtep-mac" },
      { subnets: "10.6.0.0/24", publicIp: "192.0.2.7", reason: "outside", kind: "outside-overlay" },
    ],
    held: [
      {
        subnets: "10.5.3.0/24",
        publicIp: "192.0.2.3",
        since: "2026-01-01T00:00:30.000Z",
        until: "2026-01-01T12:00:00.000Z",
        reason: "most peers vanished at once",
      },
    ],
    settled: true,
    missing: [],
    passes: { passes: 7, steps: 11, failures: 1, lastAt: "2026-01-01T00:00:59.000Z" },
    repairs: {
      total: 5,
      byKind: { link: 1, address: 1, neighbour: 0, fdb: 0, route: 3 },
      contested: [
        {
          item: "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
          repairs: 6,
          waitSeconds: 2,
          by: "ip (7)",
        },
      ],
    },
    firewall: {
      engine: "nftables",
      rules: 9,
      repairs: 2,
      contested: false,
      trouble: null,
      blocked: null,
    },
    engines: [{ device: "flannel.1", stats: engineStats() }],
    forwardingOff: [],
    certificates: [
      {
        role: "client",
        path: "/etc/etcd/client.pem",
        expiresAt: "2026-01-11T00:00:00.000Z",
        trouble: null,
        remainingDays: 9,
      },
    ],
    waiting: [],
    process: { cpuSeconds: 1.25, residentBytes: 100_000_000 },
    ...changes,
  };
}

export function engineStats(changes: Partial<EngineStats> = {}): EngineStats {
  return {
    offloads: { tunTso4: true, udpGso: false },
    sent: { packets: 10, bytes: 1_000 },
    received: { packets: 20, bytes: 2_000 },
    drops: { noRoute: 1, spoofedSource: 2, tunError: 3 },
    peers: [2, 3].map((at) => ({
      endpoint: `192.0.2.${at}`,
      sent: { packets: 5, bytes: 500 },
      received: { packets: 10, bytes: 1_000 },
    })),
    ...changes,
  };
}

function peer(at: number): StatusReport["peers"][number] {
  return {
    subnets: [`10.5.${at}.0/24`],
    publicIp: `192.0.2.${at}`,
    vtepMac: `02:00:00:00:00:0${at}`,
    expiresAt: "2026-01-01T12:00:00.000Z",
  };
}
