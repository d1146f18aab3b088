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
  /** Why /dev/net/tun cannot be used; undefined when it can. */
  readonly tunTrouble: string | undefined;
}

/**
 * Userspace where a TUN can be had and nothing asks for the kernel's device, else the kernel. Pure.
 * @throws FlannelError `engine/unsuitable` (exit code 2) where another than the kernel is demanded and cannot do it
 */
export function chooseEngine({ configured, kernelOnly, tunTrouble }: EngineFacts): EngineChoice {
  const options = kernelOnly.join(" and ");
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

/** Why this process cannot use TUN devices; undefined when it can. */
export function probeTun(path = "/dev/net/tun"): string | undefined {
  try {
    closeSync(openSync(path, "r+"));
    return undefined;
  } catch (error) {
    return `${path} does not open: ${error instanceof Error ? error.message : String(error)}`;
  }
}
