import { didYouMean, mostSimilar } from "./similar.ts";
import { goBoolean } from "./text-form.ts";

/** A flag as the scanner needs to know it; what its text means is the caller's business. */
export interface FlagDefinition {
  /** Without dashes. */
  readonly name: string;
  readonly isBool: boolean;
}

export interface ScannedFlags {
  /** In the order of the command line, repeats included. */
  readonly given: readonly GivenFlag[];
  /** `-h`, `-help` or `--help` was there. */
  readonly help: boolean;
  /** In Go's words, where Go has them. */
  readonly problems: readonly string[];
  /** What is odd and was asked to be no problem. */
  readonly warnings: readonly string[];
}

export interface GivenFlag {
  readonly name: string;
  readonly text: string;
}

export interface ScanOptions {
  /** Flags of old, and what to say of each. */
  readonly gone?: ReadonlyMap<string, string>;
  /** Whether words that are left over are a warning where no flag is behind them. */
  readonly ignoreLastWords?: boolean;
}

/**
 * Reads a command line by the rules of Go's `flag` package: one or two dashes, `-name=value` or `-name value`,
 * booleans without a separate argument, `--` ends the flags. Unlike Go it goes on after a mistake, and words
 * that are left over are a mistake, since Go would silently drop every flag behind them.
 */
export function scanFlags(
  argv: readonly string[],
  definitions: readonly FlagDefinition[],
  { gone = new Map(), ignoreLastWords = false }: ScanOptions = {},
): ScannedFlags {
  const known = new Map(definitions.map((definition) => [definition.name, definition]));
  const given: GivenFlag[] = [];
  const problems: string[] = [];
  let help = false;
  let at = 0;
  while (at < argv.length) {
    const argument = argv[at] ?? "";
    if (argument === "--") at++;
    if (argument === "--" || !/^-./s.test(argument)) break;
    at++;
    const flag = splitFlag(argument);
    if (flag === undefined) {
      problems.push(`bad flag syntax: ${argument.split("=")[0]}`);
      continue;
    }
    const definition = known.get(flag.name);
    if (definition === undefined) {
      if (flag.name === "h" || flag.name === "help") help = true;
      else {
        problems.push(unknownFlag(flag.name, known.keys(), gone));
        // A bare word behind it was most likely its value.
        if (flag.value === undefined && argv[at]?.startsWith("-") === false) at++;
      }
    } else if (flag.value !== undefined) given.push({ name: flag.name, text: flag.value });
    else if (definition.isBool) given.push({ name: flag.name, text: "true" });
    else if (at < argv.length) given.push({ name: flag.name, text: argv[at++] ?? "" });
    else problems.push(`flag needs an argument: -${flag.name}`);
  }
  const words = argv.slice(at);
  const losesFlags = words.some((word) => /^-./s.test(word));
  const said = words.length === 0 ? [] : [leftOver(words, losesFlags, argv[at - 1], known)];
  if (ignoreLastWords && !losesFlags)
    return { given, help, problems, warnings: said.map((text) => `${text}; it is ignored, as by flanneld`) };
  return { given, help, problems: [...problems, ...said], warnings: [] };
}

/**
 * Parts a command line into flags, each with its value, and the words between and behind them, for commands that
 * take words. Behind `--` everything is a word.
 */
export function takeWords(
  argv: readonly string[],
  definitions: readonly FlagDefinition[],
): { readonly words: readonly string[]; readonly flags: readonly string[] } {
  const takesValue = new Set(definitions.filter(({ isBool }) => !isBool).map(({ name }) => name));
  const words: string[] = [];
  const flags: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const argument = argv[at] ?? "";
    if (argument === "--") return { words: [...words, ...argv.slice(at + 1)], flags };
    const isFlag = /^-./s.test(argument);
    (isFlag ? flags : words).push(argument);
    const flag = isFlag ? splitFlag(argument) : undefined;
    const hasValueBehind = flag?.value === undefined && takesValue.has(flag?.name ?? "");
    if (hasValueBehind && at + 1 < argv.length) flags.push(argv[++at] ?? "");
  }
  return { words, flags };
}

/** Name and value of `-name`, `--name`, `-name=value`; undefined for `-=x`, `--=x`, `---x`. */
function splitFlag(argument: string): { name: string; value: string | undefined } | undefined {
  const body = argument.slice(argument.startsWith("--") ? 2 : 1);
  if (body === "" || body.startsWith("-") || body.startsWith("=")) return undefined;
  const equals = body.indexOf("=");
  if (equals < 0) return { name: body, value: undefined };
  return { name: body.slice(0, equals), value: body.slice(equals + 1) };
}

function unknownFlag(name: string, known: Iterable<string>, gone: ReadonlyMap<string, string>): string {
  const message = `flag provided but not defined: -${name}`;
  const why = gone.get(name);
  if (why !== undefined) return `${message} (${why})`;
  const similar = mostSimilar(name, known);
  return message + didYouMean(similar === undefined ? undefined : `-${similar}`);
}

function leftOver(
  words: readonly string[],
  losesFlags: boolean,
  before: string | undefined,
  known: ReadonlyMap<string, FlagDefinition>,
): string {
  const [word = ""] = words;
  const ignored = losesFlags ? ", which ends the flags: those behind it are lost" : "";
  const name = splitFlag(before ?? "")?.name;
  const isBool = name !== undefined && known.get(name)?.isBool === true && !before?.includes("=");
  const hint = isBool && goBoolean(word) !== undefined ? `; did you mean -${name}=${word}?` : "";
  // What follows an = may be a secret whose dash was forgotten.
  return `unexpected argument ${JSON.stringify(word.replace(/=.*/s, "=…"))}${ignored}${hint}`;
}
