import { FlannelError } from "../base/error.ts";
import { inconsistencies, unselected } from "./consistency.ts";
import { readConfigFile, type ReadFile } from "./file.ts";
import { type FlagDefinition, type GivenFlag, scanFlags } from "./flags.ts";
import { fromFile } from "./from-file.ts";
import { configVariable, fromEnvironment, fromFlags, withoutEffect } from "./from-text.ts";
import { flanneldFlagsGone, flanneldFlagsWithoutEffect } from "./flanneld-flags.ts";
import { type Config, type Setting, settings } from "./schema.ts";
import { type Given, parseRaw, type Source } from "./source.ts";
import { goBoolean } from "./text-form.ts";

/** Read where neither `-config` nor its variable names a file; it need not exist. */
export const defaultConfigPath = "/etc/flannel/config.toml";

export interface LoadInput {
  /** The command line behind the program's and the command's name. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly readFile?: ReadFile;
  /** Flags of the command itself, beside those of the configuration. */
  readonly commandFlags?: readonly CommandFlag[];
  /** Whether words behind the last flag are a warning, as flanneld ignores them; else they are a mistake. */
  readonly ignoreLastWords?: boolean;
  /** What counts where none of the others say anything. */
  readonly below?: Source;
}

/** A flag that belongs to one command, such as `json`. */
export interface CommandFlag extends FlagDefinition {
  readonly doc: string;
  /** May be given more than once; the text then has a value on each line. */
  readonly repeats?: true;
}

export interface Loaded {
  readonly config: Config;
  /** By path (`store.etcd.prefix`): `flag -x`, `env X`, `<file>:<line>` or `default`. */
  readonly origins: ReadonlyMap<string, string>;
  readonly warnings: readonly string[];
  /** The configuration file that was read; undefined where there was none. */
  readonly file: string | undefined;
  /** Texts of the flags that are no options, the command's own among them; boolean ones are `true` or `false`. */
  readonly commandFlags: ReadonlyMap<string, string>;
}

/**
 * Reads flags, environment, configuration file and defaults, in this order of precedence, into a Config.
 * Touches nothing but the one file. Everything that is given is checked, also what a flag overrides.
 * @throws FlannelError `config/invalid` (exit code 2): its message has every problem on a line of its own.
 */
export function loadConfig({
  argv,
  env,
  readFile = readConfigFile,
  commandFlags = [],
  ignoreLastWords = false,
  below,
}: LoadInput): Loaded {
  const line = scanFlags(argv, definitions(commandFlags), { gone: flanneldFlagsGone, ignoreLastWords });
  const command = commandTexts(line.given, [...ownFlags, ...commandFlags]);
  const flags = fromFlags(line.given);
  const environment = fromEnvironment(env);
  const ineffective = withoutEffect(line.given, env);
  const named = lastText(line.given, "config") || env[configVariable] || undefined;
  const path = named ?? defaultConfigPath;
  const file = fromFile(path, readFile, named !== undefined);

  const sources = [flags, environment, file, below].filter((source) => source !== undefined);
  const problems = [
    ...line.problems,
    ...command.problems,
    ...ineffective.problems,
    ...sources.flatMap((source) => source.problems),
  ];
  if (problems.length > 0) throw invalid(problems);

  const { config, origins } = effective(sources);
  const disagreements = inconsistencies(config, (of) => origins.get(of) ?? "default");
  if (disagreements.length > 0) throw invalid(disagreements);
  return {
    config,
    origins,
    warnings: [
      ...line.warnings,
      ...ineffective.warnings,
      ...environment.warnings,
      ...unselected(config, origins),
    ],
    file: file === undefined ? undefined : path,
    commandFlags: command.texts,
  };
}

