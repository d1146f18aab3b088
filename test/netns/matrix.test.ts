import { afterEach, describe, expect, test } from "bun:test";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { kernelHasIpip } from "../support/ipip.ts";
import {
  type Daemon,
  openTestOverlay,
  overlayRefused,
  ping,
  pingAnswered,
  type TestOverlay,
  transfer,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/matrix.test.ts: ${refused}`);

const backends = ["vxlan", "host-gw", "udp", "ipip"] as const;
const engines = ["userspace", "kernel", "dgram"] as const;
const stacks = ["IPv4", "IPv6", "dual-stack"] as const;
type Cell = readonly [(typeof backends)[number], (typeof engines)[number], (typeof stacks)[number]];

/** What the kernel at hand cannot do is not what nobody can. */
const hasIpip = refused === undefined && kernelHasIpip();

/** Why a cell cannot be: the words of the error that says so, and the exit code. */
function impossible([backend, engine, stack]: Cell): readonly [words: string, code: number] | undefined {
  if (backend === "ipip" && stack !== "IPv4") return ["the ipip backend carries IPv4 alone", 2];
  if (backend === "ipip" && engine === "dgram") return ["the dgram engine has no raw socket", 2];
  if (backend === "ipip" && engine === "kernel" && !hasIpip) return ["this kernel has no ipip devices", 1];
  if (backend === "udp" && engine === "kernel")
    return ["no kernel device here for the network's backend, udp", 2];
  // With leases in Kubernetes' nodes there are such networks: kubernetes.test.ts.
  if (stack === "IPv6") return ["etcd has no form for leases without an IPv4 subnet", 2];
  return undefined;
}

const families: Record<Cell[2], readonly (4 | 6)[]> = { IPv4: [4], IPv6: [6], "dual-stack": [4, 6] };

function networkOf([backend, , stack]: Cell): string {
  const ipv6 = stack === "IPv4" ? {} : { EnableIPv6: true, IPv6Network: "fd00:99::/48" };
  const ipv4 = stack === "IPv6" ? { EnableIPv4: false } : { Network: "10.99.0.0/16" };
  return JSON.stringify({ ...ipv4, ...ipv6, Backend: { Type: backend } });
}

/** A pod's address: the second of the host's subnet. */
function podAddress({ lease }: StatusReport, family: 4 | 6): string {
  const subnet = lease?.subnets.find((text) => text.includes(":") === (family === 6))?.split("/")[0] ?? "";
  return family === 4 ? subnet.replace(/\.0$/, ".1") : `${subnet}1`;
}

/** No packet of host-gw passes an engine: one stands for all. */
const cells: Cell[] = backends.flatMap((backend) =>
  (backend === "host-gw" ? (["userspace"] as const) : engines).flatMap((engine) =>
    stacks.map((stack) => [backend, engine, stack] as const),
  ),
);

describe.skipIf(refused !== undefined)("every backend, engine and address family", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  const overlay = async (cell: Cell): Promise<TestOverlay> => {
    open = await openTestOverlay(2);
    await open.etcd("put", "/coreos.com/network/config", networkOf(cell));
    return open;
  };

  test.each(cells.filter((cell) => impossible(cell) === undefined))(
    "%s, %s, %s: ping and TCP up to the MTU, one more host, one less, a restart",
    async (backend, engine, stack) => {
      const net = await overlay([backend, engine, stack]);
      const start = (host: LabHost) => net.startDaemon(host, { engine });
      /** A pod of the host, in each family. */
      const give = async (daemon: Daemon, peers: number) => {
        const report = await daemon.ready(peers);
        for (const family of families[stack]) {
          const address = `${podAddress(report, family)}/${family === 4 ? 32 : 128}`;
          await inside(daemon.host.namespace, ["ip", "address", "replace", address, "dev", "lo"]);
        }
        return report;
      };
      const pass = async (from: [Daemon, StatusReport], to: [Daemon, StatusReport]) => {
        for (const family of families[stack]) {
          const [source, target] = [podAddress(from[1], family), podAddress(to[1], family)];
          const payload = (from[1].network?.mtuBytes ?? 0) - (family === 4 ? 28 : 48);
          await ping(from[0].host, target, ["-I", source, "-M", "do", "-s", `${payload}`]);
          const ends = {
            from: { host: from[0].host, address: source },
            to: { host: to[0].host, address: target },
          };
          expect(await transfer(net.lab, ends.from, ends.to)).toMatchObject({ intact: true });
        }
      };
      const [first, second] = net.lab.hosts;
      if (first === undefined || second === undefined) throw new Error("two hosts");
      const [one, two] = [start(first), start(second)];
      const reports = [await give(one, 1), await give(two, 1)] as const;
      await pass([one, reports[0]], [two, reports[1]]);
      await pass([two, reports[1]], [one, reports[0]]);

      const three = start(await net.lab.addHost());
      const late = await give(three, 2);
      await pass([one, reports[0]], [three, late]);

      await three.child.end();
      const key = late.lease?.subnets.map((subnet) => subnet.replace("/", "-")).join("&") ?? "";
      await net.etcd("del", `/coreos.com/network/subnets/${key}`);
      await one.ready(1);
      const gone = podAddress(late, 4);
      expect(await pingAnswered(first, gone, ["-I", podAddress(reports[0], 4)])).toBe(false);

      await two.child.end();
      const again = start(second);
      const same = await give(again, 1);
      expect(same.lease?.subnets).toEqual(reports[1].lease?.subnets as string[]);
      await pass([one, reports[0]], [again, same]);
    },
    60_000,
  );

  test.each(cells.filter((cell) => impossible(cell) !== undefined))(
    "%s, %s, %s cannot be, and the daemon says why",
    async (backend, engine, stack) => {
      const cell: Cell = [backend, engine, stack];
      const net = await overlay(cell);
      const [host] = net.lab.hosts;
      if (host === undefined) throw new Error("a host");
      const { child } = net.startDaemon(host, { engine });
      const code = await Promise.race([child.exited, Bun.sleep(15_000)]);
      const [words, exitCode] = impossible(cell) ?? ["", 0];
      expect({ code, errors: child.errorTail() }).toMatchObject({
        code: exitCode,
        errors: expect.stringContaining(words) as string,
      });
    },
    30_000,
  );
});
