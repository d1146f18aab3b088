/** Long work: resolves when its timers, sockets and children are gone. */
export type Task = (stop: AbortSignal) => Promise<void>;

/**
 * Runs tasks together. The first to end, well or badly, stops the others; all are awaited.
 * @throws the error of the first task that failed
 */
export async function runGroup(stop: AbortSignal, tasks: readonly Task[]): Promise<void> {
  const ended = new AbortController();
  const inner = AbortSignal.any([stop, ended.signal]);
  const failures: unknown[] = [];
  await Promise.all(
    tasks.map(async (task) => {
      try {
        await task(inner);
      } catch (error) {
        failures.push(error);
      } finally {
        ended.abort();
      }
    }),
  );
  if (failures.length > 0) throw failures[0];
}
