import { type Prefix, tryParsePrefix } from "../../net/prefix.ts";
import type { FamilyRules, Rule } from "./rules.ts";

/** What shall stand in one of iptables' tables: a chain of ours, and the jump to it. */
export interface TableRules {
  readonly table: "nat" | "filter";
  readonly from: "POSTROUTING" | "FORWARD";
  readonly chain: "FLANNEL-POSTRTG" | "FLANNEL-FWD";
  readonly comment: string;
  /** Without `-A` and the chain's name, as `iptables-save` prints them; empty: neither chain nor jump. */
  readonly rules: readonly string[];
}

/** What `iptables-save` shows of one table. */
export interface SavedTable {
  readonly chains: ReadonlySet<string>;
  readonly rules: readonly SavedRule[];
}

export interface SavedRule {
  readonly chain: string;
  readonly text: string;
}

/** What must change in a table. */
export interface TableChanges {
  /** Lines for `iptables-restore --noflush` between the table's name and COMMIT; empty: nothing. */
  readonly payload: readonly string[];
  readonly missing: readonly string[];
  readonly removed: readonly string[];
}

/** The tables of one family as flannel has them, byte for byte; always both. */
export function iptablesTables(
  { masquerade, forward }: Pick<FamilyRules, "masquerade" | "forward">,
  { fullyRandom }: { readonly fullyRandom: boolean },
): TableRules[] {
  const nat = {
    table: "nat",
    from: "POSTROUTING",
    chain: "FLANNEL-POSTRTG",
    comment: "flanneld masq",
  } as const;
  const filter = {
    table: "filter",
    from: "FORWARD",
    chain: "FLANNEL-FWD",
    comment: "flanneld forward",
  } as const;
  return [
    { ...nat, rules: masquerade.map((rule) => ruleText(rule, nat.comment, fullyRandom)) },
    { ...filter, rules: forward.map((rule) => ruleText(rule, filter.comment, fullyRandom)) },
  ];
}

/** The jump to the chain of ours, without `-A` and the chain's name. */
export function jumpText({ comment, chain }: Pick<TableRules, "comment" | "chain">): string {
  return `-m comment --comment "${comment}" -j ${chain}`;
}

function ruleText(rule: Rule, comment: string, fullyRandom: boolean): string {
  const hex = (value: number) => `0x${value.toString(16)}`;
  const mark = rule.mark && `-m mark --mark ${hex(rule.mark.value)}/${hex(rule.mark.mask)}`;
  const target =
    rule.verdict.toUpperCase() + (rule.verdict === "masquerade" && fullyRandom ? " --random-fully" : "");
  return [
    sideText("-s", rule.source),
    sideText("-d", rule.destination),
    mark,
    `-m comment --comment "${comment}"`,
    `-j ${target}`,
  ]
    .filter((part) => part !== undefined)
    .join(" ");
}

/** All addresses are no condition: iptables does not print one. */
function sideText(option: "-s" | "-d", side: Rule["source"]): string | undefined {
  if (side === undefined || (side.prefix.length === 0 && !side.negated)) return undefined;
  return `${side.negated ? "! " : ""}${option} ${side.prefix}`;
}

/** Reads one table from the output of `iptables-save -t <table>`; other tables in it are passed over. */
export function parseSaved(output: string, table: string): SavedTable {
  const chains = new Set<string>();
  const rules: SavedRule[] = [];
  let inside = false;
  for (const line of output.split("\n")) {
    if (line.startsWith("*")) inside = line === `*${table}`;
    else if (!inside) continue;
    else if (line.startsWith(":")) chains.add(line.slice(1).split(" ", 1)[0] ?? "");
    else if (line.startsWith("-A ")) {
      const end = line.indexOf(" ", 3);
      if (end > 0) rules.push({ chain: line.slice(3, end), text: line.slice(end + 1).trimEnd() });
    }
  }
  return { chains, rules };
}

/**
 * How `saved` becomes `wanted`. Ours in the chain are the rules that name one of `networks`; what else stands
 * in it (another flannel network's rules) stays, and so does the chain then. kube-proxy's mark belongs to all
 * of them and must be asked first. Older flannels' rules for our networks go. Pure.
 */
