import { FlannelError } from "../../base/error.ts";
import { asGoObject } from "../../base/go-json.ts";
import type { KubeClient } from "./client.ts";
import { isNodeName } from "./node.ts";

export interface NodeNameSources {
  /** `kubernetes.node_name`. */
  readonly configured: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** The name where it needs no API server: the configured one, or NODE_NAME. */
export function namedNode({ configured, env }: NodeNameSources): string | undefined {
  const name = configured ?? env["NODE_NAME"] ?? "";
  if (name === "") return undefined;
  if (isNodeName(name)) return name;
  throw wrong(`${JSON.stringify(name.slice(0, 128))} is no node's name`);
}

/** Makes sure that something names the node. @throws FlannelError `config/node-name` (exit code 2) */
export function requireNodeName(sources: NodeNameSources): void {
  if (namedNode(sources) === undefined) namedPod(sources);
}

/**
 * The name of the node that we are on, else that of the pod which POD_NAME and POD_NAMESPACE name, as flannel looks
 * for it.
 * @throws FlannelError `config/node-name` (exit code 2) where nothing names it
 */
export async function findNodeName(
  sources: NodeNameSources,
  client: KubeClient,
  stop: AbortSignal,
): Promise<string> {
  const name = namedNode(sources);
  if (name !== undefined) return name;
  const { pod, namespace } = namedPod(sources);
  const found = asGoObject(await client.getPod(namespace, pod, stop));
  const nodeName = asGoObject(found?.get("spec"))?.get("nodeName");
  if (typeof nodeName === "string" && isNodeName(nodeName)) return nodeName;
  throw new FlannelError(
    "store/no-node",
    "the pod that we are is on no node",
    { namespace, pod },
    {
      retryable: true,
      remedy: "Check POD_NAME and POD_NAMESPACE, or set NODE_NAME",
    },
  );
}

function namedPod({ env }: NodeNameSources): { readonly pod: string; readonly namespace: string } {
  const [pod, namespace] = [env["POD_NAME"] ?? "", env["POD_NAMESPACE"] ?? ""];
  if (isNodeName(pod) && isNodeName(namespace)) return { pod, namespace };
  throw wrong("env variables POD_NAME and POD_NAMESPACE must be set");
}

function wrong(message: string): FlannelError {
  return new FlannelError(
    "config/node-name",
    message,
    {},
    {
      exitCode: 2,
      remedy: "Set NODE_NAME or kubernetes.node_name to this node's name in Kubernetes",
    },
  );
}
