import { expect, test } from "bun:test";
import { isHeaderIntact } from "../../../../src/datapath/dgram/checksum.ts";
import { lowerHopLimit, unreachable } from "../../../../src/datapath/dgram/hop.ts";
import { protocolUdp, viewOf } from "../../../../src/datapath/dgram/ip.ts";
import { parseIpAddress } from "../../../../src/net/address.ts";
import { ipPacket, parsed, udpDatagram } from "../../../support/random-packet.ts";

const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex, "hex"));
const hexOf = (bytes: Uint8Array | undefined) => Buffer.from(bytes ?? []).toString("hex");

/** A SYN for nobody's subnet and what flanneld 0.28 answered, as captured on its flannel0. */
const asked =
  "4500003c13db40004006ff130a6319000a63fa07b7fa0009df3675ae00000000a002fbb871a50000020405980402080a852220e2000000000103030a";
const answered =
  "450000380000000008016c000a6319000a6319000300f016000000004500003c13db40004006ff130a6319000a63fa07b7fa0009df3675ae";

test("hop: the answer to a packet for nobody is flannel's, byte for byte", () => {
  const packet = parsed(bytesOf(asked));
  expect(hexOf(unreachable(packet, [parseIpAddress("10.99.25.0")]))).toBe(answered);
});

test("hop: only an address of the packet's family answers", () => {
  const packet = parsed(bytesOf(asked));
  expect(unreachable(packet, [])).toBeUndefined();
  expect(unreachable(packet, [parseIpAddress("fd00::")])).toBeUndefined();
});

const packetOf = (family: 4 | 6, hopLimit: number) => {
  const [source, destination] =
    family === 4 ? (["10.5.1.2", "10.5.2.3"] as const) : (["fd00:1::2", "fd00:2::3"] as const);
  const ends = { source: parseIpAddress(source), destination: parseIpAddress(destination) };
  const body = udpDatagram([1000, 53], new Uint8Array(9));
  return parsed(ipPacket({ ...ends, protocol: protocolUdp, hopLimit }, body));
};

test.each([4, 6] as const)(
  "hop: IPv%p loses one hop with a checksum that stays right, the last hop none",
  (family) => {
    const at = family === 4 ? 8 : 7;
    for (let left = 2; left < 256; left++) {
      const packet = packetOf(family, left);
      const lowered = lowerHopLimit(packet);
      if (lowered === undefined) throw new Error(`${left} is not the last hop`);
      expect(lowered[at]).toBe(left - 1);
      expect(packet.bytes[at]).toBe(left);
      expect(isHeaderIntact({ ...packet, bytes: lowered })).toBe(true);
      lowered[at] = left;
      if (family === 4) viewOf(lowered).setUint16(10, viewOf(packet.bytes).getUint16(10));
      expect(lowered).toEqual(Uint8Array.from(packet.bytes));
    }
    for (const left of [0, 1]) expect(lowerHopLimit(packetOf(family, left))).toBeUndefined();
  },
);
