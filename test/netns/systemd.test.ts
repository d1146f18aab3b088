import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { inside, type Lab, type LabHost, openLab } from "../../src/demo/lab.ts";
import { bootSystemd, installedBinary, type SystemdHost, systemdRefused } from "../support/systemd.ts";

const refused = systemdRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/systemd.test.ts: ${refused}`);

describe.skipIf(refused !== undefined)("systemd", () => {
  let lab: Lab;
  let hosts: SystemdHost[];

  beforeAll(async () => {
    lab = await openLab("systemd", 2);
    hosts = await Promise.all(lab.hosts.map((host) => bootSystemd(lab, host)));
  }, 60_000);

  afterAll(async () => {
    await Promise.all((hosts ?? []).map((host) => host[Symbol.asyncDispose]()));
    await lab?.[Symbol.asyncDispose]();
  }, 60_000);

  const first = () => hosts[0] as SystemdHost;

  test("support: each host has a systemd, a name, files and a network of its own", async () => {
    const marker = `/etc/fl-marker-${process.pid}`;
    first().write(marker, "one\n");
    expect(existsSync(marker)).toBe(false);
    expect(existsSync((hosts[1] as SystemdHost).path(marker))).toBe(false);
    for (const { run, host } of hosts) {
      expect((await run(["cat", "/proc/1/comm"])).trim()).toBe("systemd");
      expect((await run(["hostname"])).trim()).toBe(host.namespace);
      expect(await run(["ip", "-br", "address", "show", "eth0"])).toContain(host.address);
      expect(await run([installedBinary, "version"])).toStartWith("flannel-lite ");
    }
  });

  test("support: a service runs, is shown and has a journal", async () => {
    const { install, systemctl, show, journal } = first();
    await install({
      "probe.service": "[Service]\nExecStart=/bin/sh -c 'echo it speaks; exec sleep 1000'\n",
    });
    await systemctl("start", "probe.service");
    expect(await show("probe.service", "ActiveState", "SubState")).toEqual({
      ActiveState: "active",
      SubState: "running",
    });
    expect(await journal("probe.service")).toContain("it speaks");
    await systemctl("stop", "probe.service");
  });

  test("support: a lab that closes over a running systemd leaves no process and no cgroup", async () => {
    const short = await openLab("systemd-end", 1);
    const { namespace } = short.hosts[0] as LabHost;
    const host = await bootSystemd(short, short.hosts[0] as LabHost);
    await host.install({ "probe.service": "[Service]\nExecStart=/bin/sleep 1000\n" });
    await host.systemctl("start", "probe.service");
    const pids = (await inside(namespace, ["ip", "netns", "pids", namespace])).trim().split("\n");
    expect(pids.length).toBeGreaterThan(2);
    await short[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    expect(pids.filter((pid) => cgroupOf(pid).includes(namespace))).toEqual([]);
    const cgroups = readFileSync("/proc/mounts", "utf8").match(/^\S+ (\S+) cgroup2 /m)?.[1];
    if (cgroups !== undefined) expect(existsSync(join(cgroups, namespace))).toBe(false);
  });
});

/** Empty for one that has ended: a process that nobody has waited for yet is in a deleted cgroup. */
function cgroupOf(pid: string): string {
  try {
    const cgroup = readFileSync(`/proc/${pid}/cgroup`, "utf8");
    return cgroup.includes(" (deleted)") ? "" : cgroup;
  } catch {
    return "";
  }
}
