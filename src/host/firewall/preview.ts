import { basename } from "node:path";
import { systemClock } from "../../base/clock.ts";
import { silentLog } from "../../base/log.ts";
import type { LeaseSubnets } from "../../lease/lease.ts";
import { type FirewallContext, type FirewallOptions, openFirewall } from "./firewall.ts";
import { legacyTableExists } from "./iptables.ts";
import { type Programs, systemPrograms } from "./programs.ts";

/** What a start would do to the packet filter. */
export interface FirewallPreview {
  /** `+` and `-` with a rule, a chain or a table each; `~` where only the order is wrong. */
  readonly lines: readonly string[];
  /** Why it would fail. */
  readonly trouble: string | null;
}

/** What keeping the rules of `subnets` would change now. Reads the packet filter, changes nothing. */
export async function previewFirewall(
  options: FirewallOptions,
  subnets: LeaseSubnets,
  {
    addon,
    programs = systemPrograms,
  }: Pick<FirewallContext, "addon"> & { readonly programs?: Programs | undefined },
): Promise<FirewallPreview> {
  const lines: string[] = [];
  const firewall = openFirewall(options, {
    addon,
    log: silentLog,
    clock: systemClock,
    programs: recording(programs, lines),
  });
  firewall.want(subnets);
  await firewall.ensure();
  return { lines, trouble: firewall.status.trouble };
}

/** Runs what reads; of what would write, `lines` gets the meaning. */
function recording(real: Programs, lines: string[]): Programs {
  const legacy = new Set<string>();
  const listings = new Map<string, string>();
  const done = { code: 0, output: "", errors: "" };
  return {
    find: (name) => real.find(name),
    async run(command, input = "") {
      const [program = "", ...args] = command;
      const name = basename(program);
      if (name.endsWith("-restore")) {
        lines.push(...iptablesLines(name.slice(0, -"-restore".length), input));
        return done;
      }
      if (name === "nft" && args[0] === "-f") {
        lines.push(...nftablesLines(input, listings));
        return done;
      }
      // Legacy iptables would make the table to show it.
      const saved = name.endsWith("-save") ? name.slice(0, -"-save".length) : undefined;
      if (saved !== undefined && legacy.has(saved) && !legacyTableExists(familyOf(saved), args[1] ?? ""))
        return done;
      const result = await real.run(command, input);
      if (args[0] === "--version" && !result.output.includes("nf_tables")) legacy.add(name);
      if (name === "nft" && args[1] === "list" && result.code === 0)
        listings.set(args.slice(3).join(" "), result.output);
      return result;
    },
  };
}

function familyOf(tool: string): 4 | 6 {
  return tool.startsWith("ip6") ? 6 : 4;
}

/** Of one table's input to `iptables-restore --noflush`. What goes and comes again is left out. */
function iptablesLines(tool: string, input: string): string[] {
  const [header = "", ...payload] = input.split("\n");
  const where = `${tool} -t ${header.slice(1)}`;
  const rules = (op: string) =>
    payload.flatMap((line) => (line.startsWith(`${op} `) ? [line.slice(op.length + 1)] : []));
  const [gone, come] = [rules("-D"), rules("-A")];
  const first = rules("-I").map((text) => text.replace(/^(\S+) \d+ /, "$1 "));
  const lines = [
    ...gone.filter((text) => !come.includes(text)).map((text) => `- ${where} ${text}`),
    ...rules("-X").map((chain) => `- ${where} chain ${chain}`),
    ...payload.flatMap((line) => {
      const [, chain] = /^:(\S+) /.exec(line) ?? [];
      return chain === undefined ? [] : [`+ ${where} chain ${chain}`];
    }),
    ...[...come.filter((text) => !gone.includes(text)), ...first].map((text) => `+ ${where} ${text}`),
  ];
  return lines.length > 0 ? lines : [`~ ${where} order of the rules`];
}

/** Of an input to `nft -f` that deletes tables, and makes some of them anew. */
function nftablesLines(input: string, listings: ReadonlyMap<string, string>): string[] {
  const wanted = new Map(
    [...input.matchAll(/^table (\S+ \S+) \{\n(?:.*\n)*?\}$/gm)].map(([text, name = ""]) => [name, text]),
  );
  const deleted = [...input.matchAll(/^delete table (\S+ \S+)$/gm)].map(([, name = ""]) => name);
  return [...new Set([...deleted, ...wanted.keys()])].flatMap((name) => {
    const [before, after] = [listings.get(name), wanted.get(name)];
    const [had, has] = [chainRules(before ?? ""), chainRules(after ?? "")];
    const where = `nft ${name}`;
    const lines = [
      ...had.filter((rule) => !has.includes(rule)).map((rule) => `- ${where} ${rule}`),
      ...(before !== undefined && after === undefined ? [`- nft table ${name}`] : []),
      ...(before === undefined && after !== undefined ? [`+ nft table ${name}`] : []),
      ...has.filter((rule) => !had.includes(rule)).map((rule) => `+ ${where} ${rule}`),
    ];
    // Nothing is known of a table made by another nft in other words but that ours is not it, word by word.
    return lines.length > 0 || before === undefined || had.join() === has.join()
      ? lines
      : [`~ ${where} order of the rules`];
  });
}

/** Each rule behind its chain's name. nft lists numbers with leading zeros. */
function chainRules(table: string): string[] {
  let chain = "";
  return table.split("\n").flatMap((line) => {
    const text = line.trim();
    chain = /^chain (\S+) \{$/.exec(text)?.[1] ?? chain;
    if (text === "" || /^(table|chain|type|comment|\}) ?/.test(text)) return [];
    return [`${chain} ${text.replaceAll(/\b0x0+(?=[0-9a-f])/g, "0x")}`];
  });
}
