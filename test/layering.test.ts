import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

/**
 * The architecture: what each room may import beside itself, `base/` and `net/`. A name is a folder of src or
 * a file; arrows run down the page, so no room stands in a line above its own.
 */
const mayImport: readonly (readonly [string, readonly string[]])[] = [
  ["main.ts", ["command", "cni"]],
  [
    "command",
    [
      "cni",
      "bench",
      "demo",
      "daemon",
      "adoption.ts",
      "overlay.ts",
      "reload.ts",
      "remembered.ts",
      "network",
      "datapath",
      "host",
      "backend",
      "store",
      "native",
      "lease",
      "plan",
      "config",
      "status",
      "version.ts",
    ],
  ],
  ["cni", ["version.ts"]],
  ["bench", ["demo", "native", "store", "lease", "status", "version.ts"]],
  ["demo", ["status"]],
  ["image", ["version.ts"]],
  [
    "daemon",
    [
      "adoption.ts",
      "overlay.ts",
      "reload.ts",
      "remembered.ts",
      "network",
      "datapath",
      "host",
      "backend",
      "store",
      "native",
      "lease",
      "plan",
      "config",
      "status",
      "version.ts",
    ],
  ],
  [
    "status",
    [
      "overlay.ts",
      "reload.ts",
      "network",
      "datapath",
      "host",
      "backend",
      "store/store.ts",
      "native/ports.ts",
      "lease",
      "plan",
      "version.ts",
    ],
  ],
  ["remembered.ts", ["network/network-config.ts", "host", "backend", "lease", "config"]],
  ["adoption.ts", ["overlay.ts", "datapath", "host", "backend/backend.ts", "native/ports.ts", "config"]],
  ["reload.ts", ["config"]],
  ["overlay.ts", ["datapath", "host", "backend", "lease", "config"]],
  [
    "network",
    [
      "datapath/reconcile.ts",
      "backend/backend.ts",
      "backend/peers.ts",
      "store/store.ts",
      "lease",
      "plan",
      "config/network.ts",
      "config/document-difference.ts",
    ],
  ],
  ["datapath", ["native/ports.ts", "backend/backend.ts", "plan"]],
  ["host", ["native/ports.ts", "lease", "config"]],
  ["backend", ["lease", "plan", "config"]],
  ["store", ["lease", "config"]],
  ["native", ["plan"]],
  ["config", ["lease"]],
  ["lease", ["config/network.ts"]],
  ["plan", []],
  ["net", []],
  ["base", []],
  ["version.ts", []],
];

const src = join(import.meta.dir, "../src");

function importsOf(file: string): string[] {
  const text = readFileSync(join(src, file), "utf8");
  return [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map((match) =>
    normalize(join(dirname(file), match[1] ?? "")),
  );
}

function roomOf(file: string): string {
  return file.includes("/") ? (file.split("/")[0] ?? "") : file;
}

const files = [...new Bun.Glob("**/*.ts").scanSync(src)].filter((file) => !file.endsWith(".d.ts"));

test("layering: every import points down the page", () => {
  const rooms = new Map(mayImport);
  const wrong = files.flatMap((file) => {
    const room = roomOf(file);
    const allowed = [room, "base", "net", ...(rooms.get(room) ?? [])];
    return importsOf(file)
      .filter((target) => !target.startsWith("..")) // the addon's file and package.json
      .filter((target) => !allowed.some((one) => target === one || target.startsWith(`${one}/`)))
      .map((target) => `${file} imports ${target}`);
  });
  expect(wrong).toEqual([]);
});

test("layering: every folder has its line", () => {
  const known = new Set(mayImport.map(([room]) => room));
  expect([...new Set(files.map(roomOf))].filter((room) => !known.has(room))).toEqual([]);
});

test("layering: base imports nothing of ours, and only main.ts ends the process", () => {
  expect(
    files
      .filter((file) => roomOf(file) === "base")
      .flatMap((file) => importsOf(file).filter((to) => roomOf(to) !== "base")),
  ).toEqual([]);
  const exits = files.filter((file) => readFileSync(join(src, file), "utf8").includes("process.exit("));
  expect(exits).toEqual(["main.ts"]);
});

test("layering: the CNI plugin loads itself and what is below it, and the start loads neither side at once", () => {
  const text = readFileSync(join(src, "main.ts"), "utf8");
  expect([...text.matchAll(/^import .* from "(.*)";$/gm)].map(([, from]) => from)).toEqual(["node:path"]);
  const reached = new Set(["cni/plugin.ts"]);
  for (const file of reached)
    for (const target of importsOf(file)) if (!target.startsWith("..")) reached.add(target);
  expect([...new Set([...reached].map(roomOf))].sort()).toEqual(["base", "cni", "net", "version.ts"]);
  // Each module of the runtime costs its own start: node:crypto a fifth of all.
  const modules = [...reached].flatMap((file) =>
    [...readFileSync(join(src, file), "utf8").matchAll(/from "((?:node|bun):[^"]+|[a-z@][^":]*)"/g)].map(
      ([, from]) => from,
    ),
  );
  expect([...new Set(modules)].sort()).toEqual(["node:fs", "node:path"]);
});
