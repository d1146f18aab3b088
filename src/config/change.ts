import { isDeepStrictEqual } from "node:util";
import type { Config, Setting } from "./schema.ts";
import { settings } from "./schema.ts";
import { shown } from "./source.ts";

/** A setting with another value than before, as texts for people; secrets are hidden. */
export interface SettingChange {
  /** `store.lease_ttl`. */
  readonly key: string;
  readonly from: string;
  readonly to: string;
}

/** The settings whose values differ between two configurations, in the order of the schema. */
export function changedSettings(before: Config, after: Config): Setting[] {
  return settings.filter((one) => !isDeepStrictEqual(valueOf(before, one), valueOf(after, one)));
}

export function settingChange(setting: Setting, before: Config, after: Config): SettingChange {
  const text = (config: Config) => {
    const value = valueOf(config, setting);
    if (value === undefined) return "unset";
    return setting.option.secret ? "<hidden>" : shown(value);
  };
  return { key: setting.path, from: text(before), to: text(after) };
}

/** `config` with the values that `from` has for some of the settings. */
export function withSettings(config: Config, from: Config, some: readonly Setting[]): Config {
  const changed: unknown = some.reduce<unknown>(
    (node, setting) => replaced(node, setting.configKeys, valueOf(from, setting)),
    config,
  );
  // The schema that names the settings is also what Config is inferred from.
  return changed as Config;
}

function replaced(node: unknown, [key, ...below]: readonly string[], value: unknown): unknown {
  if (key === undefined) return value;
  const members = node as Record<string, unknown>;
  return { ...members, [key]: replaced(members[key], below, value) };
}

function valueOf(config: Config, { configKeys }: Setting): unknown {
  return configKeys.reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], config);
}
