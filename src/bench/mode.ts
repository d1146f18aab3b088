import { FlannelError } from "../base/error.ts";
import { inside } from "../demo/lab.ts";

/**
 * What the link between the hosts does for them. A veth passes packets of 64 KiB whole unless it is told not to,
 * and then no overlay that is measured over it has put a packet on a wire.
 *
 * - `offload`: as a veth is: packets of 64 KiB pass whole
 * - `nic`: segments leave, GRO joins them; checksums of packets that never leave the machine stay unfinished
 * - `wire`: `nic` with every checksum computed: what comes nearest to two machines
 * - `plain`: `nic` without GRO, which every driver of a real NIC has
 * - `nocsum`: `plain` with every checksum computed
 */
export const modes = ["wire", "nic", "offload", "plain", "nocsum"] as const;
export type Mode = (typeof modes)[number];

/**
 * Segmentation by the device. `tso off gso off` leaves those for UDP and for tunnels on, and with them on a
 * tunnel's packets cross unsegmented, so each is turned off by its own name.
 */
const segmentation = /^(tx-.*-segmentation|tx-gso-.*|generic-segmentation-offload)$/;
const receiveOffload = "generic-receive-offload";
const sendChecksum = "tx-checksum-ip-generic";

/** A device's features as `ethtool -k` lists them; those marked `[fixed]` cannot be changed. */
export function parseFeatures(text: string): Map<string, { on: boolean; fixed: boolean }> {
  const lines = text.matchAll(/^\s*([\w-]+): (on|off)( \[.*fixed.*\])?/gm);
  return new Map(
    [...lines].map(([, name = "", state, fixed]) => [
      name,
      { on: state === "on", fixed: fixed !== undefined },
    ]),
  );
}

/** The state that `mode` asks of each of a device's features that it cares about. */
export function wantedFeatures(mode: Mode, names: Iterable<string>): Map<string, boolean> {
  if (mode === "offload") return new Map();
  const wanted = new Map([...names].filter((name) => segmentation.test(name)).map((name) => [name, false]));
  wanted.set(receiveOffload, mode === "nic" || mode === "wire");
  wanted.set(sendChecksum, mode === "nic" || mode === "plain");
  return wanted;
}

/**
 * Puts one end of the link into `mode` and looks whether it is.
 * @throws FlannelError `bench/mode`: a figure measured so would be another mode's
 */
export async function setMode(namespace: string, device: string, mode: Mode): Promise<void> {
  const before = parseFeatures(await inside(namespace, ["ethtool", "-k", device]));
  const wanted = wantedFeatures(mode, before.keys());
  const changes = [...wanted].filter(([name, on]) => before.get(name)?.on !== on);
  // One at a time: some follow from others, and a refusal of one must not hide the rest.
  for (const [name, on] of changes) {
    await inside(namespace, ["ethtool", "-K", device, name, on ? "on" : "off"]).catch(() => undefined);
  }
  const after = parseFeatures(await inside(namespace, ["ethtool", "-k", device]));
  const wrong = [...wanted].filter(([name, on]) => after.get(name)?.on !== on).map(([name]) => name);
  if (wrong.length > 0)
    throw new FlannelError("bench/mode", `${device} cannot be put into mode ${mode}`, {
      wrong: wrong.join(" "),
    });
}

/** Whether packets longer than the MTU may cross the link in this mode. */
export function passesSuperPackets(mode: Mode): boolean {
  return mode === "offload";
}
