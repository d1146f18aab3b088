import type { Clock } from "../../src/base/clock.ts";

/** A clock that stands still until it is moved. */
export interface ManualClock extends Clock {
  /** Moves on by `ms`, waking sleepers in the order of their times, and lets what they wake run. */
  advance(ms: number): Promise<void>;
  /** How long the earliest sleeper still sleeps; undefined where nobody does. */
  readonly nextMs: number | undefined;
}

export function manualClock(start = Date.parse("2026-01-01T00:00:00Z")): ManualClock {
  let nowMs = start;
  let sleepers: { atMs: number; wake: () => void }[] = [];
  const earliest = () => [...sleepers].sort((a, b) => a.atMs - b.atMs)[0];
  return {
    now: () => new Date(nowMs),
    sleep: (ms, stop) =>
      new Promise((resolve) => {
        if (stop?.aborted === true) return resolve();
        const sleeper = {
          atMs: nowMs + Math.max(ms, 0),
          wake: () => {
            sleepers = sleepers.filter((other) => other !== sleeper);
            stop?.removeEventListener("abort", sleeper.wake);
            resolve();
          },
        };
        sleepers.push(sleeper);
        stop?.addEventListener("abort", sleeper.wake);
      }),
    async advance(ms) {
      const until = nowMs + ms;
      await settle();
      for (let next = earliest(); next !== undefined && next.atMs <= until; next = earliest()) {
        nowMs = Math.max(nowMs, next.atMs);
        next.wake();
        await settle();
      }
      nowMs = until;
      await settle();
    },
    get nextMs() {
      const next = earliest();
      return next === undefined ? undefined : next.atMs - nowMs;
    },
  };
}

/** Lets everything run that waits for no timer and no input. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
