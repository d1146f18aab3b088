import { type LeaseSubnets, subnetsOf } from "../../lease/lease.ts";
import type { Family } from "../../net/address.ts";
import { parsePrefix, type Prefix } from "../../net/prefix.ts";

/** What happens to a packet that a rule matches; `return` ends our chain and leaves the packet as it is. */
export type Verdict = "accept" | "return" | "masquerade";

/** One decision: all that is there must hold. */
export interface Rule {
  readonly source?: Side;
  readonly destination?: Side;
  readonly mark?: { readonly value: number; readonly mask: number };
  readonly verdict: Verdict;
}

/** An address of a packet that must lie in `prefix`, or outside of it. */
export interface Side {
  readonly prefix: Prefix;
  readonly negated: boolean;
}

/** The rules of one family, in the order in which they are asked. */
export interface FamilyRules {
  readonly family: Family;
  /** At source NAT; empty where nobody asked for masquerading. */
  readonly masquerade: readonly Rule[];
  /** At forwarding; empty where they are switched off. */
  readonly forward: readonly Rule[];
}

export interface FirewallWish {
  /** The overlay networks, at most one a family. */
  readonly ranges: readonly Prefix[];
  /** Our own. */
  readonly subnets: LeaseSubnets;
  readonly masquerade: boolean;
  readonly forward: boolean;
  /** Networks with which pods talk under their own addresses, both ways. */
  readonly noMasquerade: readonly Prefix[];
}

/** kube-proxy's mark on packets that it masquerades itself. */
const kubeProxyMark = { value: 0x4000, mask: 0x4000 };

const multicast: Readonly<Record<Family, Prefix>> = {
  4: parsePrefix("224.0.0.0/4"),
  6: parsePrefix("ff00::/8"),
};

/**
 * flannel's rules (pkg/trafficmngr, iptables mode) for each family that has a network and a subnet of ours.
 * What `noMasquerade` adds stands before the first rule that masquerades. Pure.
 */
export function planFirewall(wish: FirewallWish): FamilyRules[] {
  return wish.ranges.flatMap((network) => {
    const subnet = subnetsOf(wish.subnets).find(({ family }) => family === network.family);
    if (subnet === undefined) return [];
    return [
      {
        family: network.family,
        masquerade: wish.masquerade ? masqueradeRules(network, subnet, wish.noMasquerade) : [],
        forward: wish.forward ? forwardRules(network) : [],
      },
    ];
  });
}

function masqueradeRules(network: Prefix, subnet: Prefix, exempt: readonly Prefix[]): Rule[] {
  return [
    { mark: kubeProxyMark, verdict: "return" },
    // Between pods here and pods anywhere.
    { source: inside(subnet), destination: inside(network), verdict: "return" },
    { source: inside(network), destination: inside(subnet), verdict: "return" },
    // From outside to pods here: they see who calls.
    { source: outside(network), destination: inside(subnet), verdict: "return" },
    ...exempt
      .filter(({ family }) => family === network.family)
      .flatMap((prefix): Rule[] => [
        { source: inside(network), destination: inside(prefix), verdict: "return" },
        { source: inside(prefix), destination: inside(network), verdict: "return" },
      ]),
    // From pods to the world.
    { source: inside(network), destination: outside(multicast[network.family]), verdict: "masquerade" },
    // From this host, or through it, to pods elsewhere: the answer must come back here.
    { source: outside(network), destination: inside(network), verdict: "masquerade" },
  ];
}

/** Docker, from 1.13 on, drops what is forwarded unless a rule accepts it. */
function forwardRules(network: Prefix): Rule[] {
  return [
    { source: inside(network), verdict: "accept" },
    { destination: inside(network), verdict: "accept" },
  ];
}

function inside(prefix: Prefix): Side {
  return { prefix, negated: false };
}

function outside(prefix: Prefix): Side {
  return { prefix, negated: true };
}
