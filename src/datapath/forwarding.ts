import type { ForwardingPeer } from "../native/ports.ts";
import type { ForwardItem } from "../plan/plan.ts";

/** Gathers forwarding entries by peer, that is by endpoint and MAC, in order of first appearance. */
export function subnetsByPeer(forwards: readonly ForwardItem[]): ForwardingPeer[] {
  const peers = new Map<string, { subnets: string[]; endpoint: string; mac?: string }>();
  for (const { to, via, mac } of forwards) {
    const key = `${via} ${mac}`;
    const peer = peers.get(key) ?? {
      subnets: [],
      endpoint: `${via}`,
      ...(mac === undefined ? {} : { mac }),
    };
    peer.subnets.push(`${to}`);
    peers.set(key, peer);
  }
  return [...peers.values()];
}
