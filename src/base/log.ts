import { writeSync } from "node:fs";

export const logLevels = ["error", "warn", "info", "debug"] as const;
export type LogLevel = (typeof logLevels)[number];

/** `klog`: as flanneld writes, for what reads its lines. */
export const logFormats = ["text", "json", "klog"] as const;
export type LogFormat = (typeof logFormats)[number];

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
  readonly format: LogFormat;
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
      write(lineOf[going.format](now(), lineLevel, message, fields));
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
  return `${harmlessJson({ time: time.toISOString(), level, message, ...fields })}\n`;
}

function textLine(time: Date, level: LogLevel, message: string, fields: LogFields): string {
  return `${time.toISOString()} ${level.toUpperCase().padEnd(5)} ${message}${fieldsText(fields)}\n`;
}

/**
 * `I0629 14:28:35.866793    5522 flannel-lite:1] message`: severity, local time, pid, and, as we name no lines,
 * the program in the place of file and line (k8s.io/klog/v2, formatHeader).
 */
function klogLine(time: Date, level: LogLevel, message: string, fields: LogFields): string {
  const two = (number: number) => String(number).padStart(2, "0");
  const day = `${two(time.getMonth() + 1)}${two(time.getDate())}`;
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(":");
  const fraction = `${String(time.getMilliseconds()).padStart(3, "0")}000`;
  const pid = String(process.pid).padStart(7);
  // klog has no severity below I.
  const severity = level === "debug" ? "I" : level.charAt(0).toUpperCase();
  return `${severity}${day} ${clock}.${fraction} ${pid} flannel-lite:1] ${message}${fieldsText(fields)}\n`;
}

function fieldsText(fields: LogFields): string {
  return Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}=${fieldText(value)}`)
    .join("");
}

type Line = (time: Date, level: LogLevel, message: string, fields: LogFields) => string;
const lineOf: Readonly<Record<LogFormat, Line>> = { text: textLine, json: jsonLine, klog: klogLine };

function fieldText(value: unknown): string {
  const text = typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
  // Whatever came from outside stays on its line and inside its field.
  return /^[\w.:/@%+,&-]+$/.test(text) ? text : harmlessJson(text);
}

/** JSON in which also those characters are escaped that it allows and that steer a terminal, or the eye. */
function harmlessJson(value: unknown): string {
  const escaped = (char: string) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(
    /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    escaped,
  );
}

function writeStderr(line: string): void {
  try {
    writeSync(2, line);
  } catch {
    // A closed or full standard error must not end the daemon.
  }
}
