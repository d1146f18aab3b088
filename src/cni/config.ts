import { isAbsolute } from "node:path";
import { type GoObject, parseGoObject } from "../base/go-json.ts";
import { isIdentifier } from "./call.ts";
import { CniError, cniErrors } from "./error.ts";
import { oldestVersion, supportedVersions } from "./version.ts";

export type JsonObject = Readonly<Record<string, unknown>>;

/** The network's configuration, as the runtime passes it to this plugin. */
export interface CniConfig {
  /** Safe as part of a path. */
  readonly name: string;
  /** As it stood there, empty where it did not. */
  readonly cniVersion: string;
  /** The one to go by. */
  readonly version: string;
  readonly subnetFile: string;
  readonly dataDir: string;
  /** Base of the delegate's configuration. */
  readonly delegate: JsonObject;
  /** Base of the delegate's `ipam`. */
  readonly ipam: JsonObject;
  readonly runtimeConfig: JsonObject | undefined;
  /** What GC is to keep; undefined where it is not said. */
  readonly validAttachments: readonly Attachment[] | undefined;
}

/** One interface of one container. */
export interface Attachment {
  readonly containerId: string;
  readonly interfaceName: string;
}

const defaultSubnetFile = "/run/flannel/subnet.env";
const defaultDataDir = "/var/lib/cni/flannel";

/** Of Linux (PATH_MAX), less the terminating zero. */
const pathCharsMax = 4095;

/**
 * Reads standard input by the rules of Go's decoder: names in any case, the last of several wins.
 * @throws CniError 6 for what is not JSON of the right types, 7 for a bad name or path, 1 for an unknown version
 */
export function parseCniConfig(text: string): CniConfig {
  let object: GoObject;
  try {
    object = parseGoObject(text);
  } catch (error) {
    throw undecodable(error instanceof Error ? error.message : String(error));
  }
  const name = textOf(object, "name");
  if (name === "") throw new CniError(cniErrors.invalidConfig, "missing network name");
  if (!isIdentifier(name) || name.length > 200) {
    throw new CniError(
      cniErrors.invalidConfig,
      "invalid characters found in network name",
      name.slice(0, 100),
    );
  }
  const cniVersion = textOf(object, "cniVersion");
  return {
    name,
    cniVersion,
    version: supportedVersion(cniVersion),
    subnetFile: pathOf(object, "subnetFile", defaultSubnetFile),
    dataDir: pathOf(object, "dataDir", defaultDataDir),
    delegate: objectOf(object, "delegate") ?? {},
    ipam: objectOf(object, "ipam") ?? {},
    runtimeConfig: objectOf(object, "runtimeConfig"),
    validAttachments: attachmentsOf(object.get("cni.dev/valid-attachments")),
  };
}

/** Whether `value` is a JSON object. */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function supportedVersion(cniVersion: string): string {
  const version = cniVersion === "" ? oldestVersion : cniVersion;
  if (supportedVersions.includes(version)) return version;
  const list = supportedVersions.map((one) => JSON.stringify(one)).join(" ");
  throw new CniError(
    cniErrors.incompatibleVersion,
    "incompatible CNI versions",
    `config is ${JSON.stringify(version.slice(0, 100))}, plugin supports [${list}]`,
  );
}

function textOf(object: GoObject, name: string): string {
  const value = object.get(name) ?? "";
  if (typeof value === "string") return value;
  throw undecodable(`${name} is ${kindOf(value)}, not a string`);
}

function pathOf(object: GoObject, name: string, fallback: string): string {
  const path = textOf(object, name) || fallback;
  if (isAbsolute(path) && !path.includes("\0") && path.length <= pathCharsMax) return path;
  const fault = path.length > pathCharsMax ? "is too long" : "is not an absolute path";
  throw new CniError(cniErrors.invalidConfig, `${name} ${fault}: ${JSON.stringify(path.slice(0, 100))}`);
}

function objectOf(object: GoObject, name: string): JsonObject | undefined {
  const value = object.get(name) ?? undefined;
  if (value === undefined || isJsonObject(value)) return value;
  throw undecodable(`${name} is ${kindOf(value)}, not an object`);
}

/** Null is Go's empty list. */
function attachmentsOf(value: unknown): Attachment[] | undefined {
  if (value === undefined) return undefined;
  const list: unknown = value ?? [];
  if (!Array.isArray(list)) throw undecodable(`cni.dev/valid-attachments is ${kindOf(list)}, not a list`);
  return list.map((entry: unknown) => {
    const containerId = isJsonObject(entry) ? entry["containerID"] : undefined;
    const interfaceName = isJsonObject(entry) ? entry["ifname"] : undefined;
    if (typeof containerId === "string" && typeof interfaceName === "string")
      return { containerId, interfaceName };
    throw undecodable("cni.dev/valid-attachments has an entry without containerID and ifname");
  });
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

function undecodable(why: string): CniError {
  return new CniError(cniErrors.decoding, `error unmarshall network config: ${why}`);
}
