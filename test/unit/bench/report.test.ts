import { expect, test } from "bun:test";
import { plotRatios } from "../../../src/bench/plot.ts";
import { type Report, reportJson, reportMarkdown, reportText } from "../../../src/bench/report.ts";
import type { Row } from "../../../src/bench/row.ts";

const row: Row = {
  name: "tcp1/userspace",
  mode: "wire",
  ratio: 1.04,
  min: 0.8,
  max: 1.2,
  rounds: 5,
  of: "userspace",
  against: "kernel",
  value: 7.8,
  base: 7.5,
  unit: "Gbit/s",
  lowerIsBetter: false,
  retransmits: [0, 3],
  must: 0.9,
  aim: 1.15,
};

const report: Report = {
  rows: [
    row,
    { ...row, name: "rtt/default", ratio: 1.7, unit: "us", lowerIsBetter: true, must: 1.8, aim: 1.3 },
    { ...row, name: "pps64/userspace", ratio: 0.5, unit: "kpps", lost: [0.4, 0], must: 1.1, aim: 1.4 },
  ],
  skipped: [{ name: "tinc", reason: "tinc is not installed" }],
  restless: [{ design: "tinc", mode: "wire", cores: 0.5 }],
  drops: [{ design: "userspace", mode: "wire", reasons: { multicast: 4, tunError: 3 } }],
  facts: [
    { name: "binary", value: 114.1, unit: "MiB" },
    { name: "leases-1/idle-rss", value: 80, unit: "MiB" },
    { name: "leases-1/lease-to-packet", value: 12.3, unit: "ms" },
    { name: "leases-10000/idle-rss", value: 120, unit: "MiB" },
  ],
  machine: {
    cpu: "Some CPU",
    cores: 2,
    memoryGiB: 8,
    kernel: "6.1.0",
    virtual: true,
    version: "0.0.0",
    date: "2000-01-01",
    othersBusyCores: 0,
  },
  seconds: 2,
};

test("bench: each row says which of its goals it reaches, whichever way is better", () => {
  const lines = reportMarkdown(report)
    .split("\n")
    .filter((line) => line.includes("| wire |"));
  expect(lines.map((line) => line.split(" | ").at(-1))).toEqual([
    "must; sent again 0, 3 |",
    "must; sent again 0, 3 |",
    "missed; lost 40 %, 0 % |",
  ]);
});

test("bench: what was not measured and what was dropped is said", () => {
  for (const text of [reportText(report), reportMarkdown(report)]) {
    expect(text).toContain("Not measured: tinc: tinc is not installed.");
    expect(text).toContain("all runs together: 3 tunError.");
    expect(text).toContain("tinc kept 0.5 cores busy");
    expect(text).toContain("Linux 6.1.0, 2000-01-01; 2 s a run");
    expect(text).not.toContain("others kept");
  }
});

test("bench: the control plane has a line for each number of leases, with a gap where nothing was measured", () => {
  const lines = reportMarkdown(report).split("\n");
  expect(lines).toContain("| leases | idle-rss, MiB | lease-to-packet, ms |");
  expect(lines).toContain("| 1 | 80.0 | 12.3 |");
  expect(lines).toContain("| 10000 | 120 |  |");
  expect(reportText(report)).toContain("The binary has 114 MiB.");
  expect(reportText({ ...report, facts: [] })).not.toContain("leases");
});

test("bench: JSON is one line with the rows as they are", () => {
  const text = reportJson(report);
  expect(text.trimEnd()).not.toContain("\n");
  expect((JSON.parse(text) as Report).rows).toEqual([...report.rows]);
});

test("bench: the plot is well-formed, with a bar, a whisker and a goal for each row", async () => {
  const svg = plotRatios([...report.rows, { ...row, name: `a<b>&"c"`, ratio: 17, max: 30 }], "A & B");
  const seen: string[] = [];
  await new HTMLRewriter()
    .on("rect[width][class]", { element: ({ tagName }) => void seen.push(tagName) })
    .on("path.whisker", { element: ({ tagName }) => void seen.push(tagName) })
    .on("line.must", { element: ({ tagName }) => void seen.push(tagName) })
    .transform(new Response(svg))
    .text();
  expect(seen.filter((tag) => tag === "rect")).toHaveLength(4);
  expect(seen.filter((tag) => tag === "path")).toHaveLength(4);
  expect(seen.filter((tag) => tag === "line")).toHaveLength(4);
  expect(svg).toContain("a&lt;b&gt;&amp;&quot;c&quot;");
  expect(svg).not.toContain("NaN");
});
