import { compareSubnets } from "../backend/peers.ts";
import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { silentLog } from "../base/log.ts";
import type { CommandFlag, Loaded } from "../config/load.ts";
import { type NetworkConfig, parseNetworkConfig } from "../config/network.ts";
import type { Config } from "../config/schema.ts";
import { readIdentity } from "../host/identity.ts";
import { type Json, type LeaseAttributes, type LeaseSubnets, leaseKey, subnetsOf } from "../lease/lease.ts";
import { type ReservationProblem, reservationProblem } from "../lease/reservation.ts";
import { tryParseIpAddress } from "../net/address.ts";
import { parseMac } from "../net/mac.ts";
import { type Prefix, tryParsePrefix } from "../net/prefix.ts";
import { openStoreOperator, ownHolderId } from "../store/open.ts";
import type { StoredLease, StoreOperator } from "../store/operator.ts";
import { type CommandInput, isJson, jsonFlag, usage } from "./command.ts";
import { tableText } from "./table-text.ts";

export const leasesWords = "list (the default), reserve SUBNET or release SUBNET";

export const leasesFlags: readonly CommandFlag[] = [
  jsonFlag,
  { name: "public-ip", isBool: false, doc: "reserve: where the others send packets for the subnet." },
  { name: "vtep-mac", isBool: false, doc: "reserve: MAC of the gateway's tunnel; needed with vxlan." },
  { name: "backend-type", isBool: false, doc: "reserve: the network's, unless it is given." },
  { name: "backend-data", isBool: false, doc: "reserve: JSON to publish, in place of -vtep-mac." },
  { name: "force", isBool: true, doc: "release: also the lease of a node that is alive." },
];

/** @throws FlannelError `config/invalid` (exit code 2) for the words and flags; `lease/…` for refusals */
export async function leases({ loaded, words, stop }: CommandInput): Promise<string> {
  const { config, commandFlags } = loaded;
  const [action = "list", subnetText, ...rest] = words;
  const json = isJson(loaded);
  const force = commandFlags.get("force") === "true";
  if (!["list", "reserve", "release"].includes(action))
    throw usage(`leases takes ${leasesWords}, not ${JSON.stringify(action)}`);
  if (rest.length > 0 || (action === "list" && subnetText !== undefined))
    throw usage(`one word too many: ${JSON.stringify(rest[0] ?? subnetText)}`);
  const subnets = action === "list" ? undefined : parseSubnets(subnetText);
  if (action === "reserve") publishedWith(commandFlags, "vxlan"); // mistakes before etcd is asked
  await using operator = openStoreOperator(config, { log: silentLog, clock: systemClock });
  if (subnets === undefined) return await list(operator, { config, json }, stop);
  if (action === "reserve") return await reserve(operator, { subnets, flags: commandFlags, json }, stop);
  return await release(operator, { subnets, force, json }, stop);
}

/** A lease as `--json` tells it. */
interface LeaseRow {
  readonly subnets: readonly string[];
  readonly publicIp: string | null;
  readonly vtepMac: string | null;
  readonly backendType: string;
  /** ISO 8601; null for a reservation. */
  readonly expiresAt: string | null;
  readonly reservation: boolean;
  readonly own: boolean;
  /** The node that says that it holds it; stock nodes say nothing. */
  readonly node: { readonly id: string; readonly name: string } | null;
  /** Whether nodes can use it: its key is as flannel writes it and its value can be read. */
  readonly readable: boolean;
}

async function list(
  operator: StoreOperator,
  { config, json }: { config: Config; json: boolean },
  stop: AbortSignal,
): Promise<string> {
  const id = ownHolderId(config, process.env) ?? readIdentity(config.host).id;
  const stored = [...(await operator.leases(stop))].sort((a, b) => compareSubnets(a.subnets, b.subnets));
  // In Kubernetes a lease lasts as long as its node: none has a term, and none is a reservation.
  const asNode = config.store.type === "kubernetes" ? { reservation: false } : {};
  const rows = stored.map((lease) => ({ ...rowOf(lease, id), ...asNode }));
  if (json) return `${JSON.stringify({ store: operator.description, leases: rows }, null, 2)}\n`;
  const lines = rows.map((row) => [
    `${row.own ? "*" : " "} ${row.subnets.join(",")}`,
    row.publicIp ?? "-",
    row.vtepMac ?? "-",
    row.backendType === "" ? "-" : row.backendType,
    row.readable ? (row.expiresAt ?? (row.reservation ? "reservation" : "never")) : "cannot be read",
    row.node === null ? "-" : row.node.name,
  ]);
  return `${tableText([["  SUBNET", "PUBLIC IP", "VTEP MAC", "BACKEND", "EXPIRES", "NODE"], ...lines])}# ${rows.length} leases in ${operator.description}; * is ours\n`;
}

