import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

/**
 * The content of a file below test/golden. With UPDATE_GOLDEN=1 it is first written with `actual`, for a
 * person to review in the diff.
 */
export function golden(name: string, actual: string): string {
  const path = pathOf(name);
  if (process.env["UPDATE_GOLDEN"] === "1") {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, actual);
  }
  return readGolden(name);
}

/** The content of one that another suite writes. */
export function readGolden(name: string): string {
  const path = pathOf(name);
  if (!existsSync(path)) throw new Error(`${path} is missing; make it with UPDATE_GOLDEN=1`);
  return readFileSync(path, "utf8");
}

function pathOf(name: string): string {
  return join(import.meta.dir, "../golden", name);
}
