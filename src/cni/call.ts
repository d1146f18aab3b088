import { CniError, cniErrors } from "./error.ts";

const cniCommands = ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"] as const;
export type CniCommand = (typeof cniCommands)[number];

export type Environment = Readonly<Record<string, string | undefined>>;

/** What the runtime says by environment variables, checked; what a command does not take is empty. */
export interface Call {
  readonly command: CniCommand;
  readonly containerId: string;
  readonly interfaceName: string;
  readonly netns: string;
  /** Directories of plugins. */
  readonly path: readonly string[];
  /** Whether the plugin's own namespace is allowed as the container's. */
  readonly netnsOverride: boolean;
}

/** Linux' IFNAMSIZ, without the terminating zero. */
const interfaceNameCharsMax = 15;

/** Of a file name, less what stands around the id in ours. */
const containerIdCharsMax = 200;

const needs: Readonly<Record<CniCommand, readonly string[]>> = {
  ADD: ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
  CHECK: ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
  DEL: ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
  GC: ["CNI_PATH"],
  STATUS: ["CNI_PATH"],
  VERSION: [],
};

/** @throws CniError 4 where a variable is missing or invalid */
export function parseCall(env: Environment): Call {
  const name = env["CNI_COMMAND"] ?? "";
  const command = cniCommands.find((one) => one === name);
  if (command === undefined) throw invalid(`unknown CNI_COMMAND: ${name.slice(0, 100)}`);
  const missing = needs[command].filter((variable) => (env[variable] ?? "") === "");
  if (missing.length > 0) throw invalid(`required env variables [${missing.join(",")}] missing`);
  const containerId = env["CNI_CONTAINERID"] ?? "";
  const interfaceName = env["CNI_IFNAME"] ?? "";
  if (needs[command].includes("CNI_CONTAINERID")) {
    checkContainerId(containerId);
    checkInterfaceName(interfaceName);
  }
  const override = (env["CNI_NETNS_OVERRIDE"] ?? "").toUpperCase();
  return {
    command,
    containerId,
    interfaceName,
    netns: env["CNI_NETNS"] ?? "",
    // An empty entry would be the current directory.
    path: (env["CNI_PATH"] ?? "").split(":").filter((directory) => directory !== ""),
    netnsOverride: override === "1" || override === "TRUE",
  };
}

/** Whether a text has the specification's form of container ids and network names. */
export function isIdentifier(text: string): boolean {
  return /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(text) && !text.includes("\n");
}

/** @throws CniError 4 */
function checkContainerId(id: string): void {
  if (!isIdentifier(id)) throw invalid("invalid characters in containerID", id.slice(0, 100));
  if (id.length > containerIdCharsMax) throw invalid("containerID is too long", `${id.length} characters`);
}

/** @throws CniError 4 */
function checkInterfaceName(name: string): void {
  if (name === "") throw invalid("interface name is empty");
  if (Buffer.byteLength(name) > interfaceNameCharsMax) {
    throw invalid(
      "interface name is too long",
      `interface name should be less than ${interfaceNameCharsMax + 1} characters`,
    );
  }
  if (name === "." || name === "..") throw invalid("interface name is . or ..");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: no device has one in its name, and no path of ours shall
  if (/[/:\s\x00-\x1f]/.test(name))
    throw invalid("interface name contains / or : or whitespace characters", JSON.stringify(name));
}

function invalid(message: string, details?: string): CniError {
  return new CniError(cniErrors.invalidEnvironment, message, details);
}
