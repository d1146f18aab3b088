import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, openLab } from "../../src/demo/lab.ts";
import { tryProgram } from "../../src/demo/process.ts";
import { type Certificates, openCertificates } from "../support/certificates.ts";
import { etcdProgram } from "../support/etcd.ts";
import { binary, ping } from "../support/overlay.ts";
import { bootSystemd, installedBinary, type SystemdHost, systemdRefused } from "../support/systemd.ts";

const refused =
  systemdRefused() ??
  (Bun.which("ansible-playbook") === null ? "there is no ansible-playbook: install ansible-core" : undefined);
if (refused !== undefined) console.warn(`SKIPPED test/netns/ansible.test.ts: ${refused}`);

const roles = join(import.meta.dir, "../../deploy/ansible/roles");
const playMsMax = 180_000;

/** The role run by a real ansible-playbook: one host with etcd, two that get the overlay, each with a systemd. */
describe.skipIf(refused !== undefined)("ansible role", () => {
  let lab: Lab;
  let certificates: Certificates;
  let etcdHost: SystemdHost;
  let workers: SystemdHost[] = [];
  let play: (...more: string[]) => Promise<string>;

  beforeAll(async () => {
    lab = await openLab("ansible", 3);
    certificates = openCertificates();
    const shared = join(lab.directory, "ansible");
    mkdirSync(shared);
    const program = etcdProgram();
    const binds = {
      [shared]: shared,
      "/usr/local/bin/etcd": program,
      "/usr/local/bin/etcdctl": `${program}ctl`,
    };
    const [first, ...others] = await Promise.all(lab.hosts.map((host) => bootSystemd(lab, host, { binds })));
    etcdHost = first as SystemdHost;
    workers = others;
    const local = keepCertificates(certificates, etcdHost.host.address);
    await startEtcd(etcdHost, local);
    play = preparePlay(shared, local, etcdHost, workers);
  }, 60_000);

  afterAll(async () => {
    await Promise.all([etcdHost, ...workers].map((host) => host?.[Symbol.asyncDispose]()));
    await lab?.[Symbol.asyncDispose]();
    certificates?.[Symbol.dispose]();
  }, 60_000);

  test(
    "the first run installs and starts it on every host",
    async () => {
      const recap = await play();
      expect(recap).toMatch(/^worker1 .*changed=[1-9]/m);
      expect(recap).toMatch(/^worker2 .*changed=[1-9]/m);
      for (const { show } of workers)
        expect(await show("flanneld.service", "ActiveState", "UnitFileState")).toEqual({
          ActiveState: "active",
          UnitFileState: "enabled",
        });
    },
    playMsMax,
  );

  test(
    "the second run changes nothing",
    async () => {
      const recap = await play();
      expect(recap).toMatch(/^worker1 .*changed=0 .*failed=0/m);
      expect(recap).toMatch(/^worker2 .*changed=0 .*failed=0/m);
    },
    playMsMax,
  );

  test(
    "a configuration in etcd's API v2 is not doubled in v3",
    async () => {
      const registry = "/old/network";
      const config = '{"Network":"10.200.0.0/16","Backend":{"Type":"vxlan"}}';
      await etcdHost.run(etcdctlV2("set", `${registry}/config`, config));
      const recap = await play("--tags", "flannel_config", "--extra-vars", `flannel_etcd_prefix=${registry}`);
      expect(recap).toMatch(/^worker1 .*changed=0 .*failed=0/m);
      expect(await etcdHost.run(etcdctl("get", `${registry}/config`))).toBe("");
    },
    playMsMax,
  );

  test("the flags are flanneld's, sorted, with every etcd host as endpoint and the user's on top", () => {
    const { read, host } = workers[0] as SystemdHost;
    const command =
      /^ExecStart=((?:.*\\\n)*.*)$/m.exec(read("/etc/systemd/system/flanneld.service"))?.[1] ?? "";
    expect(command.split(/[\s\\]+/)).toEqual([
      "/usr/local/sbin/flanneld",
      "-etcd-cafile=/var/lib/kubernetes/ca-etcd.pem",
      "-etcd-certfile=/var/lib/kubernetes/cert-etcd.pem",
      `-etcd-endpoints=https://${etcdHost.host.address}:2379`,
      "-etcd-keyfile=/var/lib/kubernetes/cert-etcd-key.pem",
      "-etcd-prefix=/kubernetes-cluster/network",
      "-healthz-ip=127.0.0.1",
      "-healthz-port=0",
      "-iface=eth0",
      "-ip-masq=true",
      `-public-ip=${host.address}`,
      "-subnet-file=/run/flannel/subnet.env",
    ]);
  });

  test("the network configuration is in etcd, the CNI configuration on each host", async () => {
    const stored = await etcdHost.run(
      etcdctl("get", "--print-value-only", "/kubernetes-cluster/network/config"),
    );
    expect(JSON.parse(stored)).toEqual({ Network: "10.200.0.0/16", Backend: { Type: "vxlan" } });
    const files = [
      ["10-flannel", "cni0"],
      ["20-podnet", "podnet"],
    ] as const;
    for (const [at, [file, name]] of files.entries())
      expect(JSON.parse((workers[at] as SystemdHost).read(`/etc/cni/net.d/${file}.conflist`))).toEqual({
        name,
        cniVersion: "0.3.1",
        plugins: [
          { type: "flannel", delegate: { hairpinMode: true, isDefaultGateway: true } },
          { type: "portmap", capabilities: { portMappings: true } },
        ],
      });
  });

  test("the unit has what the shipped one has, but for what the playbook's variables say", () => {
    const text = (workers[0] as SystemdHost).read("/etc/systemd/system/flanneld.service");
    const shipped = readFileSync(join(roles, "../../systemd/flannel-lite.service"), "utf8");
    const lines = (unit: string) => unit.split("\n").filter((line) => /^[A-Z]\w+=/.test(line));
    const own = new Set(lines(text));
    expect(lines(shipped).filter((line) => !own.has(line))).toEqual([
      "Description=flannel-lite overlay network", // flanneld's, as in that role
      "EnvironmentFile=-/etc/default/flannel-lite", // flannel_settings has them
      "ExecStart=/usr/local/bin/flannel-lite run",
      "ExecReload=/usr/local/bin/flannel-lite reload",
    ]);
    expect(text).toContain("\nExecReload=/usr/local/sbin/flannel-lite reload\n");
  });

  test("a reload reads the configuration file, and fails for a mistake in it", async () => {
    const { run, systemctl } = workers[0] as SystemdHost;
    const write = (toml: string) =>
      run(["sh", "-c", 'mkdir -p /etc/flannel && printf %s "$0" > /etc/flannel/config.toml', toml]);
    await write('[log]\nlevel = "debug"\n');
    await systemctl("reload", "flanneld.service");
    expect(await run(["/usr/local/sbin/flannel-lite", "reload"])).toContain("nothing has changed");
    await write('[log]\nlevel = "info"\n');
    expect(await run(["/usr/local/sbin/flannel-lite", "reload"])).toContain("applied   log.level");
    await write("[log]\nlevel = 7\n");
    await expect(systemctl("reload", "flanneld.service")).rejects.toThrow();
    await run(["rm", "/etc/flannel/config.toml"]);
    await systemctl("reload", "flanneld.service");
  });

  test("a flag's value reaches the program as it is written", async () => {
    const { run, show } = workers[1] as SystemdHost;
    const { MainPID } = await show("flanneld.service", "MainPID");
    const words = (await run(["cat", `/proc/${MainPID}/cmdline`])).split("\0");
    expect(words).toContain(`-iface-regex=${oddText}`);
    expect(words).toContain("-ip-masq=True");
  });

  test("keys are for root only", async () => {
    const modes = await (workers[0] as SystemdHost).run([
      ...["stat", "-c", "%a %U", "/var/lib/kubernetes", "/var/lib/kubernetes/cert-etcd-key.pem"],
    ]);
    expect(modes).toBe("700 root\n640 root\n");
  });

  test("a flanneld that stood there is kept beside it", async () => {
    expect((workers[0] as SystemdHost).read("/usr/local/sbin/flanneld.stock")).toBe("the old one\n");
    expect(await (workers[1] as SystemdHost).run(["ls", "/usr/local/sbin"])).toBe("flannel-lite\nflanneld\n");
  });

  test("the hosts reach each other through what it made", async () => {
    const subnetEnvs = workers.map(({ read }) => read("/run/flannel/subnet.env"));
    const networks = subnetEnvs.map((text) => /^FLANNEL_SUBNET=(.*)\.1\/24$/m.exec(text)?.[1]);
    for (const { host } of workers) for (const network of networks) await ping(host, `${network}.0`);
  });
});

