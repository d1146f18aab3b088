import { expect, test } from "bun:test";
import { transportChecksumState } from "../../../../src/datapath/dgram/checksum.ts";
import { innerEcn, outerTos } from "../../../../src/datapath/dgram/ecn.ts";
import { fitToMtu } from "../../../../src/datapath/dgram/segment.ts";
import { readTable } from "../../../../src/datapath/dgram/table.ts";
import { type Decapsulated, decapsulate, encapsulate } from "../../../../src/datapath/dgram/tunnel.ts";
import type { ForwardingTable } from "../../../../src/native/ports.ts";
import { parseIpAddress } from "../../../../src/net/address.ts";
import {
  type ChecksumChoice,
  ipPacket,
  parsed,
  setChecksum,
  tcpSegment,
  udpDatagram,
} from "../../../support/random-packet.ts";

const spec: ForwardingTable = {
  encapsulation: "vxlan",
  vni: 0xabcdef,
  vtepMac: "02:00:00:00:00:01",
  overlay: ["10.5.0.0/16"],
  strict: "overlay",
  allowSources: ["198.51.100.0/24"],
  peers: [
    { subnets: ["10.5.1.0/24"], endpoint: "192.0.2.1", mac: "02:00:00:00:00:11" },
    { subnets: ["10.5.2.0/24", "fd00:2::/64"], endpoint: "192.0.2.2", mac: "02:00:00:00:00:12" },
  ],
};
const table = readTable(spec);
const us = parseIpAddress("10.5.9.9");

function udp(
  source: string,
  destination: string,
  { trafficClass = 0, state = "right" as ChecksumChoice } = {},
) {
  const packet = ipPacket(
    { source: parseIpAddress(source), destination: parseIpAddress(destination), protocol: 17, trafficClass },
    udpDatagram([1000, 53], new Uint8Array([1, 2, 3])),
  );
  setChecksum(packet, state);
  return packet;
}

function fromPeer(packet: Uint8Array, change?: (payload: Uint8Array) => void): Uint8Array {
  const header = "08000000abcdef00" + "020000000001" + "020000000011" + "0800";
  const payload = new Uint8Array(Buffer.concat([Buffer.from(header, "hex"), packet]));
  change?.(payload);
  return payload;
}

/** Why it is dropped, or undefined. */
function verdict(payload: Uint8Array, { outer = "192.0.2.1", tos = 0, by = table } = {}): string | undefined {
  const result = decapsulate(payload, { source: parseIpAddress(outer), tos }, by);
  return "drop" in result ? result.drop : undefined;
}

function accepted(payload: Uint8Array, tos = 0): Decapsulated {
  const result = decapsulate(payload, { source: parseIpAddress("192.0.2.1"), tos }, table);
  if ("drop" in result) throw new Error(result.drop);
  return result;
}

test("dgram: a packet leaves behind 22 bytes of VXLAN and Ethernet, to the peer that holds its destination", () => {
  const packet = udp("10.5.9.9", "10.5.2.7", { trafficClass: 0xbb });
  const sent = encapsulate(Buffer.concat([packet, new Uint8Array(5)]), table);
  if ("drop" in sent) throw new Error(sent.drop);
  expect(Buffer.from(sent.payload).toString("hex")).toBe(
    `08000000abcdef000200000000120200000000010800${Buffer.from(packet).toString("hex")}`,
  );
  expect(`${sent.peer.endpoint}`).toBe("192.0.2.2");
  expect(sent.tos).toBe(2);
});

test("dgram: what nobody can get is dropped by name", () => {
  const to = (destination: string) => encapsulate(udp("10.5.9.9", destination), table);
  expect(to("10.5.3.1")).toEqual({ drop: "noRoute" });
  expect(to("224.0.0.251")).toEqual({ drop: "multicast" });
  expect(to("255.255.255.255")).toEqual({ drop: "multicast" });
  expect(encapsulate(new Uint8Array(0), table)).toEqual({ drop: "truncated" });
  expect(encapsulate(new Uint8Array(40), table)).toEqual({ drop: "notIp" });
  expect(encapsulate(udp("10.5.9.9", "10.5.2.7").subarray(0, 29), table)).toEqual({ drop: "truncated" });
});

test("dgram: each thing wrong with a datagram has its reason, and the first one counts", () => {
  const good = udp("10.5.1.2", `${us}`);
  const changed = (at: number, value: number) =>
    verdict(fromPeer(good, (payload) => void (payload[at] = value)));
  expect(verdict(fromPeer(good))).toBeUndefined();
  expect(verdict(fromPeer(good).subarray(0, 21))).toBe("badVxlan");
  expect(verdict(fromPeer(good).subarray(0, 22))).toBe("truncated");
  expect(changed(0, 0xf7)).toBe("badVxlan");
  expect(changed(7, 0xff)).toBeUndefined();
  expect(changed(6, 0)).toBe("wrongVni");
  expect(changed(8, 0xff)).toBe("wrongMac");
  expect(changed(21, 6)).toBe("arp");
  expect(changed(20, 0x88)).toBe("notIpFrame");
  expect(changed(22, 0x65)).toBe("notIpFrame");
  expect(changed(22, 0x44)).toBe("notIp");
  expect(changed(24, 0xff)).toBe("truncated");
  const broadcastArp = fromPeer(good, (payload) => {
    payload.fill(0xff, 8, 14);
    payload[21] = 6;
  });
  expect(verdict(broadcastArp)).toBe("arp");
});

