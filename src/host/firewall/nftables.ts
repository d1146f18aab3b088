import { FlannelError } from "../../base/error.ts";
import type { Family } from "../../net/address.ts";
import { hostPrefix, type Prefix } from "../../net/prefix.ts";
import type { Changes, Engine, Ownership } from "./engine.ts";
import { outputOf, type Programs } from "./programs.ts";
import type { FamilyRules, Rule } from "./rules.ts";

export interface NftablesOptions extends Ownership {
  /** The name of our tables. */
  readonly table: string;
  readonly fullyRandom: boolean;
}

/** flannel's own tables, which go when ours come. */
const flannelTables = ["ip flannel-ipv4", "ip6 flannel-ipv6"];

/**
 * Our rules in a table of their own in nftables' `ip` and `ip6` families, as flannel has them; `inet` could not
 * hold NAT before Linux 5.2, and a host without IPv6 needs no `ip6`.
 */
export function openNftables(programs: Programs, options: NftablesOptions): Engine {
  /** What nft lists where the wanted rules stand, by what was written. */
  const listed = new Map<string, string>();
  let randomly: boolean | undefined;
  let othersCleared = false;
  let watch: Engine["watch"] = { chains: [], legacyTables: [] };

  const ensureFamily = async (nft: string, rules: FamilyRules): Promise<Changes> => {
    const name = tableName(rules.family, options.table);
    randomly ??= options.fullyRandom && (await takesFullyRandom(programs, nft));
    const text = nftablesText(rules, { table: options.table, fullyRandom: randomly });
    const before = await listTable(programs, nft, name);
    if (text === "") {
      if (before === undefined) return nothing;
      await outputOf(programs, [nft, "-f", "-"], removalText(name));
      return { missing: [], removed: [`table ${name}`] };
    }
    const expected = listed.get(text);
    if (before !== undefined && before === expected) return nothing;
    await outputOf(programs, [nft, "-f", "-"], removalText(name) + text);
    const after = await listTable(programs, nft, name);
    const count = rules.masquerade.length + rules.forward.length;
    if (after !== undefined && ruleLines(after).length === count) listed.set(text, after);
    return difference(name, before, after ?? text);
  };

  /** Ours of the tables `names`. flannel makes both of its own always, so an empty one goes with the other. */
  const removeOthers = async (nft: string, names: readonly string[]): Promise<string[]> => {
    const found: { name: string; listing: string }[] = [];
    for (const name of names) {
      const listing = await listTable(programs, nft, name);
      if (listing !== undefined) found.push({ name, listing });
    }
    const isOurs = ({ name, listing }: { name: string; listing: string }) =>
      name.endsWith(` ${options.table}`) || namesOneOf(listing, options.networks);
    const ours = found.filter(isOurs);
    const withFlannels = ours.some(({ name }) => flannelTables.includes(name));
    const empty = found.filter((one) => !isOurs(one) && ruleLines(one.listing).length === 0);
    const gone = [...ours, ...(withFlannels ? empty : [])].map(({ name }) => name);
    if (gone.length > 0) await outputOf(programs, [nft, "-f", "-"], gone.map(removalText).join(""));
    return gone.map((name) => `table ${name}`);
  };

  return {
    name: "nftables",
    get watch() {
      return watch;
    },
    async ensure(wanted) {
      const nft = programs.find("nft");
      if (nft === undefined) throw missingNft();
      const all: Changes[] = [];
      for (const rules of wanted) all.push(await ensureFamily(nft, rules));
      watch = { chains: ["postrtg", "forward"], legacyTables: [] };
      if (!othersCleared) {
        const unused = ([4, 6] as const)
          .filter((family) => !wanted.some((rules) => rules.family === family))
          .map((family) => tableName(family, options.table));
        all.push({ missing: [], removed: await removeOthers(nft, [...flannelTables, ...unused]) });
        othersCleared = true;
      }
      return {
        missing: all.flatMap(({ missing }) => missing),
        removed: all.flatMap(({ removed }) => removed),
      };
    },
    async remove() {
      const nft = programs.find("nft");
      if (nft === undefined) return [];
      const own = ([4, 6] as const).map((family) => tableName(family, options.table));
      return removeOthers(nft, [...own, ...flannelTables]);
    },
  };
}

