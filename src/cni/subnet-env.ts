import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { tryParsePrefix } from "../net/prefix.ts";
import { CniError, cniErrors } from "./error.ts";

/** What the daemon tells about this host; networks and subnets as canonical CIDRs. */
export interface SubnetEnv {
  readonly ipv4: FamilyEnv;
  readonly ipv6: FamilyEnv;
  readonly mtuBytes: number;
  /** Whether the daemon masquerades. */
  readonly ipMasq: boolean;
}

export interface FamilyEnv {
  /** The overlay's, each once. */
  readonly networks: readonly string[];
  /** This host's. */
  readonly subnet: string | undefined;
}

/** A file larger than this is none that a daemon wrote. */
const bytesMax = 64 * 1024;

/** Beside subnet.env, while there is none: why the daemon has not written it, one line. */
const reasonSuffix = ".reason";

const nobodyWrote =
  "No flannel daemon has written it since the host started: see that one runs (flannel-lite status; journalctl -u flannel-lite), and that its host.subnet_file is this file";
const wroteNoDaemon = "Remove it, and see that a flannel daemon writes it anew";

/**
 * @throws CniError 999 where the file cannot be read or understood; where there is none and the daemon says why,
 * 11 (try again later) with its reason
 */
export function readSubnetEnv(path: string): SubnetEnv {
  const failed = "failed to load flannel 'subnet.env' file:";
  let text: string;
  try {
    text = readBounded(path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const isMissing = code === "ENOENT";
    const said = isMissing ? readReason(path) : undefined;
    throw new CniError(
      said === undefined ? cniErrors.other : cniErrors.tryAgainLater,
      `${failed} open ${path}: ${isMissing ? "no such file or directory" : message}. Check the flannel pod log for this node.`,
      said !== undefined ? `flannel-lite says: ${said}` : isMissing ? nobodyWrote : wroteNoDaemon,
    );
  }
  try {
    return parseSubnetEnv(text, path);
  } catch (error) {
    if (!(error instanceof CniError)) throw error;
    throw new CniError(error.code, `${failed} ${error.message}. Check the flannel pod log for this node.`);
  }
}

/**
 * Reads the lines as the stock plugin does: split at the first `=`, no quotes, no comments, unknown keys ignored.
 * @throws CniError 999
 */
export function parseSubnetEnv(text: string, path: string): SubnetEnv {
  const values = new Map(
    text.split("\n").flatMap((line) => {
      const equals = line.indexOf("=");
      return equals < 0 ? [] : [[line.slice(0, equals), line.slice(equals + 1)] as const];
    }),
  );
  const family = (version: 4 | 6, prefix: string): FamilyEnv => {
    const cidr = (key: string) => (one: string) => parseCidr(one, version, `${path}: ${key}`);
    const networks =
      values
        .get(`${prefix}NETWORK`)
        ?.split(",")
        .map(cidr(`${prefix}NETWORK`)) ?? [];
    const subnet = values.get(`${prefix}SUBNET`);
    return {
      networks: [...new Set(networks)],
      subnet: subnet === undefined ? undefined : cidr(`${prefix}SUBNET`)(subnet),
    };
  };
  const [ipv4, ipv6] = [family(4, "FLANNEL_"), family(6, "FLANNEL_IPV6_")];
  const mtu = values.get("FLANNEL_MTU");
  const ipMasq = values.get("FLANNEL_IPMASQ");
  const missing = [
    ...(ipv4.networks.length + ipv6.networks.length === 0 ? ["FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK"] : []),
    ...((ipv4.subnet ?? ipv6.subnet) === undefined ? ["FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET"] : []),
    ...(mtu === undefined ? ["FLANNEL_MTU"] : []),
    ...(ipMasq === undefined ? ["FLANNEL_IPMASQ"] : []),
  ];
  if (mtu === undefined || ipMasq === undefined || missing.length > 0)
    throw new CniError(cniErrors.other, `${path} is missing ${missing.join(", ")}`);
  // The kernel knows no MTU above 65,535 on a pod's interface.
  if (!/^\d{1,5}$/.test(mtu) || Number(mtu) > 65_535)
    throw new CniError(cniErrors.other, `${path}: FLANNEL_MTU is no MTU: ${quoted(mtu)}`);
  return { ipv4, ipv6, mtuBytes: Number(mtu), ipMasq: ipMasq === "true" };
}

function parseCidr(text: string, family: 4 | 6, where: string): string {
  const prefix = tryParsePrefix(text);
  if (prefix?.family === family) return `${prefix}`;
  throw new CniError(cniErrors.other, `${where} has no IPv${family} CIDR: ${quoted(text)}`);
}

/** Undefined where nobody says anything. */
function readReason(path: string): string | undefined {
  try {
    const text = readBounded(`${path}${reasonSuffix}`).split("\n")[0]?.slice(0, 2_000).trim();
    return text === "" ? undefined : text;
  } catch {
    return undefined;
  }
}

/** A regular file only: a pipe would be waited for, and a device has no end. */
function readBounded(path: string): string {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stat = fstatSync(descriptor);
    if (!stat.isFile()) throw new Error("it is no regular file");
    if (stat.size > bytesMax) throw new Error(`it is larger than ${bytesMax} bytes`);
    const buffer = Buffer.alloc(bytesMax);
    let length = 0;
    for (let count = -1; count !== 0 && length < bytesMax;)
      length += count = readSync(descriptor, buffer, length, bytesMax - length, null);
    return buffer.toString("utf8", 0, length);
  } finally {
    closeSync(descriptor);
  }
}

function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 100));
}
