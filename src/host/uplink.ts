import { errorText } from "../base/error.ts";
import { goRegExp } from "../config/go-regexp.ts";
import type { Config } from "../config/schema.ts";
import type { Kernel } from "../native/ports.ts";
import { type ChosenUplink, decideUplink, type HostView, type UplinkChoice } from "./uplink-decision.ts";

/** The choice that a configuration's `[uplink]` makes. */
export function uplinkChoice({
  uplink: { interface: interfaces, interfaceRegex, canReach, publicIp, publicIpv6 },
  store: { type },
}: Pick<Config, "uplink" | "store">): UplinkChoice {
  return {
    interfaces: interfaces.map(String),
    patterns: interfaceRegex.map((text) => goRegExp(text)).filter((pattern) => pattern !== undefined),
    // Others name nodes by their IPv4 address.
    ipv6Alone: type === "kubernetes",
    ...(canReach === undefined ? {} : { canReach }),
    ...(publicIp === undefined ? {} : { publicIp }),
    ...(publicIpv6 === undefined ? {} : { publicIpv6 }),
  };
}

/**
 * Looks at the host and decides; see {@link decideUplink}. Changes nothing and needs no privilege.
 * @throws FlannelError `uplink/not-found`, `uplink/no-address`, or of the native addon
 */
export async function chooseUplink(kernel: Kernel, choice: UplinkChoice): Promise<ChosenUplink> {
  return decideUplink(await observeHost(kernel, choice), choice);
}

async function observeHost(kernel: Kernel, { canReach }: UplinkChoice): Promise<HostView> {
  const links = await kernel.links();
  const addresses = await kernel.addresses();
  const routes = await kernel.routes();
  if (canReach === undefined) return { links, addresses, routes };
  const reach = await kernel.routeTo(`${canReach}`).catch((error: unknown) => errorText(error));
  return { links, addresses, routes, reach };
}

/** How many of the things passed over are told; a host may have hundreds of interfaces. */
const passedOverMax = 16;

/** What was passed over, a line each. */
export function passedOverLines({ passedOver }: ChosenUplink): string[] {
  const lines = passedOver.slice(0, passedOverMax).map(({ candidate, reason }) => `${candidate}: ${reason}`);
  const left = passedOver.length - lines.length;
  return left > 0 ? [...lines, `and ${left} more`] : lines;
}
