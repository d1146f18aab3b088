import type { Clock } from "../../base/clock.ts";
import type { Cluster } from "./cluster.ts";
import { connectionFailure } from "./failure.ts";

export interface GuardOptions {
  readonly clock: Clock;
  /** How often the server of an open watch is asked for a sign of life; 10 s. */
  readonly probeMs?: number;
  /** A watch that said nothing for so long is opened again: its connection may be dead on the way; 5 min. */
  readonly silenceMsMax?: number;
}

export interface WatchGuard {
  heard(): void;
  /** It ended the watch because nothing came for long, which is no failure. */
  readonly silent: boolean;
  readonly ended: Promise<void>;
}

/**
 * A paused or cut-off server keeps its connections open and says nothing. So it is asked now and then, and
 * `connection` is aborted when it does not answer; that also ends the guard.
 */
export function guardWatch<M extends string>(
  { clock, probeMs = 10_000, silenceMsMax = 300_000 }: GuardOptions,
  connection: AbortController,
  probe: { cluster: Cluster<M>; endpoint: string; method: M; body: object },
): WatchGuard {
  const { cluster, endpoint, method, body } = probe;
  const { signal } = connection;
  let heardAt = clock.now().getTime();
  const guard = { heard: () => (heardAt = clock.now().getTime()), silent: false, ended: Promise.resolve() };
  const run = async () => {
    while (!signal.aborted) {
      await clock.sleep(probeMs, signal);
      if (signal.aborted) return;
      guard.silent = clock.now().getTime() - heardAt > silenceMsMax;
      if (guard.silent) return connection.abort();
      try {
        await cluster.callAt(endpoint, method, body, signal);
      } catch (error) {
        if (signal.aborted) return;
        cluster.avoid(endpoint);
        connection.abort(connectionFailure(error, endpoint).error);
      }
    }
  };
  guard.ended = run();
  return guard;
}
