import { expect, test } from "bun:test";
import { silentLog } from "../../../../src/base/log.ts";
import type { KubeClient } from "../../../../src/store/kube/client.ts";
import { openConditionKeeper } from "../../../../src/store/kube/condition.ts";
import { parseNode } from "../../../../src/store/kube/node.ts";
import { settle } from "../../../support/manual-clock.ts";

const changed = parseNode(
  { metadata: { name: "n1" }, status: { conditions: [{ type: "NetworkUnavailable", status: "True" }] } },
  "x/",
);

test.each([0, 1, 2, 3, 4, 5, 6, 7, 8].map((steps) => [steps]))(
  "condition: a change that is seen %d steps after the last look is undone too",
  async (steps) => {
    if (changed === undefined) throw new Error("no node");
    let wake = () => {};
    const sleep = (_ms: number, stop?: AbortSignal) =>
      new Promise<void>((resolve) => {
        wake = resolve;
        stop?.addEventListener("abort", () => resolve());
      });
    const clock = { now: () => new Date(0), sleep };
    let patches = 0;
    const client = { patchNodeStatus: async () => void patches++ } as unknown as KubeClient;
    await using keeper = openConditionKeeper({
      ...{ client, clock, log: silentLog },
      ownName: async () => "n1",
    });
    keeper.available();
    await settle();
    expect(patches).toBe(1);
    wake();
    for (let step = 0; step < steps; step++) await null;
    keeper.saw(changed);
    await settle();
    expect(patches).toBe(2);
  },
);
