import type { Clock } from "./base/clock.ts";
import { errorText, FlannelError } from "./base/error.ts";
import { runGroup } from "./base/group.ts";
import type { Log } from "./base/log.ts";
import type { Backend } from "./backend/backend.ts";
import { leaseVtepMac } from "./backend/vxlan.ts";
import { type NetworkConfig, parseNetworkConfig } from "./config/network.ts";
import type { Config } from "./config/schema.ts";
import { openReconciler, type Reconciler } from "./datapath/reconcile.ts";
import { openUserspaceEngines, type UserspaceEngines } from "./datapath/userspace.ts";
import { enableIpForward } from "./host/ip-forward.ts";
import { openServiceManager } from "./host/sd-notify.ts";
import { readSubnetEnv, writeSubnetEnv } from "./host/subnet-env.ts";
import { chooseUplink, type ChosenUplink, uplinkChoice } from "./host/uplink.ts";
import { type Lease, leaseKey, subnetsOf } from "./lease/lease.ts";
import { createLeaseTable, type LeaseTable } from "./lease/table.ts";
import type { Addon } from "./native/ports.ts";
import { type Keeper, openKeeper } from "./network/keeper.ts";
import { type Network, openNetwork } from "./network/network.ts";
import { decideOverlay, type Overlay, ownerMark } from "./overlay.ts";
import { emptyPlan, type Plan } from "./plan/plan.ts";
import { itemText } from "./plan/text.ts";
import { openAdminSocket } from "./status/admin-socket.ts";
import type { StatusReport } from "./status/report.ts";
import { openStore } from "./store/open.ts";
import type { Store } from "./store/store.ts";
import { version } from "./version.ts";

/** As flannel asks again for a missing network configuration. */
const networkConfigRetryMs = 1_000;

export interface DaemonContext {
  readonly addon: Addon;
  readonly log: Log;
  readonly clock: Clock;
  /** NOTIFY_SOCKET, where systemd listens. */
  readonly notifySocket: string | undefined;
}

/** What the daemon has reached so far, for `status`. */
interface Progress {
  phase: string;
  ready: boolean;
  chosen?: ChosenUplink;
  overlay?: Overlay;
  backend?: Backend;
  keeper?: Keeper;
  table?: LeaseTable;
  network?: Network;
  reconciler?: Reconciler;
}

/**
 * Opens everything in order, carries traffic until `stop` aborts, closes in reverse.
 * @throws FlannelError for what waiting cannot cure; a store that cannot be reached is waited for
 */
