import { adoptionOf, readKnownMacs, refuseFlanneld } from "./adoption.ts";
import type { Clock } from "./base/clock.ts";
import { errorText } from "./base/error.ts";
import { runGroup } from "./base/group.ts";
import type { AdjustableLog, Log } from "./base/log.ts";
import { type Backend, devicesOf } from "./backend/backend.ts";
import { findVtepMac } from "./backend/vtep.ts";
import type { DocumentChange } from "./config/document-difference.ts";
import type { Loaded } from "./config/load.ts";
import type { LivePart } from "./config/option.ts";
import type { NetworkConfig } from "./config/network.ts";
import type { Config } from "./config/schema.ts";
import { openCommands, type OwnVariables } from "./datapath/commands.ts";
import { openReach } from "./datapath/reach.ts";
import { openTxChecksum } from "./datapath/tx-checksum.ts";
import { openReconciler, type PassResult } from "./datapath/reconcile.ts";
import { openUserspaceEngines } from "./datapath/userspace.ts";
import { claimDevice, claimNetwork } from "./host/claim.ts";
import { openEngineDescriptors } from "./host/descriptors.ts";
import { readIdentity } from "./host/identity.ts";
import { type Firewall, openFirewall } from "./host/firewall/firewall.ts";
import { enableIpForward } from "./host/ip-forward.ts";
import { saveMac } from "./host/saved-mac.ts";
import { openServiceManager } from "./host/sd-notify.ts";
import { openWatchdog } from "./host/watchdog.ts";
import { openSnapshotWriter, type Snapshot, snapshotPath } from "./host/snapshot.ts";
import { readSubnetEnv, writeSubnetEnv } from "./host/subnet-env.ts";
import { awaitSuccessor, type Offer, takeOver } from "./host/take-over.ts";
import { chooseUplink, passedOverLines, uplinkChoice } from "./host/uplink.ts";
import { type Lease, leaseKey } from "./lease/lease.ts";
import type { Addon, Descriptors } from "./native/ports.ts";
import { type Keeper, openKeeper, resumeKeeper } from "./network/keeper.ts";
import { openNetwork } from "./network/network.ts";
import {
  type NetworkConfigWatch,
  waitForNetworkConfig,
  watchNetworkConfig,
} from "./network/network-config.ts";
import { signOff } from "./network/sign-off.ts";
import { decideOverlay, firewallOptions, kernelScope } from "./overlay.ts";
import { emptyPlan, type Plan } from "./plan/plan.ts";
import { type Applier, openReloader, type UnappliedChange } from "./reload.ts";
import { remember, type Remembered } from "./remembered.ts";
import { openAdminSocket, readReport, refuseRunning } from "./status/admin-socket.ts";
import { assembleReport } from "./status/assemble.ts";
import {
  type CertificateReport,
  certificateWarnDays,
  openCertificateReader,
  remainingDays,
} from "./status/certificates.ts";
import { hindrance, lostDevice, whyStuck } from "./status/health.ts";
import { metricsText } from "./status/metrics.ts";
import type { Progress } from "./status/progress.ts";
import { openStatusServers } from "./status/server.ts";
import { openAnnotator, openServedStore, openStore, readAnnotatedAddresses } from "./store/open.ts";
import { version } from "./version.ts";
import { isSameUplink, uplinkText } from "./net/uplink.ts";

export interface DaemonContext {
  readonly addon: Addon;
  readonly log: AdjustableLog;
  readonly clock: Clock;
  /** Reads the configuration again. @throws FlannelError `config/invalid` */
  readonly reread: () => Pick<Loaded, "config" | "warnings">;
  /** Calls `listener` at each SIGHUP, until disposed. */
  readonly onHangup: (listener: () => void) => Disposable;
  /** NOTIFY_SOCKET and what else systemd tells by variables. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** How often systemd shall get a sign of life; undefined where it waits for none. */
  readonly watchdogMs: number | undefined;
  /** Whether to take over from a daemon that runs. */
  readonly takeOver: boolean;
}

/**
 * Opens everything in order, carries traffic until `stop` aborts or a successor takes over, closes in reverse.
 * @throws FlannelError for what waiting cannot cure; a store that cannot be reached is waited for
 */
