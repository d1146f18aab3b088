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
});
