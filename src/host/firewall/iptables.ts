import { readFileSync } from "node:fs";
import { FlannelError } from "../../base/error.ts";
import type { Family } from "../../net/address.ts";
import type { Changes, Engine, Ownership } from "./engine.ts";
import {
  iptablesTables,
  parseSaved,
  restoreText,
  type SavedTable,
  tableChanges,
  type TableChanges,
  type TableRules,
} from "./iptables-text.ts";
import { outputOf, type Programs } from "./programs.ts";

export interface IptablesOptions extends Ownership {
  readonly fullyRandom: boolean;
}

/** iptables' programs of one family and one variant. */
interface Tool {
  readonly family: Family;
  /** `iptables`, `ip6tables-legacy` … */
  readonly name: string;
  readonly legacy: boolean;
  readonly save: string;
  readonly restore: string;
  /** From 1.6.2 on: MASQUERADE takes --random-fully, iptables-restore --wait. */
  readonly recent: boolean;
}

/** flannel's rules in iptables, by whichever variant `iptables` and `ip6tables` are here. */
export function openIptables(programs: Programs, options: IptablesOptions): Engine {
  /** Our rules as this iptables prints them, by tool, table and what was written. */
  const printed = new Map<string, readonly string[]>();
  const tools = new Map<Family, Tool>();
  let watch: Engine["watch"] = { chains: [], legacyTables: [] };
  let othersCleared = false;

  const toolFor = async (family: Family): Promise<Tool> => {
    const tool = tools.get(family) ?? (await findTool(programs, family));
    if (tool === undefined) throw missingTool(family);
    tools.set(family, tool);
    return tool;
  };

  const ensureTable = async (tool: Tool, rendered: TableRules): Promise<Changes> => {
    if (rendered.rules.length === 0 && !mayHold(tool, rendered.table)) return nothing;
    const key = [tool.name, rendered.table, ...rendered.rules].join("\n");
    const wanted = { ...rendered, rules: printed.get(key) ?? rendered.rules };
    const changes = tableChanges(await readTable(programs, tool, wanted.table), wanted, options.networks);
    if (changes.payload.length === 0) return nothing;
    await restore(programs, tool, wanted.table, changes);
    // Another version may print a rule in other words; what stands there now is ours, word by word.
    const after = await readTable(programs, tool, wanted.table);
    const left = tableChanges(after, rendered, options.networks);
    if (left.payload.length > 0) {
      const now = after.rules.filter(({ chain }) => chain === wanted.chain).map(({ text }) => text);
      if (now.length !== rendered.rules.length) return changes;
      printed.set(key, now);
    }
    return changes;
  };

  return {
    name: "iptables",
    get watch() {
      return watch;
    },
    async ensure(wanted) {
      const all: Changes[] = [];
      const legacyTables: { family: Family; table: string }[] = [];
      let inNftables = false;
      for (const rules of wanted) {
        const tool = await toolFor(rules.family);
        const fullyRandom = options.fullyRandom && tool.recent;
        for (const table of iptablesTables(rules, { fullyRandom })) {
          all.push(await ensureTable(tool, table));
          if (table.rules.length > 0 && tool.legacy)
            legacyTables.push({ family: rules.family, table: table.table });
        }
        inNftables ||= !tool.legacy;
      }
      const chains = inNftables ? ["POSTROUTING", "FORWARD", "FLANNEL-POSTRTG", "FLANNEL-FWD"] : [];
      watch = { chains, legacyTables };
      if (!othersCleared) {
        const kept = new Set(wanted.map(({ family }) => tools.get(family)?.name));
        all.push({ missing: [], removed: await removeEverywhere(programs, options, kept) });
        othersCleared = true;
      }
      return {
        missing: all.flatMap(({ missing }) => missing),
        removed: all.flatMap(({ removed }) => removed),
      };
    },
    remove: () => removeEverywhere(programs, options, new Set()),
  };
}

/** Whether both of the family's programs are installed. */
export function hasIptables(programs: Programs, family: Family): boolean {
  const name = baseName(family);
  return ["", "-save", "-restore"].every((suffix) => programs.find(name + suffix) !== undefined);
}

const nothing: Changes = { missing: [], removed: [] };

function baseName(family: Family): string {
  return family === 4 ? "iptables" : "ip6tables";
}

/** `iptables` as it is called, or the variant that is asked for by name. */
async function findTool(programs: Programs, family: Family, variant = ""): Promise<Tool | undefined> {
  const name = `${baseName(family)}${variant}`;
  const path = programs.find(name);
  const save = programs.find(`${name}-save`);
  const restore = programs.find(`${name}-restore`);
  if (path === undefined || save === undefined || restore === undefined) return undefined;
  const version = await outputOf(programs, [path, "--version"]);
  const [, major = "0", minor = "0", patch = "0"] = /v(\d+)\.(\d+)\.?(\d*)/.exec(version) ?? [];
  const recent = Number(major) * 1e6 + Number(minor) * 1e3 + Number(patch) >= 1_006_002;
  return { family, name, legacy: !version.includes("nf_tables"), save, restore, recent };
}

function missingTool(family: Family): FlannelError {
  const name = baseName(family);
  return new FlannelError(
    "firewall/missing",
    `${name}, ${name}-save or ${name}-restore is not installed`,
    {},
    { retryable: true, remedy: "Install iptables, or set host.firewall to nftables" },
  );
}

/** Legacy iptables makes a table that is only looked at; where it is not there, nothing of ours is in it. */
function mayHold({ legacy, family }: Tool, table: string): boolean {
  return !legacy || legacyTableExists(family, table);
}

/** Whether legacy iptables has the table in this network namespace. */
export function legacyTableExists(family: Family, table: string): boolean {
  try {
    const names = readFileSync(
      family === 4 ? "/proc/net/ip_tables_names" : "/proc/net/ip6_tables_names",
      "utf8",
    );
    return names.split("\n").includes(table);
  } catch {
    return false;
  }
}

async function readTable(programs: Programs, { save }: Tool, table: string): Promise<SavedTable> {
  return parseSaved(await outputOf(programs, [save, "-t", table]), table);
}

async function restore(
  programs: Programs,
  tool: Tool,
  table: string,
  { payload }: TableChanges,
): Promise<void> {
  const command = [tool.restore, "--noflush", ...(tool.recent ? ["--wait"] : [])];
  await outputOf(programs, command, restoreText(table, payload));
}

/** Removes ours with every variant there is, but for the tools in `kept`; a missing program is no failure. */
async function removeEverywhere(
  programs: Programs,
  { networks }: Ownership,
  kept: ReadonlySet<string | undefined>,
): Promise<string[]> {
  const removed: string[] = [];
  for (const family of [4, 6] as const) {
    if (!networks.some((network) => network.family === family)) continue;
    const main = await findTool(programs, family);
    const other = await findTool(programs, family, main?.legacy === true ? "-nft" : "-legacy");
    for (const tool of [main, other]) {
      if (tool === undefined || kept.has(tool.name)) continue;
      for (const wanted of iptablesTables({ masquerade: [], forward: [] }, { fullyRandom: false })) {
        if (!mayHold(tool, wanted.table)) continue;
        const changes = tableChanges(await readTable(programs, tool, wanted.table), wanted, networks);
        if (changes.payload.length === 0) continue;
        await restore(programs, tool, wanted.table, changes);
        removed.push(...changes.removed);
      }
    }
  }
  return removed;
}
