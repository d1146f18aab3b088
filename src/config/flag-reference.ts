import { flanneldFlagsGone, flanneldFlagsWithoutEffect } from "./flanneld-flags.ts";
import { configVariable } from "./from-text.ts";
import { defaultConfigPath, ownFlags } from "./load.ts";
import { flanneldVariable, type Section, sections, type Setting } from "./schema.ts";
import { tomlText } from "./toml-text.ts";

const head = `# Flags, variables and keys

Every option, as \`flannel-lite -help\` tells it too. It comes from the first of flag, environment, configuration
file and default; \`flannel-lite check\` prints the values in effect and where each comes from. flanneld's flags and
variables have their names and mean the same; \`FLANNEL_LITE_X\` wins over \`FLANNELD_X\`.

Flags are written as Go writes them: one dash or two, the value behind \`=\` or as the next word, for booleans only
behind \`=\`. A list takes its flag again for each entry, \`etcd-endpoints\` takes commas. An unknown flag, a value that
cannot be read and a word that is left over end the program with 2 before it touches anything (flanneld: 0, or it
goes on without); an unknown variable with one of the two prefixes is a warning, an empty one counts as unset.

A change marked \`live\` is applied by \`flannel-lite reload\` (\`systemctl reload flannel-lite\`, or SIGHUP) while packets
go on; one marked \`restart\` is named by it and waits for the next start. See [reload](reload.md).

Started under the name \`flanneld\` the program takes no command but only these flags, and behaves as \`run\`: it reads
${inCode(defaultConfigPath)} where that exists, \`-version\` and \`-help\` answer on standard error, and a word left over
behind the last flag is a warning, as flanneld ignores it.

This page is made from the schema by \`make example\`.
`;

/** The text of docs/flags.md. */
export function flagReference(): string {
  return [
    head,
    "## General\n",
    ...table(
      ["flag", "environment", "meaning"],
      ownFlags.map(({ name, doc }) => [
        inCode(`-${name}`),
        name === "config" ? inCode(configVariable) : "",
        name === "config" ? `${doc} Default ${inCode(defaultConfigPath)}, which need not.` : doc,
      ]),
    ),
    ...sections.flatMap(sectionLines),
    "## Without effect\n",
    "Taken because flanneld has them or had them, with a warning that says why nothing comes of it.\n",
    ...table(
      ["flag", "environment", "why"],
      flanneldFlagsWithoutEffect.map(({ name, reason }) => [
        inCode(`-${name}`),
        inCode(flanneldVariable(name)),
        reason,
      ]),
    ),
    "## Refused\n",
    "Flags of old guides that flanneld does not take either.\n",
    ...table(
      ["flag", "why"],
      [...flanneldFlagsGone].map(([name, why]) => [inCode(`-${name}`), why]),
    ),
  ]
    .join("\n")
    .replace(/\n+$/, "\n");
}

function sectionLines({ path, doc, settings }: Section): string[] {
  return [
    `## ${path === "" ? "Top level" : path}\n`,
    ...(doc === "" ? [] : [`${doc}\n`]),
    ...table(
      ["flag", "environment", "TOML", "default", "a change", "meaning"],
      settings.flatMap(settingRows),
    ),
  ];
}

/** A row for the setting, and one for flanneld's other flag of it. */
function settingRows({ path, option, flags, variables }: Setting): string[][] {
  const also = option.alsoFlag;
  const alsoVariable = also === undefined ? undefined : flanneldVariable(also.name);
  const own = variables.map(({ name }) => name).filter((name) => name !== alsoVariable);
  const row = [
    inCode(`-${flags[0]?.name}`),
    own.map(inCode).join(" "),
    option.secret ? "not there" : inCode(path),
    option.fallback === undefined ? "" : inCode(tomlText(option.fallback)),
    option.live === undefined ? "restart" : "live",
    `${option.doc} Takes ${option.kind.allowed}.`,
  ];
  return also === undefined
    ? [row]
    : [row, [inCode(`-${also.name}`), inCode(alsoVariable ?? ""), inCode(path), "", row[4] ?? "", also.doc]];
}

function table(titles: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(titles), line(titles.map(() => "---")), ...rows.map(line), ""];
}

function inCode(text: string): string {
  return `\`${text}\``;
}
