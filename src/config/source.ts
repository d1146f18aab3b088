import type { Refusal } from "./kind.ts";
import type { Setting } from "./schema.ts";
import { mostSimilar } from "./similar.ts";
import { tomlText } from "./toml-text.ts";

/** What one of flags, environment and file has to say. */
export interface Source {
  readonly given: ReadonlyMap<Setting, Given>;
  readonly problems: readonly string[];
}

/** A value for a setting, and where it came from: `flag -iface`, `env FLANNELD_IFACE`, `config.toml:12`. */
export interface Given {
  readonly value: unknown;
  readonly origin: string;
}

/** Reads `raw` as the setting's value. The empty text unsets an option that has no default, as in flanneld. */
export function parseRaw(
  { option }: Setting,
  raw: unknown,
): { readonly value: unknown } | { readonly refusals: readonly Refusal[] } {
  return raw === "" && option.fallback === undefined ? { value: undefined } : option.kind.parse(raw);
}

/** The part of `raw` that a refusal is about. */
export function partAt(raw: unknown, at: readonly string[]): unknown {
  let part = raw;
  for (const key of at) {
    if (typeof part !== "object" || part === null || !Object.hasOwn(part, key)) return undefined;
    part = (part as Record<string, unknown>)[key];
  }
  return part;
}

/** `path` with the keys and list indexes of `at` behind it: `store.etcd.endpoints[1]`. */
export function pathText(keys: readonly string[], at: readonly string[] = [], root?: unknown): string {
  let text = keys.map(keyText).join(".");
  at.forEach((key, depth) => {
    text += Array.isArray(partAt(root, at.slice(0, depth))) ? `[${key}]` : `.${keyText(key)}`;
  });
  return text;
}

const shownCharsMax = 80;

/** A value for a message: shortened, and without the credentials that a URL may carry. */
export function shown(value: unknown): string {
  const text = tomlText(value).replace(/(\/\/|"(?=[^\s"/@]*:))[^\s"/]*@/g, "$1<hidden>@");
  return text.length <= shownCharsMax ? text : `${text.slice(0, shownCharsMax)}…`;
}

/** Whether a value under this name is better not shown, even where the name is a mistake or misspelt. */
export function soundsSecret(name: string): boolean {
  if (/file$/i.test(name)) return false;
  if (/passw|secret|token/i.test(name)) return true;
  const words = name.slice(0, nameCharsMax).split(/[^a-z0-9]+/i);
  return words.some((word) => mostSimilar(word, secretWords) !== undefined);
}

const secretWords = ["password", "passwd", "passphrase", "secret", "token"];
/** A name, or the beginning of a line with one, that is looked at word by word. */
const nameCharsMax = 500;

function keyText(key: string): string {
  const plain = /^[\w-]+$/.test(key) ? key : JSON.stringify(key);
  return plain.length <= shownCharsMax ? plain : `${plain.slice(0, shownCharsMax)}…`;
}
