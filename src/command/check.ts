import { isJson } from "./command.ts";
import { systemClock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import { silentLog } from "../base/log.ts";
import type { CommandFlag, Loaded } from "../config/load.ts";
import { type Config, sections, type Setting } from "../config/schema.ts";
import { tomlText } from "../config/toml-text.ts";
import { chooseUplink, passedOverLines, uplinkChoice } from "../host/uplink.ts";
import type { ChosenUplink } from "../host/uplink-decision.ts";
import { openAddon } from "../native/addon.ts";
import type { IpAddress } from "../net/address.ts";
import type { Uplink } from "../net/uplink.ts";
import { lookAtAnnotatedAddresses } from "../store/open.ts";

/** `check` takes these beside the flags of `run`. */
export const checkFlags: readonly CommandFlag[] = [
  {
    name: "json",
    isBool: true,
    doc: "Print one JSON object: path to value and origin, and `uplink`, the interface chosen here.",
  },
];

/** The uplink that a start would choose now, or why that cannot be told. */
export type UplinkAnswer = SeenUplink | { readonly trouble: string };

/** With what this node's annotations in Kubernetes say of it, where leases are there. */
interface SeenUplink extends ChosenUplink {
  /** What is published in place of its addresses. */
  readonly overwrites?: { readonly publicIp?: IpAddress; readonly publicIpv6?: IpAddress };
  /** Why the annotations could not be read. */
  readonly unread?: string;
}

/**
 * Looks at this host's interfaces, which takes no privilege, and asks Kubernetes for this node where leases are
 * there; what cannot be seen is an answer too.
 */
export async function lookAtUplink(config: Config, stop: AbortSignal): Promise<UplinkAnswer> {
  try {
    const kernel = await openAddon().openKernel();
    try {
      const { own, ...seen } = await lookAtAnnotations(config, stop);
      return { ...(await chooseUplink(kernel, { ...uplinkChoice(config), ...own })), ...seen };
    } finally {
      kernel.close();
    }
  } catch (error) {
    if (error instanceof FlannelError) return { trouble: errorText(error) };
    throw error;
  }
}

async function lookAtAnnotations(
  config: Config,
  stop: AbortSignal,
): Promise<Pick<SeenUplink, "overwrites" | "unread"> & { readonly own?: object }> {
  try {
    const seen = await lookAtAnnotatedAddresses(config, { log: silentLog, clock: systemClock }, stop);
    return seen ?? {};
  } catch (error) {
    if (error instanceof FlannelError) return { unread: errorText(error) };
    throw error;
  }
}

/**
 * Tells every effective value and where it came from, a line each or as JSON; secrets are hidden. An option
 * that is not set is a comment among the lines, which are TOML, and null in JSON. So is what this host makes
 * of it: the uplink and what was passed over.
 */
export function checkOutput({ config, origins, commandFlags }: Loaded, uplink?: UplinkAnswer): string {
  const valueFor = ({ configKeys, option }: Setting): unknown => {
    const value = configKeys.reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], config);
    return option.secret && value !== undefined ? "<hidden>" : value;
  };
  const originFor = ({ path }: Setting): string => origins.get(path) ?? "default";
  if (isJson({ commandFlags }))
    return `${JSON.stringify(jsonAnswer(valueFor, originFor, uplink), null, 2)}\n`;
  return `${[...textLines(valueFor, originFor), ...uplinkLines(uplink)].join("\n")}\n`;
}

type Of<Value> = (setting: Setting) => Value;

function jsonAnswer(valueFor: Of<unknown>, originFor: Of<string>, uplink: UplinkAnswer | undefined): object {
  const settings = sections.flatMap((section) => section.settings);
  const entries = settings.map((one) => [one.path, { value: valueFor(one) ?? null, origin: originFor(one) }]);
  return { ...Object.fromEntries(entries), ...(uplink === undefined ? {} : { uplink: uplinkJson(uplink) }) };
}

function uplinkJson(answer: UplinkAnswer): object {
  if ("trouble" in answer) return answer;
  const { uplink, overwrites, ...rest } = answer;
  return { ...uplink, ...overwrites, ...rest };
}

function uplinkLines(answer: UplinkAnswer | undefined): string[] {
  if (answer === undefined) return [];
  if ("trouble" in answer) return ["", `# On this host, no uplink: ${answer.trouble}`];
  const { reason, passedOver, unread } = answer;
  const uplink = { ...answer.uplink, ...answer.overwrites };
  return [
    "",
    `# On this host, the uplink is ${uplink.name} with ${addressesText(uplink)}: ${reason}`,
    ...(unread === undefined ? [] : [`# This node's annotations were not read: ${unread}`]),
    ...(passedOver.length === 0 ? [] : ["# Passed over:"]),
    ...passedOverLines(answer).map((line) => `#   ${line}`),
  ];
}

function addressesText({ name, interfaceV6, address, publicIp, addressV6, publicIpv6 }: Uplink): string {
  const text = (own: IpAddress | undefined, known: IpAddress | undefined, on = "") => {
    if (own === undefined) return [];
    return [`${on}${own}${`${known}` === `${own}` ? "" : `, known to others as ${known}`}`];
  };
  const elsewhere = interfaceV6 === undefined || interfaceV6.name === name ? "" : `${interfaceV6.name} with `;
  return [...text(address, publicIp), ...text(addressV6, publicIpv6, elsewhere)].join(" and ");
}

function textLines(valueFor: Of<unknown>, originFor: Of<string>): string[] {
  return sections.flatMap(({ settings }, index) => {
    const left = settings.map((one) => {
      const value = valueFor(one);
      return value === undefined ? `# ${one.path} is not set` : `${one.path} = ${tomlText(value)}`;
    });
    const width = Math.min(Math.max(...left.map((text) => text.length)), alignedCharsMax);
    const lines = settings.map((one, at) => `${(left[at] ?? "").padEnd(width)}  # ${originFor(one)}`);
    return index === 0 ? lines : ["", ...lines];
  });
}

/** Beyond this width the origins are no longer aligned. */
const alignedCharsMax = 72;
