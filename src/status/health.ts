import type { PassResult } from "../datapath/pass.ts";
import type { UserspaceEngines } from "../datapath/userspace.ts";
import type { Progress } from "./progress.ts";

/** A pass over the largest networks takes seconds; one that takes this long hangs. */
const passMsMax = 60_000;

type Engines = Pick<UserspaceEngines, "failures">;

/**
 * Why traffic cannot flow, as of now; undefined when it can: everything stands, our subnet is ours, and pods
 * are masqueraded where that is asked for.
 */
export function hindrance(progress: Progress, engines: Engines): string | undefined {
  const { up, phase, keeper, firewall, reconciler } = progress;
  if (!up || keeper?.conflict !== undefined || firewall?.blocked !== undefined) return phase;
  const lost = lostDevice(reconciler?.last);
  if (lost !== undefined) return `the device cannot be had: ${lost.error.message}`;
  return engineFailure(engines);
}

/** Why waiting for this process is in vain; undefined while its work goes on, whatever it waits for itself. */
export function whyStuck({ reconciler }: Progress, engines: Engines, now: Date): string | undefined {
  const since = reconciler?.busySince;
  if (since !== undefined && now.getTime() - since.getTime() > passMsMax)
    return `comparing with the kernel has not come to an end since ${since.toISOString()}`;
  return engineFailure(engines);
}

/** The step that left the daemon without its device, without which it is useless. */
export function lostDevice(last: PassResult | undefined): PassResult["failed"][number] | undefined {
  return last?.failed.find(({ step }) => step.item.type === "link" || step.item.type === "tunnel");
}

function engineFailure(engines: Engines): string | undefined {
  const [failed] = engines.failures();
  return failed && `the engine on ${failed.device} has ended: ${failed.failure}`;
}