/** What a command line asks for before anything is loaded: `-help` (in any mistaken line too) or `-version`. */
export function askedFor(
  argv: readonly string[],
  commandFlags: readonly CommandFlag[] = [],
): "help" | "version" | undefined {
  const { given, help } = scanFlags(argv, definitions(commandFlags));
  if (help) return "help";
  return goBoolean(lastText(given, "version") ?? "false") === true ? "version" : undefined;
}

/** Flags that are neither an option nor a command's. */
export const ownFlags: readonly CommandFlag[] = [
  { name: "config", isBool: false, doc: "Configuration file; one that is named must exist." },
  { name: "help", isBool: true, doc: "Print this text." },
  { name: "version", isBool: true, doc: "Print the version." },
];

/** Lines of an error message; the rest is counted. */
const problemsMax = 50;

/** Every flag that a command line may have. */
export function definitions(commandFlags: readonly CommandFlag[]): FlagDefinition[] {
  const options = settings.flatMap(({ flags }) =>
    flags.map(({ name, form }) => ({ name, isBool: form.isBool })),
  );
  const ineffective = flanneldFlagsWithoutEffect.map(({ name, form }) => ({ name, isBool: form.isBool }));
  return [...options, ...ineffective, ...ownFlags.filter(({ name }) => name !== "help"), ...commandFlags];
}

function commandTexts(
  given: readonly GivenFlag[],
  flags: readonly CommandFlag[],
): { readonly texts: ReadonlyMap<string, string>; readonly problems: readonly string[] } {
  const texts = new Map<string, string>();
  const problems: string[] = [];
  for (const { name, text } of given) {
    const flag = flags.find((one) => one.name === name);
    if (flag === undefined) continue;
    const word = flag.isBool ? goBoolean(text)?.toString() : text;
    if (word === undefined) {
      problems.push(`invalid boolean value ${JSON.stringify(text)} for -${name}: parse error`);
    } else if (flag.repeats === true && texts.has(name)) texts.set(name, `${texts.get(name)}\n${word}`);
    else texts.set(name, word);
  }
  return { texts, problems };
}

function lastText(given: readonly GivenFlag[], name: string): string | undefined {
  return given.findLast((flag) => flag.name === name)?.text;
}

function effective(sources: readonly Source[]): { config: Config; origins: ReadonlyMap<string, string> } {
  const config: ConfigNode = {};
  const origins = new Map<string, string>();
  for (const setting of settings) {
    const { value, origin } = firstGiven(setting, sources) ?? fallback(setting);
    place(config, setting.configKeys, value);
    origins.set(setting.path, origin);
  }
  // The schema that names the settings is also what Config is inferred from.
  return { config: config as unknown as Config, origins };
}

interface ConfigNode {
  [key: string]: unknown;
}

function firstGiven(setting: Setting, sources: readonly Source[]): Given | undefined {
  return sources.map((source) => source.given.get(setting)).find((given) => given !== undefined);
}

function fallback(setting: Setting): Given {
  const { fallback: raw } = setting.option;
  if (raw === undefined) return { value: undefined, origin: "default" };
  const parsed = parseRaw(setting, raw);
  if ("refusals" in parsed) throw new Error(`the default of ${setting.path} is not allowed`);
  return { value: parsed.value, origin: "default" };
}

function place(config: ConfigNode, keys: readonly string[], value: unknown): void {
  let node = config;
  for (const key of keys.slice(0, -1)) {
    node[key] ??= {};
    node = node[key] as ConfigNode;
  }
  node[keys.at(-1) ?? ""] = value;
}

function invalid(problems: readonly string[]): FlannelError {
  const lines = problems.slice(0, problemsMax);
  if (problems.length > lines.length) lines.push(`and ${problems.length - lines.length} more`);
  const title = problems.length === 1 ? "a mistake" : `${problems.length} mistakes`;
  const message = [
    `${title} in the configuration, nothing was touched:`,
    ...lines.map((text) => `  ${text}`),
  ];
  return new FlannelError("config/invalid", message.join("\n"), {}, { exitCode: 2 });
}
