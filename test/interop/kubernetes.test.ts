import { afterAll, beforeAll } from "bun:test";
import { leaseForm, storeContract } from "../contract/store.ts";
import { type KubeApiserver, startKubeApiserver } from "../support/kube-apiserver.ts";
import { kubeDiffers, kubeWorld } from "../support/kube-world.ts";

let apiserver: KubeApiserver;

beforeAll(async () => {
  apiserver = await startKubeApiserver(process.env["KUBE_APISERVER_BIN"] ?? "");
}, 120_000);

afterAll(async () => {
  await apiserver?.[Symbol.asyncDispose]();
});

// The suite that test/contract/kubernetes.test.ts runs against the test API server.
storeContract(
  "kubernetes by kube-apiserver",
  async () => {
    await apiserver.wipe();
    return kubeWorld(apiserver, apiserver.kubeconfig);
  },
  leaseForm("v3"),
  kubeDiffers,
);
