import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openLab, type Lab } from "../../src/demo/lab.ts";
import { type Certificates, openCertificates } from "../support/certificates.ts";
import { ping } from "../support/overlay.ts";
import { type SecureEtcd, startSecureEtcd } from "../support/secure-etcd.ts";
import { bootSystemd, installedBinary, type SystemdHost, systemdRefused } from "../support/systemd.ts";

/**
 * The deployment by hand that guides for flanneld describe: etcd with mutual TLS, the configuration put there with
 * etcdctl, each host's unit with flanneld's flags, Docker's options written behind it. Nothing here is ours but the
 * program, which stands where flanneld stood.
 */
const refused = systemdRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/walkthrough.test.ts: ${refused}`);

const prefix = "/kubernetes/network";
const config = '{"Network":"172.30.0.0/16", "SubnetLen": 21, "Backend": {"Type": "vxlan"}}';

const unit = (endpoint: string) => `[Unit]
Description=Flanneld overlay address etcd agent
After=network.target
After=network-online.target
Wants=network-online.target
After=etcd.service
Before=docker.service

[Service]
Type=notify
ExecStart=/opt/k8s/bin/flanneld \\
  -etcd-cafile=/etc/kubernetes/cert/ca.pem \\
  -etcd-certfile=/etc/flanneld/cert/flanneld.pem \\
  -etcd-keyfile=/etc/flanneld/cert/flanneld-key.pem \\
  -etcd-endpoints=${endpoint} \\
  -etcd-prefix=${prefix} \\
  -iface=eth0 \\
  -ip-masq
ExecStartPost=/opt/k8s/bin/mk-docker-opts.sh -k DOCKER_NETWORK_OPTIONS -d /run/flannel/docker
Restart=always
RestartSec=5
StartLimitInterval=0

