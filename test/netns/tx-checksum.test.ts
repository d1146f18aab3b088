import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type LabHost, inside } from "../../src/demo/lab.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";

const missing = ["nft", "ethtool"].find((name) => Bun.which(name) === null);
const refused = overlayRefused() ?? (missing === undefined ? undefined : `${missing} is missing`);
if (refused !== undefined) console.warn(`SKIPPED test/netns/tx-checksum.test.ts: ${refused}`);

const hostCount = 5;
/** Each round, every host decides once: twenty decisions of either kind. */
const rounds = 4;

/** Behind the outer UDP header: VXLAN, Ethernet, IPv4, and UDP up to its checksum. In bits. */
const innerChecksumAt = (8 + 8 + 14 + 20 + 6) * 8;

describe.skipIf(refused !== undefined)("datapath.tx_checksum", () => {
  let net: TestOverlay;
  let daemons: Daemon[] = [];
  let addresses: string[] = [];

  beforeAll(async () => {
    net = await openTestOverlay(hostCount);
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
    );
  }, 60_000);
  afterAll(async () => {
    await net?.[Symbol.asyncDispose]();
  }, 60_000);

  /** Starts all of them on devices made anew. @returns what each has decided, and whether its device goes by it */
  const decisions = async (datapath = "") => {
    await Promise.all(daemons.map(({ child }) => child.end()));
    if (daemons.length > 0)
      for (const { namespace } of net.lab.hosts)
        await inside(namespace, ["ip", "link", "delete", "flannel.1"]);
    daemons = net.lab.hosts.map((host) => net.startDaemon(host, { engine: "kernel", datapath }));
    const ready = await Promise.all(daemons.map((daemon) => daemon.ready(hostCount - 1)));
    addresses = ready.map((report) => vtepAddress(report));
    return await Promise.all(daemons.map(decision));
  };
  const decision = async (daemon: Daemon) => {
    let verdict = "";
    for (const deadline = Date.now() + 40_000; Date.now() < deadline; await Bun.sleep(100)) {
      verdict = (await daemon.report()).engine?.txChecksum ?? "";
      if (!verdict.startsWith("undecided: ")) break;
    }
    return [verdict.replace(/10\.99\.\d+\.0/g, "PEER"), await offload(daemon.host)];
  };
  const offload = async ({ namespace }: LabHost) =>
    /tx-checksum-ip-generic: (\w+)/.exec(await inside(namespace, ["ethtool", "-k", "flannel.1"]))?.[1];

  /** What stands in a UDP checksum that is still to be finished: the sum of the pseudo-header (RFC 768). */
  const unfinished = (from: string, to: string, udpBytes: number) => {
    const words = [from, to].flatMap((address) => {
      const [a = 0, b = 0, c = 0, d = 0] = address.split(".").map(Number);
      return [a * 256 + b, c * 256 + d];
    });
    const sum = words.reduce((all, word) => all + word, 17 + udpBytes);
    return (sum & 0xffff) + (sum >>> 16);
  };

  /** From now on, nobody gets a probe whose checksum is unfinished, as where a device takes it for a wrong one. */
  const breakPath = async () => {
    for (const [at, { namespace }] of net.lab.hosts.entries()) {
      const to = addresses[at] ?? "";
      const sums = addresses.filter((from) => from !== to).map((from) => unfinished(from, to, 8 + 32));
      const rules = sums.map(
        (sum) => `add rule ip broken input udp dport 8472 @th,${innerChecksumAt},16 ${sum} drop`,
      );
      const table =
        "add table ip broken; add chain ip broken input { type filter hook prerouting priority -300; }";
      await inside(namespace, ["nft", [table, ...rules].join("; ")]);
    }
  };

  test(
    "a healthy path is left alone, twenty times in a row",
    async () => {
      for (let round = 0; round < rounds; round++)
        expect(await decisions()).toEqual(
          Array(hostCount).fill(["on: packets arrive with it at PEER", "on"]),
        );
    },
    { timeout: 180_000 },
  );

  test(
    "a path on which unfinished checksums do not arrive is found, twenty times in a row",
    async () => {
      await breakPath();
      for (let round = 0; round < rounds; round++)
        expect(await decisions()).toEqual(
          Array(hostCount).fill(["off: packets arrive at PEER without it only", "off"]),
        );
    },
    { timeout: 240_000 },
  );

  test("a device made anew has it off again, and carries traffic", async () => {
    const [first] = daemons;
    if (first === undefined) throw new Error("no daemon");
    await inside(first.host.namespace, ["ip", "link", "delete", "flannel.1"]);
    await first.ready(hostCount - 1);
    for (let tries = 0; tries < 100 && (await offload(first.host).catch(() => "")) !== "off"; tries++)
      await Bun.sleep(50);
    expect(await offload(first.host)).toBe("off");
    await ping(first.host, addresses[1] ?? "");
  });

  test("where nobody answers it stays on, undecided; what is configured is not measured", async () => {
    for (const { namespace } of net.lab.hosts)
      await inside(namespace, ["nft", "add rule ip broken input iifname flannel.1 udp dport 33434 drop"]);
    const [first] = await decisions();
    expect(first?.[0]).toStartWith("undecided, left on: none of ");
    expect(first?.[1]).toBe("on");
    expect(await decisions('tx_checksum = "off"')).toEqual(
      Array(hostCount).fill(["off: it is configured", "off"]),
    );
    expect((await net.run(daemons[0] as Daemon, "status")).output).toContain(
      "checksum offload off: it is configured",
    );
  }, 120_000);

  test("a reload sets the device as it is configured then, while traffic goes on", async () => {
    await decisions('tx_checksum = "off"');
    const [first] = daemons as [Daemon];
    const before = await first.report();
    for (const setting of ["on", "off"]) {
      const text = readFileSync(first.configFile, "utf8");
      writeFileSync(first.configFile, text.replace(/tx_checksum = "\w+"/, `tx_checksum = "${setting}"`));
      expect((await net.run(first, "reload")).output).toContain("applied   datapath.tx_checksum");
      for (let tries = 0; tries < 100 && (await offload(first.host)) !== setting; tries++)
        await Bun.sleep(20);
      expect(await decision(first)).toEqual([`${setting}: it is configured`, setting]);
      await ping(first.host, addresses[1] ?? "");
    }
    expect((await first.report()).pid).toBe(before.pid);
  });
});