export async function runDaemon(config: Config, context: DaemonContext, stop: AbortSignal): Promise<void> {
  const { addon, log, clock } = context;
  const startedAt = clock.now();
  const progress: Progress = { phase: "starting", up: false };
  await using opened = new AsyncDisposableStack();

  const descriptors = openEngineDescriptors({ addon, env: context.env, pid: process.pid, log });
  const service = openServiceManager(addon, context.env["NOTIFY_SOCKET"], log);
  const kernel = await addon.openKernel();
  opened.defer(() => kernel.close());
  const storeContext = { log, clock, env: context.env };
  const annotated = await readAnnotatedAddresses(config, storeContext, stop);
  progress.chosen = await chooseUplink(kernel, { ...uplinkChoice(config), ...annotated });
  const { uplink, reason } = progress.chosen;
  log.info("uplink chosen", {
    interface: uplink.name,
    address: `${uplink.address}`,
    publicIp: `${uplink.publicIp}`,
    interfaceV6: uplink.interfaceV6?.name,
    addressV6: uplink.addressV6?.toString(),
    publicIpv6: uplink.publicIpv6?.toString(),
    reason,
    passedOver: passedOverLines(progress.chosen).join("; "),
  });

  const node = readIdentity(config.host);
  // What a reload changes; a part that is not open yet needs nothing done, for it is opened by `reloader.config`.
  const appliers: Record<LivePart, Applier> = {
    log: (next) => {
      log.adjust(next.log);
      return undefined;
    },
    uplink: async (next) => {
      const again = await chooseUplink(kernel, { ...uplinkChoice(next), ...annotated });
      if (!isSameUplink(again.uplink, uplink)) return `it would choose ${uplinkText(again.uplink)}`;
      progress.chosen = again;
      return undefined;
    },
    listeners: () => undefined,
    firewall: () => undefined,
    forwarding: () => undefined,
    plan: () => undefined,
    lease: () => undefined,
    use: () => undefined,
  };
  let wasReady = false;
  let networkWatch: NetworkConfigWatch | undefined;
  const storeChanges = () => (networkWatch?.changes ?? []).map(storeChange);
  const reloader = openReloader(config, {
    reread: context.reread,
    appliers,
    async lookElsewhere() {
      const answered = new AbortController();
      await Promise.race([networkWatch?.look(stop), clock.sleep(lookMsMax, answered.signal)]);
      answered.abort();
      return storeChanges();
    },
    onBegin: () => {
      if (wasReady) service.reloading();
    },
    onEnd: () => {
      if (wasReady) service.reloaded(hindrance(progress, engines) ?? progress.phase);
    },
    log,
  });
  const served = await openServedStore(config, { log, clock, version, patient: context.takeOver });
  if (served !== undefined) opened.use(served);
  const store = opened.use(
    openStore(config, { ...storeContext, leaseTtl: () => reloader.config.store.leaseTtl }),
  );
  const annotator = openAnnotator(config, storeContext);
  if (annotator !== undefined) opened.use(annotator);
  const engines = opened.use(
    openUserspaceEngines({ openEngine: descriptors.open, openTun: addon.openTun }, descriptors.forget),
  );
  const { cafile: ca, certfile: client } = config.store.etcd;
  const { type, embedded } = config.store;
  const server = type === "embedded" ? embedded.certfile : undefined;
  const certificates = openCertificateReader({ ca, client, server });
  warnOfCertificates(certificates(clock.now()), { log, clock });
  const waiting = () => [...reloader.waiting, ...storeChanges()];
  const report = () =>
    assembleReport(progress, { node, store, engines, clock, startedAt, waiting, certificates });
  const pages = {
    hindrance: () => hindrance(progress, engines),
    metrics: () => metricsText(report(), reloader.config.metrics),
  };
  const { runDir } = config.host;
  // Socket and ports are taken for as long as a daemon lives: there is one at a time.
  const openStatus = () => {
    const admin = opened.use(openAdminSocket(runDir, { report, reload: reloader.reload }));
    const servers = opened.use(openStatusServers(reloader.config, pages, clock));
    appliers.listeners = (next) => {
      servers.move(next);
      return undefined;
    };
    return [admin, servers];
  };
  const predecessor = context.takeOver ? await readReport(runDir).catch(() => undefined) : undefined;
  if (!context.takeOver) await refuseRunning(runDir);
  else if (predecessor === undefined) log.info("no flannel-lite runs here: starting as usual");
  else log.info("another flannel-lite goes on until we are ready", { pid: predecessor.pid });
  let statusDoors = predecessor === undefined ? openStatus() : [];
  if (context.watchdogMs !== undefined) {
    const stuck = () => whyStuck(progress, engines, clock.now());
    opened.use(openWatchdog({ service, intervalMs: context.watchdogMs, stuck, clock, log }));
  }

  opened.use(context.onHangup(() => void reloader.reload()));

  const enter = (phase: string) => {
    progress.phase = phase;
    service.status(phase);
  };
  enter(`waiting for the network configuration in ${store.description}`);
  const inKubernetes = config.store.type === "kubernetes";
  const path = snapshotPath(config.host.stateDir, config.store.etcd.prefix);
  const found = await waitForNetworkConfig<Remembered>(
    { store, own: config.network, log, clock },
    () =>
      config.store.offlineStart ? remember(path, { node, uplink, assigned: inKubernetes, log }) : undefined,
    stop,
  );
  if (found === undefined) return;
  const { document, network } = found;
  const snapshot = "snapshot" in found ? found.snapshot : undefined;

  const overlay = decideOverlay(reloader.config, { network, uplink, node });
  progress.overlay = overlay;
  const { device, deviceV6 } = overlay.backend;
  const devices = devicesOf(overlay.backend);
  const claimOurs = (handed?: Descriptors) =>
    devices.length === 0
      ? [opened.use(claimNetwork(addon, config.store.etcd.prefix, log, handed))]
      : devices.map((name) => opened.use(claimDevice(addon, name, log, handed)));
  let claims = predecessor === undefined ? claimOurs() : undefined;
  const rivalContext = { kernel, overlay, predecessor: predecessor?.pid };
  await refuseFlanneld(config, rivalContext);
  log.info("engine chosen", { engine: overlay.engine.engine, reason: overlay.engine.reason });

  enter("waiting for a lease");
  const adopt = adoptionOf(config, overlay);
  const knownMacs = await readKnownMacs(config, { kernel, backend: overlay.backend, adopt, log });
  const commands =
    overlay.backend.commands === undefined
      ? undefined
      : openCommands({
          commands: overlay.backend.commands,
          timeoutMs: config.backend.commandTimeout * 1_000,
          log,
          clock,
          stop,
        });
  const published = await unlessStopped(stop, commands?.preStartup());
  const keeperContext = {
    store,
    request: {
      network,
      attributes: (existing: Lease | undefined) =>
        overlay.backend.attributes({ existing, ...knownMacs, published }),
      publicIp: uplink.publicIp,
      node,
      previous: readSubnetEnv(config.host.subnetFile),
    },
    get renewMarginMs() {
      return reloader.config.store.renewMargin * 60_000;
    },
    get onConflict() {
      return reloader.config.store.onConflict;
    },
    log,
    clock,
  };
  const keeper =
    snapshot === undefined
      ? await openKeeper(keeperContext, stop)
      : resumeKeeper(keeperContext, snapshot.own);
  if (keeper === undefined) return;
  progress.keeper = keeper;
  const saveOwnMacs = () => {
    for (const { family } of overlay.ranges) {
      const name = family === 6 ? (deviceV6 ?? device) : device;
      const mac = findVtepMac(keeper.lease, family);
      if (name !== undefined && mac !== undefined) saveMac(config.host.stateDir, name, mac, log);
    }
  };
  saveOwnMacs();
  let layout = overlay.backend.open(overlay.engine.engine);
  const backend: Backend = {
    mtuBytes: layout.mtuBytes,
    plan: (...given) => layout.plan(...given),
  };
  progress.backend = backend;

  const scope = kernelScope(config, overlay.ranges, adopt);
  const reconciler = openReconciler({
    kernel,
    openMonitor: addon.openKernel,
    engines,
    scope,
    ...(commands && { commands }),
    log,
    clock,
    onPass: () => {
      for (const keeper of progress.txChecksums ?? []) keeper.look();
      if (progress.up) announce();
    },
  });
  progress.reconciler = reconciler;
  if (overlay.engine.engine === "kernel")
    progress.txChecksums = [device, overlay.backend.deviceV6]
      .filter((name) => name !== undefined)
      .map((name) =>
        openTxChecksum({
          addon,
          setting: config.datapath.txChecksum,
          device: name,
          peers: () =>
            (reconciler.wanted?.neighbours ?? [])
              .filter((neighbour) => neighbour.device === name)
              .map(({ ip }) => `${ip}`),
          log,
          clock,
        }),
      );
  const writer = openSnapshotWriter({
    path,
    current: () => ({
      savedAt: clock.now(),
      nodeId: node.id,
      document,
      own: keeper.lease,
      peers: loop.peers,
    }),
    log,
    clock,
  });
  const reach = await openReach({
    kernel,
    openMonitor: addon.openKernel,
    uplink,
    log,
    clock,
    onChange: () => loop.reachChanged(),
  });
  const firstPlan = Promise.withResolvers<void>();
  const loop = openNetwork({
    store,
    keeper,
    backend,
    reach,
    reconciler,
    log,
    clock,
    ...(snapshot && { remembered: snapshot.peers }),
    onFirstPlan: firstPlan.resolve,
    onLeases: (how) => {
      if (keeper.conflict === undefined) writer.touch(how);
    },
  });
  progress.network = loop;
  appliers.plan = async (next) => {
    layout = decideOverlay(next, { network, uplink, node }).backend.open(overlay.engine.engine);
    loop.ownChanged();
    if (progress.up) await reconciler.pass();
    return undefined;
  };

  const firewall = openFirewall(firewallOptions(reloader.config, overlay), {
    addon,
    log,
    clock,
    onChange: () => {
      if (progress.up) announce();
    },
  });
  progress.firewall = firewall;
  const announce = () => {
    progress.phase = phaseText(keeper, snapshot, firewall);
    const reason = hindrance(progress, engines);
    if (reason === undefined) {
      service.ready(progress.phase);
      store.announceReady?.();
    } else service.status(reason);
    wasReady ||= reason === undefined;
  };

  const publishSubnets = () => {
    const { subnets } = keeper.lease;
    const { ipMasq } = reloader.config.host;
    writeSubnetEnv(config.host, { network, subnets, mtuBytes: backend.mtuBytes, ipMasq });
  };
  appliers.firewall = async (next) => {
    await firewall.change(firewallOptions(next, overlay));
    if (!progress.up) return undefined;
    await firewall.ensure();
    publishSubnets();
    announce();
    return undefined;
  };
  const switchForwarding = ({ host }: Config) => {
    if (host.ipForward) enableIpForward([...new Set(overlay.ranges.map(({ family }) => family))], log);
  };
  appliers.forwarding = (next) => {
    if (progress.up) switchForwarding(next);
    return undefined;
  };
  let publishedSubnet = leaseKey(keeper.lease.subnets);
  const onOwnLease = () => {
    loop.ownChanged();
    if (keeper.conflict !== undefined) writer.forget();
    else saveOwnMacs();
    if (!progress.up) return;
    if (keeper.conflict === undefined) annotator?.want(keeper.lease.attributes);
    firewall.want(keeper.lease.subnets);
    announce();
    if (leaseKey(keeper.lease.subnets) !== publishedSubnet) publishSubnets();
    publishedSubnet = leaseKey(keeper.lease.subnets);
  };
  appliers.lease = () => {
    keeper.wake();
    return undefined;
  };
  networkWatch = watchNetworkConfig({ store, log, clock }, document);
  const tasks = [loop.run, networkWatch.run, (inner: AbortSignal) => keeper.run(inner, onOwnLease)];
  if (overlay.backend.usesReach) tasks.push(reach.run);
  if (config.store.offlineStart) tasks.push(writer.run);
  if (annotator !== undefined) tasks.push(annotator.run);

  enter("waiting for the first list of leases");
  const bringUp = async (inner: AbortSignal) => {
    inner.addEventListener("abort", () => firstPlan.resolve());
    await firstPlan.promise;
    if (inner.aborted) return;
    await refuseFlanneld(config, rivalContext); // waiting may have taken long
    if (claims === undefined) {
      // All that can go wrong before has not: now the predecessor may end.
      await reconciler.preview(reconciler.wanted ?? emptyPlan);
      const handed = await takeOver(addon, runDir);
      log.info(handed === undefined ? "the daemon has ended by itself" : "taken over", {
        predecessor: predecessor?.pid,
      });
      claims = claimOurs(handed);
      statusDoors = openStatus();
      if (handed !== undefined) descriptors.receive(handed);
    }
    descriptors.expect(overlay.engine.engine === "userspace" ? devices : []);
    await unlessStopped(stop, commands?.postStartup(ownVariables(network, keeper.lease)));
    if (inner.aborted) return;
    throwIfNoDevice(await reconciler.pass());
    annotator?.want(keeper.lease.attributes);
    switchForwarding(reloader.config);
    firewall.want(keeper.lease.subnets);
    await firewall.ensure();
    publishSubnets();
    progress.up = true;
    announce();
    log.info(hindrance(progress, engines) === undefined ? "ready" : "up, but not ready", {
      subnet: leaseKey(keeper.lease.subnets),
      device,
      deviceV6,
      engine: overlay.engine.engine,
    });
    isUp.resolve();
    const checksums = (progress.txChecksums ?? []).map((keeper) => keeper.run(inner));
    await Promise.all([reconciler.run(inner), firewall.run(inner), ...checksums]);
  };
  const isUp = Promise.withResolvers<void>();
  let successor: number | undefined;
  const handOver = async (inner: AbortSignal) => {
    inner.addEventListener("abort", () => isUp.resolve());
    await isUp.promise;
    if (inner.aborted) return;
    const offer: Offer = {
      pause: () =>
        [...(claims ?? []).map((claim) => claim.descriptor()), ...engines.pause()].filter(
          (one) => one != null,
        ),
      resume: () => engines.resume(),
      release() {
        engines.surrender();
        for (const claim of claims ?? []) claim.release();
        for (const door of statusDoors) door.surrender();
        descriptors.withdraw();
      },
    };
    successor = await awaitSuccessor({ addon, runDir, log }, offer, inner);
    if (successor !== undefined) service.handedOver(successor);
  };
  const inherited = (await reconciler.preview(emptyPlan)).length > 0;
  try {
    await runGroup(stop, [...tasks, bringUp, handOver]);
  } finally {
    const wasUp = progress.up;
    progress.up = false;
    progress.stopping = true;
    progress.phase = "stopping";
    if (successor !== undefined) log.info("handed over", { successor });
    else if (claims === undefined) log.info("nothing was taken over: the other flannel-lite goes on");
    else {
      service.stopping();
      // A start that fails leaves nothing half-made; what an earlier run made may still carry traffic.
      const onStop = wasUp ? reloader.config.datapath.onStop : inherited ? "keep" : "remove";
      const kernelPlan = () =>
        overlay.backend.open("kernel").plan(keeper.lease, loop.peers, reach.current).plan;
      const last = planAtStop(onStop, kernelPlan);
      if (last !== undefined) {
        reconciler.want(last);
        await reconciler.pass();
      }
      if (onStop === "remove") await removeFirewall(firewall, log);
      await signOff(keeper.lease, { store, node, log, clock });
    }
  }
}

