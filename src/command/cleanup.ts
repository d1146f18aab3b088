import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { silentLog } from "../base/log.ts";
import type { Config } from "../config/schema.ts";
import { openReconciler } from "../datapath/reconcile.ts";
import { openUserspaceEngines } from "../datapath/userspace.ts";
import { openFirewall } from "../host/firewall/firewall.ts";
import { isOwnSubnetEnv, readSubnetEnvNetworks, removeOwnSubnetEnv } from "../host/subnet-env.ts";
import { openAddon } from "../native/addon.ts";
import type { Addon } from "../native/ports.ts";
import { firewallTable, ownerMark } from "../overlay.ts";
import { emptyPlan } from "../plan/plan.ts";
import { stepText } from "../plan/text.ts";
import { readReport } from "../status/admin-socket.ts";
import { requireRoot } from "./run.ts";

/**
 * Removes the devices, routes, firewall rules and files that a stopped daemon with this configuration left, and nothing else.
 * The lease stays in the store, so that the host gets the same subnet back; forwarding stays on.
 * @returns one line a removal
 */
export async function cleanup(config: Config, { json }: { json: boolean }): Promise<string> {
  requireRoot("cleanup");
  const running = await readReport(config.host.runDir).catch(() => undefined);
  if (running !== undefined) {
    throw new FlannelError(
      "daemon/running",
      "flannel-lite is running with this configuration",
      { pid: running.pid },
      { remedy: "Stop it first" },
    );
  }
  const addon = openAddon();
  const kernel = await addon.openKernel();
  using engines = openUserspaceEngines(addon);
  const reconciler = openReconciler({
    kernel,
    openMonitor: addon.openKernel,
    engines,
    scope: { owner: ownerMark(config), overlay: [] },
    log: silentLog,
    clock: systemClock,
  });
  reconciler.want(emptyPlan);
  const { steps, failed } = await reconciler.pass();
  kernel.close();
  if (failed[0] !== undefined) throw failed[0].error;
  const removed = steps.map(stepText);
  removed.push(...(await removeFirewallRules(config, addon)));
  if (removeOwnSubnetEnv(config.host)) removed.push(`- file ${config.host.subnetFile}`);
  if (json) return `${JSON.stringify({ removed })}\n`;
  return removed.length === 0 ? "nothing of ours is here\n" : removed.map((line) => `${line}\n`).join("");
}

/** Rules in iptables are known as ours by the network that our subnet.env names. */
async function removeFirewallRules(config: Config, addon: Addon): Promise<string[]> {
  const firewall = openFirewall(
    {
      engine: "auto",
      enableNftables: false,
      masquerade: false,
      forward: false,
      noMasquerade: [],
      fullyRandom: false,
      table: firewallTable(config),
      ranges: [],
      previous: isOwnSubnetEnv(config.host) ? readSubnetEnvNetworks(config.host.subnetFile) : [],
    },
    { addon, log: silentLog, clock: systemClock },
  );
  return (await firewall.remove()).map((rule) => `- firewall ${rule}`);
}
