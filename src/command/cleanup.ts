import { existsSync, rmSync } from "node:fs";
import { findRivals, flanneldRuns } from "../adoption.ts";
import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { silentLog } from "../base/log.ts";
import type { Config } from "../config/schema.ts";
import { openReconciler } from "../datapath/reconcile.ts";
import { openUserspaceEngines } from "../datapath/userspace.ts";
import { claimDevice, claimNetwork } from "../host/claim.ts";
import { openFirewall } from "../host/firewall/firewall.ts";
import { macPath } from "../host/saved-mac.ts";
import { snapshotPath } from "../host/snapshot.ts";
import { isOwnSubnetEnv, readSubnetEnvNetworks, removeOwnSubnetEnv } from "../host/subnet-env.ts";
import { openAddon } from "../native/addon.ts";
import type { Addon } from "../native/ports.ts";
import { firewallTable, kernelScope } from "../overlay.ts";
import { emptyPlan, type Step } from "../plan/plan.ts";
import { stepText } from "../plan/text.ts";
import { readReport } from "../status/admin-socket.ts";
import { requireRoot } from "./run.ts";

/**
 * Removes the devices, routes, firewall rules and files that a stopped daemon with this configuration left, and
 * nothing else: what flannel left is ours only when a daemon has taken it over.
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
    scope: kernelScope(config, []),
    log: silentLog,
    clock: systemClock,
  });
  using claims = new DisposableStack();
  const devices = linksIn(await reconciler.preview(emptyPlan));
  // One that was started after us uses what we left: the device, subnet.env, the rules in iptables.
  const [rival] = findRivals(config);
  if (rival !== undefined) {
    const held = devices.map((device) => `device ${device}`);
    throw flanneldRuns(rival.pid, held);
  }
  // A daemon with another run directory would only make it all again.
  claims.use(claimNetwork(addon, config.store.etcd.prefix, silentLog));
  for (const device of devices) {
    claims.use(claimDevice(addon, device, silentLog));
  }
  reconciler.want(emptyPlan);
  const { steps, failed } = await reconciler.pass();
  kernel.close();
  if (failed[0] !== undefined) throw failed[0].error;
  const removed = steps.map(stepText);
  removed.push(...(await removeFirewallRules(config, addon)));
  const { stateDir } = config.host;
  const stateFiles = [
    snapshotPath(stateDir, config.store.etcd.prefix),
    ...linksIn(steps).map((device) => macPath(stateDir, device)),
  ];
  for (const path of stateFiles.filter((file) => existsSync(file))) {
    rmSync(path);
    removed.push(`- file ${path}`);
  }
  if (removeOwnSubnetEnv(config.host)) removed.push(`- file ${config.host.subnetFile}`);
  if (json) return `${JSON.stringify({ removed })}\n`;
  return removed.length === 0 ? "nothing of ours is here\n" : removed.map((line) => `${line}\n`).join("");
}

function linksIn(steps: readonly Step[]): string[] {
  return steps.flatMap(({ item }) => (item.type === "link" ? [item.value.name] : []));
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
