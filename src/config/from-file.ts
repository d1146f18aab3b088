import type { ReadFile } from "./file.ts";
import type { Option, Table, TableMembers } from "./option.ts";
import { schema, type Setting, settings } from "./schema.ts";
import { didYouMean, mostSimilar } from "./similar.ts";
import { type Given, parseRaw, partAt, pathText, shown, soundsSecret, type Source } from "./source.ts";
import { isTable, parseToml, type TomlDocument, type TomlTable } from "./toml.ts";

/** Largest configuration file read. */
export const fileBytesMax = 1 << 20;

/**
 * The settings of the configuration file; undefined where the file does not exist and need not.
 * All mistakes become problems with file and line; it never throws for what the file contains.
 */
export function fromFile(path: string, readFile: ReadFile, mustExist: boolean): Source | undefined {
  const read = readText(path, readFile);
  if ("missing" in read && !mustExist) return undefined;
  if ("problem" in read) return { given: new Map(), problems: [read.problem] };
  const document = parseToml(read.text);
  if (!("root" in document)) {
    const { line, column, reason } = document;
    return {
      given: new Map(),
      problems: [`${path}:${line}:${column}: ${reason}${stoodThere(read.text, line)}`],
    };
  }
  const walk = new Walk(path, document);
  walk.table(schema, document.root, []);
  return { given: walk.given, problems: walk.sortedProblems() };
}

type ReadText = { readonly text: string } | { readonly problem: string; readonly missing?: true };

function readText(path: string, readFile: ReadFile): ReadText {
  let bytes: Uint8Array;
  try {
    bytes = readFile(path, fileBytesMax + 1);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT") return { problem: `${path}: no such file`, missing: true };
    if (code === "EISDIR") return { problem: `${path}: is a directory, not a file` };
    if (code === "EACCES") return { problem: `${path}: cannot be read: permission denied` };
    return { problem: `${path}: cannot be read: ${error instanceof Error ? error.message : String(error)}` };
  }
  if (bytes.length > fileBytesMax) return { problem: `${path}: larger than ${fileBytesMax} bytes` };
  try {
    return { text: decode(bytes) };
  } catch {
    return { problem: `${path}:${firstBadLine(bytes)}: not UTF-8 text` };
  }
}

function decode(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
}

/** A newline byte is never part of a longer character, so lines can be tried one by one. */
function firstBadLine(bytes: Uint8Array): number {
  for (let line = 1, start = 0; ; line++) {
    const end = bytes.indexOf(0x0a, start);
    try {
      decode(bytes.subarray(start, end < 0 ? bytes.length : end));
    } catch {
      return line;
    }
    if (end < 0) return line;
    start = end + 1;
  }
}

function stoodThere(text: string, line: number): string {
  const source = (text.split("\n", line)[line - 1] ?? "").trim();
  return source === "" || soundsSecret(source) ? "" : `, in ${shown(source)}`;
}

/** Goes through a document along the schema, collecting values and problems. */
class Walk {
  readonly given = new Map<Setting, Given>();
  readonly #problems: { readonly line: number; readonly text: string }[] = [];
  readonly #path: string;
  readonly #document: TomlDocument;

  constructor(path: string, document: TomlDocument) {
    this.#path = path;
    this.#document = document;
  }

  sortedProblems(): string[] {
    return this.#problems.toSorted((a, b) => a.line - b.line).map(({ text }) => text);
  }

  table(table: Table<TableMembers>, found: TomlTable, above: readonly string[]): void {
    for (const [key, value] of Object.entries(found)) {
      const keys = [...above, key];
      const member = Object.hasOwn(table.members, key) ? table.members[key] : undefined;
      if (member === undefined) this.#refuse(keys, value, unknownKey(key, table, above));
      else if (member.is === "option") this.#option(member, value, keys);
      else if (isTable(value)) this.table(member, value, keys);
      else this.#refuse(keys, value, `must be a table: ${keysOf(member)}`);
    }
  }

  #option(option: Option<unknown>, raw: unknown, keys: readonly string[]): void {
    const setting = settings.find((one) => one.option === option);
    if (setting === undefined) throw new Error(`${keys.join(".")} is outside the schema`);
    if (option.secret) {
      const [variable] = setting.variables;
      this.#refuse(keys, raw, `a secret is not read from here; set ${variable?.name} or name a file with it`);
      return;
    }
    const parsed = parseRaw(setting, raw);
    if ("refusals" in parsed) {
      for (const { at, reason } of parsed.refusals) this.#refuse(keys, raw, reason, at);
    } else {
      this.given.set(setting, {
        value: parsed.value,
        origin: `${this.#path}:${this.#document.lineOf(keys)}`,
      });
    }
  }

  /** Names file, line, key and what stood there, unless it may be a secret. */
  #refuse(keys: readonly string[], raw: unknown, reason: string, at: readonly string[] = []): void {
    const line = this.#document.lineOf([...keys, ...at]);
    const value = soundsSecret([...keys, ...at].at(-1) ?? "") ? "<hidden>" : shown(partAt(raw, at));
    this.#problems.push({
      line,
      text: `${this.#path}:${line}: ${pathText(keys, at, raw)} = ${value}: ${reason}`,
    });
  }
}

function unknownKey(key: string, { members }: Table<TableMembers>, above: readonly string[]): string {
  const siblings = Object.keys(members).filter((name) => !isSecret(members[name]));
  const near = mostSimilar(key, siblings);
  const suggestion = near === undefined ? elsewhere(key) : [...above, near].join(".");
  const where = above.length === 0 ? "the top level" : `[${above.join(".")}]`;
  return `unknown key${didYouMean(suggestion) || `; ${where} takes ${siblings.join(", ")}`}`;
}

/** An option of this name in another table, or the one that flanneld's flag of this name sets. */
function elsewhere(key: string): string | undefined {
  const flag = key.replaceAll("_", "-");
  const found = settings.find(
    ({ keys, option }) => !option.secret && (keys.at(-1) === key || option.flanneldFlag === flag),
  );
  return found?.path;
}

function keysOf({ members }: Table<TableMembers>): string {
  return Object.keys(members)
    .filter((name) => !isSecret(members[name]))
    .join(", ");
}

function isSecret(member: Option<unknown> | Table<TableMembers> | undefined): boolean {
  return member?.is === "option" && member.secret;
}
