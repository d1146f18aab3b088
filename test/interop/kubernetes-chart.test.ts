import { afterAll, beforeAll, expect, test } from "bun:test";
import { chartScenarios, type KubeObject, parseManifest } from "../support/chart.ts";
import { readGolden } from "../support/golden.ts";
import { type KubeApiserver, startKubeApiserver } from "../support/kube-apiserver.ts";

let apiserver: KubeApiserver;

beforeAll(async () => {
  apiserver = await startKubeApiserver(["--allow-privileged=true"]);
  const metadata = { name: "kube-flannel" };
  await apiserver.call("POST", "/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata });
}, 120_000);

afterAll(async () => {
  await apiserver?.[Symbol.asyncDispose]();
});

const plurals: Readonly<Record<string, string>> = {
  Namespace: "namespaces",
  ServiceAccount: "serviceaccounts",
  Secret: "secrets",
  ConfigMap: "configmaps",
  ClusterRole: "clusterroles",
  ClusterRoleBinding: "clusterrolebindings",
  DaemonSet: "daemonsets",
};

/** Asks for it without doing it; strict: a member that the API does not have is an error. */
async function accept({ apiVersion, kind, metadata, ...rest }: KubeObject): Promise<void> {
  const root = apiVersion === "v1" ? "/api/v1" : `/apis/${apiVersion}`;
  const namespace = metadata.namespace === undefined ? "" : `/namespaces/${metadata.namespace}`;
  // The name may be taken: what is asked is whether it would be taken in.
  const object = { apiVersion, kind, metadata: { ...metadata, name: `${metadata.name}-asked` }, ...rest };
  const question = `${root}${namespace}/${plurals[kind]}?dryRun=All&fieldValidation=Strict`;
  const { text } = await apiserver.call("POST", question, object);
  const answer = JSON.parse(text) as { readonly kind: string; readonly message?: string };
  if (answer.kind === "Status") throw new Error(answer.message);
  expect(answer.kind).toBe(kind);
}

test.each(chartScenarios)(
  "the API server takes what the chart renders, strictly: $name",
  async ({ name }) => {
    for (const object of parseManifest(readGolden(`helm/${name}.yml`))) await accept(object);
  },
);

test("what the API does not have is refused", async () => {
  const object = {
    ...{ apiVersion: "v1", kind: "ConfigMap" },
    metadata: { name: "x", namespace: "kube-flannel", nmae: "y" },
  };
  expect(accept(object)).rejects.toThrow('unknown field "metadata.nmae"');
});
