import { describe, expect, test } from "bun:test";
import { type LogFormat, logFormats, type LogLevel, logLevels, openLog } from "../../../src/base/log.ts";

const time = new Date(2026, 5, 29, 14, 28, 5, 66);
const pid = String(process.pid).padStart(7);

function linesOf(format: LogFormat, level: LogLevel = "debug"): string[] {
  const lines: string[] = [];
  const log = openLog({ level, format, write: (line) => lines.push(line), now: () => time });
  for (const each of logLevels)
    log[each]("lease acquired", { subnet: "10.5.1.0-24", why: "a\nb", peer: undefined });
  return lines;
}

/** What is written of one message whose field comes from outside. */
function lineOf(format: LogFormat, value: unknown): string {
  let written = "";
  const now = () => new Date(0);
  openLog({ level: "info", format, now, write: (line) => (written += line) }).warn("told", { value });
  return written;
}

/** A newline, escapes of seven and eight bits, what turns the direction of writing, half a character. */
const hostile = 'a\nb\u001b[31m\u009b2J\u202e\u2066"\u007f\ud800';

describe("log", () => {
  test("text: time, level, message, and fields that stay on their line", () => {
    const rest = 'lease acquired subnet=10.5.1.0-24 why="a\\nb"\n';
    expect(linesOf("text")).toEqual(
      ["ERROR", "WARN ", "INFO ", "DEBUG"].map((level) => `${time.toISOString()} ${level} ${rest}`),
    );
  });

  test("klog: the head of a line is what flanneld writes and its readers expect", () => {
    const rest = 'lease acquired subnet=10.5.1.0-24 why="a\\nb"\n';
    expect(linesOf("klog")).toEqual(
      ["E", "W", "I", "I"].map(
        (severity) => `${severity}0629 14:28:05.066000 ${pid} flannel-lite:1] ${rest}`,
      ),
    );
    // The pattern by which fluentd's examples take klog's lines apart.
    const pattern = /^(\w)(\d{4} [\d:.]+)\s+(\d+)\s+([^ :]+:\d+)\] (.*)$/;
    expect(pattern.exec(linesOf("klog")[2]?.trim() ?? "")?.slice(1, 5)).toEqual([
      ...["I", "0629 14:28:05.066000", String(process.pid), "flannel-lite:1"],
    ]);
  });

  test("json: one object a line", () => {
    expect(linesOf("json").map((line) => JSON.parse(line) as unknown)).toEqual(
      logLevels.map((level) => ({
        ...{ time: time.toISOString(), level, message: "lease acquired" },
        ...{ subnet: "10.5.1.0-24", why: "a\nb" },
      })),
    );
  });

  test.each(logFormats)("%s: a level includes those before it, and both may change", (format) => {
    expect(linesOf(format, "error")).toHaveLength(1);
    const lines: string[] = [];
    const log = openLog({
      level: "error",
      format: "text",
      write: (line) => lines.push(line),
      now: () => time,
    });
    log.info("unheard");
    log.adjust({ level: "info", format });
    log.info("lease acquired", { subnet: "10.5.1.0-24", why: "a\nb" });
    expect(lines).toEqual(linesOf(format).slice(2, 3));
  });

  test("what comes from outside stays on its line and inside its field, and steers no terminal", () => {
    const escaped = '"a\\nb\\u001b[31m\\u009b2J\\u202e\\u2066\\"\\u007f\\ud800"';
    expect(lineOf("text", hostile)).toBe(`1970-01-01T00:00:00.000Z WARN  told value=${escaped}\n`);
    expect(lineOf("text", [hostile])).toMatch(/^\P{C}+\n$/u);
    for (const value of [hostile, { deep: [hostile] }]) {
      const line = lineOf("json", value);
      expect(line).toMatch(/^\P{C}+\n$/u);
      expect(JSON.parse(line)).toEqual({
        ...{ time: "1970-01-01T00:00:00.000Z", level: "warn", message: "told" },
        value,
      });
    }
  });

  test("text of other scripts is left readable", () => {
    expect(lineOf("text", "Zürich 東京")).toEndWith(' value="Zürich 東京"\n');
    expect(lineOf("text", "10.5.0.0/16")).toEndWith(" value=10.5.0.0/16\n");
  });
});
