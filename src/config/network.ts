import { FlannelError } from "../base/error.ts";
import { asGoObject, type GoObject, parseGoObject } from "../base/go-json.ts";
import type { Json } from "../lease/lease.ts";
import { type Family, familyBits, type IpAddress, tryParseIpAddress } from "../net/address.ts";
import { Prefix, tryParsePrefix } from "../net/prefix.ts";

/** flannel's network configuration (net-conf JSON): what every node of one overlay agrees on. */
export interface NetworkConfig {
  /** Absent where the family is disabled. */
  readonly ipv4?: NetworkRange;
  readonly ipv6?: NetworkRange;
  readonly backend: BackendConfig;
  readonly enableNftables: boolean;
}

/** One family's network and the subnets it is cut into. */
export interface NetworkRange {
  readonly network: Prefix;
  /** Prefix length of a node's subnet. */
  readonly subnetLength: number;
  /** Network addresses of the first and the last subnet that may be leased. */
  readonly subnetMin: IpAddress;
  readonly subnetMax: IpAddress;
}

export interface BackendConfig {
  /** Lower case; `udp` where the document has no Backend, as in flannel's code. */
  readonly type: string;
  /** All members of the Backend object but Type; keys as written (they match case-insensitively). */
  readonly options: Readonly<Record<string, Json>>;
}

/** Longest document read; a real one has some hundred bytes. */
const documentBytesMax = 64 * 1024;

/**
 * Parses the document that an etcd-like store holds, with flannel's defaults, checks and error texts
 * (flannel's etcd mode: pkg/subnet/config.go). Member names match case-insensitively, unknown ones are ignored.
 * @throws FlannelError `network/invalid`
 */
export function parseNetworkConfig(document: string): NetworkConfig {
  const members = parseDocument(document);
  const enableIPv4 = boolean(members, "EnableIPv4", true);
  const enableIPv6 = boolean(members, "EnableIPv6", false);
  const enableNftables = boolean(members, "EnableNFTables", false);
  // Types are checked for both families, also for one that is disabled, as Go's decoder does.
  const given = { ipv4: givenRange(members, rules.ipv4), ipv6: givenRange(members, rules.ipv6) };
  const backend = parseBackend(members.get("Backend"));
  return {
    ...(enableIPv4 ? { ipv4: completeRange(given.ipv4, rules.ipv4) } : {}),
    ...(enableIPv6 ? { ipv6: completeRange(given.ipv6, rules.ipv6) } : {}),
    backend,
    enableNftables,
  };
}

/** What differs between the families: names of members, and the bounds of their lengths. */
interface FamilyRules {
  readonly family: Family;
  readonly network: string;
  readonly subnetLength: string;
  readonly subnetMin: string;
  readonly subnetMax: string;
  /** How flannel names the network in the text about one that is too small. */
  readonly tooSmall: string;
  readonly subnetLengthMax: number;
  readonly networkLengthMax: number;
  readonly usualLength: number;
}

const rules: Record<"ipv4" | "ipv6", FamilyRules> = {
  ipv4: {
    family: 4,
    network: "Network",
    subnetLength: "SubnetLen",
    subnetMin: "SubnetMin",
    subnetMax: "SubnetMax",
    tooSmall: "network",
    subnetLengthMax: 30,
    networkLengthMax: 28,
    usualLength: 24,
  },
  ipv6: {
    family: 6,
    network: "IPv6Network",
    subnetLength: "IPv6SubnetLen",
    subnetMin: "IPv6SubnetMin",
    subnetMax: "IPv6SubnetMax",
    tooSmall: "IPv6Network",
    subnetLengthMax: 126,
    networkLengthMax: 124,
    usualLength: 64,
  },
};

/** The members of one family as they stand in the document; 0 and the zero address count as absent. */
interface GivenRange {
  readonly network: Prefix | undefined;
  readonly subnetLength: number;
  readonly subnetMin: IpAddress | undefined;
  readonly subnetMax: IpAddress | undefined;
}

function givenRange(members: GoObject, rule: FamilyRules): GivenRange {
  return {
    network: cidr(members, rule),
    subnetLength: unsigned(members, rule.subnetLength),
    subnetMin: address(members, rule.subnetMin, rule.family),
    subnetMax: address(members, rule.subnetMax, rule.family),
  };
}

