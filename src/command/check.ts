import type { CommandFlag, Loaded } from "../config/load.ts";
import { sections, type Setting } from "../config/schema.ts";
import { tomlText } from "../config/toml-text.ts";

/** `check` takes these beside the flags of `run`. */
export const checkFlags: readonly CommandFlag[] = [
  { name: "json", isBool: true, doc: "Print one JSON object: path to value and origin." },
];

/**
 * Tells every effective value and where it came from, a line each or as JSON; secrets are hidden. An option
 * that is not set is a comment among the lines, which are TOML, and null in JSON.
 */
export function checkOutput({ config, origins, commandFlags }: Loaded): string {
  const valueFor = ({ configKeys, option }: Setting): unknown => {
    const value = configKeys.reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], config);
    return option.secret && value !== undefined ? "<hidden>" : value;
  };
  const originFor = ({ path }: Setting): string => origins.get(path) ?? "default";
  const isJson = commandFlags.get("json") === "true";
  const lines = isJson ? jsonLines(valueFor, originFor) : textLines(valueFor, originFor);
  return `${lines.join("\n")}\n`;
}

type Of<Value> = (setting: Setting) => Value;

function jsonLines(valueFor: Of<unknown>, originFor: Of<string>): string[] {
  const settings = sections.flatMap((section) => section.settings);
  const entries = settings.map((one) => [one.path, { value: valueFor(one) ?? null, origin: originFor(one) }]);
  return [JSON.stringify(Object.fromEntries(entries), null, 2)];
}

function textLines(valueFor: Of<unknown>, originFor: Of<string>): string[] {
  return sections.flatMap(({ settings }, index) => {
    const left = settings.map((one) => {
      const value = valueFor(one);
      return value === undefined ? `# ${one.path} is not set` : `${one.path} = ${tomlText(value)}`;
    });
    const width = Math.min(Math.max(...left.map((text) => text.length)), alignedCharsMax);
    const lines = settings.map((one, at) => `${(left[at] ?? "").padEnd(width)}  # ${originFor(one)}`);
    return index === 0 ? lines : ["", ...lines];
  });
}

/** Beyond this width the origins are no longer aligned. */
const alignedCharsMax = 72;
