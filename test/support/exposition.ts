/** One series as a reader of Prometheus' text format sees it. */
export interface Series {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Page {
  readonly types: ReadonlyMap<string, string>;
  readonly series: readonly Series[];
  /** The value of the one series with this name and these labels. */
  value(name: string, labels?: Readonly<Record<string, string>>): number | undefined;
}

/**
 * Reads Prometheus' text format 0.0.4, and stricter than it has to be read: HELP and TYPE once before each
 * family's samples, families together, no series twice, no empty line, a newline at the end.
 * @throws Error naming the line
 */
export function parseExposition(text: string): Page {
  if (!text.endsWith("\n")) throw new Error("no newline at the end");
  const types = new Map<string, string>();
  const series: Series[] = [];
  const seen = new Set<string>();
  let helped: string | undefined;
  let family: string | undefined;
  for (const line of text.slice(0, -1).split("\n")) {
    const wrong = (why: string) => new Error(`${why}: ${line}`);
    const [, kind, name, rest] =
      /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) ((?:[^\\]|\\\\|\\n)+)$/.exec(line) ?? [];
    if (kind === "HELP") {
      if (name === undefined || types.has(name)) throw wrong("a second HELP");
      helped = name;
      continue;
    }
    if (kind === "TYPE") {
      if (name === undefined || name !== helped || types.has(name)) throw wrong("TYPE without its HELP");
      if (rest !== "counter" && rest !== "gauge") throw wrong("an unknown type");
      if ((rest === "counter") !== name.endsWith("_total")) throw wrong("only counters end in _total");
      types.set(name, rest);
      family = name;
      continue;
    }
    const sample = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9.e+-]+|NaN|[+-]Inf)$/.exec(line);
    if (sample === null) throw wrong("neither comment nor sample");
    const [, of = "", labelText = "", value = ""] = sample;
    if (of !== family) throw wrong("a sample outside of its family");
    const labels = parseLabels(labelText);
    const key = `${of} ${JSON.stringify(Object.entries(labels).sort())}`;
    if (seen.has(key)) throw wrong("a series that was there before");
    seen.add(key);
    series.push({ name: of, labels, value: Number(value.replace("Inf", "Infinity")) });
  }
  return {
    types,
    series,
    value: (name, labels = {}) =>
      series.find((one) => one.name === name && Bun.deepEquals(one.labels, labels))?.value,
  };
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  let rest = text;
  while (rest !== "") {
    const pair = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\\\|\\"|\\n)*)"(,|$)/.exec(rest);
    const [whole = "", name = "", value = ""] = pair ?? [];
    if (pair === null || name in labels) throw new Error(`labels: ${rest}`);
    labels[name] = value.replace(/\\(.)/g, (_, escaped: string) => (escaped === "n" ? "\n" : escaped));
    rest = rest.slice(whole.length);
  }
  return labels;
}
