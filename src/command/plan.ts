import { adoptionOf, findRivals, readAdoptableMac, readKnownMacs } from "../adoption.ts";
import { devicesOf } from "../backend/backend.ts";
import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { silentLog } from "../base/log.ts";
import { parseNetworkConfig } from "../config/network.ts";
import type { Config } from "../config/schema.ts";
import { readReach } from "../datapath/reach.ts";
import { openReconciler } from "../datapath/reconcile.ts";
import { openUserspaceEngines } from "../datapath/userspace.ts";
import { previewFirewall } from "../host/firewall/preview.ts";
import { readIdentity } from "../host/identity.ts";
import { chooseUplink, uplinkChoice } from "../host/uplink.ts";
import { leaseKey } from "../lease/lease.ts";
import { createLeaseTable } from "../lease/table.ts";
import { openAddon } from "../native/addon.ts";
import { decideOverlay, firewallOptions, kernelScope } from "../overlay.ts";
import { itemText, stepText } from "../plan/text.ts";
import { planItems, type Step } from "../plan/plan.ts";
import { openStore, readAnnotatedAddresses, type StoreEnvironment } from "../store/open.ts";

/** What a start would change on a host. */
export interface PlanReport {
  /** Where the leases are, and the network configuration as it stands there. */
  readonly store: string;
  readonly network: string;
  readonly wanted: readonly string[];
  /** `+`, `~` or `-` with an item each. */
  readonly steps: readonly string[];
  readonly firewall: readonly string[];
  readonly firewallTrouble: string | null;
  readonly refused: readonly { readonly subnets: string; readonly reason: string }[];
  /** Devices that flannel left, and what becomes of each. */
  readonly adopted: readonly { readonly device: string; readonly how: string }[];
  readonly flannelds: readonly number[];
  readonly engine: string;
}

/** Prints {@link readPlan}. @throws as that */
export async function plan(config: Config, { json }: { json: boolean }, stop: AbortSignal): Promise<string> {
  const report = await readPlan(config, {}, stop);
  return json ? `${JSON.stringify(planJson(report))}\n` : planLines(report).join("\n").concat("\n");
}

/**
 * What a start would change on this host now, from the leases in the store; changes nothing, takes no lease, and
 * may be asked beside a flanneld that runs.
 * Entries of the userspace engine's table stand only in its process, so they show as additions.
 * @param access how the store is reached, where not as a start on this host would
 * @throws FlannelError `lease/none` where this host holds no lease yet
 */
export async function readPlan(
  config: Config,
  access: Pick<StoreEnvironment, "env" | "serviceAccountDir">,
  stop: AbortSignal,
): Promise<PlanReport> {
  const addon = openAddon();
  const kernel = await addon.openKernel();
  const storeContext = { log: silentLog, clock: systemClock, ...access };
  await using store = openStore(config, storeContext);
  const annotated = await readAnnotatedAddresses(config, storeContext, stop);
  const { uplink } = await chooseUplink(kernel, { ...uplinkChoice(config), ...annotated });
  const document = (await store.readNetworkConfig(stop)) ?? missingNetwork(config, store.description);
  const network = parseNetworkConfig(document);
  const node = readIdentity(config.host);
  const overlay = decideOverlay(config, { network, uplink, node });
  const { backend, engine, ranges } = overlay;
  const table = createLeaseTable();
  table.apply({ kind: "snapshot", leases: await store.list(stop) });
  const own = await store.findOwn(uplink.publicIp, stop);
  if (own === undefined) {
    throw new FlannelError(
      "lease/none",
      `${store.description} has no lease for ${uplink.publicIp ?? uplink.publicIpv6}`,
      {},
      { remedy: "The first start of the daemon takes one; until then there is nothing to plan" },
    );
  }
  const adopt = adoptionOf(config, overlay);
  const known = await readKnownMacs(config, { kernel, backend, adopt, log: silentLog });
  // As the start will publish it: another program's lease, or an earlier version's, may lack something.
  const renewed = { ...own, attributes: backend.attributes({ existing: own, ...known }) };
  const wanted = backend
    .open(engine.engine)
    .plan(renewed, table.peers(own.subnets), await readReach(kernel, uplink));
  using engines = openUserspaceEngines(addon);
  const scope = kernelScope(config, ranges, adopt);
  const reconciler = openReconciler({
    kernel,
    openMonitor: addon.openKernel,
    engines,
    scope,
    log: silentLog,
    clock: systemClock,
  });
  const steps = await reconciler.preview(wanted.plan);
  const adoptable: string[] = [];
  for (const device of devicesOf(backend))
    if ((await readAdoptableMac(kernel, adopt, device)) !== undefined) adoptable.push(device);
  kernel.close();
  const firewall = await previewFirewall(firewallOptions(config, overlay), own.subnets, { addon });
  return {
    store: store.description,
    network: document,
    wanted: planItems(wanted.plan).map(itemText),
    steps: steps.map(stepText),
    firewall: firewall.lines,
    firewallTrouble: firewall.trouble,
    refused: wanted.refused.map(({ lease, reason }) => ({ subnets: leaseKey(lease.subnets), reason })),
    adopted: adoptable.map((device) => ({ device, how: swapText(device, steps) })),
    flannelds: findRivals(config).map(({ pid }) => pid),
    engine: `${engine.engine}: ${engine.reason}`,
  };
}

/** The members that `plan --json` has had from the beginning. */
export function planJson({
  wanted,
  steps,
  firewall,
  firewallTrouble,
  refused,
  flannelds,
}: PlanReport): object {
  return { wanted, steps, firewall, firewallTrouble, refused, flannelds };
}

export function planLines(report: PlanReport): string[] {
  const { steps, firewall, firewallTrouble } = report;
  return [
    ...steps,
    ...firewall.map((line) => line.replace(/^. /, "$&firewall ")),
    ...report.refused.map(({ subnets, reason }) => `# not used: ${subnets}: ${reason}`),
    ...(firewallTrouble === null ? [] : [`# firewall rules could not be set: ${firewallTrouble}`]),
    ...report.adopted.map(({ device, how }) => `# ${device} is flannel's: ${how}`),
    ...report.flannelds.map((pid) => `# flanneld (pid ${pid}) runs here: stop it before the start`),
    `# ${steps.length + firewall.length} changes, engine ${report.engine}`,
  ];
}

function swapText(device: string, steps: readonly Step[]): string {
  return steps.some(({ op, item }) => op === "remove" && item.type === "link" && item.value.name === device)
    ? "it is replaced, with a gap of some milliseconds"
    : "it is taken over as it stands, without a gap";
}

function missingNetwork({ network }: Config, store: string): string {
  if (network !== undefined) return JSON.stringify(network);
  throw new FlannelError(
    "network/absent",
    `${store} has no network configuration`,
    {},
    { remedy: "Put one there" },
  );
}
