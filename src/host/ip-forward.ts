import { accessSync, constants, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Family } from "../net/address.ts";

const switches: Readonly<Record<Family, string>> = {
  4: "net/ipv4/ip_forward",
  6: "net/ipv6/conf/all/forwarding",
};

/**
 * Turns forwarding on for the families in use where it is off: without it pods reach nobody. It stays on
 * after us; others may rely on it by then. A container may have /proc/sys read-only: that is an error in the log only
 * where forwarding is off.
 * @param root of the kernel's settings
 */
export function enableIpForward(families: readonly Family[], log: Log, root = "/proc/sys"): void {
  for (const family of families) {
    const sysctl = join(root, switches[family]);
    try {
      if (readFileSync(sysctl, "utf8").trim() !== "0") {
        warnIfFixed(sysctl, log);
        continue;
      }
      writeFileSync(sysctl, "1");
      log.info("turned IP forwarding on", { sysctl });
    } catch (error) {
      log.error("IP forwarding is not on and cannot be turned on: pods will not reach other hosts", {
        sysctl,
        error: errorText(error),
        remedy: `On the host: sysctl -w ${switches[family].replaceAll("/", ".")}=1, and the same in /etc/sysctl.d`,
      });
    }
  }
}

/** The settings that keep this host from forwarding a family, such as `net.ipv4.ip_forward`; none where all is well. */
export function forwardingOff(families: readonly Family[], root = "/proc/sys"): string[] {
  return families
    .filter((family) => {
      try {
        return readFileSync(join(root, switches[family]), "utf8").trim() === "0";
      } catch {
        return true; // a kernel without the family forwards none of it
      }
    })
    .map((family) => switches[family].replaceAll("/", "."));
}

/** It is on now; whoever turns it off has to know that we could not help. */
function warnIfFixed(sysctl: string, log: Log): void {
  try {
    accessSync(sysctl, constants.W_OK);
  } catch (error) {
    log.warn("IP forwarding is on, and only the host can change it", { sysctl, error: errorText(error) });
  }
}
