import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Lab, LabHost } from "../demo/lab.ts";
import { device, overlayMtuBytes, port, vni } from "./address.ts";
import type { EngineSetup } from "./agent.ts";
import { ip } from "./pair.ts";
import { resultOf, startAgent } from "./program.ts";

/** The VTEP MAC of the host of the leases that are added or changed. */
export const farMac = "0e:2a:00:01:00:00";

const dripPort = 5204;
const packetMsMax = 20_000;

/** Where the far host is sent to, and from where. */
export interface FarPath {
  readonly lab: Lab;
  readonly own: LabHost;
  readonly far: LabHost;
}

/** The host of the leases that are added: an engine that believes anybody. */
export async function joinFar(lab: Lab, far: LabHost): Promise<void> {
  const setup: EngineSetup = {
    options: { device, port, local: far.address, mtuBytes: overlayMtuBytes },
    table: {
      encapsulation: "vxlan",
      vni,
      vtepMac: farMac,
      overlay: [],
      strict: "off",
      allowSources: [],
      peers: [],
    },
  };
  const file = join(lab.directory, "far.json");
  writeFileSync(file, JSON.stringify(setup));
  await startAgent(lab, far.namespace, ["bench-engine", file]);
  await ip(far.namespace, `link set ${device} mtu ${overlayMtuBytes} up`);
}

/** From the moment that the store has a `change`, which leads `subnet` to the far host, to the first datagram there. */
export async function changeToPacket(
  { lab, own, far }: FarPath,
  subnet: string,
  change: () => Promise<{ readonly at: number }>,
): Promise<number> {
  // The far host takes whatever is sent to that subnet, which may be that of an earlier round.
  await ip(far.namespace, `route replace local ${subnet}/24 dev lo`);
  const arrival = await startAgent(lab, far.namespace, ["bench-first", `${dripPort}`]);
  const drip = await startAgent(lab, own.namespace, ["bench-drip", subnet, `${dripPort}`]);
  const timer = setTimeout(() => void arrival.child.end(0), packetMsMax);
  try {
    const [stored, arrived] = await Promise.all([change(), resultOf<{ at: number }>(arrival)]);
    // The daemon may hear of it before the writer has its answer.
    return Math.max(0, arrived.at - stored.at);
  } finally {
    clearTimeout(timer);
    await drip.child.end();
    await arrival.child.end();
  }
}
