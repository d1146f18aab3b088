import { createPublicKey } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inside, switchAddress } from "../../src/demo/lab.ts";
import { type Child, start } from "../../src/demo/process.ts";
import { type KubeObject, manifestsDirectory, parseManifest } from "./chart.ts";
import { openCertificates } from "./certificates.ts";
import { type Etcd, freePorts, startEtcd } from "./etcd.ts";
import type { NodeObject } from "./kube-api.ts";
import type { KubeCluster } from "./kube-world.ts";
import type { TestOverlay } from "./overlay.ts";

/** Users of the test's cluster, by what they may do. */
const users = {
  /** What deploy/kubernetes/hybrid-rbac.yml allows, and no more. */
  annotator: "annotator-token",
  /** What deploy/kubernetes/flannel-lite.yml allows, and no more. */
  daemon: "daemon-token",
  /** What kube-flannel's manifest allows: the same, and to read pods. */
  flannel: "flannel-token",
  /** Look at nodes, and no more. */
  reader: "reader-token",
  /** Nothing. */
  stranger: "stranger-token",
  admin: "admin-token",
} as const;

export type KubeUser = keyof typeof users;

/** A real API server. */
export interface KubeApiserver extends KubeCluster, AsyncDisposable {
  /** The path of a kubeconfig by which this user gets in. */
  kubeconfig(user: KubeUser): string;
  getNode(name: string): Promise<NodeObject>;
  /** One call as the administrator. */
  call(method: string, target: string, body?: object, type?: string): Promise<KubeAnswer>;
  /** Deletes every node. */
  wipe(): Promise<void>;
}

export interface KubeAnswer {
  readonly status: number;
  readonly text: string;
}

/** Where an API server runs, and how tests reach it there. */
interface Place extends AsyncDisposable {
  readonly address: string;
  readonly port: number;
  readonly etcd: string;
  start(command: readonly string[]): Child;
  call(
    url: string,
    request: { method: string; headers: Record<string, string>; body?: string; ca: string },
  ): Promise<KubeAnswer>;
}

const startMsMax = 90_000;

/** The program named by KUBE_APISERVER_BIN. */
export function apiserverProgram(): string {
  const program = process.env["KUBE_APISERVER_BIN"] ?? "";
  if (!existsSync(program))
    throw new Error(`KUBE_APISERVER_BIN must name a kube-apiserver; it is "${program}"`);
  return program;
}

/** On loopback, with an etcd of its own, whose history `compact` forgets. */
export async function startKubeApiserver(
  flags: readonly string[] = [],
): Promise<KubeApiserver & Pick<Etcd, "compact">> {
  const etcd = await startEtcd();
  const [port = 0] = freePorts(1);
  const place: Place = {
    ...{ address: "127.0.0.1", port, etcd: etcd.endpoint, start },
    async call(url, { ca, ...request }) {
      const response = await fetch(url, { ...request, tls: { ca: readFileSync(ca, "utf8") }, proxy: false });
      return { status: response.status, text: await response.text() };
    },
    [Symbol.asyncDispose]: () => etcd[Symbol.asyncDispose](),
  };
  return { ...(await startAt(place, flags)), compact: etcd.compact };
}

/** On a lab's switch, where its hosts reach it, with the lab's etcd. */
export async function startLabApiserver({ lab, endpoint }: TestOverlay): Promise<KubeApiserver> {
  return await startAt({
    ...{ address: switchAddress, port: 6443, etcd: endpoint },
    start: (command) => lab.start(lab.switchNamespace, command),
    async call(url, { ca, method, headers, body }) {
      const output = await inside(lab.switchNamespace, [
        ...["curl", "-sS", "--cacert", ca, "-X", method, "-w", "\n%{http_code}", url],
        ...Object.entries(headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]),
        ...(body === undefined ? [] : ["--data-binary", body]),
      ]);
      const end = output.lastIndexOf("\n");
      return { status: Number(output.slice(end + 1)), text: output.slice(0, end) };
    },
    async [Symbol.asyncDispose]() {},
  });
}

