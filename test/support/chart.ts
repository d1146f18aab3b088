import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const deploy = join(import.meta.dir, "../../deploy");
export const chartDirectory = join(deploy, "helm/flannel-lite");
export const manifestsDirectory = join(deploy, "kubernetes");

/** Values as an operator gives them, and the network configuration that they stand for (flannel's reference, §17.2). */
export interface ChartScenario {
  readonly name: string;
  readonly values: object;
  readonly network: object;
  /** Whether kube-flannel's chart has these values too. */
  readonly isFlannels: boolean;
}

const network = { Network: "10.244.0.0/16", Backend: { Type: "vxlan" } };
const scenario = (
  name: string,
  values: object,
  more: Partial<Omit<ChartScenario, "name" | "values">> = {},
): ChartScenario => ({ name, values, network, isFlannels: true, ...more });
const backend = (type: string, values: object = {}, options: object = {}) =>
  scenario(
    type,
    { flannel: { backend: type, ...values } },
    { network: { ...network, Backend: { Type: type, ...options } } },
  );
const cniConf = JSON.stringify({
  name: "cbr1",
  cniVersion: "1.0.0",
  plugins: [{ type: "flannel", subnetFile: "/run/flannel/subnet.env", delegate: { isDefaultGateway: true } }],
});

/** Every value of kube-flannel's chart, then ours. */
export const chartScenarios: readonly ChartScenario[] = [
  scenario("default", {}),
  scenario("images", {
    flannel: {
      image: { repository: "registry.example/net/flannel", tag: "v555.44.3" },
      flannel_cni: { image: { repository: "registry.example/net/flannel-cni-plugin", tag: "v777.66.5" } },
    },
    global: { imagePullSecrets: [{ name: "a-test-secret" }] },
  }),
  scenario("args", { flannel: { args: ["--ip-masq", "--kube-subnet-mgr", "--iface=eth1", "-v=5"] } }),
  scenario("no-healthz", { flannel: { healthz: { port: 0 } } }),
  scenario("probes", {
    flannel: {
      healthz: { port: 9090, livenessProbe: { failureThreshold: 5 }, readinessProbe: { periodSeconds: 3 } },
    },
  }),
  scenario("no-cni-config", { flannel: { skipCNIConfigInstallation: true } }),
  scenario("cni-config", { flannel: { cniConf } }),
  scenario("placement", {
    flannel: {
      nodeSelector: { "eks.amazonaws.com/compute-type": "hybrid" },
      tolerations: [{ key: "only", operator: "Exists", effect: "NoSchedule" }],
      resources: { limits: { memory: "200Mi" } },
      cniBinDir: "/usr/libexec/cni",
      cniConfDir: "/etc/kubernetes/cni/net.d",
    },
  }),
  scenario(
    "dual-stack",
    { podCidr: "10.42.0.0/16", podCidrv6: "fd00:10:244::/56" },
    { network: { ...network, Network: "10.42.0.0/16", IPv6Network: "fd00:10:244::/56", EnableIPv6: true } },
  ),
  scenario(
    "ipv6-only",
    { podCidr: "", podCidrv6: "fd00:10:244::/56" },
    {
      network: {
        EnableIPv4: false,
        IPv6Network: "fd00:10:244::/56",
        EnableIPv6: true,
        Backend: { Type: "vxlan" },
      },
    },
  ),
  scenario(
    "nftables",
    { flannel: { enableNFTables: true } },
    { network: { ...network, EnableNFTables: true } },
  ),
  scenario(
    "vxlan-options",
    {
      flannel: {
        ...{ backendPort: 4789, mtu: 1400, vni: 16_777_215, GBP: true, directRouting: true },
        macPrefix: "0E-2A",
      },
    },
    {
      network: {
        ...network,
        Backend: {
          ...{ Type: "vxlan", Port: 4789, MTU: 1400, VNI: 16_777_215, GBP: true, DirectRouting: true },
          MacPrefix: "0E-2A",
        },
      },
    },
  ),
  scenario("zeroes", {
    flannel: { backendPort: 0, mtu: 0, vni: 0, GBP: false, directRouting: false, macPrefix: "" },
  }),
  scenario("other-backends-options", {
    flannel: { backendPortv6: 51_821, psk: "x", tunnelMode: "separate", keepaliveInterval: 25 },
  }),
  backend("host-gw", { backendPort: 4789, mtu: 1400, vni: 2 }),
  backend("udp", { backendPort: 8286 }, { Port: 8286 }),
  backend("ipip", { directRouting: true }),
  backend("alloc"),
  scenario("netpol", { netpol: { enabled: true } }),
  scenario(
    "lite",
    {
      lite: {
        ...{ engine: "kernel", onStop: "keep", strict: "full", metrics: { port: 9091, ip: "0.0.0.0" } },
        env: [{ name: "FLANNEL_LITE_LOG_FORMAT", value: "json" }],
        ...{ hostPID: true, imagePullPolicy: "Always", seLinuxOptions: { type: "spc_t" } },
        ...{ podAnnotations: { a: "b" }, updateStrategy: { rollingUpdate: { maxUnavailable: "10%" } } },
      },
    },
    { isFlannels: false },
  ),
];

/** Values with which nothing is rendered, and words of the reason. */
export const refusedValues: readonly (readonly [values: object, reason: string])[] = [
  [{ flannel: { backend: "wireguard", psk: "x" } }, "flannel-lite does not encrypt"],
  [{ flannel: { backend: "ipsec" } }, "flannel-lite does not encrypt"],
  [{ flannel: { backend: "extension" } }, "mount a configuration of your own"],
  [{ flannel: { backend: "tencent-vpc" } }, "it is to be vxlan, host-gw, udp, ipip or alloc"],
  [{ podCidr: "" }, "neither IPv4 nor IPv6"],
  [{ flannel: { backend: "udp" }, lite: { onStop: "kernel" } }, "no kernel device speaks"],
  [{ flannel: { backend: "udp" }, lite: { engine: "kernel" } }, "no kernel device speaks"],
  [{ flannel: { image: { repository: "ghcr.io/flannel-io/flannel" } } }, "flannel's own image"],
  [{ lite: null }, "--reset-then-reuse-values"],
  [{ lite: { engin: "kernel" } }, "engin"],
  [{ flannel: { backendPort: "many" } }, "backendPort"],
  [{ flannel: { cniBinDir: "opt" } }, "cniBinDir"],
];

/** Of all that rendering depends on, so that goldens can be told to be as old as the chart. */
export function chartChecksum(): string {
  const hash = createHash("sha256").update(JSON.stringify(chartScenarios));
  const files = readdirSync(chartDirectory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  for (const file of files)
    hash.update(`\0${file.slice(chartDirectory.length)}\0`).update(readFileSync(file));
  return hash.digest("hex");
}

/** An object of the Kubernetes API, as far as tests look at it. */
export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
  readonly [member: string]: unknown;
}

/** The objects of a manifest of several documents. */
export function parseManifest(text: string): KubeObject[] {
  return text
    .split(/^---$/m)
    .map((document) => Bun.YAML.parse(document) as KubeObject | null)
    .filter((object) => object !== null);
}