export async function runDaemon(config: Config, context: DaemonContext, stop: AbortSignal): Promise<void> {
  const { addon, log, clock } = context;
  const startedAt = clock.now();
  const progress: Progress = { phase: "starting", ready: false };
  await using opened = new AsyncDisposableStack();

  const service = openServiceManager(addon, context.notifySocket, log);
  const kernel = await addon.openKernel();
  opened.defer(() => kernel.close());
  progress.chosen = await chooseUplink(kernel, uplinkChoice(config));
  const { uplink, reason } = progress.chosen;
  log.info("uplink chosen", {
    interface: uplink.name,
    address: `${uplink.address}`,
    publicIp: `${uplink.publicIp}`,
    reason,
  });

  const store = opened.use(openStore(config, { log, clock }));
  const engines = opened.use(openUserspaceEngines(addon));
  opened.use(
    await openAdminSocket(config.host.runDir, () => report(progress, { store, engines, clock, startedAt })),
  );

  const enter = (phase: string) => {
    progress.phase = phase;
    service.status(phase);
  };
  enter(`waiting for the network configuration in ${store.description}`);
  const network = await readNetwork(store, config, context, stop);
  if (network === undefined) return;

  const overlay = decideOverlay(config, network, uplink);
  progress.overlay = overlay;
  for (const option of overlay.backend.ignored) log.warn("a Backend option has no effect here", { option });
  log.info("engine chosen", { engine: overlay.engine.engine, reason: overlay.engine.reason });

  enter("waiting for a lease");
  const keeper = await openKeeper(
    {
      store,
      request: {
        network,
        attributes: overlay.backend.attributes,
        publicIp: uplink.publicIp,
        previous: readSubnetEnv(config.host.subnetFile),
      },
      renewMarginMs: config.store.renewMargin * 60_000,
      log,
      clock,
    },
    stop,
  );
  if (keeper === undefined) return;
  progress.keeper = keeper;
  const backend = overlay.backend.open(keeper.lease, overlay.engine.engine);
  progress.backend = backend;

  const scope = { owner: ownerMark(config), overlay: overlay.ranges };
  const reconciler = openReconciler({ kernel, openMonitor: addon.openKernel, engines, scope, log, clock });
  progress.reconciler = reconciler;
  const table = createLeaseTable();
  progress.table = table;
  const firstPlan = Promise.withResolvers<void>();
  const loop = openNetwork({
    store,
    keeper,
    backend,
    reconciler,
    table,
    log,
    onFirstPlan: firstPlan.resolve,
  });
  progress.network = loop;

  enter("waiting for the first list of leases");
  const bringUp = async (inner: AbortSignal) => {
    inner.addEventListener("abort", () => firstPlan.resolve());
    await firstPlan.promise;
    if (inner.aborted) return;
    throwIfNoDevice(await reconciler.pass());
    if (config.host.ipForward) enableIpForward([...new Set(overlay.ranges.map(({ family }) => family))], log);
    const { subnets } = keeper.lease;
    writeSubnetEnv(config.host, { network, subnets, mtuBytes: backend.mtuBytes, ipMasq: false });
    progress.ready = true;
    progress.phase = `carrying traffic for ${leaseKey(subnets)}`;
    service.ready(progress.phase);
    log.info("ready", {
      subnet: leaseKey(subnets),
      device: overlay.backend.device,
      engine: overlay.engine.engine,
    });
    await reconciler.run(inner);
  };
  const inherited = (await reconciler.preview(emptyPlan)).length > 0;
  try {
    await runGroup(stop, [loop.run, keeper.run, bringUp]);
  } finally {
    const wasReady = progress.ready;
    progress.ready = false;
    progress.phase = "stopping";
    service.stopping();
    // A start that fails leaves nothing half-made; what an earlier run made may still carry traffic.
    const onStop = wasReady ? config.datapath.onStop : inherited ? "keep" : "remove";
    const last = planAtStop(
      onStop,
      () =>
        overlay.backend.open(keeper.lease, "kernel").plan(keeper.lease, table.peers(keeper.lease.subnets))
          .plan,
    );
    if (last !== undefined) {
      reconciler.want(last);
      await reconciler.pass();
    }
  }
}

/** What the machine shall hold after a stop; undefined to leave it as it is. */
function planAtStop(onStop: Config["datapath"]["onStop"], kernelPlan: () => Plan): Plan | undefined {
  switch (onStop) {
    case "keep":
      return undefined;
    case "remove":
      return emptyPlan;
    case "kernel":
      return kernelPlan();
  }
}

/** Waits, as flannel does, until the store has a valid network configuration. @returns undefined when stopped */
async function readNetwork(
  store: Store,
  config: Config,
  { log, clock }: DaemonContext,
  stop: AbortSignal,
): Promise<NetworkConfig | undefined> {
  let said = "";
  while (!stop.aborted) {
    let trouble: string;
    try {
      const document = await store.readNetworkConfig(stop);
      if (document !== undefined) return parseNetworkConfig(document);
      trouble = `${store.description} has no network configuration`;
      if (config.network !== undefined) {
        const own = JSON.stringify(config.network);
        parseNetworkConfig(own);
        if (await store.createNetworkConfig(own, stop))
          log.info("network configuration published", { document: own });
        continue;
      }
    } catch (error) {
      if (stop.aborted) return undefined;
      if (!(error instanceof FlannelError)) throw error;
      if (error.exitCode === 2 || (error.code.startsWith("store/") && !error.retryable)) throw error;
      trouble = errorText(error);
    }
    if (trouble !== said) log.warn("waiting for the network configuration", { reason: trouble });
    said = trouble;
    await clock.sleep(networkConfigRetryMs, stop);
  }
  return undefined;
}