export function tableChanges(
  saved: SavedTable,
  wanted: TableRules,
  networks: readonly Prefix[],
): TableChanges {
  const inChain = saved.rules.filter(({ chain }) => chain === wanted.chain).map(({ text }) => text);
  const ours = inChain.filter((text) => namesOneOf(text, networks));
  const shared = inChain.filter((text) => !namesOneOf(text, networks) && isMarkRule(text));
  const alone = inChain.length === ours.length + shared.length;
  const old = olderRules(saved, wanted, networks);
  const jumps = saved.rules.filter(({ text }) => jumpsTo(text, wanted.chain));
  const ourJumps = jumps.filter(
    ({ chain, text }) => chain === wanted.from && isPlainJump(text, wanted.chain),
  );
  const drop = (chain: string, texts: readonly string[]) => texts.map((text) => `-D ${chain} ${text}`);
  const dropped = drop(wanted.from, old);

  if (wanted.rules.length === 0) {
    const emptied = alone && (saved.chains.has(wanted.chain) || ourJumps.length > 0);
    const gone = [
      ...drop(wanted.chain, ours),
      ...(emptied ? drop(wanted.chain, shared) : []),
      ...(emptied
        ? drop(
            wanted.from,
            ourJumps.map(({ text }) => text),
          )
        : []),
      ...dropped,
    ];
    const unused = emptied && saved.chains.has(wanted.chain) && jumps.length === ourJumps.length;
    return {
      payload: unused ? [...gone, `-X ${wanted.chain}`] : gone,
      missing: [],
      removed: gone.map(removalText),
    };
  }

  const add = (chain: string, texts: readonly string[]) => texts.map((text) => `-A ${chain} ${text}`);
  const own = wanted.rules.filter((text) => namesOneOf(text, networks));
  const first = wanted.rules.filter((text) => !own.includes(text));
  const present = alone ? inChain : ours;
  const right = alone ? wanted.rules : own;
  const inOrder = present.length === right.length && present.every((text, at) => text === right[at]);
  const firstInPlace = alone || first.every((text, at) => inChain[at] === text);
  const missing = [
    ...(ourJumps.length > 0 ? [] : add(wanted.from, [jumpText(wanted)])),
    ...add(
      wanted.chain,
      right.filter((text) => !present.includes(text)),
    ),
    ...(firstInPlace ? [] : add(wanted.chain, first)),
  ];
  const unwanted = present.filter((text) => !right.includes(text));
  if (!inOrder && missing.length === 0 && unwanted.length === 0) missing.push(`the order in ${wanted.chain}`);
  return {
    payload: [
      ...(saved.chains.has(wanted.chain) ? [] : [`:${wanted.chain} - [0:0]`]),
      ...(ourJumps.length > 0 ? [] : add(wanted.from, [jumpText(wanted)])),
      ...(inOrder ? [] : [...drop(wanted.chain, present), ...add(wanted.chain, right)]),
      ...(firstInPlace ? [] : first.map((text, at) => `-I ${wanted.chain} ${at + 1} ${text}`)),
      ...dropped,
    ],
    missing,
    removed: [...drop(wanted.chain, unwanted), ...dropped].map(removalText),
  };
}

/** The whole input of `iptables-restore --noflush`. */
export function restoreText(table: string, payload: readonly string[]): string {
  return `*${table}\n${payload.map((line) => `${line}\n`).join("")}COMMIT\n`;
}

function removalText(line: string): string {
  return line.replace(/^-D /, "");
}

function isMarkRule(text: string): boolean {
  return (
    text.includes("--mark 0x4000/0x4000 ") &&
    text.includes('"flanneld masq"') &&
    addressesIn(text).length === 0
  );
}

function jumpsTo(text: string, chain: string): boolean {
  const words = text.split(" ");
  const at = words.findLastIndex((word) => word === "-j" || word === "-g");
  return at >= 0 && words[at + 1] === chain;
}

/** Nothing but the jump and a comment. */
function isPlainJump(text: string, chain: string): boolean {
  return text.replace(/-m +comment --comment ("[^"]*"|\S+)/, "").trim() === `-j ${chain}`;
}

function namesOneOf(text: string, networks: readonly Prefix[]): boolean {
  return addressesIn(text).some((prefix) => networks.some((network) => network.equals(prefix)));
}

function addressesIn(text: string): Prefix[] {
  return [...text.matchAll(/(?:^| )-[sd] (\S+)/g)].flatMap(([, word = ""]) => tryParsePrefix(word) ?? []);
}

/**
 * Rules that flannel kept right in POSTROUTING and FORWARD before it had chains: with its comment, or bare as
 * in v0.11. The bare ones look like anybody's, so only the whole set of a network is known as flannel's.
 */
function olderRules(
  { rules }: SavedTable,
  { from, comment, chain }: TableRules,
  networks: readonly Prefix[],
): string[] {
  const there = rules.filter((rule) => rule.chain === from).map(({ text }) => text);
  const commented = there.filter(
    (text) =>
      text.includes(` --comment "${comment}" `) && !jumpsTo(text, chain) && namesOneOf(text, networks),
  );
  const bare = networks.flatMap((network) => {
    const found = bareForms(from, network).map((isForm) => there.find(isForm));
    const whole = found.filter((text) => text !== undefined);
    return whole.length === found.length ? whole : [];
  });
  return [...commented, ...new Set(bare)];
}

function bareForms(from: TableRules["from"], network: Prefix): ((text: string) => boolean)[] {
  const is =
    (...forms: string[]) =>
    (text: string) =>
      forms.includes(text);
  if (from === "FORWARD") return [is(`-s ${network} -j ACCEPT`), is(`-d ${network} -j ACCEPT`)];
  const toWorld = `-s ${network} ! -d ${network.family === 4 ? "224.0.0.0/4" : "ff00::/8"} -j MASQUERADE`;
  const toPods = `! -s ${network} -d ${network} -j MASQUERADE`;
  return [
    is(`-s ${network} -d ${network} -j RETURN`),
    is(toWorld, `${toWorld} --random-fully`),
    (text) => {
      const [, subnet = ""] = /^! -s \S+ -d (\S+) -j RETURN$/.exec(text) ?? [];
      const prefix = tryParsePrefix(subnet);
      return prefix !== undefined && network.contains(prefix) && text.startsWith(`! -s ${network} `);
    },
    is(toPods, `${toPods} --random-fully`),
  ];
}
