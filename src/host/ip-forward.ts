import { readFileSync, writeFileSync } from "node:fs";
import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Family } from "../net/address.ts";

const switches: Readonly<Record<Family, string>> = {
  4: "/proc/sys/net/ipv4/ip_forward",
  6: "/proc/sys/net/ipv6/conf/all/forwarding",
};

/**
 * Turns forwarding on for the families in use where it is off: without it pods reach nobody. It stays on
 * after us; others may rely on it by then.
 */
export function enableIpForward(families: readonly Family[], log: Log): void {
  for (const family of families) {
    const path = switches[family];
    try {
      if (readFileSync(path, "utf8").trim() !== "0") continue;
      writeFileSync(path, "1");
      log.info("turned IP forwarding on", { sysctl: path });
    } catch (error) {
      log.warn("IP forwarding could not be turned on; pods will not reach other hosts", {
        sysctl: path,
        error: errorText(error),
      });
    }
  }
}
