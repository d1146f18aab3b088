/**
 * JSON objects as Go's encoding/json reads them into a struct: member names match case-insensitively and
 * the last of several matching members wins. What a member is not looked up for is ignored.
 */
export interface GoObject {
  /** The member's value; undefined where it is absent, null where it is null. */
  get(name: string): unknown;
  /** Members as written, without those matching one of `names`. */
  without(...names: string[]): Record<string, unknown>;
}

/** Nesting beyond which {@link parseGoObject} refuses a document: readers may walk values recursively. */
const depthMax = 32;

/**
 * Parses `text`, which must be one JSON object and nothing else.
 * @throws SyntaxError for anything else, or for values nested deeper than 32 levels
 */
export function parseGoObject(text: string): GoObject {
  const value: unknown = JSON.parse(text);
  if (!nestedWithin(value, depthMax)) throw new SyntaxError("nested too deep");
  const object = asGoObject(value);
  if (object === undefined) throw new SyntaxError("not a JSON object");
  return object;
}

/** The same view of a value that is parsed already; undefined where it is no object. */
export function asGoObject(value: unknown): GoObject | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  const entries: [string, unknown][] = Object.entries(value);
  const members = new Map(entries.map(([name, member]) => [name.toLowerCase(), member]));
  return {
    get: (name) => members.get(name.toLowerCase()),
    without: (...names) => {
      const excluded = new Set(names.map((name) => name.toLowerCase()));
      // fromEntries defines own members, also one called __proto__.
      return Object.fromEntries(entries.filter(([name]) => !excluded.has(name.toLowerCase())));
    },
  };
}

function nestedWithin(value: unknown, depth: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  return depth > 0 && Object.values(value).every((member) => nestedWithin(member, depth - 1));
}
