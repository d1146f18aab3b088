import { errorText } from "../base/error.ts";
import type { Task } from "../base/group.ts";
import type { Backend } from "../backend/backend.ts";
import type { Config } from "../config/schema.ts";
import { openReach } from "../datapath/reach.ts";
import { openReconciler, type Reconciler } from "../datapath/reconcile.ts";
import { openTxChecksum } from "../datapath/tx-checksum.ts";
import { type Firewall, openFirewall } from "../host/firewall/firewall.ts";
import { enableIpForward } from "../host/ip-forward.ts";
import { openSnapshotWriter, type Snapshot } from "../host/snapshot.ts";
import { writeSubnetEnv } from "../host/subnet-env.ts";
import { leaseKey } from "../lease/lease.ts";
import type { Keeper } from "../network/keeper.ts";
import { openNetwork } from "../network/network.ts";
import { watchNetworkConfig } from "../network/network-config.ts";
import { decideOverlay, firewallOptions } from "../overlay.ts";
import type { Plan } from "../plan/plan.ts";
import { hindrance } from "../status/health.ts";
import type { Membership } from "./membership.ts";
import type { Station } from "./station.ts";

/** What carries packets and keeps it so: leases become plans, plans become true, and the host is told. */
export interface Carriage {
  readonly reconciler: Reconciler;
  /** Resolves once there is a plan. */
  readonly firstPlan: Promise<void>;
  /** What runs from the start to the end. */
  readonly tasks: readonly Task[];
  /** What keeps things as they are, once traffic flows. */
  readonly upkeep: readonly Task[];
  /** Puts the rules, forwarding and subnet.env in place, once the device stands. */
  prepareHost(): Promise<void>;
  /** Tells systemd, the store and `status` how it stands. */
  announce(): void;
  /** What the kernel's device would need to carry the traffic by itself. */
  kernelPlan(): Plan;
  /** Takes our packet filter rules away; a failure is logged. */
  removeFirewall(): Promise<void>;
}

/** Opens all of it; nothing on the machine is changed yet. */
export async function openCarriage(station: Station, membership: Membership): Promise<Carriage> {
  const { addon, config, live, kernel, uplink, node, store, annotator, engines, progress, log, clock } =
    station;
  const { document, network, snapshot, overlay, scope, commands, keeper } = membership;
  const openMonitor = addon.openKernel;

  let layout = overlay.backend.open(overlay.engine.engine);
  const backend: Backend = { mtuBytes: layout.mtuBytes, plan: (...given) => layout.plan(...given) };
  progress.backend = backend;
  const reconciler = openReconciler({
    ...{ kernel, openMonitor, engines, scope, log, clock },
    ...(commands && { commands }),
    onPass: () => {
      for (const checksum of txChecksums) checksum.look();
      if (progress.up) announce();
    },
  });
  progress.reconciler = reconciler;
  const txChecksums =
    overlay.engine.engine === "kernel" ? openTxChecksums(station, membership, reconciler) : [];
  if (txChecksums.length > 0) progress.txChecksums = txChecksums;

  const writer = openSnapshotWriter({
    path: membership.snapshotPath,
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
    ...{ kernel, openMonitor, uplink, log, clock },
    onChange: () => loop.reachChanged(),
  });
  const firstPlan = Promise.withResolvers<void>();
  const loop = openNetwork({
    ...{ store, keeper, backend, reach, reconciler, log, clock },
    ...(snapshot && { remembered: snapshot.peers }),
    onFirstPlan: firstPlan.resolve,
    onLeases: (how) => {
      if (keeper.conflict === undefined) writer.touch(how);
    },
  });
  progress.network = loop;
  const firewall = openFirewall(firewallOptions(live.current, overlay), {
    ...{ addon, log, clock },
    onChange: () => {
      if (progress.up) announce();
    },
  });
  progress.firewall = firewall;
  const networkWatch = watchNetworkConfig({ store, log, clock }, document);
  live.lookAt(networkWatch);

  const announce = () => {
    progress.phase = phaseText(keeper, snapshot, firewall);
    const reason = hindrance(progress, engines);
    if (reason === undefined) {
      station.service.ready(progress.phase);
      store.announceReady?.();
      progress.wasReady = true;
    } else station.service.status(reason);
  };
  let publishedSubnet = leaseKey(keeper.lease.subnets);
  const publishSubnets = () => {
    const { subnets } = keeper.lease;
    const { ipMasq } = live.current.host;
    writeSubnetEnv(config.host, { network, subnets, mtuBytes: backend.mtuBytes, ipMasq });
    publishedSubnet = leaseKey(subnets);
  };
  const switchForwarding = ({ host }: Config) => {
    if (host.ipForward) enableIpForward([...new Set(overlay.ranges.map(({ family }) => family))], log);
  };
  const onOwnLease = () => {
    loop.ownChanged();
    if (keeper.conflict !== undefined) writer.forget();
    else membership.saveMacs();
    if (!progress.up) return;
    if (keeper.conflict === undefined) annotator?.want(keeper.lease.attributes);
    firewall.want(keeper.lease.subnets);
    announce();
    if (leaseKey(keeper.lease.subnets) !== publishedSubnet) publishSubnets();
  };

  live.apply("plan", async (next) => {
    layout = decideOverlay(next, { network, uplink, node }).backend.open(overlay.engine.engine);
    loop.ownChanged();
    if (progress.up) await reconciler.pass();
    return undefined;
  });
  live.apply("checksum", ({ datapath }) => {
    for (const checksum of txChecksums) checksum.change(datapath.txChecksum);
    return undefined;
  });
  live.apply("firewall", async (next) => {
    await firewall.change(firewallOptions(next, overlay));
    if (!progress.up) return undefined;
    await firewall.ensure();
    publishSubnets();
    announce();
    return undefined;
  });
  live.apply("forwarding", (next) => {
    if (progress.up) switchForwarding(next);
    return undefined;
  });

  return {
    reconciler,
    firstPlan: firstPlan.promise,
    tasks: [
      loop.run,
      networkWatch.run,
      (stop) => keeper.run(stop, onOwnLease),
      ...(overlay.backend.usesReach ? [reach.run] : []),
      ...(config.store.offlineStart ? [writer.run] : []),
      ...(annotator === undefined ? [] : [annotator.run]),
    ],
    upkeep: [reconciler.run, firewall.run, ...txChecksums.map((checksum) => checksum.run)],
    async prepareHost() {
      annotator?.want(keeper.lease.attributes);
      switchForwarding(live.current);
      firewall.want(keeper.lease.subnets);
      await firewall.ensure();
      publishSubnets();
    },
    announce,
    kernelPlan: () => overlay.backend.open("kernel").plan(keeper.lease, loop.peers, reach.current).plan,
    async removeFirewall() {
      try {
        for (const rule of await firewall.remove()) log.info("removed", { rule });
      } catch (error) {
        log.error("firewall rules could not be removed", { error: errorText(error) });
      }
    },
  };
}

/** One for each of the kernel's devices. */
function openTxChecksums(
  { addon, live, log, clock }: Station,
  { devices }: Membership,
  reconciler: Reconciler,
) {
  return devices.map((device) =>
    openTxChecksum({
      ...{ addon, device, log, clock },
      setting: live.current.datapath.txChecksum,
      peers: () => {
        const neighbours = reconciler.wanted?.neighbours ?? [];
        return neighbours.filter((neighbour) => neighbour.device === device).map(({ ip }) => `${ip}`);
      },
    }),
  );
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
