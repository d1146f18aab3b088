import { emptyPlan } from "../plan/plan.ts";
import type { BackendContext, BackendSetup } from "./backend.ts";

/** The alloc backend: a lease and subnet.env, and no data path; something else carries the packets. */
export function setUpAlloc({ uplink: { publicIp, mtuBytes } }: BackendContext): BackendSetup {
  return {
    type: "alloc",
    device: undefined,
    kernelOnly: [],
    usesReach: false,
    // flannel's alloc publishes no type.
    attributes: () => ({ ...(publicIp === undefined ? {} : { publicIp }), backendType: "" }),
    open: () => ({ mtuBytes, plan: () => ({ plan: emptyPlan, refused: [] }) }),
  };
}
