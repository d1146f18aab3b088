import { afterEach, expect, test } from "bun:test";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { FlannelError } from "../../../../src/base/error.ts";
import { dropReasons } from "../../../../src/datapath/dgram/drop.ts";
import { openDgramEngine } from "../../../../src/datapath/dgram/engine.ts";
import type { Engine, ForwardingTable, Tun } from "../../../../src/native/ports.ts";
import { parseIpAddress } from "../../../../src/net/address.ts";
import { ipPacket, setChecksum, udpDatagram } from "../../../support/random-packet.ts";

/** A TUN over queues. */
class FakeTun implements Tun {
  readonly written: Uint8Array[] = [];
  persisted = false;
  closed = false;
  writeError: Error | undefined;
  #reading = Promise.withResolvers<Uint8Array | null>();

  /** What the engine reads next. */
  give(packet: Uint8Array): void {
    this.#reading.resolve(packet);
  }
  refuse(error: Error): void {
    this.#reading.reject(error);
  }
  async read(): Promise<Uint8Array | null> {
    try {
      return this.closed ? null : await this.#reading.promise;
    } finally {
      this.#reading = Promise.withResolvers();
    }
  }
  write(packet: Uint8Array): void {
    if (this.writeError !== undefined) throw this.writeError;
    this.written.push(packet);
  }
  persist(): void {
    this.persisted = true;
  }
  close(): void {
    this.closed = true;
    this.#reading.resolve(null);
  }
}

const opened: { close(): unknown }[] = [];
afterEach(() => {
  for (const one of opened.splice(0)) one.close();
});

async function socketOn(address: string, port = 0): Promise<Socket> {
  const socket = createSocket("udp4");
  socket.bind(port, address);
  await once(socket, "listening");
  opened.push(socket);
  return socket;
}

/** An engine on 127.0.0.1; its peer listens on the same port of 127.0.0.2. */
async function openPair(): Promise<{ engine: Engine; tun: FakeTun; peer: Socket; port: number }> {
  // The receiver takes the wildcard address, which a socket on the same port would deny it.
  const probe = await socketOn("0.0.0.0");
  const { port } = probe.address();
  opened.splice(opened.indexOf(probe), 1);
  probe.close();
  const tun = new FakeTun();
  const options = { device: "fl-fake", port, local: "127.0.0.1", mtuBytes: 1450 };
  const engine = await openDgramEngine(() => tun, options);
  opened.push(engine);
  engine.setTable(table);
  return { engine, tun, peer: await socketOn("127.0.0.2"), port };
}

const table: ForwardingTable = {
  encapsulation: "vxlan",
  vni: 1,
  vtepMac: "02:00:00:00:00:01",
  overlay: ["10.5.0.0/16"],
  strict: "overlay",
  allowSources: [],
  peers: [{ subnets: ["10.5.2.0/24"], endpoint: "127.0.0.2", mac: "02:00:00:00:00:02" }],
};

function packet(source: string, destination: string): Uint8Array {
  const made = ipPacket(
    { source: parseIpAddress(source), destination: parseIpAddress(destination), protocol: 17 },
    udpDatagram([1000, 53], new Uint8Array(9)),
  );
  setChecksum(made, "right");
  return made;
}

const frame = (inner: Uint8Array) =>
  Buffer.concat([Buffer.from("0800000000000100" + "020000000001" + "020000000002" + "0800", "hex"), inner]);

async function until(done: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 5_000; !done();) {
    if (Date.now() > deadline) throw new Error("it did not happen");
    await Bun.sleep(2);
  }
}

test("dgram engine: a packet from the host is counted as sent to its peer, one without a route as dropped", async () => {
  const { engine, tun } = await openPair();
  tun.give(packet("10.5.1.1", "10.5.2.2"));
  await until(() => engine.stats().sent.packets === 1);
  tun.give(packet("10.5.1.1", "10.5.9.2"));
  await until(() => engine.stats().drops["noRoute"] === 1);
  expect(engine.stats()).toMatchObject({
    sent: { packets: 1, bytes: 37 },
    peers: [{ endpoint: "127.0.0.2", sent: { packets: 1, bytes: 37 }, received: { packets: 0, bytes: 0 } }],
  });
  expect(Object.keys(engine.stats().drops)).toEqual([...dropReasons]);
});

