import type { GivenFlag } from "./flags.ts";
import { flanneldFlagsWithoutEffect, variablesGone } from "./flanneld-flags.ts";
import { flanneldVariable, type Setting, type Spelling, settings } from "./schema.ts";
import { didYouMean, mostSimilar } from "./similar.ts";
import { type Given, parseRaw, partAt, shown, type Source } from "./source.ts";

/** Names the configuration file; the flag `config` wins over it. */
export const configVariable = "FLANNEL_LITE_CONFIG";

/** The settings that flags give. The last occurrence wins, where the flag does not collect. */
export function fromFlags(flags: readonly GivenFlag[]): Source {
  const given = new Map<Setting, Given>();
  const problems: string[] = [];
  for (const { setting, spelling, texts } of collectFlags(flags)) {
    const parsed = parseTexts(setting, spelling, texts, `flag -${spelling.name}`);
    if ("problems" in parsed) problems.push(...parsed.problems);
    else given.set(setting, { value: parsed.value, origin: `flag -${spelling.name}` });
  }
  return { given, problems };
}

/**
 * The settings that environment variables give. An empty variable counts as unset. Variables with our
 * prefixes that nobody knows are warnings.
 */
export function fromEnvironment(env: Readonly<Record<string, string | undefined>>): Source & {
  readonly warnings: readonly string[];
} {
  const given = new Map<Setting, Given>();
  const problems: string[] = [];
  for (const setting of settings) {
    for (const spelling of setting.variables) {
      const text = env[spelling.name] ?? "";
      if (text === "") continue;
      const parsed = parseTexts(setting, spelling, [text], spelling.name);
      if ("problems" in parsed) problems.push(...parsed.problems);
      else if (!given.has(setting)) {
        given.set(setting, { value: parsed.value, origin: `env ${spelling.name}` });
      }
    }
  }
  return { given, problems, warnings: unknownVariables(env) };
}

/**
 * What is to be said of flanneld's flags and variables that have no effect here: a warning each, and a problem
 * where the value is one that flanneld would not read.
 */
export function withoutEffect(
  flags: readonly GivenFlag[],
  env: Readonly<Record<string, string | undefined>>,
): { readonly warnings: readonly string[]; readonly problems: readonly string[] } {
  const warnings: string[] = [];
  const problems: string[] = [];
  for (const { name, form, reason } of flanneldFlagsWithoutEffect) {
    const variable = flanneldVariable(name);
    const given = flags
      .filter((flag) => flag.name === name)
      .map(({ text }) => ({ where: `flag -${name}`, text }));
    if ((env[variable] ?? "") !== "") given.push({ where: variable, text: env[variable] ?? "" });
    for (const { where, text } of given) {
      const result = form.parse(text);
      if ("refused" in result) problems.push(`invalid value ${shown(text)} for ${where}: ${result.refused}`);
      else warnings.push(`${where} has no effect: ${reason}`);
    }
  }
  return { warnings: [...new Set(warnings)], problems };
}

interface Occurrences {
  readonly setting: Setting;
  readonly spelling: Spelling;
  readonly texts: string[];
}

/** The occurrences of one collecting flag together, those of any other one by one, in order. */
function collectFlags(flags: readonly GivenFlag[]): Occurrences[] {
  const all: Occurrences[] = [];
  for (const { name, text } of flags) {
    const setting = settings.find((one) => one.flags.some((flag) => flag.name === name));
    const spelling = setting?.flags.find((flag) => flag.name === name);
    if (setting === undefined || spelling === undefined) continue;
    const earlier = spelling.form.collects ? all.find((one) => one.spelling === spelling) : undefined;
    if (earlier === undefined) all.push({ setting, spelling, texts: [text] });
    else earlier.texts.push(text);
  }
  return all;
}

function parseTexts(
  setting: Setting,
  { name, form }: Spelling,
  texts: readonly string[],
  where: string,
): { readonly value: unknown } | { readonly problems: readonly string[] } {
  const { secret } = setting.option;
  const refuse = (value: string, reason: string): string => {
    const quoted = secret ? "<hidden>" : shown(value);
    if (form.isBool) return `invalid boolean value ${quoted} for ${where.replace(/^flag /, "")}: ${reason}`;
    return `invalid value ${quoted} for ${where}: ${reason}`;
  };
  const problems: string[] = [];
  const raws: unknown[] = [];
  for (const text of texts) {
    const isUnset = text === "" && setting.option.fallback === undefined;
    const result = isUnset ? { raw: text } : form.parse(text);
    if ("refused" in result) problems.push(refuse(text, result.refused));
    else raws.push(result.raw);
  }
  if (problems.length > 0) return { problems };
  const raw = form.collects ? raws.flat() : raws[0];
  const parsed = parseRaw(setting, raw);
  if (!("refusals" in parsed)) return parsed;
  return {
    problems: parsed.refusals.map(({ at, reason }) => {
      const part = partAt(raw, at);
      // A spelling in other words than the option's own: what was written is not what is refused.
      if (form !== setting.option.kind.form)
        return refuse(texts[0] ?? name, `it means ${setting.path} = ${shown(part)}: ${reason}`);
      const key = form.label === "json" && at.length > 0 ? `${at.join(".")}: ` : "";
      return refuse(typeof part === "string" ? part : (texts[0] ?? name), key + reason);
    }),
  };
}

function unknownVariables(env: Readonly<Record<string, string | undefined>>): string[] {
  const known = [
    ...settings.flatMap(({ variables }) => variables.map(({ name }) => name)),
    ...flanneldFlagsWithoutEffect.map(({ name }) => flanneldVariable(name)),
    configVariable,
  ];
  const gone = new Map([...variablesGone].map(([flag, why]) => [flanneldVariable(flag), why]));
  return Object.keys(env)
    .filter(
      (name) => /^(FLANNELD|FLANNEL_LITE)_/.test(name) && (env[name] ?? "") !== "" && !known.includes(name),
    )
    .sort()
    .map((name) => {
      const why = gone.get(name) ?? `no such option${didYouMean(similarVariable(name, known))}`;
      return `${/^\w+$/.test(name) ? name : JSON.stringify(name)} has no effect: ${why}`;
    });
}

/** The prefix is left out of the comparison: it would make all names alike. */
function similarVariable(name: string, known: readonly string[]): string | undefined {
  const prefix = name.startsWith("FLANNELD_") ? "FLANNELD_" : "FLANNEL_LITE_";
  const tails = known.filter((one) => one.startsWith(prefix)).map((one) => one.slice(prefix.length));
  const similar = mostSimilar(name.slice(prefix.length), tails);
  return similar === undefined ? undefined : prefix + similar;
}
