import { createHash } from "node:crypto";

/** flannel's, as its manifests ship it. */
export const shippedConflist: Readonly<Record<string, unknown>> = {
  name: "cbr0",
  cniVersion: "0.3.1",
  plugins: [
    { type: "flannel", delegate: { hairpinMode: true, isDefaultGateway: true } },
    { type: "portmap", capabilities: { portMappings: true } },
  ],
};

/** The member that says that a file is ours; runtimes ignore members they do not know. */
const markKey = "flannelLite";

/** A configuration list with our mark; `subnetFile` for the flannel plugin, where it is not the default. */
export function conflistText(
  conflist: Readonly<Record<string, unknown>>,
  { subnetFile }: { readonly subnetFile?: string | undefined } = {},
): string {
  const { [markKey]: _mark, ...rest } = conflist;
  const whole = { ...rest, plugins: pluginsOf(rest).map((plugin) => withSubnetFile(plugin, subnetFile)) };
  return `${JSON.stringify({ [markKey]: mark(whole), ...whole }, null, 2)}\n`;
}

/** Whether a file is as some release of ours wrote it. One that somebody has edited since is theirs. */
export function isOwnConflist(text: string): boolean {
  const object = conflistObject(text);
  if (object === undefined) return false;
  const { [markKey]: found, ...rest } = object;
  return found === mark(rest);
}

/** The configuration list in `text`; undefined where it is none that has a plugin `flannel`. */
export function parseConflist(text: string): Readonly<Record<string, unknown>> | undefined {
  const object = conflistObject(text);
  const isFlannels = object !== undefined && pluginsOf(object).some(({ type }) => type === "flannel");
  return isFlannels && typeof object["name"] === "string" ? object : undefined;
}

/** Whether two configurations say the same, whoever wrote them. */
export function isSameConflist(one: string, other: string): boolean {
  const plain = (text: string) => {
    const { [markKey]: _mark, ...rest } = conflistObject(text) ?? {};
    return Bun.deepEquals(rest, {}) ? undefined : rest;
  };
  return plain(one) !== undefined && Bun.deepEquals(plain(one), plain(other));
}

/**
 * Which of a directory's files a runtime goes by (libcni, containerd, CRI-O: the first in the order of names), and
 * what the others are to ours.
 */
export function precedence(
  names: readonly string[],
  own: string,
): {
  readonly winner: string | undefined;
  readonly before: readonly string[];
  readonly after: readonly string[];
} {
  const files = [...names].filter((name) => /\.(conf|conflist|json)$/.test(name)).sort(byBytes);
  const others = files.filter((name) => name !== own);
  return {
    winner: files[0],
    before: others.filter((name) => byBytes(name, own) < 0),
    after: others.filter((name) => byBytes(name, own) > 0),
  };
}

/** As Go sorts strings. */
function byBytes(one: string, other: string): number {
  return Buffer.compare(Buffer.from(one), Buffer.from(other));
}

function withSubnetFile(
  plugin: Readonly<Record<string, unknown>>,
  subnetFile: string | undefined,
): Readonly<Record<string, unknown>> {
  return subnetFile !== undefined && plugin["type"] === "flannel" ? { ...plugin, subnetFile } : plugin;
}

function pluginsOf(
  conflist: Readonly<Record<string, unknown>>,
): readonly Readonly<Record<string, unknown>>[] {
  const { plugins } = conflist;
  return Array.isArray(plugins) ? plugins.filter(isObject) : [];
}

function conflistObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function mark(rest: object): string {
  const digest = createHash("sha256").update(JSON.stringify(rest)).digest("hex").slice(0, 16);
  return `written by flannel-lite install cni (${digest})`;
}
