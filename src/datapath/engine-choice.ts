import { closeSync, openSync } from "node:fs";
import { FlannelError } from "../base/error.ts";
import type { EngineName } from "../backend/backend.ts";

export interface EngineChoice {
  readonly engine: EngineName;
  /** For the log and `status`. */
  readonly reason: string;
}

/** What the choice depends on. */
export interface EngineFacts {
  readonly configured: "auto" | EngineName;
  /** Backend options that only the kernel's device has, such as GBP. */
  readonly kernelOnly: readonly string[];
  /** The backend, where no kernel device speaks it. */
  readonly userspaceOnly?: string;
  /** The backend, where it takes a raw socket in userspace. */
  readonly rawSocket?: string;
  /** Why /dev/net/tun cannot be used; undefined when it can. */
  readonly tunTrouble: string | undefined;
}

/**
 * Userspace where a TUN can be had and nothing asks for the kernel's device, else the kernel. Pure.
 * @throws FlannelError `engine/unsuitable` (exit code 2) where one is demanded that cannot do it; `engine/no-tun` where
 * there is no TUN for what only a userspace engine can do
 */
export function chooseEngine({
  configured,
  kernelOnly,
  userspaceOnly,
  rawSocket,
  tunTrouble,
}: EngineFacts): EngineChoice {
  const options = kernelOnly.join(" and ");
  if (configured === "dgram" && rawSocket !== undefined)
    throw new FlannelError(
      "engine/unsuitable",
      `the dgram engine has no raw socket, which the network's backend, ${rawSocket}, takes`,
      {},
      { exitCode: 2, remedy: 'Set datapath.engine to "userspace", "kernel" or "auto"' },
    );
  if (userspaceOnly !== undefined) {
    if (configured === "kernel") throw noKernelDevice(userspaceOnly, "datapath.engine");
    if (configured === "auto" && tunTrouble !== undefined)
      throw new FlannelError(
        "engine/no-tun",
        `the ${userspaceOnly} backend needs a TUN: ${tunTrouble}`,
        {},
        {
          exitCode: 1,
          remedy: "Load the module (modprobe tun); a container or unit must be given /dev/net/tun",
        },
      );
  }
  if (configured === "kernel") return { engine: "kernel", reason: "it is configured" };
  if (configured !== "auto") {
    if (kernelOnly.length === 0) return { engine: configured, reason: "it is configured" };
    throw new FlannelError(
      "engine/unsuitable",
      `the network's Backend asks for ${options}, which the ${configured} engine does not have`,
      {},
      { exitCode: 2, remedy: 'Set datapath.engine to "kernel" or "auto"' },
    );
  }
  if (kernelOnly.length > 0) return { engine: "kernel", reason: `the network's Backend asks for ${options}` };
  if (tunTrouble !== undefined) return { engine: "kernel", reason: tunTrouble };
  return { engine: "userspace", reason: "/dev/net/tun opens" };
}

/** The error for `key` of the configuration being "kernel" where that cannot be. */
export function noKernelDevice(backend: string, key: string): FlannelError {
  return new FlannelError(
    "engine/unsuitable",
    `there is no kernel device here for the network's backend, ${backend}`,
    {},
    { exitCode: 2, remedy: `Leave ${key} = "kernel" out of the configuration` },
  );
}

/** Why this process cannot use TUN devices; undefined when it can. */
export function probeTun(path = "/dev/net/tun"): string | undefined {
  try {
    closeSync(openSync(path, "r+"));
    return undefined;
  } catch (error) {
    return `${path} does not open: ${error instanceof Error ? error.message : String(error)}`;
  }
}
