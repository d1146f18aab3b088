import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { inside, type Lab, openLab } from "../../src/demo/lab.ts";
import { overlayRefused } from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/tun.test.ts: ${refused}`);

let lab: Lab | undefined;
afterEach(async () => {
  await lab?.[Symbol.asyncDispose]();
  lab = undefined;
});

test.skipIf(refused !== undefined)(
  "tun: whole packets both ways, errors by name, and nothing is left of a closed one",
  async () => {
    lab = await openLab("tun", 0);
    const child = join(import.meta.dir, "../support/tun-child.ts");
    expect(JSON.parse(await inside(lab.switchNamespace, [process.execPath, child]))).toEqual({
      "write while it is down": "EIO",
      "open while it is in use": "EBUSY",
      "sent by the host": [true, 1028, true, "right"],
      "the host answers": [1, 3, 3],
      "read after close": [null, null],
      "write after close": "EBADF",
      reopened: true,
      "not persistent": false,
    });
  },
);