/** A flag's value that means something to systemd: specifier, variable, words. */
const oddText = String.raw`^no 100%h \$HOME "one"$`;

const etcdDirectory = "/var/lib/kubernetes";

function etcdctlV2(...args: string[]): string[] {
  const pem = (name: string) => `${etcdDirectory}/${name}.pem`;
  const tls = [
    "--ca-file",
    pem("ca-etcd"),
    "--cert-file",
    pem("cert-etcd"),
    "--key-file",
    pem("cert-etcd-key"),
  ];
  return ["env", "ETCDCTL_API=2", "etcdctl", "--endpoints", "https://127.0.0.1:2379", ...tls, ...args];
}

function etcdctl(...args: string[]): string[] {
  const pem = (name: string) => `${etcdDirectory}/${name}.pem`;
  const tls = ["--cacert", pem("ca-etcd"), "--cert", pem("cert-etcd"), "--key", pem("cert-etcd-key")];
  return ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", "https://127.0.0.1:2379", ...tls, ...args];
}

/** Certificates by the names that the role copies. @returns their directory */
function keepCertificates(certificates: Certificates, address: string): string {
  const directory = join(certificates.directory, "certs");
  mkdirSync(directory);
  const ca = certificates.authority("ca");
  const { cert, key } = certificates.issue("etcd", { by: "ca", names: `IP:${address},IP:127.0.0.1` });
  const files = {
    "ca-etcd": ca,
    "ca-etcd-key": ca.replace(/crt$/, "key"),
    "cert-etcd": cert,
    "cert-etcd-key": key,
  };
  for (const [name, from] of Object.entries(files)) copyFileSync(from, join(directory, `${name}.pem`));
  return directory;
}

