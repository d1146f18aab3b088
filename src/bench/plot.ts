import type { Row } from "./row.ts";

const width = 760;
const labelWidth = 250;
const barHeight = 16;
const rowHeight = 26;
const top = 56;
const plotWidth = width - labelWidth - 70;

/**
 * The rows' ratios as bars with whiskers from the smallest to the largest, on a logarithmic axis: half and double
 * are equally far from 1. Bars grow from 1.
 */
export function plotRatios(rows: readonly Row[], title: string): string {
  const bounds = rows.flatMap(({ min, max, must = 1 }) => [min, max, must]).filter((value) => value > 0);
  const low = Math.min(0.5, ...bounds) / 1.1;
  const high = Math.max(2, ...bounds) * 1.1;
  const x = (ratio: number) => {
    const inside = Math.min(high, Math.max(low, ratio));
    return round(labelWidth + (plotWidth * Math.log(inside / low)) / Math.log(high / low));
  };
  const bottom = top + rows.length * rowHeight;
  const ticks = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].filter((tick) => tick >= low && tick <= high);
  const parts = [
    ...ticks.map(
      (tick) =>
        `<line x1="${x(tick)}" x2="${x(tick)}" y1="${top - 6}" y2="${bottom}" class="${tick === 1 ? "one" : "grid"}"/>` +
        `<text x="${x(tick)}" y="${top - 12}" text-anchor="middle">${tick}</text>`,
    ),
    ...rows.map((row, at) => bar(row, top + at * rowHeight, x)),
  ];
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${bottom + 16}" viewBox="0 0 ${width} ${bottom + 16}" role="img" aria-label="${escaped(title)}">
<style>
text { font: 12px sans-serif; fill: #333 }
.title { font-weight: bold }
.grid { stroke: #ddd } .one { stroke: #333 }
.better { fill: #4c9a6a } .worse { fill: #c47a4a }
.whisker { stroke: #222; fill: none } .must { stroke: #a00; stroke-width: 2 }
</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="8" y="20" class="title">${escaped(title)}</text>
${parts.join("\n")}
</svg>
`;
}

function bar({ name, mode, ratio, min, max, must, lowerIsBetter }: Row, y: number, x: (r: number) => number) {
  const middle = y + barHeight / 2;
  const [from, to] = [Math.min(x(1), x(ratio)), Math.max(x(1), x(ratio))];
  const better = lowerIsBetter ? ratio <= 1 : ratio >= 1;
  return [
    `<text x="8" y="${middle + 4}">${escaped(name)}${mode === "wire" ? "" : ` (${mode})`}${lowerIsBetter ? " ↓" : ""}</text>`,
    `<rect x="${from}" y="${y}" width="${round(to - from)}" height="${barHeight}" class="${better ? "better" : "worse"}"/>`,
    `<path d="M${x(min)} ${middle - 5}v10M${x(min)} ${middle}H${x(max)}M${x(max)} ${middle - 5}v10" class="whisker"/>`,
    must === undefined
      ? ""
      : `<line x1="${x(must)}" x2="${x(must)}" y1="${y - 2}" y2="${y + barHeight + 2}" class="must"/>`,
    `<text x="${width - 62}" y="${middle + 4}">${ratio.toFixed(2)}</text>`,
  ].join("");
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function escaped(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}
