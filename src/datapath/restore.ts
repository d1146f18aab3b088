import type { Kernel } from "../native/ports.ts";
import { diffPlans } from "../plan/diff.ts";
import { emptyPlan, type Plan } from "../plan/plan.ts";
import { applyKernelStep, type KernelScope, type KernelState, routeProtocol } from "./kernel.ts";

/**
 * Puts back a kernel device of ours that made way for a TUN which could not be had: with all that hung on it, and
 * marked as it was, so that a flanneld whose device it is finds it as it left it. Tells whether it did: not where
 * `device` was none, or is still there.
 * @throws FlannelError of the operation that failed; what came before it stands
 */
export async function restoreDevice(
  kernel: Kernel,
  device: string,
  state: KernelState,
  scope: KernelScope,
): Promise<boolean> {
  const held = heldOn(device, state.plan);
  const [link] = held.links;
  if (link === undefined || link.kind === "tun") return false;
  const present = (await kernel.links()).find(({ name }) => name === device);
  if (present?.kind === link.kind) return false;
  if (present !== undefined) await kernel.deleteLink(present.index);
  const owner = state.unmarked.links.has(device) ? "" : scope.owner;
  for (const step of diffPlans(emptyPlan, held)) {
    const { item } = step;
    if (item.type === "route") {
      const { to, via, onLink } = item.value;
      const protocol = state.unmarked.routes.get(`${to}`)?.protocol ?? routeProtocol;
      const linkIndex = state.linkIndex.get(device) ?? 0;
      await kernel.putRoute({ to: `${to}`, via: `${via ?? ""}`, linkIndex, onLink, protocol });
    } else await applyKernelStep(kernel, step, state, { ...scope, owner });
  }
  return true;
}

/** What the kernel dropped with the device. */
function heldOn(name: string, plan: Plan): Plan {
  const onDevice = ({ device }: { readonly device: string }) => device === name;
  return {
    ...emptyPlan,
    links: plan.links.filter((link) => link.name === name),
    addresses: plan.addresses.filter(onDevice),
    neighbours: plan.neighbours.filter(onDevice),
    fdb: plan.fdb.filter(onDevice),
    routes: plan.routes.filter(onDevice),
  };
}