async function startEtcd(host: SystemdHost, certificates: string): Promise<void> {
  for (const name of ["ca-etcd", "cert-etcd", "cert-etcd-key"])
    host.write(
      `${etcdDirectory}/${name}.pem`,
      readFileSync(join(certificates, `${name}.pem`), "utf8"),
      0o600,
    );
  const url = `https://${host.host.address}:2379`;
  const command = [
    ...["/usr/local/bin/etcd", "--data-dir", "/var/lib/etcd-test", "--log-level", "error"],
    ...["--listen-client-urls", `${url},https://127.0.0.1:2379`, "--advertise-client-urls", url],
    ...["--cert-file", `${etcdDirectory}/cert-etcd.pem`, "--key-file", `${etcdDirectory}/cert-etcd-key.pem`],
    ...["--trusted-ca-file", `${etcdDirectory}/ca-etcd.pem`, "--client-cert-auth", "--enable-v2"],
  ];
  await host.install({ "etcd.service": `[Service]\nType=notify\nExecStart=${command.join(" ")}\n` });
  await host.systemctl("start", "etcd.service");
}

/**
 * Ansible drives each host as it would over SSH, by a shell of that host; files reach it by a directory that all of
 * them see.
 * @returns runs the playbook once, and gives its recap
 */
function preparePlay(
  shared: string,
  certificates: string,
  etcdHost: SystemdHost,
  workers: readonly SystemdHost[],
): (...more: string[]) => Promise<string> {
  const inventoryHost = (name: string, host: SystemdHost) => {
    const shell = join(shared, `${name}-sh`);
    writeFileSync(shell, `#!/bin/sh\nexec ${host.enter.join(" ")} /bin/sh "$@"\n`);
    chmodSync(shell, 0o755);
    return { ansible_shell_executable: shell, ansible_remote_tmp: join(shared, `${name}-tmp`) };
  };
  const [first, second] = workers as [SystemdHost, SystemdHost];
  first.write("/usr/local/sbin/flanneld", "the old one\n", 0o755);
  const inventory = {
    all: {
      vars: {
        ansible_connection: "local",
        ansible_python_interpreter: "/usr/bin/python3",
        k8s_interface: "eth0",
        k8s_ca_conf_directory: certificates,
        flannel_settings_user: { "healthz-ip": "127.0.0.1" },
      },
      children: {
        k8s_etcd: { hosts: { etcd1: inventoryHost("etcd1", etcdHost) } },
        k8s_worker: {
          hosts: {
            worker1: { ...inventoryHost("worker1", first), flannel_lite_binary: binary },
            worker2: {
              ...inventoryHost("worker2", second),
              flannel_lite_url: `file://${installedBinary}`,
              // Names of the role's fourth version.
              flannel_cni_name: "podnet",
              flannel_cni_conf_file: "20-podnet",
              flannel_settings_user: { "iface-regex": oddText, "ip-masq": true },
            },
          },
        },
      },
    },
  };
  const playbook = [{ hosts: "k8s_worker", gather_facts: false, roles: ["flannel_lite"] }];
  // JSON is YAML.
  const inventoryFile = join(shared, "inventory.yml");
  const playbookFile = join(shared, "playbook.yml");
  writeFileSync(inventoryFile, JSON.stringify(inventory));
  writeFileSync(playbookFile, JSON.stringify(playbook));
  const environment = {
    ANSIBLE_HOME: join(shared, "home"),
    ANSIBLE_LOCAL_TEMP: join(shared, "local"),
    ANSIBLE_ROLES_PATH: roles,
    ANSIBLE_PIPELINING: "True",
    ANSIBLE_NOCOLOR: "1",
    LC_ALL: "C.UTF-8",
  };
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  return async (...more) => {
    const command = ["env", ...variables, "ansible-playbook", "-i", inventoryFile, ...more, playbookFile];
    const { code, output, errors } = await tryProgram(command, playMsMax);
    if (code !== 0) throw new Error(`ansible-playbook ended with ${code}: ${output}${errors}`);
    return output.slice(output.indexOf("PLAY RECAP"));
  };
}
