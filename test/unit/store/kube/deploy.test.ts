import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseKubeconfig } from "../../../../src/store/kube/kubeconfig.ts";

const read = (file: string) =>
  readFileSync(join(import.meta.dir, "../../../../deploy/kubernetes", file), "utf8");

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly rules?: readonly { readonly resources: readonly string[]; readonly verbs: readonly string[] }[];
  readonly roleRef?: { readonly name: string };
  readonly subjects?: readonly { readonly name: string; readonly namespace: string }[];
}

test("the shipped kubeconfig is one that we read", () => {
  expect(parseKubeconfig(read("hybrid.kubeconfig"))).toMatchObject({
    server: "https://192.0.2.1:6443",
    ca: { file: "/etc/flannel/kubernetes-ca.crt" },
    tokenFile: "/etc/flannel/kubernetes-token",
  });
});

test("the shipped rights are those that annotating uses, bound to the account that is made", () => {
  const manifests = read("hybrid-rbac.yml")
    .split(/^---$/m)
    .map((text) => Bun.YAML.parse(text) as Manifest);
  const of = (kind: string) => manifests.find((manifest) => manifest.kind === kind);
  expect(of("ClusterRole")?.rules).toMatchObject([
    { resources: ["nodes"], verbs: ["get", "list", "watch"] },
    { resources: ["nodes/status"], verbs: ["patch"] },
  ]);
  const account = of("ServiceAccount")?.metadata;
  expect(account).toBeDefined();
  expect(of("ClusterRoleBinding")).toMatchObject({
    roleRef: { name: of("ClusterRole")?.metadata.name },
    subjects: [{ name: account?.name, namespace: account?.namespace }],
  });
});