function completeRange(given: GivenRange, rule: FamilyRules): NetworkRange {
  const { network } = given;
  if (network === undefined || network.family !== rule.family || isUnset(network)) {
    throw invalid(`please define a correct ${rule.network} parameter in the flannel config`);
  }
  const subnetLength = subnetLengthOf(given.subnetLength, network, rule);
  const size = 1n << BigInt(familyBits(rule.family) - subnetLength);
  // The first subnet is skipped by default: its network address would be that of the whole overlay.
  const subnetMin = given.subnetMin ?? network.address.plus(size);
  const subnetMax = given.subnetMax ?? network.last.plus(1n - size);
  const bounds = [
    [rule.subnetMin, subnetMin],
    [rule.subnetMax, subnetMax],
  ] as const;
  for (const [name, bound] of bounds)
    if (!network.contains(bound)) throw invalid(`${name} is not in the range of the ${rule.network}`);
  for (const [name, bound] of bounds)
    if (!new Prefix(bound, subnetLength).address.equals(bound)) {
      throw invalid(`${name} is not on a SubnetLen boundary: ${bound}`);
    }
  return { network, subnetLength, subnetMin, subnetMax };
}

function subnetLengthOf(given: number, network: Prefix, rule: FamilyRules): number {
  if (given > 0) {
    if (given > rule.subnetLengthMax) {
      throw invalid(`SubnetLen must be less than /${rule.subnetLengthMax + 1}`);
    }
    if (given < network.length + 2)
      throw invalid("network must be able to accommodate at least four subnets");
    return given;
  }
  if (network.length > rule.networkLengthMax) {
    throw invalid(
      `${rule.tooSmall} is too small. Minimum useful network prefix is /${rule.networkLengthMax}`,
    );
  }
  return Math.max(rule.usualLength, network.length + 2);
}

function parseBackend(value: unknown): BackendConfig {
  if (value === undefined) return { type: "udp", options: {} };
  if (value === null) return { type: "", options: {} };
  const members = asGoObject(value);
  if (members === undefined) throw invalid("error decoding Backend property of config: not an object");
  const type = members.get("Type") ?? "";
  if (typeof type !== "string") {
    throw invalid("error decoding Backend property of config: Type is not a string");
  }
  return { type: type.toLowerCase(), options: members.without("Type") as Record<string, Json> };
}

function parseDocument(document: string): GoObject {
  if (document.length > documentBytesMax) throw invalid(`longer than ${documentBytesMax} bytes`);
  try {
    return parseGoObject(document);
  } catch (error) {
    throw invalid(error instanceof Error ? error.message : "not JSON");
  }
}

function boolean(members: GoObject, name: string, absent: boolean): boolean {
  const value = members.get(name) ?? absent;
  if (typeof value !== "boolean") throw invalid(`${name} is not true or false`, value);
  return value;
}

function unsigned(members: GoObject, name: string): number {
  const value = members.get(name) ?? 0;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw invalid(`${name} is not a whole number`, value);
  }
  return value;
}

/** The network; undefined where the member is absent. A null is an invalid address, as in flannel. */
function cidr(members: GoObject, { network: name, family }: FamilyRules): Prefix | undefined {
  const value = members.get(name);
  if (value === undefined) return undefined;
  const prefix = typeof value === "string" ? tryParsePrefix(value) : undefined;
  if (prefix === undefined) throw invalid(`invalid CIDR address: ${shown(value)}`);
  if (family === 4 && prefix.family !== 4) throw invalid("invalid IPv4 CIDR format", value);
  return prefix;
}

function address(members: GoObject, name: string, family: Family): IpAddress | undefined {
  const value = members.get(name);
  if (value === undefined || (value === null && family === 6)) return undefined;
  const parsed = typeof value === "string" ? tryParseIpAddress(value) : undefined;
  if (parsed === undefined || (family === 4 && parsed.family !== 4)) {
    throw invalid(`${name}: invalid IP address format`, value);
  }
  return parsed.value === 0n ? undefined : parsed;
}

function isUnset(prefix: Prefix): boolean {
  return prefix.length === 0 && prefix.address.value === 0n;
}

function invalid(text: string, value?: unknown): FlannelError {
  return new FlannelError("network/invalid", text, value === undefined ? {} : { value: shown(value) });
}

function shown(value: unknown): string {
  return (typeof value === "string" ? value : JSON.stringify(value)).slice(0, 64);
}
