import { FlannelError } from "../../base/error.ts";
import { parseGoObject } from "../../base/go-json.ts";
import type { NetworkConfig } from "../../config/network.ts";
import {
  type Json,
  type Lease,
  type LeaseAttributes,
  type LeaseSubnets,
  subnetsOf,
} from "../../lease/lease.ts";
import { type IpAddress, tryParseIpAddress } from "../../net/address.ts";
import { type Prefix, tryParsePrefix } from "../../net/prefix.ts";
import type { KubeNode } from "./node.ts";

/** flannel's node annotations by their whole names. */
export interface AnnotationNames {
  /** What all of them begin with. */
  readonly prefix: string;
  readonly managed: string;
  readonly backendType: string;
  readonly backendData: string;
  readonly backendV6Data: string;
  readonly publicIp: string;
  readonly publicIpv6: string;
  readonly publicIpOverwrite: string;
  readonly publicIpv6Overwrite: string;
  readonly nodePublicIp: string;
  readonly nodePublicIpv6: string;
}

/**
 * The names below `-kube-annotation-prefix`, completed and checked as flannel does (pkg/subnet/kube/annotations.go).
 * @throws FlannelError `config/invalid` with flannel's texts
 */
export function annotationNames(given: string): AnnotationNames {
  const parts = given.split("/").length;
  if (parts > 2) throw invalid("subnet/kube: prefix can contain at most single slash");
  const slashed = parts === 1 ? `${given}/` : given;
  const prefix = /[/-]$/.test(slashed) ? slashed : `${slashed}-`;
  if (!/^(?:[a-z0-9_-]+\.)+[a-z0-9_-]+\/(?:[a-z0-9_-]+-)?$/.test(prefix))
    throw invalid("subnet/kube: prefix must be in a format: fqdn/[0-9a-z-_]*");
  return {
    prefix,
    managed: `${prefix}kube-subnet-manager`,
    backendType: `${prefix}backend-type`,
    backendData: `${prefix}backend-data`,
    backendV6Data: `${prefix}backend-v6-data`,
    publicIp: `${prefix}public-ip`,
    publicIpv6: `${prefix}public-ipv6`,
    publicIpOverwrite: `${prefix}public-ip-overwrite`,
    publicIpv6Overwrite: `${prefix}public-ipv6-overwrite`,
    nodePublicIp: `${prefix}node-public-ip`,
    nodePublicIpv6: `${prefix}node-public-ipv6`,
  };
}

/** Longest annotation that is read; Kubernetes allows 256 KiB for all of a node's. */
const valueLengthMax = 64 * 1024;

/** Longest name of a backend that is read. */
const typeLengthMax = 64;

/** The families that count are those with a member. */
export interface Families {
  readonly ipv4?: unknown;
  readonly ipv6?: unknown;
}

/** What a node's annotations and pod CIDRs say. */
export type NodeReading =
  | { readonly kind: "lease"; readonly lease: Lease }
  /** Its annotation `kube-subnet-manager` is not `"true"`: no flannel runs there. */
  | { readonly kind: "unmanaged" }
  /** flannel runs there, but what it says cannot be used. */
  | { readonly kind: "unreadable"; readonly reason: string };

/**
 * The lease of a node, with those of its pod CIDRs whose family counts: all where `families` is not known.
 * Never throws, whoever wrote the annotations.
 */
export function readNode(
  node: KubeNode,
  names: AnnotationNames,
  families: Families | undefined,
): NodeReading {
  if (node.annotations.get(names.managed) !== "true") return { kind: "unmanaged" };
  try {
    const subnets = nodeSubnets(node, families);
    const attributes = readAttributes(node.annotations, names);
    return { kind: "lease", lease: { subnets, attributes, expiresAt: undefined } };
  } catch (error) {
    return { kind: "unreadable", reason: error instanceof Error ? error.message : String(error) };
  }
}

/**
 * A node's pod CIDRs as a lease's subnets, those of the network's families.
 * @throws FlannelError `lease/pod-cidr` (retryable) where there is none yet, too many, or none that can be read
 */
