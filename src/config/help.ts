import { configVariable } from "./from-text.ts";
import { type CommandFlag, defaultConfigPath, ownFlags } from "./load.ts";
import { flanneldFlagsWithoutEffect } from "./flanneld-flags.ts";
import { flanneldVariable, sections, type Setting } from "./schema.ts";
import { commaForm } from "./text-form.ts";
import { tomlText } from "./toml-text.ts";
import { wrapped } from "./wrap.ts";

export interface CommandHelp {
  readonly name: string;
  readonly doc: string;
  /** What it takes beside flags, as a usage line. */
  readonly words?: string;
  /** Beside those of the configuration, which every command takes. */
  readonly flags?: readonly CommandFlag[];
}

const indent = " ".repeat(8);

/** The whole answer to `-help`, newline at the end. The first command is the one that needs no name. */
export function helpText({
  commands,
  program = "flannel-lite",
}: {
  readonly commands: readonly CommandHelp[];
  readonly program?: string;
}): string {
  const nameWidth = Math.max(...commands.map(({ name }) => name.length), 0) + 4;
  const [first] = commands;
  return `${[
    `Usage: ${program} ${first === undefined ? "" : "[COMMAND] "}[OPTION]...`,
    "",
    ...(first === undefined ? [] : [`Commands (${first.name} where none is named):`]),
    ...commands.map(({ name, doc, words }) =>
      wrapped(
        words === undefined ? doc : `${doc} Takes ${words}.`,
        `  ${name.padEnd(nameWidth - 2)}`,
        " ".repeat(nameWidth),
      ),
    ),
    ...(first === undefined ? [] : [""]),
    wrapped(
      "An option comes from the first of: flag, environment, configuration file, default. Flags take one " +
        "dash or two, and their value behind = or as the next word; boolean ones only behind =. " +
        "FLANNEL_LITE_X wins over FLANNELD_X.",
    ),
    "",
    "General:",
    ...ownFlags.map((flag) =>
      flag.name === "config"
        ? `${flagText(flag)}\n${indent}default ${defaultConfigPath}; env ${configVariable}`
        : flagText(flag),
    ),
    ...commands.flatMap(({ name, flags = [] }) =>
      flags.length === 0 ? [] : ["", `${name} alone:`, ...flags.map(flagText)],
    ),
    ...sections.flatMap(({ path, doc, settings }) => [
      "",
      wrapped(path === "" ? "Top level:" : `${path}: ${doc}`),
      ...settings.flatMap(stanzas),
    ]),
    "",
    "Without effect, taken because flanneld has them:",
    ...flanneldFlagsWithoutEffect.map(
      ({ name, form, reason }) =>
        `  -${name}${form.isBool ? "" : ` ${form.label}`}\n${wrapped(`${reason}; env ${flanneldVariable(name)}`, indent, indent)}`,
    ),
  ].join("\n")}\n`;
}

function flagText({ name, doc, isBool }: CommandFlag): string {
  return `  -${name}${isBool ? "" : " string"}\n${wrapped(doc, indent, indent)}`;
}

/** One stanza per flag of the setting: name and type, what it is, where else it can be said. */
function stanzas({ path, option, flags, variables }: Setting): string[] {
  return flags.map(({ name, form }) => {
    const isAlso = option.alsoFlag?.name === name;
    const env = isAlso
      ? [flanneldVariable(name)]
      : variables
          .map((variable) => variable.name)
          .filter((one) => one !== flanneldVariable(option.alsoFlag?.name ?? ""));
    const allowed = isAlso ? "" : ` Takes ${option.kind.allowed}.`;
    const repeat = form.collects
      ? " Repeat it for more."
      : form === commaForm
        ? " Separate them by commas."
        : "";
    const facts = [
      option.fallback === undefined || isAlso ? "" : `default ${tomlText(option.fallback)}`,
      option.secret ? "" : `toml ${path}`,
      `env ${env.join(", ")}`,
    ];
    return [
      `  -${name}${form.isBool ? "" : ` ${form.label}`}`,
      wrapped((isAlso ? (option.alsoFlag?.doc ?? "") : option.doc) + allowed + repeat, indent, indent),
      wrapped(facts.filter((fact) => fact !== "").join("; "), indent, indent),
    ].join("\n");
  });
}
