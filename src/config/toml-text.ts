import { isTable } from "./toml.ts";

/** Levels of tables and lists shown; what is deeper reads `…`. */
const shownDepthMax = 6;

/** `value` as it would stand in TOML behind `key =`. Addresses and prefixes are written as their text. */
export function tomlText(value: unknown, depth = 0): string {
  if (typeof value === "string") return tomlString(value);
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : numberName(value);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "invalid date" : value.toISOString();
  if (depth >= shownDepthMax) return "…";
  if (Array.isArray(value)) return `[${value.map((item) => tomlText(item, depth + 1)).join(", ")}]`;
  if (hasText(value)) return tomlString(value.toJSON());
  if (!isTable(value)) return String(value);
  const members = Object.entries(value).map(
    ([key, inner]) => `${tomlKey(key)} = ${tomlText(inner, depth + 1)}`,
  );
  return members.length === 0 ? "{}" : `{ ${members.join(", ")} }`;
}

/** A key of a table, quoted where it must be. */
export function tomlKey(key: string): string {
  return /^[\w-]+$/.test(key) ? key : tomlString(key);
}

function tomlString(text: string): string {
  // JSON leaves these as they are; TOML wants the first escaped, a terminal all of them.
  return JSON.stringify(text).replace(
    /[\u007f-\u009f\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function numberName(value: number): string {
  return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

function hasText(value: unknown): value is { toJSON(): string } {
  return (
    typeof value === "object" && value !== null && "toJSON" in value && typeof value.toJSON === "function"
  );
}