/** What fails because of a stop is no failure. */
async function unlessStopped<T>(stop: AbortSignal, work: Promise<T> | undefined): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (stop.aborted) return undefined;
    throw error;
  }
}

/** What flannel's PostStartupCommand is told, with its words for what there is not. */
function ownVariables(network: NetworkConfig, { subnets, attributes }: Lease): OwnVariables {
  return {
    NETWORK: `${network.ipv4?.network ?? "0.0.0.0/0"}`,
    SUBNET: `${subnets.ipv4 ?? "0.0.0.0/0"}`,
    IPV6SUBNET: `${subnets.ipv6 ?? "::/0"}`,
    PUBLIC_IP: `${attributes.publicIp ?? "<nil>"}`,
    PUBLIC_IPV6: `${attributes.publicIpv6 ?? "<nil>"}`,
  };
}

/** A reload does not wait longer for the store. */
const lookMsMax = 3_000;

/** A change of the network configuration in the store. */
function storeChange({ name, from = "unset", to = "unset" }: DocumentChange): UnappliedChange {
  return { key: `${name} in the store`, from, to, reason: "the network configuration is read at the start" };
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

async function removeFirewall(firewall: Firewall, log: Log): Promise<void> {
  try {
    for (const rule of await firewall.remove()) log.info("removed", { rule });
  } catch (error) {
    log.error("firewall rules could not be removed", { error: errorText(error) });
  }
}

/** What a daemon does that is up. */
function phaseText(
  { lease, conflict, trouble }: Keeper,
  snapshot: Snapshot | undefined,
  { blocked }: Firewall,
): string {
  const subnet = leaseKey(lease.subnets);
  if (conflict !== undefined) return `stopped sending: ${subnet} belongs to ${conflict}`;
  if (blocked !== undefined) return `carrying traffic for ${subnet} without masquerading: ${blocked}`;
  if (snapshot === undefined || trouble === undefined) return `carrying traffic for ${subnet}`;
  return `carrying traffic for ${subnet} without the store, by the leases seen until ${snapshot.savedAt.toISOString()}`;
}

/** A certificate that cannot be read is the store's to complain of. */
function warnOfCertificates(
  certificates: readonly CertificateReport[],
  { log, clock }: Pick<DaemonContext, "log" | "clock">,
): void {
  for (const certificate of certificates) {
    const days = remainingDays(certificate, clock.now());
    if (days === null || days >= certificateWarnDays) continue;
    const { role, path, expiresAt } = certificate;
    log.warn("a certificate for the store ends soon: renew it", { role, path, expiresAt, days });
  }
}

/** Without its device the daemon is useless; a supervisor should see it fail. */
function throwIfNoDevice(result: PassResult): void {
  const fatal = lostDevice(result);
  if (fatal !== undefined) throw fatal.error;
}
