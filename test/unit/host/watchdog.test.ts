import { expect, test } from "bun:test";
import { watchdogIntervalMs } from "../../../src/host/sd-notify.ts";
import { openWatchdog } from "../../../src/host/watchdog.ts";
import { manualClock } from "../../support/manual-clock.ts";
import { recordingLog } from "../../support/recording-log.ts";

test("watchdog: half of WATCHDOG_USEC, for us or for whoever reads it", () => {
  const of = (usec?: string, pid?: string) =>
    watchdogIntervalMs({ WATCHDOG_USEC: usec, WATCHDOG_PID: pid }, 42);
  expect([of("30000000"), of("30000000", "42"), of("30000000", "")]).toEqual([15_000, 15_000, 15_000]);
  for (const [usec, pid] of [[undefined], ["0"], [""], ["x"], ["-5"], ["1e9"], ["30000000", "41"]] as const)
    expect(of(usec, pid)).toBeUndefined();
});

test("watchdog: a sign of life at each interval, none while the work is stuck, and none after closing", async () => {
  const clock = manualClock();
  const log = recordingLog();
  let signs = 0;
  let reason: string | undefined;
  const service = { watchdog: () => void signs++ };
  const watchdog = openWatchdog({ service, intervalMs: 1_000, stuck: () => reason, clock, log });
  await clock.advance(3_000);
  expect(signs).toBe(4);
  reason = "the engine has ended";
  await clock.advance(5_000);
  expect(signs).toBe(4);
  expect(log.messages).toEqual(["systemd gets no sign of life any more and will start us again"]);
  reason = undefined;
  await clock.advance(1_000);
  expect(signs).toBe(5);
  watchdog[Symbol.dispose]();
  await clock.advance(5_000);
  expect(signs).toBe(5);
  expect(clock.nextMs).toBeUndefined();
});
