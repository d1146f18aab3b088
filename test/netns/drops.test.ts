import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { inside } from "../../src/demo/lab.ts";
import {
  binary,
  type Daemon,
  openTestOverlay,
  overlayRefused,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/drops.test.ts: ${refused}`);

describe.skipIf(refused !== undefined)("what the kernel drops because the engine is too slow", () => {
  let net: TestOverlay;
  beforeEach(async () => {
    net = await openTestOverlay(2);
    const config = '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}';
    await net.etcd("put", "/coreos.com/network/config", config);
  });
  afterEach(() => net[Symbol.asyncDispose]());

  /** Sends datagrams for a moment while `stopped` does nothing; gives the drops of that daemon's engine. */
  const overwhelm = async (from: Daemon, target: string, stopped: Daemon, payloadBytes: number) => {
    process.kill(stopped.child.pid, "SIGSTOP");
    try {
      await inside(from.host.namespace, [binary, "bench-blast", "5300", `${payloadBytes}`, "400", target]);
    } finally {
      process.kill(stopped.child.pid, "SIGCONT");
    }
    return (await stopped.settled()).engines[0]?.stats.drops ?? {};
  };

  test("the TUN's full queue and the socket's full buffer are named, in numbers", async () => {
    const [first, second] = net.lab.hosts;
    if (first === undefined || second === undefined) throw new Error("two hosts");
    const a = net.startDaemon(first, { engine: "userspace" });
    const b = net.startDaemon(second, { engine: "userspace" });
    const target = vtepAddress((await Promise.all([a.ready(1), b.ready(1)]))[1]);
    // A queue of 1,000 packets, and nobody reads it.
    const sender = await overwhelm(a, target, a, 64);
    expect(sender["tunQueueFull"]).toBeGreaterThan(1_000);
    expect(sender["receiveBufferFull"]).toBe(0);
    // 8 MiB of buffer, all of which the kernel's accounting of a packet's memory makes less.
    let receiver: Readonly<Record<string, number>> = {};
    for (let tries = 0; tries < 20 && !((receiver["receiveBufferFull"] ?? 0) > 0); tries++)
      receiver = await overwhelm(a, target, b, 1_300);
    expect(receiver["receiveBufferFull"]).toBeGreaterThan(0);
    expect(receiver["tunQueueFull"]).toBe(0);
  }, 60_000);
});
