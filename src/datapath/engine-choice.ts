import { closeSync, openSync } from "node:fs";
import { errorText, FlannelError } from "../base/error.ts";
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
  /** Undefined when a TUN can be had. */
  readonly tunTrouble: TunTrouble | undefined;
}

/** Why /dev/net/tun cannot be used, and what to do about it: a sentence without its full stop. */
export interface TunTrouble {
  readonly reason: string;
  readonly remedy: string;
}

/**
 * Userspace where a TUN can be had and nothing asks for the kernel's device, else the kernel. Pure.
 * @throws FlannelError `engine/unsuitable` (exit code 2) where one is demanded that cannot do it; `engine/no-tun` where
 * one is, or only one will do, that takes a TUN, and there is none
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
    if (tunTrouble !== undefined) throw noTun(`the ${userspaceOnly} backend`, tunTrouble, "");
  }
  if (configured === "kernel") return { engine: "kernel", reason: "it is configured" };
  if (configured !== "auto") {
    if (kernelOnly.length > 0)
      throw new FlannelError(
        "engine/unsuitable",
        `the network's Backend asks for ${options}, which the ${configured} engine does not have`,
        {},
        { exitCode: 2, remedy: 'Set datapath.engine to "kernel" or "auto"' },
      );
    if (tunTrouble !== undefined)
      throw noTun(`the ${configured} engine`, tunTrouble, ', or use datapath.engine = "kernel"');
    return { engine: configured, reason: "it is configured" };
  }
  if (kernelOnly.length > 0) return { engine: "kernel", reason: `the network's Backend asks for ${options}` };
  if (tunTrouble !== undefined) return { engine: "kernel", reason: tunTrouble.reason };
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

function noTun(what: string, { reason, remedy }: TunTrouble, otherwise: string): FlannelError {
  return new FlannelError(
    "engine/no-tun",
    `${what} needs a TUN: ${reason}`,
    {},
    { exitCode: 1, remedy: `${remedy}${otherwise}` },
  );
}

/** Why this process cannot use TUN devices; undefined when it can. */
export function probeTun(path = "/dev/net/tun", open = openAndClose): TunTrouble | undefined {
  try {
    open(path);
    return undefined;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    const known = refusals[code];
    const why = known === undefined ? errorText(error) : `${known.why} (${code})`;
    return { reason: `${path} does not open: ${why}`, remedy: (known ?? missing).remedy };
  }
}

function openAndClose(path: string): void {
  closeSync(openSync(path, "r+"));
}

const missing = {
  why: "it is not there",
  remedy:
    "Load the module (modprobe tun); a container must be given the device (--device /dev/net/tun; in a pod a hostPath volume)",
};
const noDriver = { why: "the kernel has no driver for it", remedy: "Load the module (modprobe tun)" };

/** By the error of open(2). */
const refusals: Readonly<Record<string, { readonly why: string; readonly remedy: string }>> = {
  ENOENT: missing,
  ENODEV: noDriver,
  ENXIO: noDriver,
  EPERM: {
    why: "the device rules of this container or unit forbid it",
    remedy:
      "Allow it: --device /dev/net/tun (docker, podman), DeviceAllow=/dev/net/tun rw (systemd), or the runtime's own list of devices (Kubernetes)",
  },
  EACCES: {
    why: "its mode, a mount with nodev, SELinux or AppArmor forbid it",
    remedy: "Look at ls -lZ /dev/net/tun, at its mount and at the audit log",
  },
};
