import { createSocket, type Socket } from "node:dgram";
import { FlannelError } from "../../base/error.ts";

/**
 * A UDP socket of the address's family, IPv6 without IPv4.
 * @throws FlannelError `engine/socket` with the errno's name
 */
export function openSocket(address: string, port: number): Promise<Socket> {
  const type = address.includes(":") ? "udp6" : "udp4";
  const socket = createSocket({ type, ipv6Only: type === "udp6" });
  return new Promise((resolve, reject) => {
    socket.once("error", (error: NodeJS.ErrnoException) => {
      socket.close();
      const message = `bind udp ${address} port ${port}`;
      reject(new FlannelError("engine/socket", message, { errno: error.code }, { cause: error }));
    });
    socket.bind({ address, port, exclusive: true }, () => {
      socket.removeAllListeners("error");
      resolve(socket);
    });
  });
}

/** What ICMP says of an earlier datagram, perhaps to another host. */
const ofAnother = new Set(["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"]);

/**
 * Sends a datagram. The system tells of an earlier one by failing the next send, which is therefore repeated once.
 * @returns why it could not be sent
 */
export async function sendDatagram(
  socket: Socket,
  payload: Uint8Array,
  port: number,
  address: string,
): Promise<Error | undefined> {
  const error = await trySend(socket, payload, port, address);
  const isOfAnother = ofAnother.has(String(error?.code));
  return isOfAnother ? trySend(socket, payload, port, address) : error;
}

function trySend(
  socket: Socket,
  payload: Uint8Array,
  port: number,
  address: string,
): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((resolve) => {
    try {
      socket.send(payload, port, address, (error) => resolve(error ?? undefined));
    } catch (error) {
      resolve(error instanceof Error ? error : new Error(String(error)));
    }
  });
}
