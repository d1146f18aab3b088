import { parse } from "toml";
import { parse as parseStatements, type Statement, type Value } from "toml/lib/parser";

/** Arrays and inline tables inside each other. */
const maxDepth = 32;

export type TomlTable = { readonly [key: string]: unknown };

/** A parsed TOML text that knows where its keys stood. */
export interface TomlDocument {
  readonly root: TomlTable;
  /** Line (from 1) of the key or list entry at `path`, else of the nearest table around it, else 1. */
  lineOf(path: readonly string[]): number;
}

/** Where and why a text is no TOML. `line` and `column` count from 1. */
export interface TomlError {
  readonly line: number;
  readonly column: number;
  readonly reason: string;
}

/** Parses TOML 1.1. A key written twice is an error, as is an integer beyond 2^53. */
export function parseToml(text: string): TomlDocument | TomlError {
  let root: TomlTable;
  try {
    root = parse(text, { maxDepth }) as TomlTable;
  } catch (error) {
    return syntaxError(error);
  }
  const lines = new LineTable(text);
  const positions = keyPositions(parseStatements(text, { maxDepth }));
  return { root, lineOf: (path) => lines.lineAt(positionOf(positions, path)) };
}

export function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/** Where a key was first written, and what is below it: keys of a table, indexes of a list. */
interface KeyNode {
  readonly offset: number;
  readonly below: Map<string, KeyNode>;
  /** How many `[[key]]` headers there were. */
  elements: number;
}

function keyPositions(statements: readonly Statement[]): KeyNode {
  const root = newNode(0);
  let current = root;
  for (const statement of statements) {
    const { offset } = statement;
    if (statement.type === "Assign") {
      addValue(descend(current, statement.key, offset), statement.value);
    } else {
      current = descend(root, statement.value, offset);
      if (statement.type === "ArrayPath") current = child(current, `${current.elements++}`, offset);
    }
  }
  return root;
}

function addValue(node: KeyNode, value: Value): void {
  if (value.type === "Array") {
    for (const [index, entry] of value.value.entries()) {
      addValue(child(node, `${index}`, entry.offset), entry);
    }
  } else if (value.type === "InlineTable") {
    for (const member of value.value) addValue(descend(node, member.key, member.offset), member.value);
  }
}

/** Above the last key, one that names an array of tables stands for its latest element. */
function descend(from: KeyNode, keys: readonly string[], offset: number): KeyNode {
  let node = from;
  keys.forEach((key, at) => {
    if (at > 0 && node.elements > 0) node = child(node, `${node.elements - 1}`, offset);
    node = child(node, key, offset);
  });
  return node;
}

function child(node: KeyNode, key: string, offset: number): KeyNode {
  const found = node.below.get(key) ?? newNode(offset);
  node.below.set(key, found);
  return found;
}

function newNode(offset: number): KeyNode {
  return { offset, below: new Map(), elements: 0 };
}

function positionOf(root: KeyNode, path: readonly string[]): number {
  let node = root;
  for (const key of path) {
    const below = node.below.get(key);
    if (below === undefined) break;
    node = below;
  }
  return node.offset;
}

/** Line starts of a text, for finding the line of an offset. */
class LineTable {
  readonly #starts = [0];

  constructor(text: string) {
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) this.#starts.push(at + 1);
  }

  lineAt(offset: number): number {
    let low = 0;
    let high = this.#starts.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((this.#starts[middle] ?? 0) <= offset) low = middle;
      else high = middle;
    }
    return low + 1;
  }
}

/**
 * The parser throws two kinds: grammar errors have `location` (their own `line` is the engine's), errors of
 * meaning have `line` and `column`.
 */
function syntaxError(error: unknown): TomlError {
  const { location, found, line, column, message } = error as Partial<Record<string, unknown>>;
  const start = (location as { start?: { line?: unknown; column?: unknown } } | undefined)?.start;
  const reason =
    start === undefined
      ? lowerFirst(String(message))
      : found === null
        ? "unexpected end of file"
        : unexpected(found);
  return { line: count(start?.line ?? line), column: count(start?.column ?? column), reason };
}

function unexpected(found: unknown): string {
  return found === "\n" || found === "\r" ? "unexpected end of line" : `unexpected ${JSON.stringify(found)}`;
}

function count(value: unknown): number {
  return typeof value === "number" && value >= 1 ? value : 1;
}

function lowerFirst(message: string): string {
  return (
    message.slice(0, 1).toLowerCase() +
    message
      .slice(1)
      .replace(/\.$/, "")
      .replace(/\. Use the .*$/, "")
  );
}
