/**
 * Runs the suites that need a program we don't ship, each where the environment names its program. Exits non-zero
 * when a suite failed, or when no program is named: nothing would have been tried.
 */
import { join } from "node:path";

interface Suite {
  readonly file: string;
  /** The environment variables that name the programs. */
  readonly variables: readonly string[];
  readonly needs: string;
}

const suites: readonly Suite[] = [
  {
    file: "flanneld.test.ts",
    variables: ["FLANNELD_BIN"],
    needs: "a flanneld, such as the one of a release's tarball: up to 0.17 for etcd v2, later ones for v3",
  },
  {
    file: "flanneld-units.test.ts",
    variables: ["FLANNELD_BIN"],
    needs: "a flanneld, as above",
  },
  {
    file: "flanneld-udp.test.ts",
    variables: ["FLANNELD_BIN"],
    needs: "a flanneld for amd64, built with cgo as the releases are: others have no udp backend",
  },
  {
    file: "cni.test.ts",
    variables: ["FLANNEL_CNI_BIN"],
    needs: "flannel's CNI plugin",
  },
  {
    file: "kubernetes.test.ts",
    variables: ["KUBE_APISERVER_BIN"],
    needs: "a kube-apiserver, such as the one of a release's server tarball",
  },
  {
    file: "kubernetes-chart.test.ts",
    variables: ["KUBE_APISERVER_BIN"],
    needs: "a kube-apiserver, as above",
  },
  {
    file: "helm.test.ts",
    variables: ["HELM_BIN"],
    needs: "helm, version 3, which anyone with Go can build: go install helm.sh/helm/v3/cmd/helm@latest",
  },
  {
    file: "kube-flannel-chart.test.ts",
    variables: ["FLANNEL_SOURCES", "HELM_BIN"],
    needs: "the directory of flannel's sources, and helm",
  },
  {
    file: "kustomize.test.ts",
    variables: ["KUBECTL_BIN"],
    needs: "kubectl",
  },
  {
    file: "kube-flannel-swap.test.ts",
    variables: ["KUBE_APISERVER_BIN", "KUBECTL_BIN", "HELM_BIN", "FLANNEL_SOURCES"],
    needs: "a kube-apiserver, kubectl, helm and flannel's sources, as above",
  },
  {
    file: "flanneld-kubernetes.test.ts",
    variables: ["FLANNELD_BIN", "KUBE_APISERVER_BIN"],
    needs: "a flanneld and a kube-apiserver, as above",
  },
];

const isNamed = (variable: string) => (process.env[variable] ?? "") !== "";
const named = suites.filter(({ variables }) => variables.every(isNamed));
for (const { file, variables, needs } of suites.filter((suite) => !named.includes(suite)))
  process.stderr.write(`left out: ${file}: ${variables.join(" and ")} must name ${needs}\n`);
if (named.length === 0) {
  process.stderr.write(`no program is named: make interop ${suites[0]?.variables.join()}=/path/to/it\n`);
  process.exitCode = 1;
} else {
  const files = named.map(({ file }) => join(import.meta.dir, file));
  const child = Bun.spawn([process.execPath, "test", "--timeout", "120000", ...files], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  process.exitCode = await child.exited;
}
