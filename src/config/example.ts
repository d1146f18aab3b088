import { isTable } from "./toml.ts";
import { type Section, sections, type Setting } from "./schema.ts";
import { tomlKey, tomlText } from "./toml-text.ts";
import { wrapped } from "./wrap.ts";

const head = `# Configuration of flannel-lite, read from /etc/flannel/config.toml unless -config names another.
# Every option that a file can set is here. A # right before a key holds back the default, or an
# example where there is no default: take it away to change the value. Each option is also a flag
# and an environment variable, named with it; the first of flag, environment, this file and default
# counts.
# "flannel-lite reload" applies a changed value where that is said, and tells what takes a restart.
# "flannel-lite check" prints the values in effect and where each of them comes from.
# This text is made from the schema by src/config/write-example.ts.
`;

/** The text of config.toml.example: loading it gives the defaults. */
export function exampleText(): string {
  return [head, ...sections.map(sectionText)].join("\n");
}

function sectionText({ path, doc, settings }: Section): string {
  const header = path === "" ? "" : `${comment(doc)}\n[${path}]\n`;
  return (
    header +
    settings
      .filter(({ option }) => !option.secret)
      .map(settingText)
      .join("\n")
  );
}

function settingText({ keys, option, flags, variables }: Setting): string {
  const names = [...flags.map(({ name }) => `-${name}`), ...variables.map(({ name }) => name)];
  const unset = option.fallback === undefined ? " No default." : "";
  const value = option.fallback ?? option.example;
  const live = option.live === undefined ? "" : " A reload applies it.";
  const about = [option.doc, `Takes ${option.kind.allowed}.${unset}${live}`, names.join(", ")]
    .map(comment)
    .join("\n");
  // An inline table is hard to read and to extend, so such a value gets a header of its own.
  if (isTable(value)) return `${about}\n${tableLines(keys, value).join("\n")}\n`;
  return `${about}\n#${tomlKey(keys.at(-1) ?? "")} = ${tomlText(value)}\n`;
}

function tableLines(keys: readonly string[], value: Record<string, unknown>): string[] {
  const entries = Object.entries(value);
  return [
    `#[${keys.map(tomlKey).join(".")}]`,
    ...entries
      .filter(([, inner]) => !isTable(inner))
      .map(([key, inner]) => `#${tomlKey(key)} = ${tomlText(inner)}`),
    ...entries.flatMap(([key, inner]) => (isTable(inner) ? tableLines([...keys, key], inner) : [])),
  ];
}

function comment(text: string): string {
  return wrapped(text, "# ", "# ");
}
