import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { StatusReport } from "../../src/status/report.ts";
import { type Daemon, openTestOverlay, type TestOverlay, vtepAddress } from "../support/overlay.ts";
import { bootSystemd, installedBinary, type SystemdHost, systemdRefused } from "../support/systemd.ts";

const refused = systemdRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/restart.test.ts: ${refused}`);

const service = "flannel-lite.service";

describe.skipIf(refused !== undefined)("restart", () => {
  let overlay: TestOverlay;
  let host: SystemdHost;
  let peer: Daemon;

  beforeAll(async () => {
    overlay = await openTestOverlay(2);
    const [first, second] = overlay.lab.hosts;
    if (first === undefined || second === undefined) throw new Error("two hosts");
    host = await bootSystemd(overlay.lab, first);
    await overlay.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}',
    );
    host.write("/etc/flannel/config.toml", `[store.etcd]\nendpoints = ["${overlay.endpoint}"]\n`);
    peer = overlay.startDaemon(second, {
      engine: "userspace",
    });
  }, 60_000);

  afterAll(async () => {
    await host?.[Symbol.asyncDispose]();
    await overlay?.[Symbol.asyncDispose]();
  }, 60_000);

  const report = async () =>
    JSON.parse(await host.run([installedBinary, "status", "--json"])) as StatusReport;
  const mainPid = async () => (await host.show(service, "MainPID"))["MainPID"];

  test("restart: systemctl restart of the shipped unit loses not one packet, either way", async () => {
    await host.run([installedBinary, "install", "systemd"]);
    await host.systemctl("daemon-reload");
    await host.systemctl("start", service);
    const other = await peer.ready(1);
    const own = await report();
    expect(own.engine?.name).toBe("userspace");
    const ping = (namespace: string, from: StatusReport, to: StatusReport) => {
      const pinger = overlay.lab.start(namespace, [
        ...["ping", "-n", "-i", "0.005", "-W", "5", "-I", vtepAddress(from), vtepAddress(to)],
      ]);
      return { pinger, output: new Response(pinger.output).text() };
    };
    const pings = [ping(host.host.namespace, own, other), ping(peer.host.namespace, other, own)];
    await Bun.sleep(300);
    const pids = new Set([await mainPid()]);
    for (let round = 0; round < 3; round++) {
      await host.systemctl("restart", service);
      pids.add(await mainPid());
      expect(Number((await host.show(service, "NFileDescriptorStore"))["NFileDescriptorStore"])).toBe(10);
      await Bun.sleep(200);
    }
    expect(pids.size).toBe(4);
    for (const { pinger } of pings) process.kill(pinger.pid, "SIGINT");
    for (const { output } of pings) {
      const seen = new Set(
        [...(await output).matchAll(/icmp_seq=(\d+) ttl/g)].map((match) => Number(match[1])),
      );
      const last = Math.max(0, ...seen);
      expect(last).toBeGreaterThan(100);
      // None missing before the last one answered: what follows was under way when the pings were ended.
      expect(seen.size).toBe(last);
    }
    expect((await report()).lease?.subnets).toEqual(own.lease?.subnets as string[]);
    const journal = await host.journal(service);
    expect(journal).toContain("going on with the descriptors of the run before");
    expect(journal).not.toContain("of no use");
  }, 60_000);

  test("restart: another engine finds nothing of the old one in its way", async () => {
    const config = host.read("/etc/flannel/config.toml");
    host.write("/etc/flannel/config.toml", `${config}[datapath]\nengine = "kernel"\n`);
    await host.systemctl("restart", service);
    expect((await report()).engine?.name).toBe("kernel");
    expect((await host.show(service, "NFileDescriptorStore"))["NFileDescriptorStore"]).toBe("0");
    await host.systemctl("stop", service);
  }, 60_000);
});
