import type { PacketResult } from "./bench.ts";
import type { Fact } from "./control-plane.ts";
import type { Machine } from "./machine.ts";
import type { Row } from "./row.ts";

/** All that a bench found. */
export interface Report extends PacketResult {
  readonly machine: Machine;
  /** Of the control plane; empty where rows were chosen. */
  readonly facts: readonly Fact[];
  /** Of one run. */
  readonly seconds: number;
}

export function reportJson(report: Report): string {
  return `${JSON.stringify(report)}\n`;
}

/** The tables for a terminal. */
export function reportText(report: Report): string {
  const facts = factTable(report.facts);
  return `${[
    machineLine(report),
    "",
    ...alignedLines(reportTable(report.rows), isNumeric),
    ...(facts.length > 1 ? ["", ...alignedLines(facts, (at) => at > 0)] : []),
    "",
    ...notes(report),
  ]
    .join("\n")
    .trimEnd()}\n`;
}

function alignedLines(rows: readonly (readonly string[])[], toRight: (column: number) => boolean): string[] {
  const widths = (rows[0] ?? []).map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, at) => (toRight(at) ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0)))
      .join("  ")
      .trimEnd(),
  );
}

/** The page of docs/performance. */
export function reportMarkdown(report: Report): string {
  const facts = factTable(report.facts);
  return `${[
    "# Performance",
    "",
    'Written by `make bench BENCH_ARGS="--write-docs docs/performance"`; do not edit.',
    "",
    machineLine(report),
    "",
    "![Ratios](bench.svg)",
    "",
    ...markdownTable(reportTable(report.rows), isNumeric),
    "",
    ...notes(report).map((note) => `- ${note}`),
    "",
    ...(facts.length > 1 ? ["## Control plane", "", ...markdownTable(facts, (at) => at > 0), ""] : []),
    ...method,
  ].join("\n")}\n`;
}

function markdownTable(
  [head = [], ...body]: readonly (readonly string[])[],
  toRight: (column: number) => boolean,
) {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, at) => (toRight(at) ? "---:" : "---"))), ...body.map(line)];
}

/** One line for each number of leases, one column for each figure. */
function factTable(facts: readonly Fact[]): string[][] {
  const parts = facts.map(({ name, value, unit }) => {
    const [first = "", second] = name.split("/");
    return {
      line: second === undefined ? "" : first.replace("leases-", ""),
      column: `${second ?? first}, ${unit}`,
      value,
    };
  });
  const columnsOfLeases = [...new Set(parts.filter(({ line }) => line !== "").map(({ column }) => column))];
  const lines = [...new Set(parts.map(({ line }) => line))].filter((line) => line !== "");
  const cell = (line: string, column: string) =>
    parts.find((part) => part.line === line && part.column === column);
  return [
    ["leases", ...columnsOfLeases],
    ...lines.map((line) => [
      line,
      ...columnsOfLeases.map((column) => {
        const value = cell(line, column)?.value;
        return value === undefined ? "" : short(value);
      }),
    ]),
  ];
}

const columns = ["row", "mode", "ratio", "range", "rounds", "measured", "against", "unit", "must", "aim", ""];

function isNumeric(column: number): boolean {
  return [2, 3, 4, 5, 6, 8, 9].includes(column);
}

function reportTable(rows: readonly Row[]): string[][] {
  return [
    columns,
    ...rows.map((row) => [
      row.name,
      row.mode,
      row.ratio.toFixed(2),
      `${row.min.toFixed(2)}–${row.max.toFixed(2)}`,
      String(row.rounds),
      short(row.value),
      short(row.base),
      row.unit,
      row.must === undefined ? "" : bound(row, row.must),
      row.aim === undefined ? "" : bound(row, row.aim),
      [verdict(row), trouble(row)].filter((part) => part !== "").join("; "),
    ]),
  ];
}

function bound({ lowerIsBetter }: Row, value: number): string {
  return `${lowerIsBetter ? "≤" : "≥"} ${value}`;
}

function verdict({ ratio, must, aim, lowerIsBetter }: Row): string {
  const reaches = (goal: number) => (lowerIsBetter ? ratio <= goal : ratio >= goal);
  if (aim !== undefined && reaches(aim)) return "aim";
  if (must === undefined) return "";
  return reaches(must) ? "must" : "missed";
}

