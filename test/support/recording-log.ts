import type { Log, LogFields } from "../../src/base/log.ts";

/** A log that keeps what it was told, for tests. */
export interface RecordingLog extends Log {
  readonly messages: readonly string[];
  /** Messages with their fields, as JSON. */
  readonly lines: readonly string[];
  /** Resolves once a message begins with `start`, also one from before. */
  seen(start: string): Promise<void>;
}

export function recordingLog(): RecordingLog {
  const messages: string[] = [];
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  const add = (message: string, fields: LogFields = {}) => {
    messages.push(message);
    lines.push(JSON.stringify({ message, ...fields }));
    for (const look of waiting) look();
  };
  return {
    messages,
    lines,
    error: add,
    warn: add,
    info: add,
    debug: add,
    seen: (start) =>
      new Promise((resolve) => {
        const look = () => {
          if (!messages.some((message) => message.startsWith(start))) return;
          waiting.delete(look);
          resolve();
        };
        waiting.add(look);
        look();
      }),
  };
}
