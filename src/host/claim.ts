import { createHash } from "node:crypto";
import { FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Addon, Claim, Descriptors } from "../native/ports.ts";

/**
 * Claims the device in this network namespace, so that two daemons cannot undo each other's work; the claim
 * ends with the process, however that ends. One that is `handed` over is never free in between.
 * @throws FlannelError `daemon/running` naming the other's pid
 */
export function claimDevice(
  addon: Pick<Addon, "claim">,
  device: string,
  log: Log,
  handed?: Descriptors,
): OwnClaim {
  return claimName(addon, { name: device, what: device }, log, handed);
}

/** Claims the network under the store's `prefix` as {@link claimDevice} does a device, for one that has none. */
export function claimNetwork(
  addon: Pick<Addon, "claim">,
  prefix: string,
  log: Log,
  handed?: Descriptors,
): OwnClaim {
  const digest = createHash("sha256").update(prefix).digest("hex").slice(0, 16);
  return claimName(addon, { name: `network-${digest}`, what: `the network ${prefix}` }, log, handed);
}

/** Freed with its handle at the latest. */
export type OwnClaim = Disposable & Pick<Claim, "descriptor" | "release">;

function claimName(
  addon: Pick<Addon, "claim">,
  { name, what }: { name: string; what: string },
  log: Log,
  handed?: Descriptors,
): OwnClaim {
  const claim = addon.claim(name, handed);
  const holder = claim.holder();
  if (holder?.uid === 0) {
    throw new FlannelError(
      "daemon/running",
      `another flannel-lite runs ${what} on this host`,
      { pid: holder.pid },
      {
        remedy: "Stop it first; a second network on a host needs its own store prefix, VNI and run directory",
      },
    );
  }
  if (holder !== null) {
    // Anybody may take such a name; only root can be a daemon.
    log.warn("an unprivileged process holds our claim; going on without it", { claim: what, ...holder });
  }
  return {
    descriptor: () => claim.descriptor(),
    release: () => claim.release(),
    [Symbol.dispose]: () => claim.release(),
  };
}