export function nodeSubnets({ name, podCidrs }: KubeNode, families: Families | undefined): LeaseSubnets {
  const refuse = (text: string) =>
    new FlannelError(
      "lease/pod-cidr",
      `node ${JSON.stringify(name)} ${text}`,
      {},
      {
        retryable: true,
        remedy:
          "Let the controller manager give pod CIDRs to nodes (--allocate-node-cidrs, --cluster-cidr), or set the node's",
      },
    );
  if (podCidrs.length === 0) throw refuse("pod cidr not assigned");
  if (podCidrs.length > 2) throw refuse("pod cidrs should be IPv4/IPv6 only or dualstack");
  const parsed = podCidrs.map((text) => {
    const prefix = tryParsePrefix(text);
    if (prefix === undefined) throw refuse(`pod cidr ${JSON.stringify(text.slice(0, 64))} is no CIDR`);
    return prefix;
  });
  const ofFamily = (family: 4 | 6, member: "ipv4" | "ipv6"): Prefix | undefined =>
    families !== undefined && families[member] === undefined
      ? undefined
      : parsed.findLast((prefix) => prefix.family === family);
  const [ipv4, ipv6] = [ofFamily(4, "ipv4"), ofFamily(6, "ipv6")];
  if (ipv4 === undefined && ipv6 === undefined)
    throw refuse(`pod cidr ${podCidrs.join()} is of no family that the network has`);
  return { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) };
}

/** The first of the subnets that the network does not contain, with flannel's text about it. */
export function outsideNetwork(
  subnets: LeaseSubnets,
  network: Pick<NetworkConfig, "ipv4" | "ipv6">,
  nodeName: string,
): string | undefined {
  for (const subnet of subnetsOf(subnets)) {
    const range = (subnet.family === 4 ? network.ipv4 : network.ipv6)?.network;
    if (range?.contains(subnet) === true) continue;
    const kind = subnet.family === 4 ? "PodCIDR" : "IPv6 PodCIDR";
    return `subnet "${range ?? "<nil>"}" specified in the flannel net config doesn't contain "${subnet}" ${kind} of the "${nodeName}" node`;
  }
  return undefined;
}

function readAttributes(annotations: KubeNode["annotations"], names: AnnotationNames): LeaseAttributes {
  const publicIp = readAddress(annotations, names.publicIp, 4);
  const publicIpv6 = readAddress(annotations, names.publicIpv6, 6);
  if (publicIp === undefined && publicIpv6 === undefined) throw new Error("it has no public IP");
  const backendType = annotations.get(names.backendType) ?? "";
  if (backendType.length > typeLengthMax) throw new Error(`${names.backendType} is too long`);
  const backendData = readData(annotations, names.backendData);
  const backendV6Data = readData(annotations, names.backendV6Data);
  return {
    ...(publicIp && { publicIp }),
    ...(publicIpv6 && { publicIpv6 }),
    backendType,
    ...(backendData === undefined ? {} : { backendData }),
    ...(backendV6Data === undefined ? {} : { backendV6Data }),
  };
}

/** Undefined where it is absent or the zero address, which stands for none. */
function readAddress(
  annotations: KubeNode["annotations"],
  name: string,
  family: 4 | 6,
): IpAddress | undefined {
  const text = annotations.get(name);
  if (text === undefined || text === "") return undefined;
  const address = tryParseIpAddress(text);
  if (address?.family !== family) throw new Error(`${name} is no IPv${family} address`);
  return address.value === 0n ? undefined : address;
}

/** JSON text; `null`, the empty text and no annotation all mean that the backend has no data. */
function readData(annotations: KubeNode["annotations"], name: string): Json | undefined {
  const text = annotations.get(name) ?? "";
  if (text === "") return undefined;
  if (text.length > valueLengthMax) throw new Error(`${name} is too long`);
  try {
    JSON.parse(text);
    // Only what is one value by itself gets here: the wrapping bounds how deep it is nested.
    return (parseGoObject(`{"data":${text}}`).get("data") as Json | null) ?? undefined;
  } catch {
    throw new Error(`${name} is not JSON`);
  }
}

/**
 * The annotations that publish a lease, as flannel writes them; null for one that must not be there, which is left
 * by a backend of another family.
 */
