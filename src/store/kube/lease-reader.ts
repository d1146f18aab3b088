import type { Log } from "../../base/log.ts";
import { type Lease, type LeaseChange, leaseKey, type LeaseSubnets } from "../../lease/lease.ts";
import { sameAttributes } from "../../lease/table.ts";
import { type AnnotationNames, type Families, readNode } from "./codec.ts";
import type { KubeNode } from "./node.ts";
import type { Published } from "./published.ts";
import type { NodeChange } from "./watch.ts";

/** Our own node: it is told of only with the subnets that we have taken, once we have. */
export interface OwnNode {
  readonly name: string | undefined;
  readonly subnets: LeaseSubnets | undefined;
}

export interface LeaseReaderContext {
  readonly names: AnnotationNames;
  readonly log: Log;
  /** Which families count; undefined while that is not known. */
  readonly families: () => Families | undefined;
  readonly own: () => OwnNode;
  /** Shows our own lease as it is to be published, so that a change of what overwrites it is one of the lease. */
  readonly published: Pick<Published, "shown">;
}

/** A node's last lease that could be read. */
interface Holder {
  readonly uid: string;
  readonly createdAt: string;
  readonly name: string;
  readonly lease: Lease;
}

/** Complaints that are remembered, so that each is made once. */
const complaintsMax = 1_000;

/** Turns nodes into leases, remembering the last readable one of every node. */
export function createLeaseReader({ names, log, families, own, published }: LeaseReaderContext) {
  const holders = new Map<string, Holder>();
  const bySubnet = new Map<string, Map<string, Holder>>();
  const shown = new Map<string, Lease>();
  const said = new Set<string>();

  const complain = (node: string, reason: string) => {
    const complaint = `${node}\n${reason}`;
    if (said.has(complaint)) return;
    if (said.size >= complaintsMax) said.clear();
    said.add(complaint);
    log.warn("a node's annotations are ignored", { node, reason });
  };

  /** What the node holds now; an unreadable one of the same uid keeps what it held. */
  const holderOf = (node: KubeNode, before: Holder | undefined): Holder | undefined => {
    const reading = readNode(node, names, families());
    if (reading.kind === "unmanaged") return undefined;
    const { uid, createdAt, name } = node;
    if (reading.kind === "lease") {
      const { lease } = reading;
      if (name !== own().name) return { uid, createdAt, name, lease };
      const attributes = published.shown(lease.attributes, node.annotations);
      return { uid, createdAt, name, lease: { ...lease, attributes } };
    }
    complain(name, reading.reason);
    return before?.uid === uid ? before : undefined;
  };

  /** Takes what the node holds now; tells which subnets that is about. */
  const set = (name: string, holder: Holder | undefined): string[] => {
    const before = holders.get(name);
    const touched: string[] = [];
    if (before !== undefined) {
      const key = leaseKey(before.lease.subnets);
      touched.push(key);
      const sharing = bySubnet.get(key);
      sharing?.delete(name);
      if (sharing?.size === 0) bySubnet.delete(key);
      holders.delete(name);
    }
    if (holder !== undefined) {
      const key = leaseKey(holder.lease.subnets);
      touched.push(key);
      const sharing = bySubnet.get(key) ?? new Map<string, Holder>();
      bySubnet.set(key, sharing.set(name, holder));
      holders.set(name, holder);
    }
    return touched;
  };

  const isHidden = ({ name, lease }: Holder): boolean => {
    const ours = own();
    return (
      name === ours.name && ours.subnets !== undefined && leaseKey(lease.subnets) !== leaseKey(ours.subnets)
    );
  };

  /** Where nodes share a subnet, the lease is that of ours, else of the one that was there first. */
  const visible = (key: string): Lease | undefined => {
    const sharing = [...(bySubnet.get(key)?.values() ?? [])].filter((holder) => !isHidden(holder));
    const [first, ...others] = sharing.sort((a, b) => order(a, b, own().name));
    for (const other of others) complain(other.name, `${first?.name} has the same pod CIDR, ${key}`);
    return first?.lease;
  };

  /** What is to be told so that these subnets are shown as they stand: what goes before what comes. */
  const difference = (keys: readonly string[]): LeaseChange[] => {
    const gone: LeaseChange[] = [];
    const put: LeaseChange[] = [];
    for (const key of new Set(keys)) {
      const [before, lease] = [shown.get(key), visible(key)];
      if (lease === undefined) {
        if (shown.delete(key) && before !== undefined) gone.push({ kind: "delete", subnets: before.subnets });
      } else if (before === undefined || !sameAttributes(before.attributes, lease.attributes)) {
        shown.set(key, lease);
        put.push({ kind: "put", lease });
      }
    }
    return [...gone, ...put];
  };

  return {
    snapshot(nodes: readonly KubeNode[]): readonly Lease[] {
      const before = new Map(holders);
      holders.clear();
      bySubnet.clear();
      for (const node of nodes) set(node.name, holderOf(node, before.get(node.name)));
      shown.clear();
      for (const key of bySubnet.keys()) {
        const lease = visible(key);
        if (lease !== undefined) shown.set(key, lease);
      }
      return [...shown.values()];
    },

    change({ kind, node }: NodeChange): LeaseChange[] {
      const before = holders.get(node.name);
      return difference(set(node.name, kind === "delete" ? undefined : holderOf(node, before)));
    },

    /** Our own node may be shown since we have taken its subnets. */
    ownChanged(): LeaseChange[] {
      const ours = holders.get(own().name ?? "");
      return ours === undefined ? [] : difference([leaseKey(ours.lease.subnets)]);
    },
  };
}

/** Negative where `a` goes before `b`. */
function order(a: Holder, b: Holder, ownName: string | undefined): number {
  if (a.name === ownName || b.name === ownName) return a.name === ownName ? -1 : 1;
  if (a.createdAt !== b.createdAt) return a.createdAt < b.createdAt ? -1 : 1;
  return a.name < b.name ? -1 : 1;
}
