import { expect, test } from "bun:test";
import { openSocket, sendDatagram } from "../../../../src/datapath/dgram/socket.ts";

test("dgram socket: what an unreachable host makes known costs no datagram to another", async () => {
  const [sender, receiver] = [await openSocket("127.0.0.1", 0), await openSocket("127.0.0.1", 0)];
  const closed = await openSocket("127.0.0.1", 0);
  const { port: closedPort } = closed.address();
  closed.close();
  let received = 0;
  const all = Promise.withResolvers<void>();
  receiver.on("message", () => {
    if (++received === 10) all.resolve();
  });
  const { port } = receiver.address();
  for (let count = 0; count < 10; count++) {
    await sendDatagram(sender, new Uint8Array(9), closedPort, "127.0.0.1");
    expect(await sendDatagram(sender, new Uint8Array(9), port, "127.0.0.1")).toBeUndefined();
  }
  await all.promise;
  sender.close();
  receiver.close();
});

test("dgram socket: what cannot be sent says why", async () => {
  const sender = await openSocket("127.0.0.1", 0);
  const error = await sendDatagram(sender, new Uint8Array(70_000), 9, "127.0.0.1");
  expect(error).toMatchObject({ code: "EMSGSIZE" });
  sender.close();
  expect(await sendDatagram(sender, new Uint8Array(1), 9, "127.0.0.1")).toBeInstanceOf(Error);
});