export function hasNftables(programs: Programs): boolean {
  return programs.find("nft") !== undefined;
}

/** The table of one family for `nft -f`; the empty text where it would hold nothing. Pure. */
export function nftablesText(
  { family, masquerade, forward }: FamilyRules,
  { table, fullyRandom }: { readonly table: string; readonly fullyRandom: boolean },
): string {
  const chains = [
    ["forward", "type filter hook forward priority 0", forward],
    // The priority of source NAT, in digits: nft before 0.9.1 knows no names.
    ["postrtg", "type nat hook postrouting priority 100", masquerade],
  ] as const;
  const filled = chains.filter(([, , rules]) => rules.length > 0);
  if (filled.length === 0) return "";
  return [
    `table ${tableName(family, table)} {`,
    ...filled.flatMap(([name, type, rules]) => [
      `\tchain ${name} {`,
      `\t\t${type}; policy accept;`,
      ...rules.map((rule) => `\t\t${ruleText(family, rule, fullyRandom)}`),
      "\t}",
    ]),
    "}",
    "",
  ].join("\n");
}

const nothing: Changes = { missing: [], removed: [] };

function tableName(family: Family, table: string): string {
  return `${protocol(family)} ${table}`;
}

function protocol(family: Family): "ip" | "ip6" {
  return family === 4 ? "ip" : "ip6";
}

function ruleText(
  family: Family,
  { source, destination, mark, verdict }: Rule,
  fullyRandom: boolean,
): string {
  const hex = (value: number) => `0x${value.toString(16)}`;
  return [
    mark && `meta mark & ${hex(mark.mask)} == ${hex(mark.value)}`,
    source && sideText(family, "saddr", source),
    destination && sideText(family, "daddr", destination),
    verdict === "masquerade" && fullyRandom ? "masquerade fully-random" : verdict,
  ]
    .filter((part) => part !== undefined)
    .join(" ");
}

function sideText(
  family: Family,
  field: "saddr" | "daddr",
  { prefix, negated }: NonNullable<Rule["source"]>,
): string {
  return `${protocol(family)} ${field} ${negated ? "!= " : ""}${prefix}`;
}

/** Gone after this, whether or not it was there: a table may be added that exists, and then deleted. */
function removalText(name: string): string {
  return `add table ${name}\ndelete table ${name}\n`;
}

/** The table without its counters; undefined where there is none. */
async function listTable(programs: Programs, nft: string, name: string): Promise<string | undefined> {
  const { code, output, errors } = await programs.run([nft, "-s", "list", "table", ...name.split(" ")]);
  if (code === 0) return output;
  if (errors.includes("No such file or directory")) return undefined;
  throw new FlannelError("firewall/program", `nft cannot list table ${name}: ${errors}`, { code });
}

/** A kernel or nft that is too old refuses it; asked without changing anything. */
async function takesFullyRandom(programs: Programs, nft: string): Promise<boolean> {
  const probe =
    "table ip flannel-lite-probe {\n\tchain p {\n\t\ttype nat hook postrouting priority 100;\n\t\tmasquerade fully-random\n\t}\n}\n";
  return (await programs.run([nft, "--check", "-f", "-"], probe)).code === 0;
}

function ruleLines(listing: string): string[] {
  return listing
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !/^(table|chain|type|comment|\}) ?/.test(line));
}

function difference(name: string, before: string | undefined, after: string): Changes {
  if (before === undefined) return { missing: [`table ${name}`], removed: [] };
  const [had, has] = [ruleLines(before), ruleLines(after)];
  const named = (lines: readonly string[]) => lines.map((line) => `${name} ${line}`);
  const missing = named(has.filter((line) => !had.includes(line)));
  const removed = named(had.filter((line) => !has.includes(line)));
  if (missing.length === 0 && removed.length === 0) missing.push(`the order in table ${name}`);
  return { missing, removed };
}

function namesOneOf(listing: string, networks: readonly Prefix[]): boolean {
  const words = new Set(listing.split(/\s+/));
  return networks.some((network) =>
    words.has(hostPrefix(network.address).equals(network) ? `${network.address}` : `${network}`),
  );
}

function missingNft(): FlannelError {
  return new FlannelError(
    "firewall/missing",
    "nft is not installed",
    {},
    { retryable: true, remedy: "Install nftables, or set host.firewall to iptables" },
  );
}
