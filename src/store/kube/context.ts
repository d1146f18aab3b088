import type { Clock } from "../../base/clock.ts";
import type { Log } from "../../base/log.ts";
import { openAccess } from "./access.ts";
import { KubeClient } from "./client.ts";
import { type AnnotationNames, annotationNames } from "./codec.ts";
import { findNodeName, type NodeNameSources } from "./node-name.ts";
import { type KubeNode, parseNode } from "./node.ts";

export interface KubeOptions {
  readonly kubeconfig: string | undefined;
  readonly apiUrl: string | undefined;
  readonly nodeName: string | undefined;
  readonly annotationPrefix: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly log: Log;
  readonly clock: Clock;
  /** Where a pod finds its token and the cluster's authority. */
  readonly serviceAccountDir?: string;
  readonly callMsMax?: number;
  readonly silenceMsMax?: number;
  /** Of [0, 1); spreads retries. */
  readonly random?: () => number;
}

/** What the calls of one store, or of one annotator, have in common. */
export interface KubeContext {
  readonly client: KubeClient;
  readonly names: AnnotationNames;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: () => number;
  /** The name where it is known without asking. */
  readonly nodeName: NodeNameSources;
  /** Our own node's name. @throws FlannelError `config/node-name`, `store/no-node` */
  ownName(stop: AbortSignal): Promise<string>;
  /** Our own node as it stands; undefined where there is none of that name. */
  ownNode(stop: AbortSignal): Promise<KubeNode | undefined>;
}

/** Asks the API server nothing. @throws FlannelError `config/invalid`, `store/kubeconfig` */
export function openKubeContext(options: KubeOptions): KubeContext {
  const { env, log, clock, random = Math.random, annotationPrefix } = options;
  const client = new KubeClient({ ...options, access: openAccess(options) });
  const names = annotationNames(annotationPrefix);
  const nodeName = { configured: options.nodeName, env };
  let found: string | undefined;
  const ownName = async (stop: AbortSignal) => (found ??= await findNodeName(nodeName, client, stop));
  return {
    client,
    names,
    log,
    clock,
    random,
    nodeName,
    ownName,
    async ownNode(stop) {
      const node = await client.getNode(await ownName(stop), stop);
      return node === undefined ? undefined : parseNode(node, names.prefix);
    },
  };
}
