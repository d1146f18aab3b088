import { FlannelError } from "../../base/error.ts";
import type { KubeContext } from "./context.ts";
import { Gone } from "./failure.ts";
import { type KubeNode, parseNode } from "./node.ts";

/** Between two tries to reach the API server: doubling from here to the maximum, each shortened by up to half. */
const backoffMs = 250;
const backoffMsMax = 10_000;

/** While the API server stays away, the log says so again after this long. */
const reminderMs = 60_000;

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
  const trouble = createTrouble(context);
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
        trouble.over();
        waitMs = backoffMs;
        yield { kind: "snapshot", nodes, replaced };
      }
      yield { kind: "open" };
      for await (const event of client.watch({ from, ...select }, stop)) {
        trouble.over();
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
      trouble.over();
    } catch (error) {
      if (stop.aborted) return;
      if (error instanceof Gone) {
        log.info("reading all nodes again", { reason: error.message });
        from = undefined;
      } else {
        if (!(error instanceof FlannelError)) throw error;
        if (error.code === "store/closed") return;
        trouble.met(error);
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

/** Says when the API server is lost, once a minute while it stays so, and when it is back. */
function createTrouble({ log, clock }: Pick<KubeContext, "log" | "clock">) {
  let sinceMs: number | undefined;
  let saidMs = 0;
  return {
    met(error: FlannelError) {
      const nowMs = clock.now().getTime();
      if (sinceMs !== undefined && nowMs - saidMs < reminderMs) return;
      sinceMs ??= nowMs;
      saidMs = nowMs;
      const { code, message, fields, remedy } = error;
      log.warn("the API server is lost; leases are kept as they were", {
        ...fields,
        code,
        error: message,
        remedy,
      });
    },
    over() {
      if (sinceMs === undefined) return;
      log.info("the API server is back", { lostMs: clock.now().getTime() - sinceMs });
      sinceMs = undefined;
    },
  };
}
