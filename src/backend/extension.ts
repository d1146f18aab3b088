import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import { type Lease, leaseKey } from "../lease/lease.ts";
import { emptyPlan, type ExtensionItem } from "../plan/plan.ts";
import type { BackendContext, BackendSetup, ExtensionCommands, ExtensionPermission } from "./backend.ts";
import { type RefusedPeer, selectPeers } from "./peers.ts";

/** A peer's data goes to a command on standard input: longer data is nobody's. */
export const backendDataBytesMax = 4_096;

/** As long as an option's text may be. */
const commandCharsMax = 4_096;

/**
 * Sets up the extension backend: no device and no route of ours, but commands for each peer.
 * @throws FlannelError `network/backend` (exit code 2 where this host does not let the network run commands)
 */
export function setUpExtension(config: BackendConfig, context: BackendContext): BackendSetup {
  const { uplink, overlay, subnetLengths } = context;
  const { mtuBytes, publicIp, publicIpv6 } = uplink;
  const commands = chooseCommands(parseCommands(config), context.extension);
  return {
    type: "extension",
    device: undefined,
    kernelOnly: [],
    usesReach: false,
    commands,
    attributes: ({ published }) => ({
      ...(publicIp === undefined ? {} : { publicIp }),
      ...(publicIpv6 === undefined ? {} : { publicIpv6 }),
      backendType: "extension",
      ...(published === undefined ? {} : { backendData: published }),
    }),
    open: () => ({
      mtuBytes,
      plan(own, leases) {
        const selection = selectPeers(leases, { own, overlay, subnetLengths, backendType: "extension" });
        const refused: RefusedPeer[] = [...selection.refused];
        const extensions: ExtensionItem[] = [];
        for (const lease of selection.usable) {
          const data = dataOf(lease);
          if (data !== undefined) extensions.push({ ...peerOf(lease), data });
          else
            refused.push({
              lease,
              reason: `its BackendData is no text of at most ${backendDataBytesMax} bytes`,
            });
        }
        return { plan: { ...emptyPlan, extensions }, refused };
      },
    }),
  };
}

/** The host's own commands; the network's only where the host's configuration lets it. */
function chooseCommands(
  store: ExtensionCommands,
  permission: ExtensionPermission | undefined,
): ExtensionCommands {
  const local: ExtensionCommands = defined({
    preStartup: permission?.preStartupCommand,
    postStartup: permission?.postStartupCommand,
    subnetAdd: permission?.subnetAddCommand,
    subnetRemove: permission?.subnetRemoveCommand,
  });
  if (permission?.extensionCommands === "store") return { ...store, ...local };
  if (Object.keys(local).length > 0 || Object.keys(store).length === 0) return local;
  throw new FlannelError(
    "network/backend",
    "the network configuration names commands to run as root on every host, which this host does not allow",
    {},
    {
      exitCode: 2,
      remedy:
        'Set backend.subnet_add_command and its like in this host\'s configuration, or backend.extension_commands = "store" to trust whoever writes to the store',
    },
  );
}

/** Members match case-insensitively, as in flannel. */
function parseCommands({ options }: BackendConfig): ExtensionCommands {
  const members = new Map(Object.entries(options).map(([name, value]) => [name.toLowerCase(), value]));
  const command = (name: string): string | undefined => {
    const value = members.get(name.toLowerCase());
    if (value === undefined || value === null || value === "") return undefined;
    if (typeof value === "string" && value.length <= commandCharsMax && !value.includes("\0")) return value;
    throw new FlannelError(
      "network/backend",
      `error decoding extension backend config: ${name} must be a text of at most ${commandCharsMax} characters`,
      {},
      { remedy: "Correct the Backend object of the network configuration" },
    );
  };
  return defined({
    preStartup: command("PreStartupCommand"),
    postStartup: command("PostStartupCommand"),
    subnetAdd: command("SubnetAddCommand"),
    subnetRemove: command("SubnetRemoveCommand"),
  });
}

function peerOf({ subnets, attributes: { publicIp, publicIpv6 } }: Lease): Omit<ExtensionItem, "data"> {
  return { key: leaseKey(subnets), ...defined({ ...subnets, publicIp, publicIpv6 }) };
}

/** The text that a peer publishes; undefined for what is none, or too long. */
function dataOf({ attributes: { backendData } }: Lease): string | undefined {
  if (backendData === undefined || backendData === null) return "";
  if (typeof backendData !== "string") return undefined;
  return Buffer.byteLength(backendData) <= backendDataBytesMax ? backendData : undefined;
}

function defined<T extends object>(members: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const entries = Object.entries(members).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]: Exclude<T[K], undefined> };
}