test("dgram engine: a peer's datagram reaches the host; a spoofed one is counted and remembered", async () => {
  const { engine, tun, peer, port } = await openPair();
  peer.send(frame(packet("10.5.2.2", "10.5.1.1")), port, "127.0.0.1");
  await until(() => tun.written.length === 1);
  expect(tun.written[0]).toEqual(packet("10.5.2.2", "10.5.1.1"));
  peer.send(frame(packet("10.5.3.2", "10.5.1.1")), port, "127.0.0.1");
  await until(() => engine.stats().drops["spoofedSource"] === 1);
  expect(engine.stats().received).toEqual({ packets: 1, bytes: 37 });
  expect(engine.stats().lastRefused).toEqual({
    reason: "spoofedSource",
    outerSource: "127.0.0.2",
    innerSource: "10.5.3.2",
    innerDestination: "10.5.1.1",
  });
});

test("dgram engine: counters of a peer survive a new table while endpoint and MAC stay", async () => {
  const { engine, tun } = await openPair();
  tun.give(packet("10.5.1.1", "10.5.2.2"));
  await until(() => engine.stats().sent.packets === 1);
  const stranger = { subnets: ["10.5.3.0/24"], endpoint: "127.0.0.3", mac: "02:00:00:00:00:03" };
  engine.setTable({ ...table, peers: [stranger, ...table.peers] });
  expect(engine.stats().peers.map(({ sent }) => sent.packets)).toEqual([0, 1]);
});

test("dgram engine: a refused table leaves the old one", async () => {
  const { engine } = await openPair();
  expect(() => engine.setTable({ ...table, vni: 2 ** 24, peers: [] })).toThrow("beyond 24 bits");
  expect(engine.stats().peers).toHaveLength(1);
});

test("dgram engine: what the TUN refuses is counted, and a packet it cannot describe too", async () => {
  const { engine, tun, peer, port } = await openPair();
  const send = () => peer.send(frame(packet("10.5.2.2", "10.5.1.1")), port, "127.0.0.1");
  tun.writeError = new FlannelError("native/eio", "write tun", { errno: "EIO" });
  send();
  await until(() => engine.stats().drops["tunDown"] === 1);
  tun.writeError = new FlannelError("native/einval", "write tun", { errno: "EINVAL" });
  send();
  await until(() => engine.stats().drops["tunError"] === 1);
  tun.refuse(new FlannelError("native/einval", "read tun", { errno: "EINVAL" }));
  await until(() => engine.stats().drops["tunError"] === 2);
  expect(engine.stats().failure).toBeUndefined();
});

test("dgram engine: a TUN that is gone ends it, says why and frees the port", async () => {
  const { engine, tun, port } = await openPair();
  tun.refuse(new FlannelError("native/ebadfd", "read tun fl-fake: gone", { errno: "EBADFD" }));
  await until(() => engine.stats().failure !== undefined);
  expect(engine.stats().failure).toContain("read tun fl-fake: gone");
  expect(tun.closed).toBe(true);
  await socketOn("0.0.0.0", port);
});

test("dgram engine: closing twice is fine, frees the port at once and is no failure", async () => {
  const { engine, tun, port } = await openPair();
  engine.close();
  engine.close();
  expect(tun.closed).toBe(true);
  await socketOn("0.0.0.0", port);
  expect(engine.stats().failure).toBeUndefined();
});

test("dgram engine: a taken port and a foreign address are told apart, and nothing stays open", async () => {
  const holder = await socketOn("0.0.0.0");
  const { port } = holder.address();
  const open = async (local: string) => {
    const tun = new FakeTun();
    const options = { device: "fl-fake", port, local, mtuBytes: 1450 };
    const error: unknown = await openDgramEngine(() => tun, options).catch((caught: unknown) => caught);
    expect({ persisted: tun.persisted, closed: tun.closed }).toEqual({ persisted: false, closed: true });
    return error instanceof FlannelError ? error.fields["errno"] : error;
  };
  expect(await open("127.0.0.1")).toBe("EADDRINUSE");
  expect(await open("192.0.2.1")).toBe("EADDRNOTAVAIL");
});