[Install]
WantedBy=multi-user.target
RequiredBy=docker.service
`;

interface Registry {
  readonly name: string;
  readonly v2: boolean;
  /** What a lease says beside address, backend and MAC: flanneld of v2's time wrote less. */
  readonly more: { readonly lease: object; readonly backend: object };
  /** The keys below `subnets`, and the value of one. */
  keys(etcd: SecureEtcd): Promise<string[]>;
  value(etcd: SecureEtcd, key: string): Promise<string>;
  putConfig(etcd: SecureEtcd): Promise<unknown>;
}

const lines = (text: string) => text.split("\n").filter((line) => line !== "");

const registries: readonly Registry[] = [
  {
    name: "etcd v3",
    v2: false,
    more: { lease: { PublicIPv6: null }, backend: { VNI: 1 } },
    keys: async ({ etcdctl }) => lines(await etcdctl("get", "--prefix", "--keys-only", `${prefix}/subnets/`)),
    value: async ({ etcdctl }, key) => (await etcdctl("get", "--print-value-only", key)).trim(),
    putConfig: ({ etcdctl }) => etcdctl("put", `${prefix}/config`, config),
  },
  {
    name: "etcd v2",
    v2: true,
    more: { lease: {}, backend: {} },
    keys: async ({ etcdctl }) => lines(await etcdctl("ls", `${prefix}/subnets`)),
    value: async ({ etcdctl }, key) => (await etcdctl("get", key)).trim(),
    putConfig: ({ etcdctl }) => etcdctl("mk", `${prefix}/config`, config),
  },
];

describe.skipIf(refused !== undefined).each(registries)("walk-through: $name", (registry) => {
  let lab: Lab;
  let certificates: Certificates;
  let etcd: SecureEtcd;
  let hosts: SystemdHost[] = [];
  /** Of each host, as in `172.30.72.0`. */
  let networks: string[];

  beforeAll(async () => {
    lab = await openLab("walk", 3);
    certificates = openCertificates();
    etcd = await startSecureEtcd(lab, certificates, registry);
    await registry.putConfig(etcd);
    hosts = await Promise.all(lab.hosts.map((host) => bootSystemd(lab, host)));
    for (const host of hosts) {
      host.write("/etc/kubernetes/cert/ca.pem", etcd.ca);
      host.write("/etc/flanneld/cert/flanneld.pem", etcd.cert);
      host.write("/etc/flanneld/cert/flanneld-key.pem", etcd.key, 0o600);
      await host.run(["mkdir", "-p", "/opt/k8s/bin"]);
      for (const name of ["flanneld", "mk-docker-opts.sh"])
        await host.run(["ln", "-s", installedBinary, `/opt/k8s/bin/${name}`]);
      await host.install({ "flanneld.service": unit(etcd.endpoint) });
    }
    await Promise.all(hosts.map((host) => host.systemctl("start", "flanneld.service")));
    networks = hosts.map((host) => {
      const subnet = /^FLANNEL_SUBNET=(.*)\.1\/21$/m.exec(host.read("/run/flannel/subnet.env"));
      return `${subnet?.[1]}.0`;
    });
  }, 60_000);

  afterAll(async () => {
    await Promise.all(hosts.map((host) => host[Symbol.asyncDispose]()));
    await lab?.[Symbol.asyncDispose]();
    certificates?.[Symbol.dispose]();
  }, 60_000);

  test("etcd has one lease a host, as flanneld writes it", async () => {
    const keys = await registry.keys(etcd);
    expect(keys.toSorted()).toEqual(networks.map((network) => `${prefix}/subnets/${network}-21`).toSorted());
    for (const [at, { host }] of hosts.entries()) {
      const value = await registry.value(etcd, `${prefix}/subnets/${networks[at]}-21`);
      expect(JSON.parse(value)).toEqual({
        PublicIP: host.address,
        BackendType: "vxlan",
        BackendData: {
          VtepMAC: expect.stringMatching(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/),
          ...registry.more.backend,
        },
        ...registry.more.lease,
      });
    }
  });

  test("flannel.1 has the subnet's first address as /32, and the MTU that VXLAN leaves", async () => {
    for (const [at, { run }] of hosts.entries()) {
      const [link] = JSON.parse(await run(["ip", "-j", "-4", "address", "show", "flannel.1"])) as [
        { mtu: number; addr_info: { local: string; prefixlen: number }[] },
      ];
      expect(link.mtu).toBe(1450);
      expect(link.addr_info).toMatchObject([{ local: networks[at], prefixlen: 32 }]);
    }
  });

  test("each host has an onlink route to each other's subnet", async () => {
    for (const [at, { run }] of hosts.entries()) {
      const others = networks.filter((_, other) => other !== at);
      const route = (network: string) => `${network}/21 via ${network} dev flannel.1 onlink`;
      for (const deadline = Date.now() + 10_000; ; await Bun.sleep(50)) {
        const shown = lines(await run(["ip", "route", "show", "dev", "flannel.1"]));
        if (shown.length < others.length && Date.now() < deadline) continue;
        break;
      }
      const routes = lines(await run(["ip", "route", "show"])).map((line) =>
        line.replace(/ proto \S+/, "").trim(),
      );
      expect(routes.filter((line) => line.includes("flannel.1")).toSorted()).toEqual(
        others.map(route).toSorted(),
      );
    }
  });

  test("Docker's options are written before the unit counts as started", () => {
    for (const [at, host] of hosts.entries()) {
      const bip = `--bip=${networks[at]?.replace(/0$/, "1")}/21`;
      expect(host.read("/run/flannel/docker")).toBe(
        `DOCKER_OPT_BIP="${bip}"
DOCKER_OPT_IPMASQ="--ip-masq=false"
DOCKER_OPT_MTU="--mtu=1450"
DOCKER_NETWORK_OPTIONS=" ${bip} --ip-masq=false --mtu=1450"
`,
      );
    }
  });

  test("every host reaches every flannel.1 address", async () => {
    for (const { host } of hosts) for (const network of networks) await ping(host, network);
  });

  test("a host that is started again has its subnet back and reaches the others", async () => {
    const [host, other] = [hosts[0] as SystemdHost, networks[1] as string];
    await host.systemctl("restart", "flanneld.service");
    expect(host.read("/run/flannel/subnet.env")).toContain(
      `FLANNEL_SUBNET=${networks[0]?.replace(/0$/, "1")}/21`,
    );
    await ping(host.host, other);
  });
});
