import { expect, test } from "bun:test";
import { connect, type Server, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { silentLog } from "../../../../src/base/log.ts";
import { openServerTls } from "../../../../src/store/embedded/server-tls.ts";
import { openCertificates } from "../../../support/certificates.ts";

test("TLS of the store: who does not shake hands is dropped in time; others get in and stay", async () => {
  using certificates = openCertificates();
  const ca = certificates.authority("ca");
  const { cert, key } = certificates.issue("server", { by: "ca", names: "IP:127.0.0.1" });
  using tls = openServerTls({
    files: { certFile: cert, keyFile: key },
    certificateOptional: true,
    log: silentLog,
    handshakeMsMax: 1_500,
  });
  let accepted = 0;
  const server = tls.createServer((socket) => {
    accepted++;
    socket.on("error", () => {});
    socket.write("hello");
  });
  const port = await listening(server);
  const idle: Socket[] = [];
  try {
    const inside = connectTls({ port, host: "127.0.0.1", ca: Bun.file(ca) });
    idle.push(inside);
    const said = await new Promise<string>((resolve, reject) => {
      inside.once("data", (data) => resolve(data.toString()));
      inside.once("error", reject);
    });
    expect(said).toBe("hello");
    const closed = Array.from({ length: 500 }, () => {
      const socket = connect(port, "127.0.0.1");
      idle.push(socket);
      socket.on("error", () => {});
      return new Promise<void>((resolve) => socket.once("close", () => resolve()));
    });
    const again = connectTls({ port, host: "127.0.0.1", ca: Bun.file(ca) });
    idle.push(again);
    await new Promise((resolve, reject) => again.once("data", resolve).once("error", reject));
    await Promise.all(closed);
    expect(accepted).toBe(2);
    expect([inside.destroyed, again.destroyed]).toEqual([false, false]);
  } finally {
    for (const socket of idle) socket.destroy();
    server.close();
  }
}, 30_000);

function listening(server: Server): Promise<number> {
  return new Promise((resolve) => {
    // Room for all: one that the kernel turned away would take itself for connected.
    server.listen({ port: 0, host: "127.0.0.1", backlog: 4_096 }, () => {
      const address = server.address();
      resolve(typeof address === "object" && address !== null ? address.port : 0);
    });
  });
}