/** Without its device the daemon is useless; a supervisor should see it fail. */
function throwIfNoDevice({ failed }: Awaited<ReturnType<Reconciler["pass"]>>): void {
  const fatal = failed.find(({ step }) => step.item.type === "link" || step.item.type === "tunnel");
  if (fatal !== undefined) throw fatal.error;
}

interface ReportContext {
  readonly store: Store;
  readonly engines: UserspaceEngines;
  readonly clock: Clock;
  readonly startedAt: Date;
}

function report(progress: Progress, { store, engines, clock, startedAt }: ReportContext): StatusReport {
  const { chosen, overlay, backend, keeper, table, network, reconciler } = progress;
  const refused = network?.refused ?? [];
  const refusedKeys = new Set(refused.map(({ lease }) => leaseKey(lease.subnets)));
  const peers = keeper === undefined ? [] : (table?.peers(keeper.lease.subnets) ?? []);
  return {
    version,
    pid: process.pid,
    startedAt: startedAt.toISOString(),
    ready: progress.ready,
    phase: progress.phase,
    store: store.description,
    ...(chosen === undefined
      ? {}
      : {
          uplink: {
            name: chosen.uplink.name,
            address: `${chosen.uplink.address}`,
            publicIp: `${chosen.uplink.publicIp}`,
            reason: chosen.reason,
          },
        }),
    ...(overlay === undefined || backend === undefined
      ? {}
      : {
          network: {
            ...(overlay.network.ipv4 === undefined ? {} : { ipv4: `${overlay.network.ipv4.network}` }),
            ...(overlay.network.ipv6 === undefined ? {} : { ipv6: `${overlay.network.ipv6.network}` }),
            backend: overlay.backend.type,
            mtuBytes: backend.mtuBytes,
          },
          engine: {
            name: overlay.engine.engine,
            reason: overlay.engine.reason,
            device: overlay.backend.device,
          },
        }),
    ...(keeper === undefined ? {} : { lease: leaseReport(keeper, clock) }),
    peers: peers
      .filter(({ subnets }) => !refusedKeys.has(leaseKey(subnets)))
      .map((lease) => ({
        subnets: subnetsOf(lease.subnets).map(String),
        publicIp: `${lease.attributes.publicIp ?? ""}`,
        vtepMac: leaseVtepMac(lease),
        expiresAt: lease.expiresAt?.toISOString() ?? null,
      })),
    refused: refused.map(({ lease, reason }) => ({
      subnets: leaseKey(lease.subnets),
      publicIp: `${lease.attributes.publicIp ?? ""}`,
      reason,
    })),
    settled: reconciler?.settled ?? false,
    missing: (reconciler?.last?.failed ?? []).map(({ step, error }) => ({
      item: itemText(step.item),
      code: error.code,
      error: errorText(error),
    })),
    engines: engines.stats(),
  };
}

function leaseReport({ lease, trouble }: Keeper, clock: Clock): NonNullable<StatusReport["lease"]> {
  const { subnets, attributes, expiresAt }: Lease = lease;
  return {
    subnets: subnetsOf(subnets).map(String),
    publicIp: `${attributes.publicIp ?? ""}`,
    vtepMac: leaseVtepMac(lease),
    expiresAt: expiresAt?.toISOString() ?? null,
    remainingSeconds:
      expiresAt === undefined ? null : Math.round((expiresAt.getTime() - clock.now().getTime()) / 1000),
    trouble: trouble ?? null,
  };
}
