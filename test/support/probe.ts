import { readFileSync } from "node:fs";
import { loadAddonFromMemory } from "../../src/native/memfd.ts";
import type { ForwardingTable } from "../../src/native/ports.ts";

/** A packet as a TUN gives and takes it: virtio header and IP packet. */
export interface TunPacket {
  readonly vnet: Uint8Array;
  readonly packet: Uint8Array;
}

/** A received buffer: one datagram, or with `segment` several of that size (the last may be shorter). */
export interface TunnelBuffer {
  readonly source: string;
  readonly tos: number;
  /** 0 for a single one. */
  readonly segment: number;
  readonly payload: Uint8Array;
}

export interface SentDatagram {
  readonly payload: Uint8Array;
  readonly endpoint: string;
  readonly tos: number;
  /** Which of the sending sockets. */
  readonly lane: number;
}

export type DropCounts = Readonly<Record<string, number>>;

/** The native engine's packet loops without TUN and sockets. */
export interface Probe {
  probeOutbound(
    table: ForwardingTable,
    mtuBytes: number,
    packets: readonly TunPacket[],
  ): {
    readonly sent: readonly SentDatagram[];
    /** To the host. */
    readonly answers: readonly TunPacket[];
    readonly drops: DropCounts;
  };
  probeInbound(
    table: ForwardingTable,
    mtuBytes: number,
    datagrams: readonly TunnelBuffer[],
  ): { readonly written: readonly TunPacket[]; readonly drops: DropCounts };
}

export function loadProbe(): Probe {
  const path = new URL("../../dist/flannel-lite.node", import.meta.url).pathname;
  return loadAddonFromMemory(readFileSync(path)) as Probe;
}