async function startAt(place: Place, flags: readonly string[] = []): Promise<KubeApiserver> {
  await using opening = new AsyncDisposableStack();
  opening.use(place);
  const certificates = opening.use(openCertificates());
  const path = (name: string) => join(certificates.directory, name);
  const ca = certificates.authority("ca");
  const { address, port, etcd } = place;
  const server = certificates.issue("apiserver", { by: "ca", names: `IP:${address}` });
  const tokens = Object.entries(users).map(
    ([name, token], at) => `${token},${name},${at + 1}${name === "admin" ? ',"system:masters"' : ""}\n`,
  );
  writeFileSync(path("tokens.csv"), tokens.join(""));
  const publicKey = path("service-account.pub");
  writeFileSync(publicKey, createPublicKey(readFileSync(server.key)).export({ type: "spki", format: "pem" }));
  const url = `https://${address}:${port}`;
  const child = place.start([
    apiserverProgram(),
    ...[`--etcd-servers=${etcd}`, "--etcd-prefix=/registry"],
    ...[`--bind-address=${address}`, `--advertise-address=${address}`, `--secure-port=${port}`],
    ...[`--tls-cert-file=${server.cert}`, `--tls-private-key-file=${server.key}`],
    ...["--service-account-issuer=https://kubernetes.default.svc"],
    ...[`--service-account-key-file=${publicKey}`, `--service-account-signing-key-file=${server.key}`],
    ...["--authorization-mode=RBAC", `--token-auth-file=${path("tokens.csv")}`],
    ...["--service-cluster-ip-range=10.0.0.0/24", "--disable-admission-plugins=ServiceAccount"],
    ...["--endpoint-reconciler-type=none", ...flags],
  ]);
  let ended: number | undefined;
  void child.exited.then((code) => {
    ended = code;
  });
  opening.defer(() => child.end(0));

  const call: KubeApiserver["call"] = (method, target, body, type = "application/json") =>
    place.call(`${url}${target}`, {
      method,
      headers: { authorization: `Bearer ${users.admin}`, "content-type": type },
      ca,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  const must = async (...request: Parameters<typeof call>): Promise<string> => {
    const { status, text } = await call(...request);
    if (status >= 300 && status !== 404 && status !== 409)
      throw new Error(`${request[0]} ${request[1]}: HTTP ${status} ${text}`);
    return text;
  };

  for (const deadline = Date.now() + startMsMax; ; await Bun.sleep(200)) {
    if (ended !== undefined || Date.now() > deadline) throw new Error(`no API server: ${child.errorTail()}`);
    if ((await call("GET", "/readyz").catch(() => undefined))?.text === "ok") break;
  }

  const reading = { apiGroups: [""], resources: ["nodes"], verbs: ["get", "list", "watch"] };
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  for (const [user, rules] of [
    ["annotator", shippedRules("hybrid-rbac.yml")],
    ["daemon", shippedRules("flannel-lite.yml")],
    [
      "flannel",
      [...shippedRules("flannel-lite.yml"), { apiGroups: [""], resources: ["pods"], verbs: ["get"] }],
    ],
    ["reader", [reading]],
  ] as const) {
    const name = `test-${user}`; // the shipped roles have names of their own
    await must("POST", `${rbac}/clusterroles`, { metadata: { name }, rules });
    await must("POST", `${rbac}/clusterrolebindings`, {
      metadata: { name },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name },
      subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "User", name: user }],
    });
  }
  for (const [user, token] of Object.entries(users))
    writeFileSync(
      path(`${user}.kubeconfig`),
      JSON.stringify({
        "current-context": "x",
        contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
        clusters: [{ name: "c", cluster: { server: url, "certificate-authority": ca } }],
        users: [{ name: "u", user: { token } }],
      }),
    );

  const nodes = async () =>
    (JSON.parse(await must("GET", "/api/v1/nodes")) as { items: readonly NodeObject[] }).items;
  const deleteNode = (name: string) => must("DELETE", `/api/v1/nodes/${name}`);
  const opened = opening.move();
  return {
    ...{ url, nodes, deleteNode, call },
    kubeconfig: (user) => path(`${user}.kubeconfig`),
    getNode: async (name) => JSON.parse(await must("GET", `/api/v1/nodes/${name}`)) as NodeObject,
    createNode: ({ name, podCidrs = [], annotations = {} }) =>
      must("POST", "/api/v1/nodes", {
        metadata: { name, annotations },
        spec: podCidrs.length === 0 ? {} : { podCIDR: podCidrs[0], podCIDRs: podCidrs },
      }),
    annotate: (name, annotations) =>
      must("PATCH", `/api/v1/nodes/${name}`, { metadata: { annotations } }, "application/merge-patch+json"),
    async wipe() {
      for (const { metadata } of await nodes()) await deleteNode(metadata.name);
    },
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

/** The objects of a manifest in deploy/kubernetes. */
export function shippedObjects(file: string): readonly KubeObject[] {
  return parseManifest(readFileSync(join(manifestsDirectory, file), "utf8"));
}

/** The rules of the one ClusterRole that a shipped manifest has. */
function shippedRules(file: string): readonly unknown[] {
  const [role, ...others] = shippedObjects(file).filter(({ kind }) => kind === "ClusterRole");
  if (role === undefined || others.length > 0) throw new Error(`${file} has not one ClusterRole`);
  return role["rules"] as readonly unknown[];
}
