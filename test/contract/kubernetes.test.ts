import { startKubeApi } from "../support/kube-api.ts";
import { kubeDiffers, kubeWorld } from "../support/kube-world.ts";
import { leaseForm, storeContract } from "./store.ts";

storeContract(
  "kubernetes",
  async () => {
    const api = startKubeApi();
    const world = kubeWorld(api);
    return {
      ...world,
      async [Symbol.asyncDispose]() {
        await world[Symbol.asyncDispose]();
        await api[Symbol.asyncDispose]();
        if (api.refused.length > 0) throw new Error(`calls that nobody knows: ${api.refused.join()}`);
      },
    };
  },
  leaseForm("v3"),
  kubeDiffers,
);
