import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { StatusReport } from "../../src/status/report.ts";
import { openTestOverlay, ping, type TestOverlay, vtepAddress } from "../support/overlay.ts";
import { bootSystemd, installedBinary, type SystemdHost, systemdRefused } from "../support/systemd.ts";

const refused = systemdRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/units.test.ts: ${refused}`);

const service = "flannel-lite.service";
const units = "/etc/systemd/system";
const deploy = join(import.meta.dir, "../../deploy/systemd");

describe.skipIf(refused !== undefined)("units", () => {
  let overlay: TestOverlay;
  let hosts: SystemdHost[] = [];

  /** One host an engine: the limits of the unit must suit both. */
  const engines = ["userspace", "kernel"];

  beforeAll(async () => {
    overlay = await openTestOverlay(engines.length);
    hosts = await Promise.all(overlay.lab.hosts.map((host) => bootSystemd(overlay.lab, host)));
    for (const [at, host] of hosts.entries()) {
      host.write(
        "/etc/flannel/config.toml",
        `[store.etcd]
endpoints = ["${overlay.endpoint}"]
[network]
Network = "10.5.0.0/16"
Backend = { Type = "vxlan" }
[datapath]
engine = "${engines[at]}"
`,
      );
      host.write("/etc/default/flannel-lite", "FLANNELD_IP_MASQ=true\nBUN_BE_BUN=1\n");
      await host.run([installedBinary, "install", "systemd", "-flanneld-alias", "-docker"]);
      await host.systemctl("daemon-reload");
    }
  }, 60_000);

  afterAll(async () => {
    await Promise.all(hosts.map((host) => host[Symbol.asyncDispose]()));
    await overlay?.[Symbol.asyncDispose]();
  }, 60_000);

  const first = () => hosts[0] as SystemdHost;
  const mainPid = async (host: SystemdHost) => Number((await host.show(service, "MainPID"))["MainPID"]);
  const subnetOf = (host: SystemdHost) =>
    /^FLANNEL_SUBNET=(.*)$/m.exec(host.read("/run/flannel/subnet.env"))?.[1] ?? "";
  const report = async (host: SystemdHost) =>
    JSON.parse(await host.run([installedBinary, "status", "--json"])) as StatusReport;

  /** Waits for the service to be up as another process than `before`. */
  async function restarted(host: SystemdHost, before: number): Promise<void> {
    for (const deadline = Date.now() + 30_000; Date.now() < deadline; await Bun.sleep(100)) {
      const { ActiveState, MainPID } = await host.show(service, "ActiveState", "MainPID");
      if (ActiveState === "active" && Number(MainPID) !== before && MainPID !== "0") return;
    }
    throw new Error(`it is not restarted: ${await host.journal(service)}`);
  }

  async function pingEachOther(): Promise<void> {
    const reports = await Promise.all(hosts.map(report));
    for (const { host } of hosts) for (const one of reports) await ping(host, vtepAddress(one));
  }

  test("units: systemd finds nothing to complain about", async () => {
    const command = ["systemd-analyze", "verify", "--man=no", `${units}/${service}`];
    const { code, output, errors } = await first().tryRun(command);
    expect({ code, said: output + errors }).toEqual({ code: 0, said: "" });
  });

  test("units: a start is done when the subnet is known and Docker's options are written", async () => {
    await Promise.all(hosts.map((host) => host.systemctl("start", service)));
    for (const host of hosts) {
      const shown = await host.show(service, "ActiveState", "StatusText", "LimitNOFILE", "LimitNPROC");
      expect(shown).toMatchObject({ ActiveState: "active", LimitNOFILE: "40000", LimitNPROC: "1048576" });
      expect(shown["StatusText"]).toStartWith("carrying traffic for ");
      expect(host.read("/run/flannel/docker")).toContain(`DOCKER_OPT_BIP="--bip=${subnetOf(host)}"`);
    }
  });

  test("units: within their limits both engines carry traffic and rules are set", async () => {
    await pingEachOther();
    for (const [at, host] of hosts.entries()) {
      const { engine, firewall } = await report(host);
      expect<string | undefined>(engine?.name).toBe(engines[at]);
      expect(firewall).toMatchObject({ rules: 8, trouble: null });
    }
  });

  test("units: the program has no capability but those of the network, and a filter of system calls", async () => {
    const status = first().read(`/proc/${await mainPid(first())}/status`);
    const value = (name: string) => new RegExp(`^${name}:\\s*(\\S+)$`, "m").exec(status)?.[1];
    const networkOnly = ((1n << 12n) | (1n << 13n)).toString(16).padStart(16, "0");
    const found = ["CapBnd", "CapEff", "NoNewPrivs", "Seccomp"].map(value);
    expect(found).toEqual([networkOnly, networkOnly, "1", "2"]);
  });

  test("units: a reload is done when systemctl returns, fails for a mistake, and the program goes on", async () => {
    const path = "/etc/flannel/config.toml";
    const before = first().read(path);
    const pid = await mainPid(first());
    first().write(path, `${before}[health]\nport = 8081\n`);
    await first().systemctl("reload", service);
    expect(await first().run(["curl", "-s", "http://127.0.0.1:8081/healthz"])).toBe("flanneld is running");
    first().write(path, `${before}[health]\nport = 81 81\n`);
    expect((await first().tryRun(["systemctl", "reload", service])).code).not.toBe(0);
    expect(await first().journal(service)).toContain("nothing was touched");
    first().write(path, before);
    await first().run(["systemctl", "kill", "-s", "HUP", "--kill-who=main", service]);
    const answered = async () => (await first().tryRun(["curl", "-s", "http://127.0.0.1:8081/healthz"])).code;
    for (const deadline = Date.now() + 10_000; Date.now() < deadline && (await answered()) !== 7;) {
      await Bun.sleep(30);
    }
    expect(await answered()).toBe(7);
    for (const deadline = Date.now() + 10_000; Date.now() < deadline; await Bun.sleep(30))
      if ((await first().show(service, "ActiveState"))["ActiveState"] === "active") break;
    expect(await mainPid(first())).toBe(pid);
    expect((await first().show(service, "ActiveState"))["ActiveState"]).toBe("active");
    await pingEachOther();
  });

  test("units: the program is started again after kill -9, and has its subnet back", async () => {
    const subnet = subnetOf(first());
    // The five seconds are for operators to read the log, not for a test to wait.
    first().write(`${units}/${service}.d/soon.conf`, "[Service]\nRestartSec=100ms\n");
    await first().systemctl("daemon-reload");
    const pid = await mainPid(first());
    await first().run(["kill", "-KILL", String(pid)]);
    await restarted(first(), pid);
    expect(subnetOf(first())).toBe(subnet);
    expect((await first().show(service, "NRestarts"))["NRestarts"]).toBe("1");
    await pingEachOther();
  });

  test("units: a daemon that hangs is started again by the watchdog", async () => {
    first().write(`${units}/${service}.d/watchdog.conf`, "[Service]\nWatchdogSec=2\n");
    await first().systemctl("daemon-reload");
    await first().systemctl("restart", service);
    const pid = await mainPid(first());
    const before = Number((await first().show(service, "NRestarts"))["NRestarts"]);
    await first().run(["kill", "-STOP", String(pid)]);
    await restarted(first(), pid);
    expect(Number((await first().show(service, "NRestarts"))["NRestarts"])).toBe(before + 1);
    expect(await first().journal(service)).toContain("Watchdog timeout");
    await pingEachOther();
    await first().run(["rm", `${units}/${service}.d/watchdog.conf`]);
    await first().systemctl("daemon-reload");
    await first().systemctl("restart", service);
  });

  test("units: flanneld.service is the same service, and a stop leaves the device", async () => {
    await first().systemctl("stop", "flanneld.service");
    expect(await first().show(service, "ActiveState", "Result")).toEqual({
      ActiveState: "inactive",
      Result: "success",
    });
    expect(await first().run(["ip", "-br", "link", "show", "flannel.1"])).toStartWith("flannel.1");
    await first().systemctl("start", "flanneld.service");
    expect((await first().show(service, "ActiveState"))["ActiveState"]).toBe("active");
  });

  test("units: a mistake in the configuration is not tried again", async () => {
    const host = hosts[1] as SystemdHost;
    host.write(
      `${units}/${service}.d/mistake.conf`,
      '[Service]\nEnvironment="FLANNELD_IFACE= "\nEnvironment=FLANNELD_ETCD_ENDPOINTS=://\n',
    );
    await host.systemctl("daemon-reload");
    expect((await host.tryRun(["systemctl", "restart", service])).code).not.toBe(0);
    expect(await host.show(service, "ActiveState", "ExecMainStatus", "NRestarts")).toEqual({
      ActiveState: "failed",
      ExecMainStatus: "2",
      NRestarts: "0",
    });
    await host.run(["rm", `${units}/${service}.d/mistake.conf`]);
    await host.systemctl("daemon-reload");
    await host.systemctl("start", service);
    await pingEachOther();
  });

  test("install systemd: a second time changes nothing, -remove -now takes all of it away", async () => {
    const host = hosts[1] as SystemdHost;
    const again = await host.run([installedBinary, "install", "systemd", "-flanneld-alias", "-docker"]);
    expect(again).not.toMatch(/wrote|linked/);
    const removed = await host.run([installedBinary, "install", "systemd", "-remove", "-now"]);
    expect(removed).toContain("ran systemctl disable --now flannel-lite.service\n");
    expect(await host.show(service, "LoadState", "ActiveState")).toEqual({
      LoadState: "not-found",
      ActiveState: "inactive",
    });
    expect((await host.run(["find", units, "-name", "*flannel*"])).trim()).toBe("");
  });

  test("install systemd -now: it runs, is enabled, and is flanneld.service too", async () => {
    const host = hosts[1] as SystemdHost;
    await host.run([installedBinary, "install", "systemd", "-flanneld-alias", "-docker", "-now"]);
    for (const name of [service, "flanneld.service"])
      expect(await host.show(name, "Id", "ActiveState", "UnitFileState")).toEqual({
        Id: service,
        ActiveState: "active",
        UnitFileState: "enabled",
      });
  });

  test("units: the drop-in for Docker starts us before it and gives it our subnet", async () => {
    const host = hosts[1] as SystemdHost;
    await host.systemctl("stop", service);
    await host.run(["rm", "/run/flannel/docker"]);
    // Docker itself is not needed to see what it would be started with.
    host.write("/usr/bin/dockerd", '#!/bin/sh\necho "$@" > /run/dockerd-arguments\nexec sleep 1000\n', 0o755);
    const dropIn = readFileSync(join(deploy, "docker.service.d/flannel-lite.conf"), "utf8");
    await host.install({
      "docker.service": "[Service]\nExecStart=/bin/false\n",
      "docker.service.d/flannel-lite.conf": dropIn,
    });
    await host.systemctl("start", "docker.service");
    let given = "";
    for (const deadline = Date.now() + 10_000; given === "" && Date.now() < deadline; await Bun.sleep(20))
      given = (await host.tryRun(["cat", "/run/dockerd-arguments"])).output;
    expect(given).toBe(
      `-H fd:// --containerd=/run/containerd/containerd.sock --bip=${subnetOf(host)} --ip-masq=false --mtu=1450\n`,
    );
  });
});
