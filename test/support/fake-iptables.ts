import type { Programs } from "../../src/host/firewall/programs.ts";

/** iptables' programs in memory, as far as the firewall uses them; anything else is refused. */
export interface FakeIptables extends Programs {
  /** Chains of `nat` and `filter`, as `name text` lines of what `iptables-save` shows. */
  rules(table: string, tool?: string): string[];
  /** Runs lines as `iptables-restore --noflush` would. */
  change(table: string, lines: readonly string[], tool?: string): void;
  /** What was handed to a restore program, in order. */
  readonly restored: readonly string[];
  installed: readonly string[];
  version: string;
}

type Table = Map<string, string[]>;

export function fakeIptables(): FakeIptables {
  const tables = new Map<string, Table>();
  const restored: string[] = [];
  const tableOf = (tool: string, table: string): Table => {
    const key = `${tool} ${table}`;
    const found =
      tables.get(key) ?? new Map<string, string[]>([[table === "nat" ? "POSTROUTING" : "FORWARD", []]]);
    tables.set(key, found);
    return found;
  };
  const apply = (tool: string, text: string) => {
    const [first = "", ...lines] = text.trimEnd().split("\n");
    if (!first.startsWith("*") || lines.pop() !== "COMMIT") throw new Error(`not a restore text: ${text}`);
    const table = first.slice(1);
    // All or nothing.
    const next = new Map(
      [...tableOf(tool, table)].map(([name, rules]) => [name, [...rules]] as [string, string[]]),
    );
    for (const line of lines.filter((one) => one !== "")) changeChain(next, line);
    tables.set(`${tool} ${table}`, next);
  };
  const versionOf = (tool: string): string => {
    const [, variant] = /-(nft|legacy)$/.exec(tool) ?? [];
    if (variant === undefined) return fake.version;
    return `v1.8.9 (${variant === "nft" ? "nf_tables" : "legacy"})`;
  };
  const fake: FakeIptables = {
    restored,
    installed: ["iptables", "ip6tables"],
    version: "v1.8.9 (nf_tables)",
    rules: (table, tool = "iptables") =>
      [...tableOf(tool, table)].flatMap(([name, rules]) => rules.map((text) => `-A ${name} ${text}`)),
    change: (table, lines, tool = "iptables") => apply(tool, `*${table}\n${lines.join("\n")}\nCOMMIT\n`),
    find: (name) => (fake.installed.includes(name.replace(/-(save|restore)$/, "")) ? name : undefined),
    async run([program = "", ...args], input = "") {
      const tool = program.replace(/-(save|restore)$/, "");
      const ok = (output: string) => ({ code: 0, output, errors: "" });
      if (args.join(" ") === "--version") return ok(`${program} ${versionOf(tool)}\n`);
      if (program.endsWith("-save") && args[0] === "-t") {
        const table = tableOf(tool, args[1] ?? "");
        const chains = [...table.keys()].map((name) => `:${name} - [0:0]`);
        return ok([`*${args[1]}`, ...chains, ...fake.rules(args[1] ?? "", tool), "COMMIT", ""].join("\n"));
      }
      if (program.endsWith("-restore") && /^--noflush( --wait)?$/.test(args.join(" "))) {
        restored.push(`${program} ${args.join(" ")}\n${input}`);
        apply(tool, input);
        return ok("");
      }
      throw new Error(`unexpected program: ${program} ${args.join(" ")}`);
    },
  };
  return fake;
}

function changeChain(table: Map<string, string[]>, line: string): void {
  const [, declared] = /^:(\S+) - \[0:0\]$/.exec(line) ?? [];
  if (declared !== undefined) {
    table.set(declared, []);
    return;
  }
  const [, op, chain = "", rest = ""] = /^-([ADIX]) (\S+) ?(.*)$/.exec(line) ?? [];
  const rules = table.get(chain);
  if (rules === undefined) throw new Error(`no chain for: ${line}`);
  const text = op === "I" ? rest.replace(/^\d+ /, "") : rest;
  const target = / -j (\S+)$/.exec(` ${text}`)?.[1] ?? "";
  if (op !== "X" && target.startsWith("FLANNEL") && !table.has(target))
    throw new Error(`no target for: ${line}`);
  if (op === "A") rules.push(text);
  else if (op === "I") rules.splice(Number(/^\d+/.exec(rest)?.[0]) - 1, 0, text);
  else if (op === "D") {
    const at = rules.indexOf(text);
    if (at < 0) throw new Error(`no such rule: ${line}`);
    rules.splice(at, 1);
  } else {
    const used = [...table.values()].flat().some((other) => ` ${other}`.endsWith(` -j ${chain}`));
    if (rules.length > 0 || used) throw new Error(`chain in use: ${line}`);
    table.delete(chain);
  }
}
