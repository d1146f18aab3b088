import { createHash } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../base/atomic-file.ts";
import { FlannelError } from "../base/error.ts";
import type { NetworkConfig } from "../config/network.ts";
import type { LeaseSubnets } from "../lease/lease.ts";
import { type Prefix, tryParsePrefix } from "../net/prefix.ts";
import { envFileBytesMax, envFileValues } from "./env-file.ts";
import { clearStartReason } from "./start-reason.ts";

/** What subnet.env tells Docker, the CNI plugin and our own next start. */
export interface SubnetEnv {
  readonly network: Pick<NetworkConfig, "ipv4" | "ipv6">;
  readonly subnets: LeaseSubnets;
  readonly mtuBytes: number;
  readonly ipMasq: boolean;
}

/** flannel's lines in flannel's order; `*_SUBNET` carries the first usable address with the subnet's length. */
export function subnetEnvText({ network, subnets, mtuBytes, ipMasq }: SubnetEnv): string {
  const lines: string[] = [];
  if (network.ipv4 !== undefined && subnets.ipv4 !== undefined) {
    lines.push(`FLANNEL_NETWORK=${network.ipv4.network}`, `FLANNEL_SUBNET=${firstUsable(subnets.ipv4)}`);
  }
  if (network.ipv6 !== undefined && subnets.ipv6 !== undefined) {
    lines.push(
      `FLANNEL_IPV6_NETWORK=${network.ipv6.network}`,
      `FLANNEL_IPV6_SUBNET=${firstUsable(subnets.ipv6)}`,
    );
  }
  lines.push(`FLANNEL_MTU=${mtuBytes}`, `FLANNEL_IPMASQ=${ipMasq}`);
  return `${lines.join("\n")}\n`;
}

/** Where subnet.env goes, and where it is remembered that it is ours. */
export interface SubnetEnvPaths {
  readonly subnetFile: string;
  readonly stateDir: string;
}

/** @throws FlannelError `host/subnet-file` */
export function writeSubnetEnv({ subnetFile, stateDir }: SubnetEnvPaths, content: SubnetEnv): void {
  const text = subnetEnvText(content);
  try {
    writeFileAtomic(recordPath(stateDir, subnetFile), digest(text), { mode: 0o600, directoryMode: 0o700 });
    writeFileAtomic(subnetFile, text, { mode: 0o644, directoryMode: 0o755 });
    clearStartReason(subnetFile);
  } catch (error) {
    throw new FlannelError(
      "host/subnet-file",
      `cannot write ${subnetFile} and its record below ${stateDir}`,
      {},
      {
        cause: error,
        remedy: "Make both directories writable, or choose others with host.subnet_file and host.state_dir",
      },
    );
  }
}

/** Removes the file if it is as we wrote it. Tells whether it did. */
export function removeOwnSubnetEnv({ subnetFile, stateDir }: SubnetEnvPaths): boolean {
  const ours = isOwnSubnetEnv({ subnetFile, stateDir });
  if (ours) rmSync(subnetFile, { force: true });
  rmSync(recordPath(stateDir, subnetFile), { force: true });
  clearStartReason(subnetFile);
  return ours;
}

function recordPath(stateDir: string, subnetFile: string): string {
  return join(stateDir, `subnet-file-${digest(subnetFile).slice(0, 16)}`);
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").slice(0, envFileBytesMax);
  } catch {
    return undefined;
  }
}

/**
 * The subnets the file names, reduced to their networks: what this node held last time. A missing file, and
 * values that are no single CIDR, count as absent.
 */
export function readSubnetEnv(path: string): LeaseSubnets {
  const text = readText(path);
  return text === undefined ? {} : parseSubnetEnv(text);
}

/** As a shell would read it: comments, `export`, quotes and CRLF are accepted. */
export function parseSubnetEnv(text: string): LeaseSubnets {
  const values = envFileValues(text);
  const ipv4 = singleSubnet(values.get("FLANNEL_SUBNET"), 4);
  const ipv6 = singleSubnet(values.get("FLANNEL_IPV6_SUBNET"), 6);
  return { ...(ipv4 === undefined ? {} : { ipv4 }), ...(ipv6 === undefined ? {} : { ipv6 }) };
}

/** The overlay networks that the file names, by which rules of the run before are known. */
export function readSubnetEnvNetworks(path: string): Prefix[] {
  const values = envFileValues(readText(path) ?? "");
  const ipv4 = singleSubnet(values.get("FLANNEL_NETWORK"), 4);
  const ipv6 = singleSubnet(values.get("FLANNEL_IPV6_NETWORK"), 6);
  return [ipv4, ipv6].filter((network) => network !== undefined);
}

/** Whether the file is there as we wrote it. */
export function isOwnSubnetEnv({ subnetFile, stateDir }: SubnetEnvPaths): boolean {
  const written = readText(recordPath(stateDir, subnetFile));
  const present = readText(subnetFile);
  return written !== undefined && present !== undefined && digest(present) === written;
}

function singleSubnet(value: string | undefined, family: 4 | 6): Prefix | undefined {
  const subnets = (value ?? "")
    .split(",")
    .map((part) => tryParsePrefix(part.trim()))
    .filter((subnet) => subnet?.family === family);
  return subnets.length === 1 ? subnets[0] : undefined;
}

function firstUsable(subnet: Prefix): string {
  return `${subnet.address.plus(1)}/${subnet.length}`;
}