test("dgram: who may send is the table of the strict setting", () => {
  const [own, foreign, unleased, outside] = ["10.5.1.2", "10.5.2.2", "10.5.77.1", "172.16.0.1"];
  const [peer, stranger, named] = ["192.0.2.1", "203.0.113.9", "198.51.100.7"];
  const rows = [
    [peer, own, undefined, undefined, undefined],
    [peer, foreign, undefined, "spoofedSource", "spoofedSource"],
    [peer, unleased, undefined, "spoofedSource", "spoofedSource"],
    [peer, outside, undefined, undefined, "outsideOverlay"],
    [stranger, own, undefined, "unknownSender", "unknownSender"],
    [named, own, undefined, "spoofedSource", "spoofedSource"],
    [named, outside, undefined, undefined, undefined],
  ] as const;
  for (const [outer = "", source = "", ...expected] of rows) {
    const got = (["off", "overlay", "full"] as const).map((strict) =>
      verdict(fromPeer(udp(source, `${us}`)), { outer, by: readTable({ ...spec, strict }) }),
    );
    expect({ outer, source, got }).toEqual({ outer, source, got: [...expected] });
  }
});

test("dgram: ECN goes out as Linux copies it and comes in by RFC 6040's table", () => {
  expect([0xb8, 0xb9, 0xba, 0xbb].map(outerTos)).toEqual([0, 1, 2, 2]);
  const [ect1, ect0, ce] = [1, 2, 3];
  const table6040 = [0, ect1, ect0, ce].map((inner) =>
    [0, ect1, ect0, ce].map((outer) => innerEcn(outer, inner)),
  );
  expect(table6040).toEqual([
    [0, 0, 0, "drop"],
    [ect1, ect1, ect1, ce],
    [ect0, ect1, ect0, ce],
    [ce, ce, ce, ce],
  ]);
  expect(verdict(fromPeer(udp("10.5.1.2", `${us}`)), { tos: ce })).toBe("ecnCe");
  const marked = accepted(fromPeer(udp("10.5.1.2", `${us}`, { trafficClass: 0xb8 | ect0 })), ce).packet;
  expect(marked.bytes).toEqual(udp("10.5.1.2", `${us}`, { trafficClass: 0xb8 | ce }));
});

test("dgram: an unfinished checksum is finished, a wrong one is the host's to judge, padding goes", () => {
  const finished = udp("10.5.1.2", `${us}`);
  const { packet, wasUnfinished } = accepted(fromPeer(udp("10.5.1.2", `${us}`, { state: "unfinished" })));
  expect(wasUnfinished).toBe(true);
  expect(packet.bytes).toEqual(finished);
  const wrong = udp("10.5.1.2", `${us}`, { state: "wrong" });
  expect(accepted(fromPeer(wrong)).packet.bytes).toEqual(wrong);
  expect(accepted(fromPeer(Buffer.concat([finished, new Uint8Array(9)]))).packet.bytes).toEqual(finished);
});

test("dgram: the datagram handed in stays as it was", () => {
  const payload = Buffer.from(fromPeer(udp("10.5.1.2", `${us}`, { trafficClass: 2, state: "unfinished" })));
  const before = payload.toString("hex");
  accepted(payload, 3);
  expect(payload.toString("hex")).toBe(before);
});

test("dgram: TCP beyond the MTU is cut into whole packets, a finished UDP datagram is not", () => {
  const ends = { source: parseIpAddress("10.5.1.2"), destination: us };
  const payload = Uint8Array.from({ length: 4_000 }, (_, at) => at);
  const segment = tcpSegment({ ports: [1000, 80], sequence: 2 ** 32 - 100, flags: 0x99 }, payload);
  const packet = ipPacket({ ...ends, protocol: 6, identification: 0xffff }, segment);
  setChecksum(packet, "right");
  const pieces = fitToMtu(parsed(packet), true, 1450).map(parsed);
  expect(pieces.map(({ bytes }) => bytes.length)).toEqual([1450, 1450, 1220]);
  expect(Buffer.concat(pieces.map(({ bytes }) => bytes.subarray(40)))).toEqual(Buffer.from(payload));
  const numbers = pieces.map(({ bytes }) => Buffer.from(bytes));
  expect(numbers.map((bytes) => bytes.readUInt16BE(4))).toEqual([0xffff, 0, 1]);
  expect(numbers.map((bytes) => bytes.readUInt32BE(24))).toEqual([2 ** 32 - 100, 1310, 2720]);
  expect(numbers.map((bytes) => bytes[33])).toEqual([0x90, 0x10, 0x19]);
  expect(pieces.map(transportChecksumState)).toEqual(["right", "right", "right"]);

  const datagram = ipPacket({ ...ends, protocol: 17 }, udpDatagram([1000, 53], payload));
  setChecksum(datagram, "right");
  expect(fitToMtu(parsed(datagram), false, 1450)).toEqual([datagram]);
  expect(fitToMtu(parsed(datagram), true, 1450)).toHaveLength(3);
});

test("dgram: a table that cannot be meant is refused", () => {
  const overlapping = [
    ...spec.peers,
    { subnets: ["10.5.2.128/25"], endpoint: "192.0.2.3", mac: "02:00:00:00:00:13" },
  ];
  expect(() => readTable({ ...spec, peers: overlapping })).toThrow(
    "subnets of 192.0.2.2 and 192.0.2.3 overlap",
  );
  expect(() => readTable({ ...spec, vni: 2 ** 24 })).toThrow("beyond 24 bits");
});
