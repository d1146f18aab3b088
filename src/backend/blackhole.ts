import { subnetsOf } from "../lease/lease.ts";
import type { BackendSetup } from "./backend.ts";

/**
 * The same backend with a blackhole route for our own subnet: what is sent to an address of it that no pod has
 * ends here, where it would go to the default gateway and come back.
 */
export function withBlackhole(setup: BackendSetup): BackendSetup {
  return {
    ...setup,
    open(engine) {
      const backend = setup.open(engine);
      return {
        ...backend,
        plan(own, peers, reach) {
          const result = backend.plan(own, peers, reach);
          const blackholes = subnetsOf(own.subnets).map((to) => ({ to }));
          return { ...result, plan: { ...result.plan, blackholes } };
        },
      };
    },
  };
}
