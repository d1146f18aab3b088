import { FlannelError } from "./base/error.ts";
import type { Config } from "./config/schema.ts";
import { type Adoption, adoptableMac, findHeldTun } from "./datapath/adopt.ts";
import { type AgentNetwork, findFlanneld, type OtherAgent } from "./host/other-agent.ts";
import { readSubnetEnvNetworks } from "./host/subnet-env.ts";
import type { Kernel } from "./native/ports.ts";
import type { Mac } from "./net/mac.ts";
import type { Overlay } from "./overlay.ts";
import { readSavedMac } from "./host/saved-mac.ts";
import type { KnownVtep } from "./backend/backend.ts";
import type { Log } from "./base/log.ts";

/** What a flanneld of this network may have left here, and becomes ours once none runs. */
export function adoptionOf(
  config: Config,
  { backend, ranges }: Pick<Overlay, "backend" | "ranges">,
): Adoption {
  return {
    devices: backend.flannelDevices ?? [],
    networks: [...ranges, ...readSubnetEnvNetworks(config.host.subnetFile)],
  };
}

/** The MAC of the device that flannel left, by which peers may know this host. */
export async function readAdoptableMac(
  kernel: Kernel,
  adoption: Adoption,
  device: string,
): Promise<Mac | undefined> {
  const [links, addresses] = await Promise.all([kernel.links(), kernel.addresses()]);
  return adoptableMac(adoption, device, links, addresses);
}

/** The MACs of our devices as this host knows them: those that flannel left, else those saved. */
export async function readKnownMacs(
  config: Config,
  {
    kernel,
    backend: { device, deviceV6 },
    adopt,
    log,
  }: { kernel: Kernel; backend: Overlay["backend"]; adopt: Adoption; log: Log },
): Promise<Omit<KnownVtep, "existing">> {
  const known = async (name: string | undefined) =>
    name === undefined
      ? undefined
      : ((await readAdoptableMac(kernel, adopt, name)) ?? readSavedMac(config.host.stateDir, name, log));
  return { savedMac: await known(device), savedMacV6: await known(deviceV6) };
}

/** The flannelds here that may serve this network. */
export function findRivals(config: Config): OtherAgent[] {
  return findFlanneld(networkOf(config)).filter(({ servesAnother }) => !servesAnother);
}

/**
 * Makes sure that no flanneld runs in this network: it would undo our work, and we would undo its. `predecessor` is
 * the process that we take over from: under flanneld's name, of another version, it looks like one.
 * @throws FlannelError `daemon/flanneld` naming its pid and what it holds
 */
export async function refuseFlanneld(
  config: Config,
  {
    kernel,
    overlay: { backend, ranges },
    predecessor,
  }: { readonly kernel: Kernel; readonly overlay: Overlay; readonly predecessor: number | undefined },
): Promise<void> {
  const [rival] = findRivals(config).filter(({ pid }) => pid !== predecessor);
  const [links, addresses] = await Promise.all([kernel.links(), kernel.addresses()]);
  const tun = findHeldTun(ranges, links, addresses);
  if (rival === undefined && tun === undefined) return;
  const names = [...(backend.flannelDevices ?? []).map(({ name }) => name), tun];
  const held = links.filter(({ name }) => names.includes(name));
  const ports = [...new Set(held.flatMap(({ vxlan }) => vxlan?.port ?? []))];
  throw flanneldRuns(rival?.pid, [
    ...held.map(({ name }) => `device ${name}`),
    ...ports.map((port) => `UDP port ${port}`),
  ]);
}

/** The error that names a live flanneld; without `pid` it is in another pid namespace. */
export function flanneldRuns(pid: number | undefined, holds: readonly string[]): FlannelError {
  const who = pid === undefined ? "a process that is not to be seen from here" : `flanneld (pid ${pid})`;
  const what = holds.length === 0 ? "" : ` and holds ${holds.join(", ")}`;
  return new FlannelError(
    "daemon/flanneld",
    `${who} runs on this host${what}`,
    { pid },
    {
      remedy:
        "Stop it first, then try again: a start takes over what it leaves. One of another network needs an etcd prefix and a subnet file of its own",
    },
  );
}

function networkOf({ host, store }: Config): AgentNetwork {
  return { prefix: store.etcd.prefix, subnetFile: host.subnetFile };
}
