import { createPublicKey } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openCertificates } from "./certificates.ts";
import { freePorts, startEtcd } from "./etcd.ts";
import type { NodeObject } from "./kube-api.ts";
import type { KubeCluster } from "./kube-world.ts";

/** A real API server on loopback with an etcd of its own. */
export interface KubeApiserver extends KubeCluster, AsyncDisposable {
  /** How a user gets in who has the rights of deploy/kubernetes/hybrid-rbac.yml and no others. */
  readonly kubeconfig: string;
  /** Deletes every node. */
  wipe(): Promise<void>;
}

const startMsMax = 90_000;
const rbacFile = join(import.meta.dir, "../../deploy/kubernetes/hybrid-rbac.yml");

/** @param program a kube-apiserver */
export async function startKubeApiserver(program: string): Promise<KubeApiserver> {
  await using opening = new AsyncDisposableStack();
  const certificates = opening.use(openCertificates());
  const etcd = opening.use(await startEtcd());
  const path = (name: string) => join(certificates.directory, name);
  const ca = certificates.authority("ca");
  const server = certificates.issue("apiserver", { by: "ca", names: "IP:127.0.0.1" });
  writeFileSync(path("tokens.csv"), 'admin-token,admin,1,"system:masters"\nflannel-token,flannel,2\n');
  const publicKey = path("service-account.pub");
  writeFileSync(publicKey, createPublicKey(readFileSync(server.key)).export({ type: "spki", format: "pem" }));
  const [port] = freePorts(1);
  const url = `https://127.0.0.1:${port}`;
  const child = Bun.spawn(
    [
      program,
      ...[`--etcd-servers=${etcd.endpoint}`, "--etcd-prefix=/registry"],
      ...["--bind-address=127.0.0.1", `--secure-port=${port}`],
      ...[`--tls-cert-file=${server.cert}`, `--tls-private-key-file=${server.key}`],
      ...["--service-account-issuer=https://kubernetes.default.svc"],
      ...[`--service-account-key-file=${publicKey}`, `--service-account-signing-key-file=${server.key}`],
      ...["--authorization-mode=RBAC", `--token-auth-file=${path("tokens.csv")}`],
      ...["--service-cluster-ip-range=10.0.0.0/24", "--disable-admission-plugins=ServiceAccount"],
    ],
    { stdout: "ignore", stderr: Bun.file(path("apiserver.log")), env: {} },
  );
  opening.defer(async () => {
    child.kill("SIGKILL");
    await child.exited;
  });

  const call = async (method: string, target: string, body?: object, type = "application/json") => {
    const response = await fetch(`${url}${target}`, {
      method,
      headers: { authorization: "Bearer admin-token", "content-type": type },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      tls: { ca: readFileSync(ca, "utf8") },
      proxy: false,
    });
    const text = await response.text();
    if (!response.ok && response.status !== 404 && response.status !== 409)
      throw new Error(`${method} ${target}: HTTP ${response.status} ${text}`);
    return text;
  };
  const log = () => readFileSync(path("apiserver.log"), "utf8").slice(-2_000);

  for (const deadline = Date.now() + startMsMax; ; await Bun.sleep(200)) {
    if (child.exitCode !== null || Date.now() > deadline) throw new Error(`no API server: ${log()}`);
    if ((await call("GET", "/readyz").catch(() => "")) === "ok") break;
  }

  const documents = readFileSync(rbacFile, "utf8").split(/^---$/m);
  const role = documents
    .map((text) => Bun.YAML.parse(text) as { kind: string })
    .find(({ kind }) => kind === "ClusterRole");
  if (role === undefined) throw new Error(`${rbacFile} has no ClusterRole`);
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  await call("POST", `${rbac}/clusterroles`, role);
  await call("POST", `${rbac}/clusterrolebindings`, {
    metadata: { name: "flannel-under-test" },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "flannel-annotator" },
    subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "User", name: "flannel" }],
  });
  const kubeconfig = path("kubeconfig");
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      "current-context": "x",
      contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
      clusters: [{ name: "c", cluster: { server: url, "certificate-authority": ca } }],
      users: [{ name: "u", user: { token: "flannel-token" } }],
    }),
  );

  const nodes = async () =>
    (JSON.parse(await call("GET", "/api/v1/nodes")) as { items: readonly NodeObject[] }).items;
  const deleteNode = (name: string) => call("DELETE", `/api/v1/nodes/${name}`);
  const opened = opening.move();
  return {
    url,
    kubeconfig,
    nodes,
    deleteNode,
    createNode: ({ name, podCidrs = [], annotations = {} }) =>
      call("POST", "/api/v1/nodes", {
        metadata: { name, annotations },
        spec: podCidrs.length === 0 ? {} : { podCIDR: podCidrs[0], podCIDRs: podCidrs },
      }),
    annotate: (name, annotations) =>
      call("PATCH", `/api/v1/nodes/${name}`, { metadata: { annotations } }, "application/merge-patch+json"),
    async wipe() {
      for (const { metadata } of await nodes()) await deleteNode(metadata.name);
    },
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}
