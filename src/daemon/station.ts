import type { Config } from "../config/schema.ts";
import { openUserspaceEngines, type UserspaceEngines } from "../datapath/userspace.ts";
import { type EngineDescriptors, openEngineDescriptors } from "../host/descriptors.ts";
import { readIdentity } from "../host/identity.ts";
import { openServiceManager, type ServiceManager } from "../host/sd-notify.ts";
import { chooseUplink, passedOverLines, uplinkChoice } from "../host/uplink.ts";
import type { ChosenUplink } from "../host/uplink-decision.ts";
import { openWatchdog } from "../host/watchdog.ts";
import type { NodeIdentity } from "../lease/lease.ts";
import type { Kernel } from "../native/ports.ts";
import { isSameUplink, type Uplink, uplinkText } from "../net/uplink.ts";
import { openAdminSocket, readReport, refuseRunning } from "../status/admin-socket.ts";
import { assembleReport } from "../status/assemble.ts";
import {
  type CertificateReport,
  certificateWarnDays,
  openCertificateReader,
  remainingDays,
} from "../status/certificates.ts";
import { hindrance, whyStuck } from "../status/health.ts";
import { metricsText } from "../status/metrics.ts";
import type { Progress } from "../status/progress.ts";
import { openStatusServers } from "../status/server.ts";
import { openAnnotator, openServedStore, openStore, readAnnotatedAddresses } from "../store/open.ts";
import type { NodeAnnotator } from "../store/kube/annotate.ts";
import type { Store } from "../store/store.ts";
import { version } from "../version.ts";
import type { DaemonContext } from "./context.ts";
import { type LiveConfig, openLiveConfig } from "./live-config.ts";

/** What stands before anything is known of the network: the machine, this node, the store, and where we answer. */
export interface Station extends Pick<DaemonContext, "addon" | "log" | "clock"> {
  /** As at the start; what may change meanwhile is read from `live`. */
  readonly config: Config;
  readonly live: LiveConfig;
  readonly kernel: Kernel;
  readonly uplink: Uplink;
  readonly node: NodeIdentity;
  readonly store: Store;
  readonly annotator: NodeAnnotator | undefined;
  readonly engines: UserspaceEngines;
  readonly descriptors: EngineDescriptors;
  readonly service: ServiceManager;
  readonly doors: StatusDoors;
  readonly progress: Progress;
  /** Pid of the daemon that goes on until we take over from it. */
  readonly predecessor: number | undefined;
  /** Says what is being done or waited for. */
  enter(phase: string): void;
}

/** The admin socket and the ports: one daemon at a time has them, for as long as it lives. */
export interface StatusDoors {
  open(): void;
  /** Leaves them to a successor. */
  surrender(): void;
}

/**
 * Opens all of it in order; what is to be closed goes to `opened`.
 * @throws FlannelError where the host or the configuration does not allow a daemon
 */
