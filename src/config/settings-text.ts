import type { Loaded } from "./load.ts";
import { sections, type Setting } from "./schema.ts";
import { tomlText } from "./toml-text.ts";

/**
 * The settings that are not the default's, as lines of a config.toml, each with its origin. A secret is a comment
 * that says where to put it.
 */
export function settingsToml({ config, origins }: Pick<Loaded, "config" | "origins">): string[] {
  const line = ({ path, keys, configKeys, option, variables }: Setting): string => {
    const origin = origins.get(path) ?? "default";
    const value = configKeys.reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], config);
    if (value === undefined) return `# ${keys.at(-1)} is not set  # ${origin}`;
    if (option.secret)
      return `# ${keys.at(-1)} is not shown: set ${variables[0]?.name}, or a file that has it  # ${origin}`;
    return `${keys.at(-1)} = ${tomlText(value)}  # ${origin}`;
  };
  return sections.flatMap(({ path, settings }) => {
    const set = settings.filter((setting) => (origins.get(setting.path) ?? "default") !== "default");
    if (set.length === 0) return [];
    return [...(path === "" ? [] : [`[${path}]`]), ...set.map(line)];
  });
}
