import { createConnection, createServer, type Socket } from "node:net";

/** A TCP forwarder on loopback that can fail the way networks do. */
export interface TcpProxy extends AsyncDisposable {
  /** `127.0.0.1:port`. */
  readonly address: string;
  /** Connections taken so far. */
  readonly connections: number;
  /** Resets every connection and takes no new one until `heal`. */
  cut(): void;
  /** Keeps connections and takes new ones, but forwards nothing until `heal`. */
  stall(): void;
  heal(): void;
  /** From the next request that contains `text`, forwards the request and resets instead of answering. Once. */
  loseAnswerTo(text: string): void;
}

/** @param target `http://host:port` */
export async function openTcpProxy(target: string): Promise<TcpProxy> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  let mode: "forward" | "cut" | "stall" = "forward";
  let losing: string | undefined;
  let connections = 0;

  const server = createServer((client) => {
    connections++;
    if (mode === "cut") return client.resetAndDestroy();
    const upstream = createConnection(Number(port), hostname);
    let answerLost = false;
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from);
      from.on("error", () => {});
      from.on("close", () => {
        sockets.delete(from);
        to.destroy();
      });
      from.on("data", (bytes) => {
        if (mode === "stall") return;
        if (from === client && losing !== undefined && bytes.includes(losing)) {
          answerLost = true;
          losing = undefined;
        }
        if (from === upstream && answerLost) client.resetAndDestroy();
        else to.write(bytes);
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");

  const cut = () => {
    mode = "cut";
    for (const socket of sockets) socket.destroy();
  };
  return {
    address: `127.0.0.1:${address.port}`,
    get connections() {
      return connections;
    },
    cut,
    stall: () => (mode = "stall"),
    heal: () => {
      // What was swallowed meanwhile is gone: those connections can only be cut.
      if (mode === "stall") for (const socket of sockets) socket.destroy();
      mode = "forward";
    },
    loseAnswerTo: (text) => (losing = text),
    async [Symbol.asyncDispose]() {
      cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