function trouble({ retransmits, lost }: Row): string {
  if (lost !== undefined) {
    const percent = (share: number) => `${Math.round(share * 100)} %`;
    return `lost ${percent(lost[0])}, ${percent(lost[1])}`;
  }
  if (retransmits === undefined || retransmits[0] + retransmits[1] === 0) return "";
  return `sent again ${retransmits[0]}, ${retransmits[1]}`;
}

function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function machineLine({ machine, seconds }: Report): string {
  const { cpu, cores, memoryGiB, kernel, virtual, version, date } = machine;
  const kind = virtual ? "a virtual machine" : "a machine";
  return `flannel-lite ${version} on ${kind} with ${cores} cores of ${cpu} and ${memoryGiB} GiB, Linux ${kernel}, ${date}; ${seconds} s a run.`;
}

function notes({ skipped, drops, restless, machine, facts }: Report): string[] {
  const binary = facts.find(({ name }) => name === "binary");
  return [
    ...(binary === undefined ? [] : [`The binary has ${short(binary.value)} ${binary.unit}.`]),
    ...(machine.othersBusyCores > 0.1
      ? [`Before the start others kept ${machine.othersBusyCores} cores busy: the figures are theirs too.`]
      : []),
    ...restless.map(
      ({ design, mode, cores }) =>
        `While nothing was measured over it, ${design} kept ${cores} cores busy in mode ${mode}: all figures suffer from it.`,
    ),
    ...skipped.map(({ name, reason }) => `Not measured: ${name}: ${reason}.`),
    ...drops
      .map(({ design, mode, reasons }) => ({
        design,
        mode,
        // What hosts say to all their neighbours at start is no loss.
        list: Object.entries(reasons)
          .filter(([reason]) => reason !== "multicast")
          .map(([reason, count]) => `${count} ${reason}`),
      }))
      .filter(({ list }) => list.length > 0)
      .map(({ design, mode, list }) => {
        return `Dropped by the engines of ${design} in mode ${mode}, all runs together: ${list.join(", ")}.`;
      }),
  ];
}

const method = [
  "## How it is measured",
  "",
  "Two network namespaces joined by a veth are the hosts; sender, receiver, both ends of the overlay and the kernel's",
  "work for all of them share the machine's cores. A ratio compares two designs in the same round, run one after the",
  "other; the table shows the median over all rounds and the range. Every other round goes the other way round.",
  "Unless the row's name says otherwise, it is against the kernel's vxlan device at both ends, as flannel makes it.",
  "",
  "- `wire`, the mode of the goals: segmentation by the link is off, also that of UDP and of tunnels; GRO is on;",
  "  checksums are computed. The bench looks at the link's features after setting them, and at the size of what",
  "  crossed it after each TCP run. `nic` leaves checksums unfinished; `plain` has no GRO; `nocsum` is `plain` with",
  "  checksums; `offload` passes packets of 64 KiB whole, which no wire does.",
  "- `tcp1`, `tcp4`: iperf3, one and four connections. `cpu`: CPU seconds of the whole machine per gigabit received.",
  "- `forwarded`: from a pod behind a bridge on the sender's host.",
  "- `pps64`: datagrams of 64 bytes that arrived at a socket, offered as fast as the sender's kernel takes them;",
  "  `x1000`: in turn to 1,000 leases, each with an endpoint of its own, all of them the receiver's.",
  "- `rtt`: median round trip of one byte over TCP.",
  "- `from-kernel`: the sender is a kernel's device without outer checksum; `from-kernel-checksum`: with.",
  "- Control plane: a daemon on etcd that finds so many leases. `lease-to-packet`: from a new lease in etcd to the",
  "  first packet at its host; `table-swap`: handing the engine its whole table; `idle-cpu`: over five seconds, six after it",
  "  is ready; `idle-rss`: all of the daemon's memory after that.",
  "- `store-…`: the embedded store against a real etcd of one member on the same disk, by one client over etcd's JSON",
  "  gateway, which is what our daemons speak: medians of one put, range of 1,000 keys or transaction of two puts after",
  "  the other; with 500 watchers the time from a put until all have its event, the events delivered a second while puts",
  "  follow each other, and the server's resident memory just then. Each round begins with empty stores.",
  "- `kube-…`: a daemon with its leases in the nodes of Kubernetes, 5,000 against 50, each of 12 KB, served by a small API",
  "  server of the test suite: start to ready, the server's work included; from a node's change of host to the first",
  "  packet there; memory after two idle seconds, and the most until then.",
  "- `vs-…`: our engine at both ends against that program at both ends. wireguard-go encrypts; tinc and flannel's udp",
  "  backend as set up here do not, and neither does VXLAN.",
];
