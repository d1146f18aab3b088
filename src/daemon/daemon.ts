import { runGroup, type Task } from "../base/group.ts";
import type { Config } from "../config/schema.ts";
import type { OwnVariables } from "../datapath/commands.ts";
import type { PassResult } from "../datapath/pass.ts";
import { awaitSuccessor, takeOver } from "../host/take-over.ts";
import { leaseKey } from "../lease/lease.ts";
import { signOff } from "../network/sign-off.ts";
import { emptyPlan, type Plan } from "../plan/plan.ts";
import { hindrance, lostDevice } from "../status/health.ts";
import { type Carriage, openCarriage } from "./carriage.ts";
import type { DaemonContext } from "./context.ts";
import { joinNetwork, type Membership, unlessStopped } from "./membership.ts";
import { openStation, type Station } from "./station.ts";

/** A daemon that has all it needs to carry packets. */
interface Daemon {
  readonly station: Station;
  readonly membership: Membership;
  readonly carriage: Carriage;
}

/**
 * Opens everything in order, carries traffic until `stop` aborts or a successor takes over, closes in reverse.
 * @throws FlannelError for what waiting cannot cure; a store that cannot be reached is waited for
 */
export async function runDaemon(config: Config, context: DaemonContext, stop: AbortSignal): Promise<void> {
  await using opened = new AsyncDisposableStack();
  const station = await openStation(config, context, opened, stop);
  const membership = await joinNetwork(station, opened, stop);
  if (membership === undefined) return;
  const carriage = await openCarriage(station, membership);
  await carry({ station, membership, carriage }, stop);
}

async function carry(daemon: Daemon, stop: AbortSignal): Promise<void> {
  const { reconciler, tasks, upkeep } = daemon.carriage;
  const inherited = (await reconciler.preview(emptyPlan)).length > 0;
  const isUp = Promise.withResolvers<void>();
  let successor: number | undefined;
  const goUp: Task = async (inner) => {
    if (!(await bringUp(daemon, inner))) return;
    isUp.resolve();
    await Promise.all(upkeep.map((task) => task(inner)));
  };
  const handOver: Task = async (inner) => {
    await unlessAborted(isUp.promise, inner);
    if (!inner.aborted) successor = await offerHandOver(daemon, inner);
  };
  try {
    await runGroup(stop, [...tasks, goUp, handOver]);
  } finally {
    await shutDown(daemon, { successor, inherited });
  }
}

/** @returns whether traffic flows; not where `stop` aborted first */
async function bringUp({ station, membership, carriage }: Daemon, stop: AbortSignal): Promise<boolean> {
  const { descriptors, progress, engines, log } = station;
  const { overlay, devices, claims, commands, keeper } = membership;
  station.enter("waiting for the first list of leases");
  await unlessAborted(carriage.firstPlan, stop);
  if (stop.aborted) return false;
  await membership.refuseFlanneld(); // waiting may have taken long
  if (!claims.held) await takeOverFrom({ station, membership, carriage });
  descriptors.expect(overlay.engine.engine === "userspace" ? devices : []);
  await unlessStopped(stop, commands?.postStartup(ownVariables(membership)));
  if (stop.aborted) return false;
  throwIfNoDevice(await carriage.reconciler.pass());
  await carriage.prepareHost();
  progress.up = true;
  carriage.announce();
  const { device, deviceV6 } = overlay.backend;
  log.info(hindrance(progress, engines) === undefined ? "ready" : "up, but not ready", {
    subnet: leaseKey(keeper.lease.subnets),
    device,
    deviceV6,
    engine: overlay.engine.engine,
  });
  return true;
}

/** All that can go wrong before has not: now the predecessor may end. */
async function takeOverFrom({ station, membership, carriage }: Daemon): Promise<void> {
  const { addon, config, predecessor, descriptors, doors, log } = station;
  const { reconciler } = carriage;
  await reconciler.preview(reconciler.wanted ?? emptyPlan);
  const handed = await takeOver(addon, config.host.runDir);
  log.info(handed === undefined ? "the daemon has ended by itself" : "taken over", { predecessor });
  membership.claims.take(handed);
  doors.open();
  if (handed !== undefined) descriptors.receive(handed);
}

/** @returns the pid of the daemon that has taken over; undefined where `stop` aborted first */
async function offerHandOver(
  { station, membership }: Daemon,
  stop: AbortSignal,
): Promise<number | undefined> {
  const { addon, config, engines, descriptors, doors, service, log } = station;
  const { claims } = membership;
  const offer = {
    pause: () => [...claims.descriptors(), ...engines.pause()],
    resume: () => engines.resume(),
    release() {
      engines.surrender();
      claims.release();
      doors.surrender();
      descriptors.withdraw();
    },
  };
  const successor = await awaitSuccessor({ addon, runDir: config.host.runDir, log }, offer, stop);
  if (successor !== undefined) service.handedOver(successor);
  return successor;
}

/** Leaves the machine and the store as the configuration wants them after a stop. */
async function shutDown(
  { station, membership, carriage }: Daemon,
  { successor, inherited }: { successor: number | undefined; inherited: boolean },
): Promise<void> {
  const { live, store, node, service, progress, log, clock } = station;
  const { claims, keeper } = membership;
  const { reconciler } = carriage;
  const wasUp = progress.up;
  progress.up = false;
  progress.stopping = true;
  progress.phase = "stopping";
  if (successor !== undefined) return log.info("handed over", { successor });
  if (!claims.held) return log.info("nothing was taken over: the other flannel-lite goes on");
  service.stopping();
  // A start that fails leaves nothing half-made; what an earlier run made may still carry traffic.
  const onStop = wasUp ? live.current.datapath.onStop : inherited ? "keep" : "remove";
  const last = planAtStop(onStop, carriage.kernelPlan);
  if (last !== undefined) {
    reconciler.want(last);
    await reconciler.pass();
  }
  if (onStop === "remove") await carriage.removeFirewall();
  await signOff(keeper.lease, { store, node, log, clock });
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

/** What flannel's PostStartupCommand is told, with its words for what there is not. */
function ownVariables({ network, keeper: { lease } }: Membership): OwnVariables {
  const { subnets, attributes } = lease;
  return {
    NETWORK: `${network.ipv4?.network ?? "0.0.0.0/0"}`,
    SUBNET: `${subnets.ipv4 ?? "0.0.0.0/0"}`,
    IPV6SUBNET: `${subnets.ipv6 ?? "::/0"}`,
    PUBLIC_IP: `${attributes.publicIp ?? "<nil>"}`,
    PUBLIC_IPV6: `${attributes.publicIpv6 ?? "<nil>"}`,
  };
}

/** Without its device the daemon is useless; a supervisor should see it fail. */
function throwIfNoDevice(result: PassResult): void {
  const fatal = lostDevice(result);
  if (fatal !== undefined) throw fatal.error;
}

/** Waits for `event`, but no longer than until `stop` aborts. */
function unlessAborted(event: Promise<void>, stop: AbortSignal): Promise<void> {
  const stopped = Promise.withResolvers<void>();
  if (stop.aborted) stopped.resolve();
  stop.addEventListener("abort", () => stopped.resolve(), { once: true });
  return Promise.race([event, stopped.promise]);
}
