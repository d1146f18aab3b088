import type { Lab } from "../../src/demo/lab.ts";

/** libpcap's file format (pcap-savefile(5)), little-endian with microseconds, as tcpdump writes it here. */
const fileHeaderBytes = 24;
const recordHeaderBytes = 16;
const magic = 0xa1b2_c3d4;
const linkEthernet = 1;
const linkRawIp = new Set([12, 14, 101]);

/** What was seen on a device, from the IP header on, Ethernet's left out. */
export interface Capture extends AsyncDisposable {
  /** In the order of arrival; grows. */
  readonly packets: readonly Uint8Array[];
  /** Waits until `done` holds of the packets, and gives them. */
  until(done: (packets: readonly Uint8Array[]) => boolean): Promise<readonly Uint8Array[]>;
}

/** Captures what `filter` (pcap-filter(7)) selects on a device of a namespace, from now on. */
export async function openCapture(
  lab: Lab,
  { namespace, device, filter }: { namespace: string; device: string; filter: string },
): Promise<Capture> {
  // The kernel's buffer has a slot of the snapshot's size for each packet: bursts fit only small ones.
  const options = ["-n", "-U", "--immediate-mode", "-Z", "root", "-s", "2048", "-w", "-", "-i", device];
  const child = lab.start(namespace, ["tcpdump", ...options, ...filter.split(" ")]);
  const packets: Uint8Array[] = [];
  let trouble: unknown;
  const reading = readPcap(child.output, (packet) => void packets.push(packet)).catch((error: unknown) => {
    trouble = error;
  });
  const waitFor = async (what: string, done: () => boolean) => {
    for (const deadline = Date.now() + 10_000; !done(); await Bun.sleep(5)) {
      if (trouble === undefined && Date.now() < deadline) continue;
      throw new Error(`${what}; ${packets.length} packets captured; ${child.errorTail()}`, {
        cause: trouble,
      });
    }
  };
  await waitFor("tcpdump did not start", () => child.errorTail().includes("listening on"));
  return {
    packets,
    async until(done) {
      await waitFor("what was waited for was not captured", () => done(packets));
      return packets;
    },
    async [Symbol.asyncDispose]() {
      await child.end();
      await reading;
    },
  };
}

/** Hands on each packet of a capture file as soon as it is whole. */
export async function readPcap(
  stream: AsyncIterable<Uint8Array>,
  onPacket: (packet: Uint8Array) => void,
): Promise<void> {
  let buffer: Buffer = Buffer.alloc(0);
  let linkType: number | undefined;
  for await (const chunk of stream) {
    buffer = Buffer.concat([buffer, chunk]);
    if (linkType === undefined) {
      if (buffer.length < fileHeaderBytes) continue;
      if (buffer.readUInt32LE(0) !== magic) throw new Error("no capture file as expected");
      linkType = buffer.readUInt32LE(20);
      buffer = buffer.subarray(fileHeaderBytes);
    }
    while (buffer.length >= recordHeaderBytes) {
      const end = recordHeaderBytes + buffer.readUInt32LE(8);
      if (buffer.length < end) break;
      onPacket(ipOf(buffer.subarray(recordHeaderBytes, end), linkType));
      buffer = buffer.subarray(end);
    }
  }
}

function ipOf(frame: Uint8Array, linkType: number): Uint8Array {
  if (linkType === linkEthernet) return frame.subarray(14);
  if (linkRawIp.has(linkType)) return frame;
  throw new Error(`link type ${linkType} is not read here`);
}
