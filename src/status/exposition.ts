/** One metric family of Prometheus' text format 0.0.4. */
export interface Family {
  /** Without the program's prefix; counters end in `_total`, units are base units and stand at the end. */
  readonly name: string;
  readonly type: "counter" | "gauge";
  readonly help: string;
  readonly samples: readonly Sample[];
}

export interface Sample {
  readonly labels?: Readonly<Record<string, string>>;
  readonly value: number;
}

/**
 * The families as text, each with HELP and TYPE; one without samples is left out. Of samples with equal labels
 * the sum is told, since a reader refuses the whole page for a series that is there twice.
 */
export function expositionText(prefix: string, families: readonly Family[]): string {
  return families
    .filter(({ samples }) => samples.length > 0)
    .map(({ name, type, help, samples }) => {
      const series = new Map<string, number>();
      for (const { labels = {}, value } of samples) {
        const key = labelsText(labels);
        series.set(key, (series.get(key) ?? 0) + value);
      }
      const lines = [...series].map(([labels, value]) => `${prefix}${name}${labels} ${numberText(value)}\n`);
      const header = `# HELP ${prefix}${name} ${escapeHelp(help)}\n# TYPE ${prefix}${name} ${type}\n`;
      return header + lines.join("");
    })
    .join("");
}

/** Longest label value; values from outside must not make a page of their own. */
const labelCharsMax = 256;

function labelsText(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escapeLabel(value: string): string {
  return escapeHelp(value.slice(0, labelCharsMax)).replaceAll('"', String.raw`\"`);
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", String.raw`\\`).replaceAll("\n", String.raw`\n`);
}

function numberText(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  return Number.isFinite(value) ? `${value}` : value > 0 ? "+Inf" : "-Inf";
}
