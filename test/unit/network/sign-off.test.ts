import { expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { signOff } from "../../../src/network/sign-off.ts";
import type { Store } from "../../../src/store/store.ts";
import { fakeStore } from "../../support/fake-store.ts";
import { vxlanLease } from "../../support/leases.ts";
import { manualClock, settle } from "../../support/manual-clock.ts";
import { recordingLog } from "../../support/recording-log.ts";

const lease = vxlanLease("10.5.1.0/24", "192.0.2.1");
const node = { id: "a1", name: "web-1" };

function signingOff(answer: Store["signOff"]) {
  const clock = manualClock();
  const log = recordingLog();
  const done = signOff(lease, { store: fakeStore({ signOff: answer }), node, log, clock });
  return { clock, log, done };
}

test("sign-off: the store is told our address and who we are", async () => {
  const told: unknown[] = [];
  const { done, clock } = signingOff(async (publicIp, who) => void told.push(`${publicIp}`, who));
  await done;
  expect(told).toEqual(["192.0.2.1", node]);
  expect(clock.nextMs).toBeUndefined();
});

test("sign-off: a store that says nothing is given up after two seconds", async () => {
  let ended = false;
  const { clock, done } = signingOff((_publicIp, _who, stop) => {
    return new Promise((_resolve, reject) => stop.addEventListener("abort", () => reject(stop.reason)));
  });
  void done.then(() => (ended = true));
  await clock.advance(1_999);
  expect(ended).toBe(false);
  await clock.advance(1);
  expect(ended).toBe(true);
});

test("sign-off: a store that fails is no failure of the stop", async () => {
  const { done, log } = signingOff(() => Promise.reject(new FlannelError("store/unreachable", "gone")));
  await done;
  await settle();
  expect(log.messages).toEqual(["the store was not told that this node stops"]);
});
