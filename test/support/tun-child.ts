/**
 * Runs in a network namespace of its own: takes a TUN through its life and prints what came of each step.
 */
import { runProgram } from "../../src/demo/process.ts";
import { isHeaderIntact, transportChecksumState } from "../../src/datapath/dgram/checksum.ts";
import { FlannelError } from "../../src/base/error.ts";
import { protocolUdp } from "../../src/datapath/dgram/ip.ts";
import { openAddon } from "../../src/native/addon.ts";
import type { Tun } from "../../src/native/ports.ts";
import { parseIpAddress } from "../../src/net/address.ts";
import { ipPacket, parsed, setChecksum, udpDatagram } from "./random-packet.ts";

const device = "fl-tun";
const own = parseIpAddress("10.9.9.1");
const other = parseIpAddress("10.9.9.2");
const addon = openAddon();
const ip = (...args: string[]) => runProgram(["ip", ...args]);
const errnoOf = (call: () => unknown): unknown => {
  try {
    call();
    return "none";
  } catch (error) {
    return error instanceof FlannelError ? error.fields["errno"] : String(error);
  }
};
/** The next packet that is not the kernel's own multicast. */
const nextUnicast = async (tun: Tun) => {
  for (;;) {
    const packet = await tun.read();
    if (packet === null) throw new Error("the TUN is closed");
    const read = parsed(packet);
    if (read.destination.equals(other)) return read;
  }
};
const result: Record<string, unknown> = {};

const first = addon.openTun(device);
result["write while it is down"] = errnoOf(() => first.write(fromOther(9)));
await ip("address", "add", `${own}/24`, "dev", device);
await ip("link", "set", device, "up");
result["open while it is in use"] = errnoOf(() => addon.openTun(device));

await runProgram(["perl", "-e", sendUdp(), `${own}`, `${other}`, "9"]);
const sent = await nextUnicast(first);
result["sent by the host"] = [
  sent.protocol === protocolUdp,
  sent.bytes.length,
  isHeaderIntact(sent),
  transportChecksumState(sent),
];
// Nobody listens there, so the host's answer to it is an ICMP error that quotes it.
first.write(fromOther(9));
const answer = await nextUnicast(first);
result["the host answers"] = [answer.protocol, answer.bytes[20], answer.bytes[21]];

const reading = drained(first);
first.persist();
first.close();
result["read after close"] = [await reading, await first.read()];
result["write after close"] = errnoOf(() => first.write(fromOther(9)));
first.close();

// At once: nothing of the old handle is left.
const options = { device, port: 8472, local: "127.0.0.1", mtuBytes: 1450 };
const engine = addon.openEngine(options);
engine.close();
const second = addon.openTun(device);
second.close();
result["reopened"] = (await ip("-o", "link", "show", device)).includes(device);
addon.openTun("fl-tun2").close();
result["not persistent"] = (await ip("-o", "link")).includes("fl-tun2");
process.stdout.write(JSON.stringify(result));

/** Reads to the end. */
async function drained(tun: Tun): Promise<null> {
  for (;;) if ((await tun.read()) === null) return null;
}

function fromOther(port: number): Uint8Array {
  const packet = ipPacket(
    { source: other, destination: own, protocol: protocolUdp },
    udpDatagram([1000, port], new Uint8Array(4)),
  );
  setChecksum(packet, "right");
  return packet;
}

function sendUdp(): string {
  return (
    "use Socket; my ($from, $to, $port) = @ARGV; socket(my $s, PF_INET, SOCK_DGRAM, 0) or die;" +
    "bind($s, sockaddr_in(0, inet_aton($from))) or die;" +
    "send($s, 'x' x 1000, 0, sockaddr_in($port, inet_aton($to))) or die"
  );
}