export async function openStation(
  config: Config,
  context: DaemonContext,
  opened: AsyncDisposableStack,
  stop: AbortSignal,
): Promise<Station> {
  const { addon, log, clock, env } = context;
  const startedAt = clock.now();
  const progress: Progress = { phase: "starting", up: false };
  const descriptors = openEngineDescriptors({ addon, env, pid: process.pid, log });
  const service = openServiceManager(addon, env["NOTIFY_SOCKET"], log);
  const kernel = await addon.openKernel();
  opened.defer(() => kernel.close());

  const storeContext = { log, clock, env };
  const annotated = await readAnnotatedAddresses(config, storeContext, stop);
  const choose = (from: Config) => chooseUplink(kernel, { ...uplinkChoice(from), ...annotated });
  const chosen = await choose(config);
  progress.chosen = chosen;
  const { uplink } = chosen;
  logUplink(chosen, log);
  const node = readIdentity(config.host);

  const live = openLiveConfig(
    config,
    {
      ...context,
      onBegin: () => {
        if (progress.wasReady === true) service.reloading();
      },
      onEnd: () => {
        if (progress.wasReady === true) service.reloaded(hindrance(progress, engines) ?? progress.phase);
      },
    },
    stop,
  );
  live.apply("log", (next) => {
    log.adjust(next.log);
    return undefined;
  });
  live.apply("uplink", async (next) => {
    const again = await choose(next);
    if (!isSameUplink(again.uplink, uplink)) return `it would choose ${uplinkText(again.uplink)}`;
    progress.chosen = again;
    return undefined;
  });

  const served = await openServedStore(config, { log, clock, version, patient: context.takeOver });
  if (served !== undefined) opened.use(served);
  const leaseTtl = () => live.current.store.leaseTtl;
  const store = opened.use(openStore(config, { ...storeContext, leaseTtl }));
  const annotator = openAnnotator(config, storeContext);
  if (annotator !== undefined) opened.use(annotator);
  const engines = opened.use(
    openUserspaceEngines({ openEngine: descriptors.open, openTun: addon.openTun }, descriptors.forget),
  );

  const certificates = openCertificateReader(certificateFiles(config));
  warnOfCertificates(certificates(clock.now()), context);
  const report = () =>
    assembleReport(progress, {
      ...{ node, store, engines, clock, startedAt, certificates },
      waiting: () => live.waiting,
    });
  const { runDir } = config.host;
  const open: { surrender(): void }[] = [];
  const doors: StatusDoors = {
    open() {
      const pages = {
        hindrance: () => hindrance(progress, engines),
        metrics: () => metricsText(report(), live.current.metrics),
      };
      const admin = opened.use(openAdminSocket(runDir, { report, reload: live.reload }));
      const servers = opened.use(openStatusServers(live.current, pages, clock));
      open.push(admin, servers);
      live.apply("listeners", (next) => {
        servers.move(next);
        return undefined;
      });
    },
    surrender() {
      for (const door of open) door.surrender();
    },
  };
  const predecessor = context.takeOver ? await findPredecessor(runDir, log) : undefined;
  if (!context.takeOver) await refuseRunning(runDir);
  if (predecessor === undefined) doors.open();

  if (context.watchdogMs !== undefined) {
    const stuck = () => whyStuck(progress, engines, clock.now());
    opened.use(openWatchdog({ service, intervalMs: context.watchdogMs, stuck, clock, log }));
  }
  opened.use(context.onHangup(() => void live.reload()));
  return {
    ...{ addon, log, clock, config, live, kernel, uplink, node, store, annotator },
    ...{ engines, descriptors, service, doors, progress, predecessor },
    enter(phase) {
      progress.phase = phase;
      service.status(phase);
    },
  };
}

function logUplink(chosen: ChosenUplink, log: DaemonContext["log"]): void {
  const { uplink, reason } = chosen;
  log.info("uplink chosen", {
    interface: uplink.name,
    address: uplink.address?.toString(),
    publicIp: uplink.publicIp?.toString(),
    interfaceV6: uplink.interfaceV6?.name,
    addressV6: uplink.addressV6?.toString(),
    publicIpv6: uplink.publicIpv6?.toString(),
    reason,
    passedOver: passedOverLines(chosen).join("; "),
  });
}

/** The pid of the daemon of `runDir`, where one runs. */
async function findPredecessor(runDir: string, log: DaemonContext["log"]): Promise<number | undefined> {
  const report = await readReport(runDir).catch(() => undefined);
  if (report === undefined) log.info("no flannel-lite runs here: starting as usual");
  else log.info("another flannel-lite goes on until we are ready", { pid: report.pid });
  return report?.pid;
}

function certificateFiles({ store: { type, etcd, embedded } }: Config) {
  const server = type === "embedded" ? embedded.certfile : undefined;
  return { ca: etcd.cafile, client: etcd.certfile, server };
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
