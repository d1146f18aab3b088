import { errorText, FlannelError } from "../../base/error.ts";
import { networkAvailablePatch } from "./codec.ts";
import type { KubeContext } from "./context.ts";
import type { KubeNode } from "./node.ts";

/** A try that failed is repeated, doubling from here to the maximum. */
const retryMs = 1_000;
const retryMsMax = 60_000;

/** Somebody who sets it again and again gets no quicker answer than this. */
const againMs = 10_000;

/** Keeps the node's condition NetworkUnavailable False. */
export interface ConditionKeeper extends AsyncDisposable {
  /** Traffic can flow: from now on the condition is kept False. It is never set True, as in flannel. */
  available(): void;
  /** Our own node as the watch shows it. */
  saw(node: KubeNode): void;
}

export function openConditionKeeper(
  context: Pick<KubeContext, "client" | "clock" | "log" | "ownName">,
): ConditionKeeper {
  const { client, clock, log } = context;
  const stop = new AbortController();
  let isAvailable = false;
  let due = false;
  let running: Promise<void> | undefined;

  const write = async (): Promise<void> => {
    let said = "";
    let waitMs = retryMs;
    while (due && !stop.signal.aborted) {
      try {
        const name = await context.ownName(stop.signal);
        due = false;
        await client.patchNodeStatus(name, networkAvailablePatch(clock.now()), stop.signal);
        log.info("the node's condition NetworkUnavailable is False", { node: name });
        waitMs = againMs;
      } catch (error) {
        if (stop.signal.aborted) return;
        if (!(error instanceof FlannelError)) throw error;
        due = true;
        const text = errorText(error);
        if (text !== said) log.warn("the node's condition cannot be set; trying again", { error: text });
        said = text;
        waitMs = Math.min(waitMs * 2, retryMsMax);
      }
      await clock.sleep(waitMs, stop.signal);
    }
  };
  const start = () => {
    running ??= write().finally(() => {
      running = undefined;
      if (due && !stop.signal.aborted) start(); // it was seen since the last look
    });
  };

  return {
    available() {
      if (isAvailable) return;
      isAvailable = true;
      due = true;
      start();
    },
    saw({ networkUnavailable }) {
      if (!isAvailable || networkUnavailable === "False") return;
      due = true;
      start();
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
    },
  };
}
