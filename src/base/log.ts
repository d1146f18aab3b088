import { writeSync } from "node:fs";

export const logLevels = ["error", "warn", "info", "debug"] as const;
export type LogLevel = (typeof logLevels)[number];

export type LogFields = Readonly<Record<string, unknown>>;

/** Tells changes, never packets: a fixed message, then fields with fixed names. */
export interface Log {
  error(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  debug(message: string, fields?: LogFields): void;
}

export interface LogOptions {
  readonly level: LogLevel;
  readonly format: "text" | "json";
  /** Takes one line, newline included; standard error by default. */
  readonly write?: (line: string) => void;
  readonly now?: () => Date;
}

/** A log whose level and format may change. */
export interface AdjustableLog extends Log {
  adjust(to: Pick<LogOptions, "level" | "format">): void;
}

export function openLog({
  level,
  format,
  write = writeStderr,
  now = () => new Date(),
}: LogOptions): AdjustableLog {
  let going = { level, format };
  const at =
    (lineLevel: LogLevel) =>
    (message: string, fields: LogFields = {}) => {
      if (logLevels.indexOf(lineLevel) > logLevels.indexOf(going.level)) return;
      const render = going.format === "json" ? jsonLine : textLine;
      write(render(now(), lineLevel, message, fields));
    };
  return {
    error: at("error"),
    warn: at("warn"),
    info: at("info"),
    debug: at("debug"),
    adjust: (to) => (going = to),
  };
}

/** Says nothing; for commands whose output is their answer. */
export const silentLog: Log = { error() {}, warn() {}, info() {}, debug() {} };

function jsonLine(time: Date, level: LogLevel, message: string, fields: LogFields): string {
  return `${JSON.stringify({ time: time.toISOString(), level, message, ...fields })}\n`;
}

function textLine(time: Date, level: LogLevel, message: string, fields: LogFields): string {
  const rendered = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}=${fieldText(value)}`);
  return `${time.toISOString()} ${level.toUpperCase().padEnd(5)} ${message}${rendered.join("")}\n`;
}

function fieldText(value: unknown): string {
  const text = typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
  // Whatever came from outside stays on its line and inside its field.
  return /^[\w.:/@%+,&-]+$/.test(text) ? text : JSON.stringify(text);
}

function writeStderr(line: string): void {
  try {
    writeSync(2, line);
  } catch {
    // A closed or full standard error must not end the daemon.
  }
}