function rowOf({ subnets, attributes, expiresAt, holder }: StoredLease, ownId: string): LeaseRow {
  return {
    subnets: subnetsOf(subnets).map(String),
    publicIp: attributes?.publicIp?.toString() ?? null,
    vtepMac: macOf({ attributes }) ?? null,
    backendType: attributes?.backendType.slice(0, 32) ?? "",
    expiresAt: expiresAt?.toISOString() ?? null,
    reservation: expiresAt === undefined,
    own: holder?.id === ownId,
    node: holder === undefined ? null : { id: holder.id, name: holder.name },
    readable: attributes !== undefined,
  };
}

async function reserve(
  operator: StoreOperator,
  { subnets, flags, json }: { subnets: LeaseSubnets; flags: Loaded["commandFlags"]; json: boolean },
  stop: AbortSignal,
): Promise<string> {
  const network = await readNetwork(operator, stop);
  const attributes = publishedWith(flags, network.backend.type);
  const wanted = { subnets, attributes, vtepMac: macOf({ attributes }) };
  const key = leaseKey(subnets);
  const check = (leases: readonly StoredLease[]) => {
    const problem = reservationProblem(network, wanted, leases, macOf);
    if (problem !== undefined) throw refusal(key, problem);
  };
  check(await operator.leases(stop));
  const made = await operator.reserve({ subnets, attributes }, stop);
  const after = await operator.leases(stop);
  const ours = after.find((lease) => leaseKey(lease.subnets) === key);
  if (!made && ours !== undefined) throw refusal(key, { kind: "taken", by: ours });
  if (ours === undefined) throw changed(key);
  try {
    // A node may have drawn a part of it since the first look; its key was there for others to see first.
    check(after.filter((lease) => lease !== ours));
  } catch (error) {
    await operator.remove(ours, stop);
    throw error;
  }
  if (json) return `${JSON.stringify({ reserved: rowOf(ours, "") }, null, 2)}\n`;
  const unused =
    network.backend.type === "vxlan" && wanted.vtepMac === undefined
      ? "# without a VTEP MAC no host has a route to it until its node publishes one\n"
      : "";
  return `reserved ${key} for ${attributes.publicIp}\n${unused}`;
}

async function release(
  operator: StoreOperator,
  { subnets, force, json }: { subnets: LeaseSubnets; force: boolean; json: boolean },
  stop: AbortSignal,
): Promise<string> {
  const stored = await operator.leases(stop);
  const found =
    stored.find((lease) => leaseKey(lease.subnets) === leaseKey(subnets)) ??
    stored.find(
      ({ subnets: { ipv4 } }) =>
        subnets.ipv6 === undefined && ipv4 !== undefined && ipv4.equals(subnets.ipv4),
    );
  if (found === undefined) {
    throw new FlannelError("lease/none", `${operator.description} has no lease ${leaseKey(subnets)}`);
  }
  const key = leaseKey(found.subnets);
  if (!force && (found.expiresAt !== undefined || found.holder !== undefined)) {
    throw new FlannelError(
      "lease/alive",
      `${key} is in use: ${leaseText(found)}`,
      {},
      {
        remedy:
          "A node that is gone loses it by itself at its end. To take it away at once, stop the node and say -force",
      },
    );
  }
  if (!(await operator.remove(found, stop))) throw changed(key);
  if (json) return `${JSON.stringify({ released: rowOf(found, "") }, null, 2)}\n`;
  return `released ${key}: it was ${leaseText(found)}\n`;
}

/** Who has a lease, for people. */
export function leaseText(lease: StoredLease): string {
  const { attributes, expiresAt, holder } = lease;
  const node = holder === undefined ? "a node" : `node ${shown(holder.name)} (id ${shown(holder.id)})`;
  const what = expiresAt === undefined && holder === undefined ? "a reservation" : `the lease of ${node}`;
  const where =
    attributes === undefined
      ? "with a value that cannot be read"
      : `at ${attributes.publicIp ?? "no address"}`;
  const mac = macOf(lease);
  const until = expiresAt === undefined ? "without end" : `until ${expiresAt.toISOString()}`;
  return `${what} ${where}${mac === undefined ? "" : ` with VTEP MAC ${mac}`}, ${until}`;
}

