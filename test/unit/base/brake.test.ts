import { expect, test } from "bun:test";
import { openBrake } from "../../../src/base/brake.ts";
import { manualClock } from "../../support/manual-clock.ts";

test("brake: four repairs in a minute are nothing, the fifth begins a fight", async () => {
  const clock = manualClock();
  const brake = openBrake(clock);
  for (let times = 1; times <= 4; times++) {
    expect(brake.repaired()).toBe(false);
    expect([brake.contested, brake.waitMs]).toEqual([false, 0]);
  }
  expect(brake.repaired()).toBe(true);
  expect([brake.contested, brake.waitMs]).toEqual([true, 1_000]);
});

test("brake: repairs that are further apart never begin one", async () => {
  const clock = manualClock();
  const brake = openBrake(clock);
  for (let times = 0; times < 50; times++) {
    expect(brake.repaired()).toBe(false);
    await clock.advance(15_000);
  }
  expect(brake.contested).toBe(false);
});

test("brake: pauses double to a minute, it is told once, and left alone it is over", async () => {
  const clock = manualClock();
  const brake = openBrake(clock);
  for (let times = 0; times < 5; times++) brake.repaired();
  const pauses: number[] = [];
  for (let times = 0; times < 8; times++) {
    pauses.push(brake.waitMs);
    await clock.advance(brake.waitMs);
    expect(brake.waitMs).toBe(0);
    expect(brake.repaired()).toBe(false);
  }
  expect(pauses).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
  await clock.advance(179_999);
  expect([brake.contested, brake.quiet]).toEqual([true, false]);
  await clock.advance(1);
  expect([brake.contested, brake.quiet, brake.waitMs]).toEqual([false, true, 0]);
  expect(brake.repaired()).toBe(false);
  expect([brake.contested, brake.waitMs]).toEqual([false, 0]);
});
