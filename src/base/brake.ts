import type { Clock } from "./clock.ts";

/** That many repairs within {@link contestedWithinMs} are a fight: repairs then wait, doubling from 1 s to 60 s. */
const contestedRepairs = 5;
const contestedWithinMs = 60_000;
const pauseMsMin = 1_000;
const pauseMsMax = 60_000;
/** A fight is over when nothing had to be repaired for this long. */
const quietMs = 180_000;

/** Slows down the repair of one thing that somebody else keeps undoing. */
export interface Brake {
  /** Notes a repair. @returns whether with it a fight began */
  repaired(): boolean;
  /** Somebody keeps undoing it. */
  readonly contested: boolean;
  /** How long the next repair must wait; 0 for not at all. */
  readonly waitMs: number;
  /** Nothing had to be repaired for so long that nothing of it matters any more. */
  readonly quiet: boolean;
}

export function openBrake(clock: Pick<Clock, "now">): Brake {
  let recent: readonly number[] = [];
  let pauseMs = 0;
  const now = () => clock.now().getTime();
  const last = () => recent.at(-1) ?? -Infinity;
  const brake: Brake = {
    repaired() {
      const fighting = brake.contested;
      const at = now();
      recent = [...recent, at].slice(-contestedRepairs);
      const lately = recent.filter((one) => one > at - contestedWithinMs).length;
      const braked = fighting || lately >= contestedRepairs;
      pauseMs = braked ? Math.min(Math.max(pauseMs * 2, pauseMsMin), pauseMsMax) : 0;
      return braked && !fighting;
    },
    get contested() {
      return pauseMs > 0 && !brake.quiet;
    },
    get waitMs() {
      return Math.max(0, last() + pauseMs - now());
    },
    get quiet() {
      return last() <= now() - quietMs;
    },
  };
  return brake;
}