function refusal(key: string, problem: ReservationProblem<StoredLease>): FlannelError {
  if (problem.kind === "outside")
    return new FlannelError(
      "lease/outside",
      `${problem.subnet} is outside of the network, ${problem.network}`,
    );
  const by = `${leaseKey(problem.by.subnets)}, ${leaseText(problem.by)}`;
  if (problem.kind === "taken") return new FlannelError("lease/taken", `${key} overlaps ${by}`);
  if (problem.kind === "same-mac")
    return new FlannelError("lease/taken", `another lease has this VTEP MAC: ${by}`);
  return new FlannelError(
    "lease/taken",
    `a node has this public IP: ${by}`,
    {},
    { remedy: "To keep its subnet for it, put its key again without a term; else stop it and release it" },
  );
}

function changed(key: string): FlannelError {
  return new FlannelError(
    "store/contended",
    `${key} was changed by somebody else just now`,
    {},
    { retryable: true },
  );
}

/** @throws FlannelError `network/absent`, `network/invalid` */
export async function readNetwork(operator: StoreOperator, stop: AbortSignal): Promise<NetworkConfig> {
  const document = await operator.readNetworkConfig(stop);
  if (document !== undefined) return parseNetworkConfig(document);
  throw new FlannelError(
    "network/absent",
    `${operator.description} has no network configuration`,
    {},
    { remedy: "Put one there: flannel-lite network set" },
  );
}

/** What the reservation publishes, by the flags. @throws FlannelError `config/invalid` */
function publishedWith(flags: Loaded["commandFlags"], networkType: string): LeaseAttributes {
  const publicIp = tryParseIpAddress(flags.get("public-ip") ?? "");
  if (publicIp?.family !== 4) throw usage("-public-ip is needed: an IPv4 address");
  const backendType = flags.get("backend-type") ?? networkType;
  if (!/^[a-z0-9-]{0,32}$/.test(backendType)) throw usage("-backend-type is not a backend's name");
  const mac = flags.get("vtep-mac");
  const data = flags.get("backend-data");
  if (mac !== undefined && data !== undefined) throw usage("-vtep-mac and -backend-data exclude each other");
  // As the guides for gateways write it: readers use nothing but the MAC.
  if (mac !== undefined) return { publicIp, backendType, backendData: { VtepMAC: macGiven(mac) } };
  return { publicIp, backendType, ...(data === undefined ? {} : { backendData: jsonGiven(data) }) };
}

function macGiven(text: string): string {
  try {
    return parseMac(text);
  } catch {
    throw usage(`-vtep-mac: not a unicast MAC address: ${shown(text)}`);
  }
}

function jsonGiven(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    throw usage("-backend-data is not JSON");
  }
}

/** `10.5.9.0/24`, a key as in the store, or both families with a comma between. */
function parseSubnets(text: string | undefined): LeaseSubnets {
  if (text === undefined) throw usage("name a subnet, such as 10.5.9.0/24");
  const parsed = text.split(/[,&]/).map((one) => exactPrefix(one.replace(/-(?=\d+$)/, "/")));
  const [ipv4, ipv6] = parsed;
  if (ipv4?.family !== 4 || parsed.length > 2 || (parsed.length === 2 && ipv6?.family !== 6))
    throw usage(`not a subnet such as 10.5.9.0/24 or 10.5.9.0/24,fd00:9::/64: ${shown(text)}`);
  return { ipv4, ...(ipv6 === undefined ? {} : { ipv6 }) };
}

/** Undefined also where host bits are set: it is not clear what is meant. */
function exactPrefix(text: string): Prefix | undefined {
  const prefix = tryParsePrefix(text);
  return prefix?.address.equals(tryParseIpAddress(text.split("/")[0] ?? "")) === true ? prefix : undefined;
}

function macOf({ attributes }: Pick<StoredLease, "attributes">): string | undefined {
  const data = attributes?.backendData;
  const members = typeof data === "object" && data !== null ? Object.entries(data) : [];
  const text: unknown = members.find(([name]) => name.toLowerCase() === "vtepmac")?.[1];
  if (typeof text !== "string") return undefined;
  try {
    return parseMac(text);
  } catch {
    return undefined;
  }
}

/** On one line and of bounded length, whatever a store or a command line holds. */
function shown(text: string): string {
  return JSON.stringify(text.slice(0, 128));
}
