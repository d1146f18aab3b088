import { adoptionOf, readKnownMacs, refuseFlanneld } from "../adoption.ts";
import { devicesOf } from "../backend/backend.ts";
import { findVtepMac } from "../backend/vtep.ts";
import { type Commands, openCommands } from "../datapath/commands.ts";
import type { KernelScope } from "../datapath/kernel.ts";
import { claimDevice, claimNetwork, type OwnClaim } from "../host/claim.ts";
import { saveMac } from "../host/saved-mac.ts";
import { type Snapshot, snapshotPath } from "../host/snapshot.ts";
import { readSubnetEnv } from "../host/subnet-env.ts";
import type { Lease } from "../lease/lease.ts";
import type { Descriptors, NamedDescriptor } from "../native/ports.ts";
import { type Keeper, type KeeperContext, openKeeper, resumeKeeper } from "../network/keeper.ts";
import { type FoundNetwork, waitForNetworkConfig } from "../network/network-config.ts";
import { decideOverlay, kernelScope, type Overlay } from "../overlay.ts";
import { remember, type Remembered, rememberedLease } from "../remembered.ts";
import type { Station } from "./station.ts";

/** Our place in the network: its configuration, what that means on this host, and our lease. */
export interface Membership extends FoundNetwork {
  /** What the start went by where the store could not be asked. */
  readonly snapshot: Snapshot | undefined;
  readonly snapshotPath: string;
  readonly overlay: Overlay;
  /** The devices we make; none where packets go over the uplink. */
  readonly devices: readonly string[];
  readonly scope: KernelScope;
  readonly commands: Commands | undefined;
  readonly keeper: Keeper;
  readonly claims: Claims;
  /** Remembers our VTEPs' MACs across a loss of the lease. */
  saveMacs(): void;
  /** @throws FlannelError `daemon/flanneld` */
  refuseFlanneld(): Promise<void>;
}

/** The names by which one daemon at a time has the devices, or the network where there are none. */
export interface Claims {
  readonly held: boolean;
  /** Takes them, `handed` over by the predecessor where there is one. @throws FlannelError `daemon/running` */
  take(handed?: Descriptors): void;
  descriptors(): NamedDescriptor[];
  /** Leaves them to a successor. */
  release(): void;
}

/**
 * Waits for the network configuration and for a lease.
 * @returns undefined when `stop` aborted first
 * @throws FlannelError for what waiting cannot cure
 */
export async function joinNetwork(
  station: Station,
  opened: AsyncDisposableStack,
  stop: AbortSignal,
): Promise<Membership | undefined> {
  const { config, live, kernel, uplink, node, store, progress, predecessor, log, clock } = station;
  station.enter(`waiting for the network configuration in ${store.description}`);
  const path = snapshotPath(config.host.stateDir, config.store.etcd.prefix);
  const assigned = config.store.type === "kubernetes";
  const found = await waitForNetworkConfig<Remembered>(
    { store, own: config.network, log, clock },
    () => (config.store.offlineStart ? remember(path, { node, uplink, assigned, log }) : undefined),
    stop,
  );
  if (found === undefined) return undefined;
  const { document, network } = found;
  const snapshot = "snapshot" in found ? found.snapshot : undefined;

  const overlay = decideOverlay(live.current, { network, uplink, node });
  progress.overlay = overlay;
  const { backend, engine } = overlay;
  const devices = devicesOf(backend);
  const claims = openClaims(station, devices, opened);
  if (predecessor === undefined) claims.take();
  const refuse = () => refuseFlanneld(config, { kernel, overlay, predecessor });
  await refuse();
  log.info("engine chosen", { engine: engine.engine, reason: engine.reason });

  station.enter("waiting for a lease");
  const adopt = adoptionOf(config, overlay);
  const knownMacs = await readKnownMacs(config, { kernel, backend, adopt, log });
  const timeoutMs = config.backend.commandTimeout * 1_000;
  const commands =
    backend.commands && openCommands({ commands: backend.commands, timeoutMs, log, clock, stop });
  const published = await unlessStopped(stop, commands?.preStartup());
  const keeperContext: KeeperContext = {
    store,
    request: {
      network,
      attributes: (existing: Lease | undefined) => backend.attributes({ existing, ...knownMacs, published }),
      publicIp: uplink.publicIp,
      node,
      previous: readSubnetEnv(config.host.subnetFile),
      remembered: assigned ? undefined : rememberedLease(path, node, log),
    },
    get renewMarginMs() {
      return live.current.store.renewMargin * 60_000;
    },
    get onConflict() {
      return live.current.store.onConflict;
    },
    log,
    clock,
  };
  const keeper =
    snapshot === undefined
      ? await openKeeper(keeperContext, stop)
      : resumeKeeper(keeperContext, snapshot.own);
  if (keeper === undefined) return undefined;
  progress.keeper = keeper;
  live.apply("lease", () => {
    keeper.wake();
    return undefined;
  });
  const saveMacs = () => {
    for (const { family } of overlay.ranges) {
      const name = family === 6 ? (backend.deviceV6 ?? backend.device) : backend.device;
      const mac = findVtepMac(keeper.lease, family);
      if (name !== undefined && mac !== undefined) saveMac(config.host.stateDir, name, mac, log);
    }
  };
  saveMacs();
  return {
    ...{ document, network, snapshot, snapshotPath: path, overlay, devices, commands, keeper, claims },
    scope: kernelScope(config, overlay.ranges, adopt),
    saveMacs,
    refuseFlanneld: refuse,
  };
}

function openClaims(
  { addon, config, log }: Pick<Station, "addon" | "config" | "log">,
  devices: readonly string[],
  opened: AsyncDisposableStack,
): Claims {
  let claims: readonly OwnClaim[] | undefined;
  return {
    get held() {
      return claims !== undefined;
    },
    take(handed) {
      claims =
        devices.length === 0
          ? [opened.use(claimNetwork(addon, config.store.etcd.prefix, log, handed))]
          : devices.map((name) => opened.use(claimDevice(addon, name, log, handed)));
    },
    descriptors: () => (claims ?? []).map((claim) => claim.descriptor()).filter((one) => one != null),
    release() {
      for (const claim of claims ?? []) claim.release();
    },
  };
}

/** What fails because of a stop is no failure. */
export async function unlessStopped<T>(
  stop: AbortSignal,
  work: Promise<T> | undefined,
): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (stop.aborted) return undefined;
    throw error;
  }
}
