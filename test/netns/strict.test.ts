import { afterEach, describe, expect, test } from "bun:test";
import { inside } from "../../src/demo/lab.ts";
import { openTestOverlay, overlayRefused, type TestOverlay, vtepAddress } from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/strict.test.ts: ${refused}`);

/** Sends VXLAN datagrams by hand: `host hex…`, each three times. */
const send =
  "use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => 'udp', PeerAddr => shift, PeerPort => 8472) or die;" +
  "for my $hex (@ARGV) { for (1 .. 3) { $s->send(pack('H*', $hex)); select(undef, undef, undef, 0.002) } }";

describe.skipIf(refused !== undefined)("datapath.strict", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const hexOf = (address: string) =>
    address
      .split(".")
      .map((octet) => Number(octet).toString(16).padStart(2, "0"))
      .join("");

  /** From a peer: its own source, another's inside the overlay, one outside. From a stranger, and from one allowed. */
  test.each([
    ["off", [true, true, true, true, true, true]],
    ["overlay", [true, false, true, false, false, true]],
    ["full", [true, false, false, false, false, true]],
  ] as const)(
    "%s: takes what the design's table says, and counts the rest by reason",
    async (strict, taken) => {
      const net = await openTestOverlay(4);
      open = net;
      await net.etcd(
        "put",
        "/coreos.com/network/config",
        '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
      );
      const [host, peer, stranger, allowed] = net.lab.hosts;
      if (host === undefined || peer === undefined || stranger === undefined || allowed === undefined) {
        throw new Error("four hosts");
      }
      const lease = {
        PublicIP: peer.address,
        BackendType: "vxlan",
        BackendData: { VtepMAC: "0e:2a:00:00:00:02" },
      };
      await net.etcd("put", "/coreos.com/network/subnets/10.99.2.0-24", JSON.stringify(lease));
      const datapath = `strict = "${strict}"\nallow_sources = ["${allowed.address}"]`;
      const daemon = net.startDaemon(host, { engine: "userspace", datapath });
      const own = await daemon.ready(1);
      const mac = (own.lease?.vtepMac ?? "").replaceAll(":", "");
      const from = (inner: string) =>
        // An IPv4 header without a checksum is no matter to the engine; the host drops it after it was counted.
        `0800000000000100${mac}0e2a0000000208004500001c0000000040110000${hexOf(inner)}${hexOf(vtepAddress(own))}0001000200080000`;
      const attempts = [
        [peer, "10.99.2.9", ""],
        [peer, "10.99.3.9", "spoofedSource"],
        [peer, "172.16.0.9", "outsideOverlay"],
        [stranger, "172.16.0.9", "unknownSender"],
        [stranger, "10.99.2.9", "unknownSender"],
        [allowed, "172.16.0.9", ""],
      ] as const;
      for (const [at, [sender, inner, reason]] of attempts.entries()) {
        const before = (await daemon.report()).engines[0]?.stats;
        await inside(sender.namespace, ["perl", "-e", send, host.address, from(inner)]);
        await Bun.sleep(50);
        const after = (await daemon.report()).engines[0]?.stats;
        const received = (after?.received.packets ?? 0) - (before?.received.packets ?? 0);
        const dropped = (after?.drops[reason] ?? 0) - (before?.drops[reason] ?? 0);
        expect([at, received, dropped]).toEqual(taken[at] ? [at, 3, 0] : [at, 0, 3]);
        if (!taken[at]) {
          expect(after?.lastRefused).toMatchObject({
            reason,
            outerSource: sender.address,
            innerSource: inner,
          });
        }
      }
    },
  );
});
