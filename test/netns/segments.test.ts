import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { inside } from "../../src/demo/lab.ts";
import { linesOf } from "../../src/demo/process.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused() ?? (Bun.which("ethtool") === null ? "ethtool is not installed" : undefined);
if (refused !== undefined) console.warn(`SKIPPED test/netns/segments.test.ts: ${refused}`);

const seed = Number(process.env["FL_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const script = join(import.meta.dir, "../support/segments.pl");

describe.skipIf(refused !== undefined)(`datagrams cut by UDP_SEGMENT (FL_SEED=${seed})`, () => {
  let net: TestOverlay;
  beforeEach(async () => {
    net = await openTestOverlay(2);
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"EnableIPv6":true,"Network":"10.99.0.0/16","IPv6Network":"fd00:99::/48","Backend":{"Type":"vxlan"}}',
    );
  });
  afterEach(() => net[Symbol.asyncDispose]());

  /** What was sent and what came, one "number length" for each datagram. */
  const exchange = async (from: Daemon, to: Daemon, family: 4 | 6, joined: boolean) => {
    const target = vtepAddress(await to.settled(), family);
    const receiver = net.lab.start(to.host.namespace, [
      ...["perl", script, "receive", `${family}`, "5300", joined ? "1" : "0"],
    ]);
    const lines = linesOf(receiver.output);
    expect({ first: (await lines.next()).value, errors: receiver.errorTail() }).toMatchObject({
      first: "listening",
    });
    const sent = await inside(from.host.namespace, [
      "perl",
      script,
      "send",
      `${family}`,
      target,
      "5300",
      `${seed}`,
    ]);
    const received: string[] = [];
    for await (const line of lines) received.push(line);
    return {
      sent: sent.split("\n").filter((line) => line !== "" && !line.startsWith("4294967295 ")),
      received,
    };
  };

  for (const [sender, receiver] of [
    ["userspace", "userspace"],
    ["userspace", "kernel"],
    ["kernel", "userspace"],
    ["kernel", "kernel"],
  ] as const) {
    for (const offload of ["on", "off"] as const) {
      test(`${sender} to ${receiver}, checksum offload ${offload}: each arrives once, whole and in order`, async () => {
        const [first, second] = net.lab.hosts;
        if (first === undefined || second === undefined) throw new Error("two hosts");
        for (const { namespace } of [first, second])
          await inside(namespace, ["ethtool", "-K", "eth0", "tx", offload]);
        const from = net.startDaemon(first, { engine: sender });
        const to = net.startDaemon(second, { engine: receiver });
        await Promise.all([from.ready(1), to.ready(1)]);
        for (const family of [4, 6] as const) {
          for (const joined of [false, true]) {
            const { sent, received } = await exchange(from, to, family, joined);
            expect(sent.length).toBeGreaterThan(500);
            expect(received.length).toBe(sent.length);
            expect(received).toEqual(sent);
          }
        }
      }, 60_000);
    }
  }
});
