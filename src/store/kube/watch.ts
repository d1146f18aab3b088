import { FlannelError } from "../../base/error.ts";
import { createOutageLog } from "../outage.ts";
import type { KubeContext } from "./context.ts";
import { Gone } from "./failure.ts";
import { type KubeNode, parseNode } from "./node.ts";

/** Between two tries to reach the API server: doubling from here to the maximum, each shortened by up to half. */
const backoffMs = 250;
const backoffMsMax = 10_000;

export type NodeChange =
  { readonly kind: "put"; readonly node: KubeNode } | { readonly kind: "delete"; readonly node: KubeNode };

export type NodeUpdate =
  | { readonly kind: "snapshot"; readonly nodes: readonly KubeNode[]; readonly replaced: boolean }
  | { readonly kind: "change"; readonly change: NodeChange }
  /** A connection for changes is about to be opened. */
  | { readonly kind: "open" };

/**
 * Watches all nodes, or the one that is named: one snapshot, then changes; after a gap that cannot be bridged a fresh
 * snapshot. Lost connections are retried inside. Ends quietly when `stop` aborts.
 */
export async function* watchNodes(
  context: Pick<KubeContext, "client" | "names" | "log" | "clock" | "random">,
  only: string | undefined,
  stop: AbortSignal,
): AsyncGenerator<NodeUpdate> {
  const { client, names, log, clock, random } = context;
  const outage = createOutageLog("the API server", context);
  const select = only === undefined ? {} : { only };
  /** Where the next connection goes on; undefined when everything must be read again. */
  let from: string | undefined;
  let seen = 0n;
  let waitMs = backoffMs;
  while (!stop.aborted) {
    const connectedAt = clock.now().getTime();
    try {
      if (from === undefined) {
        let nodes: KubeNode[] = [];
        const begin = () => (nodes = []);
        from = await client.list(
          { ...select, begin },
          ({ items }) => {
            for (const item of items) {
              const node = parseNode(item, names.prefix);
              if (node !== undefined) nodes.push(node);
            }
          },
          stop,
        );
        const revision = revisionOf(from);
        const replaced = revision < seen;
        if (replaced) log.warn("the API server was restored from an older state, or is another one");
        seen = revision;
        outage.over();
        yield { kind: "snapshot", nodes, replaced };
      }
      yield { kind: "open" };
      for await (const event of client.watch({ from, ...select }, stop)) {
        outage.over();
        waitMs = backoffMs;
        if (event.type === "BOOKMARK") {
          from = event.resourceVersion;
          continue;
        }
        const node = parseNode(event.object, names.prefix);
        if (node === undefined) continue;
        if (node.resourceVersion !== "") from = node.resourceVersion;
        seen = revisionOf(from);
        yield { kind: "change", change: { kind: event.type === "DELETED" ? "delete" : "put", node } };
      }
      // A server ends its watches now and then, which is no failure.
      outage.over();
    } catch (error) {
      if (stop.aborted) return;
      if (error instanceof Gone) {
        log.info("reading all nodes again", { reason: error.message });
        from = undefined;
      } else {
        if (!(error instanceof FlannelError)) throw error;
        if (error.code === "store/closed") return;
        outage.met(error);
      }
    }
    if (clock.now().getTime() - connectedAt > backoffMsMax) waitMs = backoffMs;
    await clock.sleep(waitMs * (1 - random() / 2), stop);
    waitMs = Math.min(waitMs * 2, backoffMsMax);
  }
}

/** Versions of one API server are ordered numbers; what is none orders nothing. */
function revisionOf(resourceVersion: string): bigint {
  return /^\d{1,20}$/.test(resourceVersion) ? BigInt(resourceVersion) : 0n;
}
