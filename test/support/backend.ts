import type { BackendContext } from "../../src/backend/backend.ts";
import { parsePrefix } from "../../src/net/prefix.ts";
import type { Reach } from "../../src/net/reach.ts";
import { type Plan, planItems } from "../../src/plan/plan.ts";
import { itemText } from "../../src/plan/text.ts";
import { testUplink } from "./leases.ts";

/** A host in the network 10.5.0.0/16. */
export const testContext: BackendContext = {
  uplink: testUplink,
  overlay: [parsePrefix("10.5.0.0/16")],
  subnetLengths: { 4: 24 },
  strict: "overlay",
  allowSources: [],
  latency: "auto",
  nodeId: "machine",
};

/** The same with an overlay in both families. */
export const dualStackContext: BackendContext = {
  ...testContext,
  overlay: [...testContext.overlay, parsePrefix("fd00:5::/48")],
  subnetLengths: { 4: 24, 6: 64 },
};

/** Nobody is known to be one hop away. */
export const noReach: Reach = { routes: [] };

/** Who is one hop away where these are directly connected and `routed` lead to a router. */
export function reachOf(direct: readonly string[], routed: readonly string[] = []): Reach {
  return {
    routes: [
      ...direct.map((to) => ({ to: parsePrefix(to), direct: true })),
      ...routed.map((to) => ({ to: parsePrefix(to), direct: false })),
    ],
  };
}

/** The plan, one line an item, in the order in which it is made true. Ends with a newline unless empty. */
export function planText(plan: Plan): string {
  return planItems(plan)
    .map((item) => `${itemText(item)}\n`)
    .join("");
}
