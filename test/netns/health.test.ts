import { afterEach, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { LabHost } from "../../src/demo/lab.ts";
import { inside } from "../../src/demo/lab.ts";
import { tryProgram } from "../../src/demo/process.ts";
import { openCertificates } from "../support/certificates.ts";
import { parseExposition } from "../support/exposition.ts";
import {
  hostOf,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/health.test.ts: ${refused}`);

const prefix = "/coreos.com/network";
const networkJson = '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}';
const health = "[health]\nport = 8081\n[metrics]\nport = 9102\n";

describe.skipIf(refused !== undefined)("health", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  const overlay = async (hosts: number): Promise<TestOverlay> => (open = await openTestOverlay(hosts));

  /** What the host itself is answered: status, then body. */
  const get = async ({ namespace }: LabHost, path: string, port = 8081): Promise<string> => {
    const url = `http://127.0.0.1:${port}${path}`;
    const { code, output } = await tryProgram([
      ...["ip", "netns", "exec", namespace, "curl", "-s", "-m", "3", "-w", "\n%{http_code}", url],
    ]);
    if (code !== 0) return `curl ${code}`;
    const lines = output.split("\n");
    return `${lines.at(-1)} ${lines.slice(0, -1).join("\n")}`;
  };
  const answers = async (host: LabHost, start: string): Promise<string> => {
    let last = "";
    for (const deadline = Date.now() + 15_000; Date.now() < deadline; await Bun.sleep(50)) {
      last = await get(host, "/readyz");
      if (last.startsWith(start)) return last;
    }
    throw new Error(`/readyz does not say ${start}: ${last}`);
  };
  const metricsOf = async (host: LabHost) => {
    const page = await get(host, "/metrics", 9102);
    expect(page).toStartWith("200 ");
    return parseExposition(`${page.slice(4)}`);
  };
  const ready = "200 flanneld is ready";
  const notReady = "503 flanneld is not ready yet\n";

  test("readyz: 503 with the reason while the network is unknown, 200 once subnet.env is there", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    const daemon = net.startDaemon(host, { engine: "userspace", more: health });
    expect(await answers(host, "503 ")).toStartWith(
      `${notReady}waiting for the network configuration in etcd`,
    );
    expect(await get(host, "/healthz")).toBe("200 flanneld is running");
    expect((await metricsOf(host)).value("flannel_lite_stage", { stage: "waiting-for-network" })).toBe(1);
    expect(existsSync(daemon.subnetFile)).toBe(false);
    await net.etcd("put", `${prefix}/config`, networkJson);
    expect(await answers(host, "200")).toBe(ready);
    expect(existsSync(daemon.subnetFile)).toBe(true);
    await daemon.child.end();
    expect(await daemon.child.exited).toBe(0);
    expect(await get(host, "/healthz")).toBe("curl 7");
  });

  test("readyz: another node's claim to our subnet takes it back, and giving it up brings it again", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    await net.etcd("put", `${prefix}/config`, networkJson);
    const daemon = net.startDaemon(host, { engine: "kernel", more: health });
    const { lease } = await daemon.ready(0);
    const key = `${prefix}/subnets/${(lease?.subnets[0] ?? "").replace("/", "-")}`;
    const value =
      '{"PublicIP":"10.77.0.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:99"}}';
    await net.etcd("put", key, value);
    expect(await answers(host, "503")).toStartWith(`${notReady}stopped sending: `);
    const page = await metricsOf(host);
    expect(page.value("flannel_lite_ready")).toBe(0);
    expect(page.value("flannel_lite_lease_conflict")).toBe(1);
    expect(page.value("flannel_lite_lease_events_total", { event: "conflict" })).toBe(1);
    await net.etcd("del", key);
    expect(await answers(host, "200")).toBe(ready);
  });

  test("readyz: a device that cannot be had again takes it back until it can", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    await net.etcd("put", `${prefix}/config`, networkJson);
    const daemon = net.startDaemon(host, { engine: "kernel", more: health });
    await daemon.ready(0);
    // Ours must not be back before somebody else's device has the name.
    process.kill(daemon.child.pid, "SIGSTOP");
    await inside(host.namespace, ["ip", "link", "del", "flannel.1"]);
    await inside(host.namespace, ["ip", "link", "add", "flannel.1", "type", "veth", "peer", "name", "v1"]);
    process.kill(daemon.child.pid, "SIGCONT");
    expect(await answers(host, "503")).toStartWith(`${notReady}the device cannot be had: `);
    expect((await daemon.report()).phase).toStartWith("the device cannot be had: ");
    await inside(host.namespace, ["ip", "link", "del", "flannel.1"]);
    expect(await answers(host, "200")).toBe(ready);
  });

  const engines = ["userspace", "kernel"] as const;
  test.each(engines)(
    "metrics: %s: traffic, peers and passes of a daemon that runs are counted",
    async (engine) => {
      const net = await overlay(2);
      await net.etcd("put", `${prefix}/config`, networkJson);
      const [first, second] = [1, 2].map((at) => net.startDaemon(hostOf(net, at), { engine, more: health }));
      if (first === undefined || second === undefined) throw new Error("two daemons");
      const [, other] = await Promise.all([first.ready(1), second.ready(1)]);
      await ping(first.host, vtepAddress(other));
      const page = await metricsOf(first.host);
      expect(page.value("flannel_lite_ready")).toBe(1);
      expect(page.value("flannel_lite_peers")).toBe(1);
      const packets = { device: "flannel.1", direction: "sent" };
      expect(page.value("flannel_lite_datapath_packets_total", packets)).toBeGreaterThanOrEqual(3);
      const peer = { peer: second.host.address, direction: "received" };
      const fromPeer = page.value("flannel_lite_peer_packets_total", peer);
      if (engine === "kernel") expect(fromPeer).toBeUndefined();
      else expect(fromPeer).toBeGreaterThanOrEqual(3);
      expect(page.value("flannel_lite_reconcile_passes_total")).toBeGreaterThan(0);
      expect(page.value("flannel_lite_lease_events_total", { event: "acquired" })).toBe(1);
      const expiry = page.value("flannel_lite_lease_expiry_timestamp_seconds") ?? 0;
      expect(expiry - Date.now() / 1000).toBeGreaterThan(23 * 3600);
      expect(page.value("flannel_lite_process_resident_memory_bytes")).toBeGreaterThan(1_000_000);
      // Beyond the host itself nobody is answered, unless told so.
      const fromOutside = `http://${first.host.address}:9102/metrics`;
      const { code } = await tryProgram([
        ...["ip", "netns", "exec", second.host.namespace, "curl", "-s", "-m", "3", fromOutside],
      ]);
      expect(code).toBe(7);
    },
  );

  test("a certificate for the store that ends soon is told in log, status and metrics", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    await net.etcd("put", `${prefix}/config`, networkJson);
    using certificates = openCertificates();
    const ca = certificates.authority("ca");
    const { cert, key } = certificates.issue("client", { by: "ca", names: "DNS:localhost", days: 90 });
    const etcd = `cafile = "${ca}"\ncertfile = "${cert}"\nkeyfile = "${key}"`;
    const daemon = net.startDaemon(host, { engine: "kernel", etcd, more: health });
    await daemon.ready(0);
    const warned = daemon.child
      .errorTail()
      .split("\n")
      .filter((line) => line.includes("ends soon: renew it"));
    expect(warned).toHaveLength(1);
    expect(warned[0]).toContain(`path=${ca}`);
    const { output } = await net.run(daemon, "status");
    expect(output).toMatch(/^tls {8}CA \S+ expires \S+ \(in 1 days\): renew it$/m);
    expect(output).toMatch(/^tls {8}client certificate \S+ expires \S+ \(in 89 days\)$/m);
    const page = await metricsOf(host);
    const days = (certificate: string) =>
      ((page.value("flannel_lite_certificate_expiry_timestamp_seconds", { certificate }) ?? 0) -
        Date.now() / 1000) /
      86_400;
    expect([Math.round(days("ca")), Math.round(days("client"))]).toEqual([2, 90]);
  });

  test("a port that is taken ends the start at once with 1, and names the key", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    const taken = net.startDaemon(host, { engine: "kernel", more: health });
    await answers(host, "503");
    const second = net.startDaemon(host, { engine: "kernel", more: health, instance: "b" });
    expect(await second.child.exited).toBe(1);
    expect(second.child.errorTail()).toContain("port 8081 of 0.0.0.0 is taken (key=health.port");
    await taken.child.end();
  });

  test("systemd gets signs of life while the daemon waits and while it runs", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    const path = join(net.lab.directory, "notify");
    const listen =
      "use IO::Socket::UNIX; use Socket; $| = 1; my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die;" +
      "while (defined $s->recv(my $m, 4096)) { $m =~ s/\\n/;/g; print qq($m\\n) }";
    const listener = net.lab.start(host.namespace, ["perl", "-e", listen, path]);
    while (!existsSync(path)) await Bun.sleep(20);
    let heard: string[] = [];
    void (async () => {
      const decoder = new TextDecoder();
      for await (const chunk of listener.output) heard.push(...decoder.decode(chunk).trim().split("\n"));
    })();
    const signs = async (count: number) => {
      heard = [];
      while (heard.filter((line) => line === "WATCHDOG=1").length < count) await Bun.sleep(20);
    };
    const env = { NOTIFY_SOCKET: path, WATCHDOG_USEC: "400000" };
    const daemon = net.startDaemon(host, { engine: "userspace", env });
    await signs(3);
    await net.etcd("put", `${prefix}/config`, networkJson);
    await daemon.ready(0);
    await signs(3);
    await daemon.child.end();
    expect(await daemon.child.exited).toBe(0);
    // For another process's watchdog none is given.
    heard = [];
    const other = net.startDaemon(host, { engine: "userspace", env: { ...env, WATCHDOG_PID: "1" } });
    await other.ready(0);
    await other.child.end();
    expect(heard.filter((line) => line.includes("WATCHDOG"))).toEqual([]);
    expect(heard.some((line) => line.startsWith("READY=1"))).toBe(true);
  });
});
