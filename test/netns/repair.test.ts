import { afterEach, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import type { StatusReport } from "../../src/status/report.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/repair.test.ts: ${refused}`);

const networkJson =
  '{"Network":"10.99.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:99::/48","Backend":{"Type":"vxlan"}}';
const engines = ["userspace", "kernel"] as const;
const device = "flannel.1";
const deviceV6 = "flannel-v6.1";

describe.skipIf(refused !== undefined)("repair", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  /** Two hosts, both of one engine, and everything of the first that others could touch. */
  const openPair = async (engine: (typeof engines)[number]) => {
    const net = await openTestOverlay(2);
    open = net;
    await net.etcd("put", "/coreos.com/network/config", networkJson);
    const [here, there] = net.lab.hosts as [LabHost, LabHost];
    const daemon = net.startDaemon(here, { engine });
    const other = net.startDaemon(there, { engine });
    const own = await daemon.ready(1);
    const peer = await other.ready(1);
    // Others' things, beside ours and on our device.
    await ip(here, "link", "add", "foreign0", "type", "bridge");
    await ip(here, "link", "set", "foreign0", "up");
    await ip(here, "address", "add", "198.51.100.1/24", "dev", "foreign0");
    await ip(here, "route", "add", "203.0.113.0/24", "dev", "foreign0");
    await ip(here, "neighbour", "add", "198.51.100.9", "lladdr", "02:00:00:00:00:99", "dev", "foreign0");
    return { net, here, there, daemon, own, peer, target: vtepAddress(peer) };
  };
  const ip = (host: LabHost, ...args: string[]) => runProgram(["ip", "-n", host.namespace, ...args]);

  /** What stands on the host, ours and others', in words that two moments can be compared by. */
  const standing = async (host: LabHost): Promise<string> => {
    const texts = await Promise.all([
      ip(host, "-4", "route", "show"),
      ip(host, "-6", "route", "show", "dev", deviceV6),
      ...[device, deviceV6].flatMap((name) => [
        ip(host, "-o", "address", "show", "dev", name, "scope", "global"),
        tryProgram(["bridge", "-n", host.namespace, "fdb", "show", "dev", name]).then(({ output }) => output),
        ip(host, "-o", "link", "show", "dev", name),
      ]),
      ip(host, "-o", "address", "show", "dev", "foreign0"),
      ip(host, "neighbour", "show", "nud", "permanent"),
    ]);
    const lines = texts.join("\n").split("\n");
    return lines
      .map((line) =>
        line
          .replace(/^\d+: /, "")
          .replace(/inet6 fe80.*|linkdown| state \w+/g, "")
          .trim(),
      )
      .filter((line) => line !== "" && !line.includes("fe80"))
      .toSorted()
      .join("\n");
  };

  const total = async (daemon: Daemon) => (await daemon.report()).repairs?.total ?? 0;

  /** Until what `change` took away stands again, and how long that took. */
  const survives = async (
    { here, daemon }: { here: LabHost; daemon: Daemon },
    what: string,
    change: () => Promise<unknown>,
  ): Promise<StatusReport> => {
    const [before, repairs] = [await standing(here), await total(daemon)];
    await change();
    const started = performance.now();
    for (const deadline = Date.now() + 10_000; ; await Bun.sleep(20)) {
      const report = await daemon.report();
      const now = (report.repairs?.total ?? 0) > repairs ? await standing(here).catch(() => "") : "";
      if (now === before) {
        console.log(`${what}: back within ${Math.round(performance.now() - started)} ms`);
        return report;
      }
      if (Date.now() > deadline)
        throw new Error(`not repaired: ${what}\n${before}\n---\n${now}\n${daemon.child.errorTail()}`);
    }
  };

  /** Twenty pings a second, until it is finished. */
  const startPing = (net: TestOverlay, host: LabHost, { from, target }: { from: string; target: string }) => {
    const child = net.lab.start(host.namespace, ["ping", "-n", "-q", "-i", "0.05", "-I", from, target]);
    const output = new Response(child.output).text();
    return {
      async finish() {
        process.kill(child.pid, "SIGINT"); // it prints its sums
        await child.exited;
        const [, sent, received] = /(\d+) packets transmitted, (\d+) received/.exec(await output) ?? [];
        return { sent: Number(sent), received: Number(received) };
      },
    };
  };

  /** The last line of the daemon's log that names `item`. */
  const logLine = ({ child }: Daemon, item: string): string =>
    child
      .errorTail()
      .split("\n")
      .findLast((line) => line.includes(item)) ?? "";

  /** What others do, in groups that stay below what makes a thing contested. */
  const groups = {
    "routes and addresses": ["userspace", "kernel"],
    "flushes and a link set down": ["userspace", "kernel"],
    devices: ["userspace", "kernel"],
    "neighbours and forwarding entries": ["kernel"],
  } as const;
  type Pair = Awaited<ReturnType<typeof openPair>>;
  const changesOf = (
    group: keyof typeof groups,
    { here, own, peer, target }: Pair,
  ): Record<string, () => Promise<unknown>> => {
    const [subnet = "", subnet6 = ""] = peer.lease?.subnets ?? [];
    const mac = peer.lease?.vtepMac ?? "";
    const bridge = (...args: string[]) => runProgram(["bridge", "-n", here.namespace, "fdb", ...args]);
    const neighbour = (verb: string, ...more: string[]) =>
      ip(here, "neighbour", verb, target, ...more, "dev", device);
    const via = ["via", "10.99.255.9", "dev", device, "onlink"];
    switch (group) {
      case "routes and addresses":
        return {
          route: () => ip(here, "route", "delete", subnet),
          "IPv6 route": () => ip(here, "-6", "route", "delete", subnet6),
          "route's gateway": () => ip(here, "route", "replace", subnet, ...via, "proto", "241"),
          address: () => ip(here, "address", "delete", `${vtepAddress(own)}/32`, "dev", device),
          "IPv6 address": () => ip(here, "address", "delete", `${vtepAddress(own, 6)}/128`, "dev", deviceV6),
          "route of ours that nobody wants": () =>
            ip(here, "route", "add", "10.99.254.0/24", ...via, "proto", "241"),
        };
      case "flushes and a link set down":
        return {
          "all routes of the device": () => ip(here, "route", "flush", "dev", device),
          "all IPv6 routes of the device": () =>
            ip(here, "-6", "route", "flush", "dev", deviceV6, "proto", "241"),
          "all addresses of the device": () => ip(here, "address", "flush", "dev", device),
          "link set down": () => ip(here, "link", "set", device, "down"),
        };
      case "devices":
        return {
          MTU: () => ip(here, "link", "set", device, "mtu", "1300"),
          "device deleted": () => ip(here, "link", "delete", device),
          "IPv6 device deleted": () => ip(here, "link", "delete", deviceV6),
          "link set down and up": async () => {
            await ip(here, "link", "set", device, "down");
            await ip(here, "link", "set", device, "up");
          },
        };
      case "neighbours and forwarding entries":
        return {
          neighbour: () => neighbour("delete"),
          "neighbour's MAC": () => neighbour("replace", "lladdr", "02:00:00:00:00:98", "nud", "permanent"),
          "neighbour no longer permanent": () => neighbour("replace", "lladdr", mac, "nud", "stale"),
          "FDB entry": () => bridge("delete", mac, "dev", device, "self"),
          "FDB entry's host": () =>
            bridge("replace", mac, "dev", device, "dst", "192.0.2.9", "self", "permanent"),
          "device's MAC": () => ip(here, "link", "set", device, "address", "02:00:00:00:00:97"),
        };
    }
  };

  test.each(
    Object.entries(groups).flatMap(([group, those]) =>
      those.map((engine) => [engine, group as keyof typeof groups] as const),
    ),
  )(
    "%s: %s that others change come back, counted, with traffic; others' are left alone",
    async (engine, group) => {
      const pair = await openPair(engine);
      const { net, here, there, daemon, own, target } = pair;
      const address = vtepAddress(own);
      expect(own.repairs).toEqual({
        total: 0,
        byKind: { link: 0, address: 0, neighbour: 0, fdb: 0, route: 0 },
        contested: [],
      });
      const pinging = startPing(net, here, { from: address, target });
      for (const [what, change] of Object.entries(changesOf(group, pair))) {
        const after = await survives(pair, `${engine}: ${what}`, change);
        expect([what, after.missing, after.repairs?.contested]).toEqual([what, [], []]);
        expect(daemon.child.errorTail()).toContain("changed by others; set right");
        await ping(here, target, ["-I", address]);
        await ping(there, address, ["-I", target]);
      }
      const { sent, received } = await pinging.finish();
      console.log(`${engine}: ${group}: ${sent - received} of ${sent} pings lost that could be sent`);
      // Each change may cost what its repair takes, and a busy machine is slow.
      expect(received).toBeGreaterThan(sent / 2);
      // Ours, heard of, are not taken for another's.
      const settled = await total(daemon);
      await Bun.sleep(500);
      expect(await total(daemon)).toBe(settled);
      expect((await net.run(daemon, "status")).output).toMatch(/^repairs {4}(?!none)/m);
      for (const text of ["198.51.100.1/24", "203.0.113.0/24", "198.51.100.9"])
        expect(await standing(here)).toContain(text);
    },
    60_000,
  );

  test.each(engines)(
    "%s: the log says who did it, where that can be known",
    async (engine) => {
      const pair = await openPair(engine);
      const { here, daemon, own, peer, target } = pair;
      const [subnet, subnet6] = peer.lease?.subnets ?? [];
      const deletions: [string, string, string][] = [
        ["route", `route delete ${subnet}`, `+ route ${subnet}`],
        ["IPv6 route", `route delete ${subnet6}`, `+ route ${subnet6}`],
        [
          "address",
          `address delete ${vtepAddress(own)}/32 dev ${device}`,
          `+ address ${vtepAddress(own)}/32`,
        ],
      ];
      if (engine === "kernel")
        deletions.push(["neighbour", `neighbour delete ${target} dev ${device}`, `+ neighbour ${target}`]);
      for (const [what, command, missing] of deletions) {
        // One that stays, as a network manager would, and one that is gone at once.
        const child = Bun.spawn(["ip", "-n", here.namespace, "-batch", "-"], {
          stdin: "pipe",
          stdout: "ignore",
        });
        try {
          await survives(pair, `${engine}: ${what} by one who stays`, async () => {
            child.stdin.write(`${command}\n`);
            await child.stdin.flush();
          });
          const line = logLine(daemon, missing);
          expect(line).toContain("changed by others; set right");
          expect(line).toEndWith(`by="ip (${child.pid})"`);
        } finally {
          await child.stdin.end();
          child.kill("SIGKILL");
          await child.exited;
        }
        let pid = 0;
        await survives(pair, `${engine}: ${what} by one who is gone`, async () => {
          const gone = Bun.spawn(["ip", "-n", here.namespace, ...command.split(" ")]);
          ({ pid } = gone);
          expect(await gone.exited).toBe(0);
        });
        expect(logLine(daemon, missing)).toMatch(new RegExp(`by="(ip \\(${pid}\\)|pid ${pid}, gone)"$`));
      }
      await survives(pair, `${engine}: link set down`, () => ip(here, "link", "set", device, "down"));
      expect(logLine(daemon, `~ link ${device}`)).toMatch(
        /by="(unknown|ip \(\d+\)|pid \d+, gone), after flannel\.1 was set down"$/,
      );
      expect(daemon.child.errorTail()).not.toContain(`(${daemon.child.pid})`);
    },
    60_000,
  );

  test.each(engines)(
    "%s: what is deleted over and over becomes contested, the rest is repaired at once",
    async (engine) => {
      const pair = await openPair(engine);
      const { net, here, daemon, own, peer, target } = pair;
      const [subnet, subnet6] = peer.lease?.subnets ?? [];
      const rival = net.lab.start(here.namespace, [
        "sh",
        "-c",
        `while true; do ip route delete ${subnet} 2>/dev/null; sleep 0.02; done`,
      ]);
      try {
        const contested = async () => (await daemon.report()).repairs?.contested ?? [];
        for (const deadline = Date.now() + 20_000; Date.now() < deadline && (await contested()).length === 0;)
          await Bun.sleep(50);
        expect(await contested()).toMatchObject([
          {
            item: `route ${subnet} via ${target} dev ${device} onlink`,
            by: expect.stringMatching(/^ip \(\d+\)$|^pid \d+, gone$/),
          },
        ]);
        const { output } = await net.run(daemon, "status");
        expect(output).toContain(`contested  route ${subnet} via ${target} dev ${device} onlink: repaired `);
        const before = await daemon.report();
        await ip(here, "-6", "route", "delete", subnet6 ?? "");
        await ip(here, "address", "delete", `${vtepAddress(own)}/32`, "dev", device);
        // Counted once it is known who did it, a moment later.
        const stands = async () =>
          (await daemon.report()).repairs?.byKind.address === (before.repairs?.byKind.address ?? 0) + 1 &&
          (await ip(here, "-6", "route", "show", subnet6 ?? "")) !== "" &&
          (await ip(here, "-o", "address", "show", "dev", device)).includes(`${vtepAddress(own)}/32`);
        for (const deadline = Date.now() + 10_000; Date.now() < deadline && !(await stands());)
          await Bun.sleep(20);
        expect(await stands()).toBe(true);
        const after = await daemon.report();
        expect(after.repairs?.byKind.address).toBe((before.repairs?.byKind.address ?? 0) + 1);
        expect(after.repairs?.contested).toHaveLength(1);
        await ping(here, vtepAddress(peer, 6), ["-I", vtepAddress(own, 6)]);
      } finally {
        await rival.end();
      }
      // The rival is gone, the brake is not yet; then the route is there to stay.
      for (const deadline = Date.now() + 90_000; Date.now() < deadline; await Bun.sleep(100))
        if ((await ip(here, "route", "show", subnet ?? "")) !== "") break;
      await ping(here, target, ["-I", vtepAddress(own)]);
      expect(daemon.child.errorTail().match(/contested: somebody keeps undoing this/g)).toHaveLength(1);
    },
    150_000,
  );

  test.each(engines)(
    "%s: another's device and route in the place of ours are named, left alone, and followed by ours",
    async (engine) => {
      const pair = await openPair(engine);
      const { here, daemon, own, peer, target } = pair;
      const subnet = peer.lease?.subnets[0] ?? "";
      const before = await standing(here);
      const missing = async () =>
        (await daemon.report()).missing.map(({ item, code }) => `${code} ${item}`).join("\n");
      const untilMissing = async (text: string) => {
        for (const deadline = Date.now() + 10_000; Date.now() < deadline; await Bun.sleep(50))
          if ((await missing()).includes(text)) return;
        throw new Error(`not missing ${text}: ${await missing()}\n${daemon.child.errorTail()}`);
      };
      await ip(here, "route", "replace", subnet, "dev", "foreign0");
      await untilMissing(`reconcile/foreign route ${subnet}`);
      expect(await ip(here, "route", "show", subnet)).toContain("dev foreign0");
      await ip(here, "route", "delete", subnet, "dev", "foreign0");

      process.kill(daemon.child.pid, "SIGSTOP"); // else ours is back before the other one is made
      await ip(here, "link", "delete", device);
      await ip(here, "link", "add", device, "type", "bridge");
      process.kill(daemon.child.pid, "SIGCONT");
      await untilMissing(`reconcile/foreign link ${device}`);
      expect(await ip(here, "-d", "link", "show", device)).toContain("bridge");
      await ip(here, "link", "delete", device);
      for (const deadline = Date.now() + 40_000; Date.now() < deadline; await Bun.sleep(100))
        if ((await standing(here).catch(() => "")) === before) break;
      expect(await standing(here)).toBe(before);
      await ping(here, target, ["-I", vtepAddress(own)]);
    },
    90_000,
  );
});
