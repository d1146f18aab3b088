/** Where time comes from, handed in as an argument so that tests never sleep. */
export interface Clock {
  now(): Date;
  /** Resolves after `ms`, or at once when `stop` aborts. Never rejects. */
  sleep(ms: number, stop?: AbortSignal): Promise<void>;
}

/** A timer's longest delay; a longer one would fire at once. */
const timerMsMax = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => new Date(),
  sleep: (ms, stop) =>
    new Promise((resolve) => {
      if (stop?.aborted === true) return resolve();
      const done = () => {
        clearTimeout(timer);
        stop?.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, Math.min(Math.max(ms, 0), timerMsMax));
      stop?.addEventListener("abort", done);
    }),
};
