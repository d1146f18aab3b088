import { errorText, FlannelError } from "../../base/error.ts";
import { addressOverwrites, type NodeAddresses, nodeAddresses } from "./codec.ts";
import { type KubeOptions, openKubeContext } from "./context.ts";

export interface AnnotatedAddresses {
  /** As if `-public-ip` and `-public-ipv6` gave them. */
  readonly own: NodeAddresses;
  /** What is published in place of whatever is chosen. */
  readonly overwrites: NodeAddresses;
}

/**
 * All that our own node's annotations say of its addresses. Asked once.
 * @throws FlannelError where no answer comes, or what stands there is no address
 */
export async function lookAtNodeAddresses(
  options: KubeOptions,
  stop: AbortSignal,
): Promise<AnnotatedAddresses> {
  const context = openKubeContext(options);
  try {
    const { annotations } = (await context.ownNode(stop)) ?? { annotations: new Map<string, string>() };
    const { names } = context;
    return { own: nodeAddresses(annotations, names), overwrites: addressOverwrites(annotations, names) };
  } finally {
    context.client.close();
  }
}

/**
 * The public addresses that our own node's annotations name. Asked once: where no answer comes there are none, with a
 * warning, and the lease gets them when it is published.
 * @throws FlannelError whose exit code is 2: what waiting cannot cure
 */
export async function readNodeAddresses(options: KubeOptions, stop: AbortSignal): Promise<NodeAddresses> {
  const context = openKubeContext(options);
  try {
    const node = await context.ownNode(stop);
    return node === undefined ? {} : nodeAddresses(node.annotations, context.names);
  } catch (error) {
    if (stop.aborted) return {};
    if (!(error instanceof FlannelError) || error.exitCode === 2) throw error;
    options.log.warn("the node's annotations cannot be read yet", { error: errorText(error) });
    return {};
  } finally {
    context.client.close();
  }
}
