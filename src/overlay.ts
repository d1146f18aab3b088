import type { Config } from "./config/schema.ts";
import { createHash } from "node:crypto";
import type { BackendSetup } from "./backend/backend.ts";
import { withBlackhole } from "./backend/blackhole.ts";
import { setUpBackend } from "./backend/open.ts";
import type { NetworkConfig } from "./config/network.ts";
import type { FirewallOptions } from "./host/firewall/firewall.ts";
import { isOwnSubnetEnv, readSubnetEnvNetworks } from "./host/subnet-env.ts";
import { chooseEngine, type EngineChoice, noKernelDevice, probeTun } from "./datapath/engine-choice.ts";
import type { KernelScope } from "./datapath/kernel.ts";
import type { NodeIdentity } from "./lease/lease.ts";
import type { Prefix } from "./net/prefix.ts";
import type { Uplink } from "./net/uplink.ts";

/** What configuration, network and host decide together, before any lease is taken. */
export interface Overlay {
  readonly network: NetworkConfig;
  readonly ranges: readonly Prefix[];
  readonly backend: BackendSetup;
  readonly engine: EngineChoice;
}

/** @throws FlannelError where the network cannot be served on this host */
export function decideOverlay(
  config: Config,
  { network, uplink, node }: { network: NetworkConfig; uplink: Uplink; node: NodeIdentity },
): Overlay {
  const ranges = [network.ipv4?.network, network.ipv6?.network].filter((range) => range !== undefined);
  const setup = setUpBackend(network.backend, {
    uplink,
    overlay: ranges,
    subnetLengths: {
      ...(network.ipv4 === undefined ? {} : { 4: network.ipv4.subnetLength }),
      ...(network.ipv6 === undefined ? {} : { 6: network.ipv6.subnetLength }),
    },
    strict: config.datapath.strict,
    allowSources: config.datapath.allowSources,
    latency: config.datapath.latency,
    extension: config.backend,
    nodeId: node.id,
  });
  const { onStop } = config.datapath;
  if (setup.userspaceOnly === true && onStop === "kernel")
    throw noKernelDevice(setup.type, "datapath.on_stop");
  const backend = config.host.blackholeRoute ? withBlackhole(setup) : setup;
  const engine: EngineChoice =
    backend.device === undefined
      ? { engine: "none", reason: `the ${backend.type} backend makes no device` }
      : chooseEngine({
          configured: config.datapath.engine,
          kernelOnly: backend.kernelOnly,
          ...(backend.userspaceOnly === true ? { userspaceOnly: backend.type } : {}),
          ...(backend.rawSocket === true ? { rawSocket: backend.type } : {}),
          tunTrouble: probeTun(),
        });
  return { network, ranges, backend, engine };
}

/**
 * What of the kernel's is ours. Routes over the uplink are known by the overlay that they lead into: by `ranges`,
 * and by the networks of the run before, which subnet.env names as long as nobody else has written it.
 */
export function kernelScope(
  config: Config,
  ranges: readonly Prefix[],
  adopt?: KernelScope["adopt"],
): KernelScope {
  const { host } = config;
  const previous = isOwnSubnetEnv(host) ? readSubnetEnvNetworks(host.subnetFile) : [];
  return { owner: ownerMark(config), overlay: [...ranges, ...previous], adopt };
}

/** The kernel keeps 255 bytes of a link's alias (IFALIASZ). */
const aliasBytesMax = 255;

/** The mark on our links: it names the network, so that two daemons on one host tell theirs apart. */
function ownerMark(config: Config): string {
  const mark = `flannel-lite ${config.store.etcd.prefix}`;
  if (Buffer.byteLength(mark) <= aliasBytesMax) return mark;
  return `flannel-lite ${createHash("sha256").update(mark).digest("hex")}`;
}

/** What the packet filter shall hold for `overlay`; what the run before left is told by subnet.env. */
export function firewallOptions(
  config: Config,
  { network, ranges }: Pick<Overlay, "network" | "ranges">,
): FirewallOptions {
  const { host } = config;
  return {
    engine: host.firewall,
    enableNftables: network.enableNftables,
    masquerade: host.ipMasq,
    forward: host.forwardRules,
    noMasquerade: host.noMasquerade,
    fullyRandom: !host.ipMasqFullyRandomDisable,
    table: firewallTable(config),
    ranges,
    previous: readSubnetEnvNetworks(host.subnetFile),
  };
}

/** Our nftables table; networks other than the usual one have one each. */
export function firewallTable({ store }: Config): string {
  const { prefix } = store.etcd;
  if (prefix === "/coreos.com/network") return "flannel-lite";
  return `flannel-lite-${createHash("sha256").update(prefix).digest("hex").slice(0, 8)}`;
}
