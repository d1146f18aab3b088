import type { RemoteInfo, Socket } from "node:dgram";
import { errorText, FlannelError } from "../../base/error.ts";
import type { Addon, Engine, EngineOptions, EngineStats, RefusedPacket, Tun } from "../../native/ports.ts";
import { parseIpAddress, tryParseIpAddress } from "../../net/address.ts";
import { type DropReason, dropReasons } from "./drop.ts";
import { fitToMtu } from "./segment.ts";
import { openSocket, sendDatagram } from "./socket.ts";
import { emptyTable, type Peer, readTable, type Table } from "./table.ts";
import { decapsulate, encapsulate } from "./tunnel.ts";

/**
 * The reference engine: node:dgram and a TUN, one packet at a time. For debugging and packet traces, and what the
 * native engine is tested against; TCP over it is slow. Errors as {@link Addon.openEngine} has them.
 *
 * Its UDP payloads and drop reasons are those of the native engine. Of the outer header node:dgram lets nothing be
 * set or seen, so it differs there: TOS and ECN are sent as 0, and congestion marked on the way in is not noticed;
 * DF is what the system's default for UDP sockets is; all flows of VXLAN leave from one ephemeral source port.
 */
export async function openDgramEngine(openTun: Addon["openTun"], options: EngineOptions): Promise<Engine> {
  const { device, port, encapsulation } = options;
  const local = parseIpAddress(options.local);
  const wildcard = local.family === 4 ? "0.0.0.0" : "::";
  using opening = new DisposableStack();
  const tun = openTun(device);
  opening.defer(() => tun.close());
  // The sender first, because a missing local address says more than anything else about what is wrong.
  const sender = await openSocket(`${local}`, encapsulation === "udp" ? port : 0);
  opening.defer(() => sender.close());
  const receiver = encapsulation === "udp" ? sender : await openSocket(wildcard, port);
  if (receiver !== sender) opening.defer(() => receiver.close());
  tun.persist();
  opening.move();
  return runEngine(tun, { sender, receiver }, options);
}

interface Sockets {
  readonly sender: Socket;
  readonly receiver: Socket;
}

function runEngine(tun: Tun, { sender, receiver }: Sockets, { port, mtuBytes }: EngineOptions): Engine {
  let table: Table = emptyTable;
  let lastRefused: RefusedPacket | undefined;
  let failure: string | undefined;
  let closed = false;
  const sockets = new Set([sender, receiver]);
  const drops = new Map<DropReason, number>(dropReasons.map((reason) => [reason, 0]));
  const total = newCounters();
  let byPeer = new Map<string, Counters>();
  const drop = (reason: DropReason) => drops.set(reason, (drops.get(reason) ?? 0) + 1);
  const count = (direction: keyof Counters, peer: Peer | undefined, bytes: number) => {
    for (const counters of [total, peer && byPeer.get(peerKey(peer))]) {
      if (counters === undefined) continue;
      counters[direction].packets++;
      counters[direction].bytes += bytes;
    }
  };
  const close = () => {
    if (closed) return;
    closed = true;
    for (const socket of sockets) socket.close();
    tun.close();
  };
  const fail = (error: unknown) => {
    if (!closed) failure = errorText(error);
    close();
  };

  const carryOut = async () => {
    for (let packet = await readTun(tun, drop); packet !== null; packet = await readTun(tun, drop)) {
      const verdict = encapsulate(packet, table);
      if ("drop" in verdict) {
        drop(verdict.drop);
        if (verdict.answer !== undefined) writeTun(tun, verdict.answer, drop);
        continue;
      }
      const { payload, headerBytes, peer } = verdict;
      const error = await sendDatagram(sender, payload, port, `${peer.endpoint}`);
      if (closed) return;
      if (error === undefined) count("sent", peer, payload.length - headerBytes);
      else drop("socketError");
    }
  };
  const carryIn = (payload: Uint8Array, { address }: RemoteInfo) => {
    // A link-local address comes with its zone.
    const source = tryParseIpAddress(address.split("%", 1)[0] ?? "");
    if (closed || source === undefined) return;
    const verdict = decapsulate(payload, { source, tos: 0 }, table);
    if ("drop" in verdict) {
      drop(verdict.drop);
      const { inner } = verdict;
      if (inner === undefined) return;
      lastRefused = {
        reason: verdict.drop,
        outerSource: `${source}`,
        innerSource: `${inner.source}`,
        innerDestination: `${inner.destination}`,
      };
      return;
    }
    const { packet, wasUnfinished } = verdict;
    count("received", verdict.sender, packet.bytes.length);
    for (const piece of fitToMtu(packet, wasUnfinished, mtuBytes)) writeTun(tun, piece, drop);
  };
  receiver.on("message", carryIn);
  // What some ICMP message said about another datagram.
  for (const socket of sockets) socket.on("error", () => drop("socketError"));
  carryOut().catch(fail);

  return {
    setTable(next) {
      table = readTable(next);
      byPeer = new Map(
        table.peers.map((peer) => [peerKey(peer), byPeer.get(peerKey(peer)) ?? newCounters()]),
      );
    },
    stats: (): EngineStats => ({
      offloads: {},
      ...structuredClone(total),
      drops: Object.fromEntries(drops),
      peers: table.peers.map((peer) => ({
        endpoint: `${peer.endpoint}`,
        ...structuredClone(byPeer.get(peerKey(peer)) ?? newCounters()),
      })),
      ...(lastRefused === undefined ? {} : { lastRefused }),
      ...(failure === undefined ? {} : { failure }),
    }),
    failure: () => failure ?? null,
    close,
  };
}

interface Counters {
  readonly sent: { packets: number; bytes: number };
  readonly received: { packets: number; bytes: number };
}

function newCounters(): Counters {
  return { sent: { packets: 0, bytes: 0 }, received: { packets: 0, bytes: 0 } };
}

/** What a peer keeps its counters by when the table changes. */
function peerKey({ endpoint, mac }: Peer): string {
  return `${endpoint} ${Buffer.from(mac).toString("hex")}`;
}

/** The next packet that could be read. EINVAL: the kernel could not describe one, and has dropped it. */
async function readTun(tun: Tun, drop: (reason: DropReason) => void): Promise<Uint8Array | null> {
  for (;;) {
    try {
      return await tun.read();
    } catch (error) {
      if (errnoOf(error) !== "EINVAL") throw error;
      drop("tunError");
    }
  }
}

function writeTun(tun: Tun, packet: Uint8Array, drop: (reason: DropReason) => void): void {
  try {
    tun.write(packet);
  } catch (error) {
    drop(errnoOf(error) === "EIO" ? "tunDown" : "tunError");
  }
}

function errnoOf(error: unknown): unknown {
  return error instanceof FlannelError ? error.fields["errno"] : undefined;
}
