import { type IpAddress, parseIpAddress } from "../../src/net/address.ts";
import { hostPrefix, type Prefix, tryParsePrefix } from "../../src/net/prefix.ts";

/** What of a packet the rules look at. */
export interface Packet {
  readonly source: string;
  readonly destination: string;
  readonly mark?: number;
}

type Condition = (packet: { source: IpAddress; destination: IpAddress; mark: number }) => boolean;

interface ParsedRule {
  readonly conditions: readonly Condition[];
  readonly verdict: string;
}

/**
 * What the rules of one chain do with a packet: the verdict of the first that matches, `none` where none does.
 * Written apart from the renderer, from iptables(8) and iptables-extensions(8); refuses words it does not know.
 */
export function iptablesVerdict(rules: readonly string[], packet: Packet): string {
  return verdictOf(rules.map(parseIptablesRule), packet);
}

/** The same of a chain in the language of nft(8). */
export function nftablesVerdict(text: string, chain: string, packet: Packet): string {
  const body = new RegExp(`\\tchain ${chain} \\{\\n\\t\\t[^\\n]*\\n([^}]*)\\}`).exec(text)?.[1] ?? "";
  const lines = body
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  return verdictOf(lines.map(parseNftablesRule), packet);
}

function verdictOf(rules: readonly ParsedRule[], packet: Packet): string {
  const parsed = {
    source: parseIpAddress(packet.source),
    destination: parseIpAddress(packet.destination),
    mark: packet.mark ?? 0,
  };
  const hit = rules.find(({ conditions }) => conditions.every((holds) => holds(parsed)));
  return hit?.verdict ?? "none";
}

function parseIptablesRule(text: string): ParsedRule {
  const words = text
    .replace(/ -m comment --comment "[^"]*"/, "")
    .split(" ")
    .filter((word) => word !== "");
  const conditions: Condition[] = [];
  let verdict = "";
  while (words.length > 0) {
    const negated = words[0] === "!";
    if (negated) words.shift();
    const [option, value = ""] = words.splice(0, 2);
    if (option === "-s" || option === "-d") {
      conditions.push(addressIs(option === "-s" ? "source" : "destination", prefixOf(value), negated));
    } else if (option === "-m" && value === "mark" && words.shift() === "--mark") {
      const [mark = 0, mask = 0] = (words.shift() ?? "").split("/").map(Number);
      conditions.push((packet) => (packet.mark & mask) === mark);
    } else if (option === "-j") {
      verdict = value.toLowerCase();
      if (words[0] === "--random-fully") words.shift();
    } else throw new Error(`unknown iptables option ${option} in ${text}`);
  }
  return { conditions, verdict };
}

function parseNftablesRule(text: string): ParsedRule {
  const words = text.split(" ");
  const conditions: Condition[] = [];
  let verdict = "";
  while (words.length > 0) {
    const word = words.shift();
    if (word === "ip" || word === "ip6") {
      const field = words.shift() === "saddr" ? "source" : "destination";
      const negated = words[0] === "!=";
      if (negated) words.shift();
      conditions.push(addressIs(field, prefixOf(words.shift() ?? ""), negated));
    } else if (word === "meta") {
      const [name, and, mask, equals, mark] = words.splice(0, 5);
      if (name !== "mark" || and !== "&" || equals !== "==") throw new Error(`unknown nft rule ${text}`);
      conditions.push((packet) => (packet.mark & Number(mask)) === Number(mark));
    } else if (word === "accept" || word === "return" || word === "masquerade") {
      verdict = word;
      if (words[0] === "fully-random") words.shift();
    } else throw new Error(`unknown nft word ${word} in ${text}`);
  }
  return { conditions, verdict };
}

function addressIs(field: "source" | "destination", prefix: Prefix, negated: boolean): Condition {
  return (packet) => prefix.contains(packet[field]) !== negated;
}

function prefixOf(text: string): Prefix {
  return tryParsePrefix(text) ?? hostPrefix(parseIpAddress(text));
}
