import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import { openTestOverlay, pingSeries, type TestOverlay } from "../support/overlay.ts";
import { flanneldProgram, hasBridgeFilter, stockRegistry } from "../support/stock-daemon.ts";
import { bootSystemd, installedBinary, type SystemdHost, systemdRefused } from "../support/systemd.ts";

const registry = await stockRegistry();
const service = "flanneld.service";
/** A link, as an operator has it who swaps the program below his unit. */
const program = "/opt/bin/flanneld";
const stock = "/opt/flannel/flanneld";

/** What the operator does by hand, under systemd, as the pages in docs say it. */
describe(`a flanneld.service, etcd ${registry.api}`, () => {
  let overlay: TestOverlay | undefined;
  let hosts: SystemdHost[] = [];
  beforeAll(() => {
    const refused = systemdRefused();
    if (refused !== undefined) throw new Error(refused);
  });
  afterEach(async () => {
    await Promise.all(hosts.map((host) => host[Symbol.asyncDispose]()));
    await overlay?.[Symbol.asyncDispose]();
    hosts = [];
    overlay = undefined;
  }, 60_000);

  /** Two hosts, each with a flanneld that runs under its unit. */
  const boot = async () => {
    overlay = await openTestOverlay(2, registry.etcdFlags);
    const { lab, endpoint } = overlay;
    const [anyHost] = lab.hosts;
    const nftables = anyHost !== undefined && !(await hasBridgeFilter(anyHost));
    const network = { Network: "10.99.0.0/16", EnableNFTables: nftables, Backend: { Type: "vxlan" } };
    await registry.putConfig(overlay, network);
    const binds = { [stock]: flanneldProgram() };
    hosts = await Promise.all(lab.hosts.map((host) => bootSystemd(lab, host, { binds })));
    for (const host of hosts) {
      await host.run(["mkdir", "-p", "/opt/bin"]);
      await host.run(["ln", "-s", stock, program]);
      const flags = `-etcd-endpoints=${endpoint} -iface=eth0 -ip-masq`;
      const unit = `[Service]\nType=notify\nExecStart=${program} ${flags}\nRestart=on-failure\n[Install]\nWantedBy=basic.target\n`;
      await host.install({ [service]: unit });
      await host.systemctl("enable", "--now", service);
    }
    const [first, second] = hosts;
    if (first === undefined || second === undefined) throw new Error("no hosts");
    return { net: overlay, first, second, endpoint };
  };
  const subnetEnv = (host: SystemdHost) => host.read("/run/flannel/subnet.env");
  const vtep = (host: SystemdHost) =>
    /^FLANNEL_SUBNET=(.*)\.1\/24$/m.exec(subnetEnv(host))?.[1]?.concat(".0") ?? "none";
  const reachEachOther = async (first: SystemdHost, second: SystemdHost) => {
    for (const [from, to] of [
      [first, second],
      [second, first],
    ] as const) {
      for (const deadline = Date.now() + 15_000; ; await Bun.sleep(100)) {
        try {
          await pingSeries(from.host, vtep(to), ["-I", vtep(from)], 3);
          break;
        } catch (error) {
          if (Date.now() > deadline) throw error;
        }
      }
    }
  };
  const programOf = async (host: SystemdHost, name = service) => {
    const { MainPID } = await host.show(name, "MainPID");
    return (await host.run(["readlink", `/proc/${MainPID}/exe`])).trim();
  };

  test("the program below the unit is swapped, there and back: same unit, flags, subnet and subnet.env", async () => {
    const { net, first, second } = await boot();
    await reachEachOther(first, second);
    const before = { lease: await registry.leaseOf(net, first.host), env: subnetEnv(first) };
    for (const [target, runs] of [
      [installedBinary, installedBinary],
      [stock, stock],
    ] as const) {
      await first.systemctl("stop", service);
      await first.run(["ln", "-sfn", target, program]);
      await first.systemctl("start", service);
      expect(await programOf(first)).toBe(runs);
      expect(subnetEnv(first)).toBe(before.env);
      expect((await registry.leaseOf(net, first.host)).subnet).toBe(before.lease.subnet);
      await reachEachOther(first, second);
      if (target === installedBinary) {
        expect(await registry.leaseOf(net, first.host)).toEqual(before.lease);
        const status = JSON.parse(await first.run([installedBinary, "status", "--json"])) as {
          ready: boolean;
        };
        expect(status.ready).toBe(true);
      }
    }
  }, 120_000);

  test("a unit of ours in place of flanneld's, and back with cleanup, by the commands of the migration page", async () => {
    const { net, first, second, endpoint } = await boot();
    const { subnet } = await registry.leaseOf(net, first.host);
    first.write(
      "/etc/flannel/config.toml",
      `[store.etcd]\nendpoints = ["${endpoint}"]\n[host]\nip_masq = true\n`,
    );
    await first.run([installedBinary, "check"]);
    expect(await first.run([installedBinary, "plan"])).toContain("# flanneld (pid ");

    await first.run([installedBinary, "install", "systemd"]);
    await first.systemctl("disable", "--now", "flanneld");
    await first.systemctl("enable", "--now", "flannel-lite");
    expect(await first.run([installedBinary, "status"])).toContain(subnet.replace("-", "/"));
    await reachEachOther(first, second);
    expect((await registry.leaseOf(net, first.host)).subnet).toBe(subnet);

    await first.systemctl("disable", "--now", "flannel-lite");
    expect(await first.run([installedBinary, "cleanup"])).toContain("- link flannel.1");
    await first.systemctl("enable", "--now", "flanneld");
    expect((await registry.leaseOf(net, first.host)).subnet).toBe(subnet);
    await reachEachOther(first, second);
  }, 120_000);
});
