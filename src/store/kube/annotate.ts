import { openBrake } from "../../base/brake.ts";
import { errorText, FlannelError } from "../../base/error.ts";
import { runGroup } from "../../base/group.ts";
import type { LeaseAttributes } from "../../lease/lease.ts";
import { annotationPatch, encodeAnnotations, overwritten } from "./codec.ts";
import { type KubeContext, type KubeOptions, openKubeContext } from "./context.ts";
import { requireNodeName } from "./node-name.ts";
import type { KubeNode } from "./node.ts";
import { watchNodes } from "./watch.ts";

/** A try that failed is repeated, doubling from here to the maximum. */
const retryMs = 1_000;
const retryMsMax = 30_000;

/** While all is well it waits for news; no timer waits for longer than 24 days. */
const idleMs = 24 * 60 * 60_000;

/** Keeps our lease in the annotations of this node, for others to read, while the lease itself lives elsewhere. */
export interface NodeAnnotator extends Disposable {
  /** What is to stand there from now on. */
  want(attributes: LeaseAttributes): void;
  /**
   * Writes it at once, when it changes, and when it or the node was replaced; whether the node is Ready is of no
   * concern. Who replaces it again and again is answered more and more slowly. What fails, be it the kubeconfig, is said and retried: traffic does not depend on it.
   */
  run(stop: AbortSignal): Promise<void>;
}

/** Asks the API server nothing. @throws FlannelError `config/invalid`, `store/kubeconfig`, `config/node-name` */
export function openNodeAnnotator(options: KubeOptions): NodeAnnotator {
  requireNodeName({ configured: options.nodeName, env: options.env });
  const context = openKubeContext(options);
  const { client, names, log, clock } = context;
  const brake = openBrake(clock);
  let wanted: LeaseAttributes | undefined;
  /** We want something else than before. */
  let isChanged = false;
  /** The node was seen to lack what we want. */
  let isUndone = false;
  let rouse = () => {};

  /** What must be changed on the node; undefined for nothing. */
  const patchFor = ({ annotations }: KubeNode, attributes: LeaseAttributes): object | undefined =>
    annotationPatch(annotations, encodeAnnotations(overwritten(attributes, annotations, names), names));

  /** @returns whether anything had to be written */
  const write = async (attributes: LeaseAttributes, stop: AbortSignal): Promise<boolean> => {
    const node = await context.ownNode(stop);
    const name = await context.ownName(stop);
    if (node === undefined) throw new FlannelError("store/no-node", "there is no such node", { node: name });
    const patch = patchFor(node, attributes);
    if (patch === undefined) return false;
    await client.patchNodeStatus(name, patch, stop);
    log.info("our lease stands in the node's annotations", { node: name });
    return true;
  };

  /** Notes that it had to be written because of what was seen on the node, with or without success. */
  const repaired = () => {
    if (brake.repaired())
      log.warn(
        "the node's annotations are changed by somebody else again and again; putting them back slower",
      );
  };

  const writer = async (stop: AbortSignal): Promise<void> => {
    let waitMs = idleMs;
    let said = "";
    while (!stop.aborted) {
      const timer = new AbortController();
      rouse = () => timer.abort();
      const pauseMs = isChanged ? 0 : isUndone ? brake.waitMs : waitMs;
      if (pauseMs > 0) await clock.sleep(pauseMs, AbortSignal.any([stop, timer.signal]));
      if (stop.aborted) return;
      const isRepair = isUndone && !isChanged;
      if (isRepair && brake.waitMs > 0) continue;
      isChanged = false;
      isUndone = false;
      if (wanted === undefined) continue;
      try {
        const hasWritten = await write(wanted, stop);
        if (isRepair && hasWritten) repaired();
        waitMs = idleMs;
        said = "";
      } catch (error) {
        if (stop.aborted) return;
        if (!(error instanceof FlannelError)) throw error;
        const text = errorText(error);
        if (text !== said) log.warn("the node cannot be annotated; trying again", { error: text });
        said = text;
        waitMs = waitMs === idleMs ? retryMs : Math.min(waitMs * 2, retryMsMax);
        if (isRepair) repaired();
      }
    }
  };

  const watcher = async (stop: AbortSignal): Promise<void> => {
    const name = await knownName(context, stop);
    if (name === undefined) return;
    for await (const update of watchNodes(context, name, stop)) {
      if (update.kind === "open") continue;
      const [node] = update.kind === "snapshot" ? update.nodes : [update.change.node];
      if (node === undefined || (update.kind === "change" && update.change.kind === "delete")) continue;
      if (isUndone || wanted === undefined || !differs(node, wanted)) continue;
      isUndone = true;
      rouse();
    }
  };

  const differs = (node: KubeNode, attributes: LeaseAttributes): boolean => {
    try {
      return patchFor(node, attributes) !== undefined;
    } catch {
      return true; // the writer says what is wrong with it
    }
  };

  return {
    want(attributes) {
      wanted = attributes;
      isChanged = true;
      rouse();
    },
    run: (stop) => runGroup(stop, [writer, watcher]),
    [Symbol.dispose]: () => client.close(),
  };
}

/** Undefined when stopped. */
async function knownName(context: KubeContext, stop: AbortSignal): Promise<string | undefined> {
  while (!stop.aborted) {
    try {
      return await context.ownName(stop);
    } catch (error) {
      if (stop.aborted) return undefined;
      if (!(error instanceof FlannelError)) throw error;
      await context.clock.sleep(retryMsMax, stop); // the writer says why
    }
  }
  return undefined;
}
