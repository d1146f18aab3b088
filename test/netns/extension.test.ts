import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inside } from "../../src/demo/lab.ts";
import { type Daemon, openTestOverlay, overlayRefused, ping, type TestOverlay } from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/extension.test.ts: ${refused}`);

const prefix = "/coreos.com/network";

describe.skipIf(refused !== undefined)("extension", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const overlay = async (hosts: number, backend: object): Promise<TestOverlay> => {
    const net = await openTestOverlay(hosts);
    open = net;
    const network = { Network: "10.99.0.0/16", Backend: { Type: "extension", ...backend } };
    await net.etcd("put", `${prefix}/config`, JSON.stringify(network));
    return net;
  };
  const start = (net: TestOverlay, number: number, more: string): Daemon => {
    const host = net.lab.hosts[number - 1];
    if (host === undefined) throw new Error(`no host ${number}`);
    return net.startDaemon(host, { engine: "auto", more });
  };
  const until = async (what: string, daemon: Daemon, holds: () => Promise<boolean> | boolean) => {
    for (const deadline = Date.now() + 20_000; Date.now() < deadline; await Bun.sleep(50))
      if (await holds()) return;
    throw new Error(`it does not happen that ${what}: ${daemon.child.errorTail()}`);
  };

  test("extension: commands in the store run nothing by default, and the start ends with 2", async () => {
    const net = await overlay(1, {});
    const file = join(net.lab.directory, "ran");
    const command = `touch ${file}`;
    const backend = {
      Type: "extension",
      PreStartupCommand: command,
      PostStartupCommand: command,
      SubnetAddCommand: command,
    };
    await net.etcd("put", `${prefix}/config`, JSON.stringify({ Network: "10.99.0.0/16", Backend: backend }));
    const daemon = start(net, 1, "");
    expect(await daemon.child.exited).toBe(2);
    expect(daemon.child.errorTail()).toContain("which this host does not allow");
    expect(existsSync(file)).toBe(false);
    const allowed = start(net, 1, '[backend]\nextension_commands = "store"\n');
    await allowed.ready(0);
    expect(existsSync(file)).toBe(true);
  });

  test("extension: two hosts route to each other by their own commands, and a peer that leaves is seen off", async () => {
    const net = await overlay(2, {});
    const log = join(net.lab.directory, "log");
    const commands = `[backend]
pre_startup_command = "echo key of $(ip -4 -o address show dev eth0 | wc -l)"
post_startup_command = 'ip address replace "\${SUBNET%.0/24}.1/32" dev lo; echo up >> ${log}'
subnet_add_command = 'ip route replace "$SUBNET" via "$PUBLIC_IP"; echo "+ $SUBNET $(cat)" >> ${log}'
subnet_remove_command = 'ip route delete "$SUBNET"; echo "- $SUBNET $(cat)" >> ${log}'
`;
    const [first, second] = [start(net, 1, commands), start(net, 2, commands)];
    const reports = await Promise.all([first.ready(1), second.ready(1)]);
    const [one, other] = reports.map(({ lease }) => lease?.subnets[0] ?? "");
    const pod = (subnet = "") => subnet.replace(".0/24", ".1");
    await ping(first.host, pod(other), ["-I", pod(one)]);
    expect(readFileSync(log, "utf8").split("\n")).toContain(`+ ${other} key of 1`);
    expect(reports[0]).toMatchObject({ engine: { name: "none", device: null }, network: { mtuBytes: 1500 } });
    expect(await net.etcd("get", `${prefix}/subnets/${other?.replace("/", "-")}`)).toContain(
      '"BackendType":"extension","BackendData":"key of 1"}',
    );
    await second.child.end();
    await net.etcd("del", `${prefix}/subnets/${other?.replace("/", "-")}`);
    await until("the peer is seen off", first, () =>
      readFileSync(log, "utf8").includes(`- ${other} key of 1`),
    );
    expect(await inside(first.host.namespace, ["ip", "route"])).not.toContain(other ?? "none");
  });

  test("extension: a peer's command that fails or hangs is run again until it succeeds; its data is only data", async () => {
    const net = await overlay(1, {});
    const file = (name: string) => join(net.lab.directory, name);
    const evil = `"; touch ${file("evil")}; $(touch ${file("evil")})`;
    const lease = { PublicIP: "10.77.0.99", BackendType: "extension", BackendData: evil };
    await net.etcd("put", `${prefix}/subnets/10.99.7.0-24`, JSON.stringify(lease));
    writeFileSync(file("hang"), "");
    const daemon = start(
      net,
      1,
      `[backend]
command_timeout = 1
subnet_add_command = 'echo >> ${file("tries")}; test -e ${file("hang")} && sleep 100; test -e ${file("good")} && cat > ${file("data")}'
`,
    );
    const missing = async () => (await daemon.report().catch(() => undefined))?.missing[0]?.error ?? "";
    await until("it took too long", daemon, async () => (await missing()).includes("took longer than 1 s"));
    rmSync(file("hang"));
    await until("it failed", daemon, async () => (await missing()).includes("failed with exit code 1"));
    writeFileSync(file("good"), "");
    const report = await daemon.ready(1);
    expect(report.missing).toEqual([]);
    expect(readFileSync(file("data"), "utf8")).toBe(`${evil}\n`);
    expect(readFileSync(file("tries"), "utf8").length).toBeGreaterThan(2);
    expect(existsSync(file("evil"))).toBe(false);
  });

  test("extension: a command that fails before the lease ends the start with 1, and no lease is taken", async () => {
    const net = await overlay(1, {});
    const daemon = start(net, 1, '[backend]\npre_startup_command = "echo no key >&2; exit 1"\n');
    expect(await daemon.child.exited).toBe(1);
    expect(daemon.child.errorTail()).toContain("no key");
    expect(await net.etcd("get", "--prefix", `${prefix}/subnets`)).toBe("");
  });
});
