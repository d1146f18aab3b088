import { parseGoObject } from "../../base/go-json.ts";
import { type LeaseSubnets, leaseKey, type NodeIdentity } from "../../lease/lease.ts";
import type { IpAddress } from "../../net/address.ts";
import type { EtcdContext } from "./lease-entry.ts";

/** The key in which the node with one public IP says who it is, as it stands in etcd. */
export interface NodeEntry {
  readonly key: string;
  /** Undefined where there is no key, or one that nobody can have meant. */
  readonly holder: NodeHolder | undefined;
  /** 0 where there is no key. */
  readonly revision: bigint;
  /** The etcd lease it hangs on; `0` for none. */
  readonly leaseId: string;
}

export interface NodeHolder extends NodeIdentity {
  /** Its lease, as in lease keys: `10.5.34.0-24`. */
  readonly subnet: string;
}

/** Longer values are nobody's. */
const valueBytesMax = 4096;

export async function readNodeEntry(
  { client, layout, complain }: EtcdContext,
  publicIp: IpAddress,
  stop: AbortSignal,
): Promise<NodeEntry> {
  const key = layout.nodeKey(publicIp);
  const found = await client.get(key, stop);
  if (found === undefined) return { key, holder: undefined, revision: 0n, leaseId: "0" };
  const holder = parseNodeValue(found.value);
  if (holder === undefined) complain(key, "it does not say who the node is");
  return { key, holder, revision: found.revision, leaseId: found.lease };
}

/** `{"id", "name", "subnet"}`, in this order and compact. */
export function encodeNodeValue({ id, name }: NodeIdentity, subnets: LeaseSubnets): string {
  return JSON.stringify({ id, name, subnet: leaseKey(subnets) });
}

/** Undefined for anything but an object with a non-empty id; name and subnet are for people. */
export function parseNodeValue(value: Uint8Array): NodeHolder | undefined {
  if (value.byteLength > valueBytesMax) return undefined;
  try {
    const members = parseGoObject(Buffer.from(value).toString("utf8"));
    const id = members.get("id");
    if (typeof id !== "string" || id === "") return undefined;
    return { id, name: textOf(members.get("name")), subnet: textOf(members.get("subnet")) };
  } catch {
    return undefined; // not JSON, or no object
  }
}

/** For people: `node "web-1" (id "0f3a", subnet "10.5.34.0-24")`. */
export function holderText({ id, name, subnet }: NodeHolder): string {
  return `node ${shown(name)} (id ${shown(id)}, subnet ${shown(subnet)})`;
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** On one line and of bounded length, whatever a store holds. */
function shown(text: string): string {
  return JSON.stringify(text.slice(0, 128));
}
