import { describe, expect, test } from "bun:test";
import { appendFileSync, copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { inside, type Lab, type LabHost, openLab } from "../../src/demo/lab.ts";
import { type Child, tryProgram } from "../../src/demo/process.ts";
import { readReport } from "../../src/status/admin-socket.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { binary, overlayRefused, ping, vtepAddress } from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/embedded-secure.test.ts: ${refused}`);

interface Site {
  readonly dataDir: string;
  /** What `store init` said. */
  readonly printed: string;
  /** Starts the daemon of a host with the TOML that `store init` printed for it. */
  start(host: LabHost): Running;
  run(host: LabHost, ...args: string[]): Promise<string>;
}

interface Running {
  readonly child: Child;
  readonly host: LabHost;
  ready(peers: number): Promise<StatusReport>;
}

/** Certificates for all hosts of the lab, the first of which serves; members' files are copied as printed. */
async function openSite(lab: Lab): Promise<Site> {
  const dataDir = join(lab.directory, "store");
  const hosts = lab.hosts.flatMap(({ address }) => ["-host", address]);
  const printed = await inside(lab.switchNamespace, [
    binary,
    "store",
    "init",
    "-data-dir",
    dataDir,
    ...hosts,
  ]);
  const directoryOf = (host: LabHost) => join(lab.directory, `host${host.number}`);
  const tomlOf = (host: LabHost) => {
    const [, section] = printed.split(`\n# --- ${host.address}`);
    const lines = (section?.split("\n# --- ")[0] ?? "").split("\n").slice(1);
    const toml = lines.filter((line) => !line.startsWith("#")).join("\n");
    // Hosts of a lab share one file system: what is meant for /etc/flannel/store goes to a directory of each.
    return toml.replaceAll("/etc/flannel/store", join(directoryOf(host), "tls"));
  };
  for (const host of lab.hosts) {
    const tls = join(directoryOf(host), "tls");
    mkdirSync(tls, { recursive: true, mode: 0o700 });
    copyMember(dataDir, host, tls);
    writeFileSync(
      join(directoryOf(host), "config.toml"),
      `${tomlOf(host)}
[uplink]
interface = ["eth0"]
[host]
run_dir = "${directoryOf(host)}/run"
state_dir = "${directoryOf(host)}/state"
subnet_file = "${directoryOf(host)}/subnet.env"
`,
    );
  }
  const configOf = (host: LabHost) => join(directoryOf(host), "config.toml");
  return {
    dataDir,
    printed,
    run: (host, ...args) => inside(host.namespace, [binary, ...args, "-config", configOf(host)]),
    start(host) {
      const child = lab.start(host.namespace, [binary, "run", "--config", configOf(host)]);
      const runDir = join(directoryOf(host), "run");
      return {
        child,
        host,
        async ready(peers) {
          let last: StatusReport | undefined;
          for (const deadline = Date.now() + 30_000; Date.now() < deadline; await Bun.sleep(100)) {
            last = await readReport(runDir).catch(() => undefined);
            if (last?.ready === true && last.settled && last.peers.length === peers) return last;
          }
          throw new Error(`${host.address} is not ready: ${last?.phase} ${child.errorTail()}`);
        },
      };
    },
  };
}

function copyMember(dataDir: string, { address }: LabHost, tls: string): void {
  const certs = join(dataDir, "certs");
  copyFileSync(join(certs, "ca.crt"), join(tls, "ca.crt"));
  for (const end of ["key", "crt"]) {
    copyFileSync(join(certs, `members/${address}.${end}`), join(tls, `member.${end}`));
  }
}

describe.skipIf(refused !== undefined)("embedded store over TLS", () => {
  test("three hosts, one of which serves over TLS, carry traffic with what store init made and printed", async () => {
    await using lab = await openLab("embedded", 3);
    const site = await openSite(lab);
    const [server, second, third] = lab.hosts;
    if (server === undefined || second === undefined || third === undefined) throw new Error("three hosts");
    let first = site.start(server);
    const document = '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}';
    const certs = join(site.dataDir, "certs");
    const set = async (name: string) =>
      await tryProgram([
        ...["ip", "netns", "exec", server.namespace, binary, "network", "set", "-document", document],
        ...["-etcd-endpoints", "https://127.0.0.1:2379", "-etcd-cafile", join(certs, "ca.crt")],
        ...["-etcd-certfile", join(certs, `${name}.crt`), "-etcd-keyfile", join(certs, `${name}.key`)],
      ]);
    let asMember = await set(`members/${second.address}`);
    for (let tries = 0; tries < 50 && !asMember.errors.includes("permission denied"); tries++) {
      await Bun.sleep(200);
      asMember = await set(`members/${second.address}`);
    }
    expect([asMember.code, asMember.errors]).toEqual([1, expect.stringContaining("permission denied")]);
    expect(asMember.errors).toContain(
      "Publish it once as the store's administrator: flannel-lite network set",
    );
    // A daemon that has one to publish may not either; it waits until the administrator has.
    await first.child.end();
    appendFileSync(join(lab.directory, "host1/config.toml"), '[network]\nNetwork = "10.99.0.0/16"\n');
    first = site.start(server);
    const waits = "we may not write the network configuration in";
    for (let tries = 0; tries < 100 && !first.child.errorTail().includes(waits); tries++)
      await Bun.sleep(100);
    expect(first.child.errorTail()).toContain(waits);
    const [, hint = ""] = /^# {3}flannel-lite (network set .*?admin\.key)$/ms.exec(site.printed) ?? [];
    expect(hint).not.toBe("");
    writeFileSync(join(lab.directory, "net-conf.json"), document);
    await inside(server.namespace, [
      ...["env", "-C", lab.directory, "sh", "-c", `${binary} ${hint.replace("\n#", "\n")}`],
    ]);
    const others = [site.start(second), site.start(third)];
    const reports = await Promise.all([first, ...others].map((daemon) => daemon.ready(2)));
    for (const from of [first, ...others]) {
      for (const report of reports) await ping(from.host, vtepAddress(report));
    }
    const roles = reports.map(({ certificates }) => certificates.map(({ role }) => role).join());
    expect(roles).toEqual(["ca,client,server", "ca,client", "ca,client"]);
    expect(await site.run(server, "status")).toContain("our store's certificate");
    expect((await site.run(second, "leases")).match(/10\.99\./g)?.length).toBeGreaterThanOrEqual(3);

    // Renewed while all of them run: nobody restarts, and a host that comes back is let in.
    const before = readFileSync(join(certs, "server.crt"), "utf8");
    await inside(lab.switchNamespace, [binary, "store", "certs", "renew", "-data-dir", site.dataDir]);
    expect(readFileSync(join(certs, "server.crt"), "utf8")).not.toBe(before);
    copyMember(site.dataDir, third, join(lab.directory, `host${third.number}`, "tls"));
    await others[1]?.child.end();
    const again = await site.start(third).ready(2);
    expect(again.lease?.subnets).toEqual(reports[2]?.lease?.subnets as string[]);
    await ping(second, vtepAddress(again));

    // The host that serves is away: traffic between the others goes on.
    await first.child.end();
    await ping(second, vtepAddress(again));
    await ping(third, vtepAddress(reports[1] as StatusReport));
  }, 120_000);

  test("demo: it needs no etcd, neither in PATH nor beside the program", async () => {
    await using lab = await openLab("noetcd", 2); // for its directory
    const directory = join(lab.directory, "bin");
    mkdirSync(directory);
    const program = join(directory, "flannel-lite");
    copyFileSync(binary, program);
    for (const name of ["ip", "ping"]) symlinkSync(Bun.which(name) ?? "", join(directory, name));
    expect(dirname(Bun.which("etcd", { PATH: directory }) ?? "nowhere/etcd")).toBe("nowhere");
    const command = [
      Bun.which("env") ?? "env",
      "-i",
      `PATH=${directory}`,
      program,
      "demo",
      "-nodes",
      "2",
      "-json",
    ];
    const { code, output, errors } = await tryProgram(command, 60_000);
    expect(errors).toContain("embedded lease store");
    expect(code).toBe(0);
    const { pairs } = JSON.parse(output) as { pairs: { ok: boolean }[] };
    expect(pairs.map(({ ok }) => ok)).toEqual([true, true]);
  }, 90_000);

  test("demo: a store that cannot be is named, and etcd can be asked for", async () => {
    const bad = await tryProgram([binary, "demo", "-store", "zookeeper"]);
    expect(bad).toMatchObject({ code: 2, errors: expect.stringContaining("neither of embedded, etcd") });
    const { code, errors } = await tryProgram(
      [binary, "demo", "-nodes", "2", "-store", "etcd", "-json"],
      60_000,
    );
    expect(errors).toContain("starting etcd");
    expect(code).toBe(0);
  }, 90_000);
});
