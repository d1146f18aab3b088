import type { CniConfig, JsonObject } from "./config.ts";
import { CniError, cniErrors } from "./error.ts";
import type { SubnetEnv } from "./subnet-env.ts";

/** The configuration of the plugin that does the work: what stands in `delegate`, and what this host adds. Pure. */
export function delegateConfig(config: CniConfig, env: SubnetEnv): JsonObject {
  const { delegate } = config;
  for (const key of ["name", "ipam"]) {
    if (Object.hasOwn(delegate, key))
      throw other(`'delegate' dictionary must not have '${key}' field, it'll be set by flannel`);
  }
  const type = Object.hasOwn(delegate, "type") ? delegate["type"] : "bridge";
  if (typeof type !== "string")
    throw other("'delegate' dictionary, if present, must have (string) 'type' field");
  return {
    // Who masquerades is one of the two: the daemon, or the bridge.
    ipMasq: !env.ipMasq,
    mtu: env.mtuBytes,
    ...(type === "bridge" && { isGateway: true }),
    ...delegate,
    name: config.name,
    type,
    ...(config.cniVersion !== "" && { cniVersion: config.cniVersion }),
    ...(config.runtimeConfig && { runtimeConfig: config.runtimeConfig }),
    ipam: ipamConfig(config.ipam, env),
  };
}

function ipamConfig(ipam: JsonObject, { ipv4, ipv6 }: SubnetEnv): JsonObject {
  const { routes = [] } = ipam;
  if (!Array.isArray(routes)) throw new CniError(cniErrors.invalidConfig, "ipam.routes is not a list");
  const subnets = [ipv4.subnet, ipv6.subnet].filter((subnet) => subnet !== undefined);
  return {
    type: "host-local",
    ...ipam,
    ranges: subnets.map((subnet) => [{ subnet }]),
    routes: [...(routes as unknown[]), ...[...ipv4.networks, ...ipv6.networks].map((dst) => ({ dst }))],
  };
}

/** JSON with the members of every object in the order of their names, as Go writes a map. */
export function sortedJson(value: unknown): string {
  return JSON.stringify(value, (_key, member: unknown) =>
    typeof member === "object" && member !== null && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
      : member,
  );
}

function other(message: string): CniError {
  return new CniError(cniErrors.other, message);
}