export function encodeAnnotations(
  { publicIp, publicIpv6, backendType, backendData, backendV6Data }: LeaseAttributes,
  names: AnnotationNames,
): ReadonlyMap<string, string | null> {
  const hasV6 = publicIpv6 !== undefined || backendV6Data !== undefined;
  // Of flannel's backends only vxlan leaves IPv4's out where it has no device for it.
  const hasV4 = backendType !== "vxlan" || publicIp !== undefined || backendData !== undefined;
  return new Map<string, string | null>([
    [names.managed, "true"],
    [names.backendType, backendType],
    [names.backendData, hasV4 ? JSON.stringify(backendData ?? null) : null],
    [names.publicIp, hasV4 ? (publicIp?.toString() ?? "0.0.0.0") : null],
    [names.backendV6Data, hasV6 ? JSON.stringify(backendV6Data ?? null) : null],
    [names.publicIpv6, hasV6 ? (publicIpv6?.toString() ?? "::") : null],
  ]);
}

/** The annotations that must be absent for a node to publish nothing. */
export function noAnnotations(names: AnnotationNames): ReadonlyMap<string, null> {
  const { managed, backendType, backendData, backendV6Data, publicIp, publicIpv6 } = names;
  const all = [managed, backendType, backendData, backendV6Data, publicIp, publicIpv6];
  return new Map(all.map((name) => [name, null]));
}

/** The strategic merge patch from what stands there to what shall; undefined where nothing differs. */
export function annotationPatch(
  present: KubeNode["annotations"],
  wanted: ReadonlyMap<string, string | null>,
): object | undefined {
  const changed = [...wanted].filter(([name, value]) => (present.get(name) ?? null) !== value);
  return changed.length === 0 ? undefined : { metadata: { annotations: Object.fromEntries(changed) } };
}

/** The patch by which flannel says that the node's network works. */
export function networkAvailablePatch(now: Date): object {
  const time = `${now.toISOString().slice(0, 19)}Z`; // as Go's metav1.Time, in whole seconds
  return {
    status: {
      conditions: [
        {
          type: "NetworkUnavailable",
          status: "False",
          lastHeartbeatTime: time,
          lastTransitionTime: time,
          reason: "FlannelIsUp",
          message: "Flannel is running on this node",
        },
      ],
    },
  };
}

/** Addresses that a node's annotations name for it, as if `-public-ip` and `-public-ipv6` gave them. */
export interface NodeAddresses {
  readonly publicIp?: IpAddress;
  readonly publicIpv6?: IpAddress;
}

/** @throws FlannelError `lease/annotation` (retryable) for what is no address */
export function nodeAddresses(annotations: KubeNode["annotations"], names: AnnotationNames): NodeAddresses {
  const publicIp = orderedAddress(annotations, names.nodePublicIp, 4);
  const publicIpv6 = orderedAddress(annotations, names.nodePublicIpv6, 6);
  return { ...(publicIp && { publicIp }), ...(publicIpv6 && { publicIpv6 }) };
}

/**
 * The addresses that a node publishes in place of its own.
 * @throws FlannelError `lease/annotation` (retryable) for what is no address
 */
export function addressOverwrites(
  annotations: KubeNode["annotations"],
  names: AnnotationNames,
): NodeAddresses {
  const publicIp = orderedAddress(annotations, names.publicIpOverwrite, 4);
  const publicIpv6 = orderedAddress(annotations, names.publicIpv6Overwrite, 6);
  return { ...(publicIp && { publicIp }), ...(publicIpv6 && { publicIpv6 }) };
}

/**
 * What a node publishes where its annotations overwrite its addresses.
 * @throws FlannelError `lease/annotation` (retryable) for an overwrite that is no address
 */
export function overwritten(
  attributes: LeaseAttributes,
  annotations: KubeNode["annotations"],
  names: AnnotationNames,
): LeaseAttributes {
  const { publicIp, publicIpv6 } = {
    ...nodeAddresses(annotations, names),
    ...addressOverwrites(annotations, names),
  };
  return {
    ...attributes,
    ...(publicIp && { publicIp }),
    // A backend that publishes no IPv6 address has no use for one.
    ...(publicIpv6 && attributes.publicIpv6 && { publicIpv6 }),
  };
}

function orderedAddress(
  annotations: KubeNode["annotations"],
  name: string,
  family: 4 | 6,
): IpAddress | undefined {
  try {
    return readAddress(annotations, name, family);
  } catch (error) {
    throw new FlannelError(
      "lease/annotation",
      error instanceof Error ? error.message : String(error),
      { value: (annotations.get(name) ?? "").slice(0, 64) },
      { retryable: true, remedy: "Correct or remove the annotation of this node" },
    );
  }
}

function invalid(message: string): FlannelError {
  return new FlannelError("config/invalid", message, {}, { exitCode: 2 });
}
