import { describe, expect, test } from "bun:test";
import { iptablesTables, jumpText, restoreText } from "../../../../src/host/firewall/iptables-text.ts";
import { nftablesText } from "../../../../src/host/firewall/nftables.ts";
import { type FamilyRules, planFirewall } from "../../../../src/host/firewall/rules.ts";
import { parsePrefix } from "../../../../src/net/prefix.ts";
import { iptablesVerdict, nftablesVerdict } from "../../../support/firewall-rules.ts";
import { golden } from "../../../support/golden.ts";

const wish = {
  ranges: [parsePrefix("10.42.0.0/16"), parsePrefix("2001:cafe:42::/56")],
  subnets: { ipv4: parsePrefix("10.42.1.0/24"), ipv6: parsePrefix("2001:cafe:42:1::/64") },
  masquerade: true,
  forward: true,
  noMasquerade: [],
};

/** All lines of both tables, as one would type them. */
function iptablesText(rules: FamilyRules, fullyRandom = true): string {
  return iptablesTables(rules, { fullyRandom })
    .map((table) => {
      const lines = table.rules.map((text) => `-A ${table.chain} ${text}`);
      return restoreText(table.table, [`-A ${table.from} ${jumpText(table)}`, ...lines]);
    })
    .join("");
}

function ofFamily(rules: readonly FamilyRules[], family: 4 | 6): FamilyRules {
  const found = rules.find((one) => one.family === family);
  if (found === undefined) throw new Error(`no rules of family ${family}`);
  return found;
}

describe("firewall: texts", () => {
  const both = planFirewall(wish);
  const exempt = planFirewall({
    ...wish,
    noMasquerade: ["192.0.2.1/32", "198.51.100.0/24", "2001:db8::/32"].map(parsePrefix),
  });
  test.each([
    ["iptables.txt", iptablesText(ofFamily(both, 4))],
    ["ip6tables.txt", iptablesText(ofFamily(both, 6))],
    ["iptables-no-masquerade.txt", iptablesText(ofFamily(exempt, 4), false)],
    [
      "nftables.txt",
      both.map((rules) => nftablesText(rules, { table: "flannel-lite", fullyRandom: true })).join(""),
    ],
    [
      "nftables-no-masquerade.txt",
      exempt.map((rules) => nftablesText(rules, { table: "flannel-lite", fullyRandom: false })).join(""),
    ],
  ])("%s is as the reference has it", (name, text) => {
    expect(text).toBe(golden(`firewall/${name}`, text));
  });

  test("every family has rules only where it has a network and a subnet, each kind only where it is asked for", () => {
    expect(
      planFirewall({ ...wish, subnets: { ipv4: wish.subnets.ipv4 } }).map(({ family }) => family),
    ).toEqual([4]);
    expect(planFirewall({ ...wish, subnets: {} })).toEqual([]);
    for (const [masquerade, forward] of [
      [true, false],
      [false, true],
      [false, false],
    ] as const) {
      const [rules] = planFirewall({ ...wish, masquerade, forward });
      expect([rules?.masquerade.length, rules?.forward.length]).toEqual([
        masquerade ? 6 : 0,
        forward ? 2 : 0,
      ]);
    }
    const none = { family: 4, masquerade: [], forward: [] } as const;
    expect(nftablesText(none, { table: "t", fullyRandom: true })).toBe("");
    expect(iptablesTables(none, { fullyRandom: true }).map(({ rules }) => rules)).toEqual([[], []]);
  });

  test("an exemption for all addresses is a rule without that condition, as iptables prints it", () => {
    const [rules] = planFirewall({ ...wish, noMasquerade: [parsePrefix("0.0.0.0/0")] });
    const [nat] = iptablesTables(rules ?? { masquerade: [], forward: [] }, { fullyRandom: true });
    expect(nat?.rules).toContain('-s 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN');
    expect(nat?.rules).toContain('-d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN');
  });
});

/** Who is who: a pod here, a pod on another host, the world, an exempt network, a multicast group. */
const names = {
  4: {
    here: "10.42.1.7",
    here2: "10.42.1.8",
    there: "10.42.9.7",
    world: "203.0.113.5",
    exempt: "192.0.2.9",
    group: "239.1.2.3",
  },
  6: {
    here: "2001:cafe:42:1::7",
    here2: "2001:cafe:42:1::8",
    there: "2001:cafe:42:9::7",
    world: "2001:db8:1::5",
    exempt: "2001:db8:2::9",
    group: "ff02::1:3",
  },
} as const;
type Name = keyof (typeof names)[4];

const table: readonly (readonly [
  from: Name,
  to: Name,
  mark: number,
  verdict: string,
  withExemption?: string,
])[] = [
  ["here", "world", 0x4000, "return"],
  ["here", "world", 0x4001, "return"],
  ["world", "there", 0x1c000, "return"],
  ["here", "world", 0x8000, "masquerade"],
  ["here", "here2", 0, "return"],
  ["here", "there", 0, "return"],
  ["there", "here", 0, "return"],
  ["world", "here", 0, "return"],
  ["exempt", "here", 0, "return"],
  ["here", "world", 0, "masquerade"],
  ["there", "world", 0, "masquerade"],
  ["there", "there", 0, "masquerade"],
  ["here", "group", 0, "none"],
  ["world", "there", 0, "masquerade"],
  ["world", "group", 0, "none"],
  ["world", "exempt", 0, "none"],
  ["here", "exempt", 0, "masquerade", "return"],
  ["exempt", "there", 0, "masquerade", "return"],
];

describe("firewall: one truth table over both engines", () => {
  const isPod = (name: Name) => ["here", "here2", "there"].includes(name);
  for (const family of [4, 6] as const) {
    for (const exempt of [false, true]) {
      const noMasquerade = exempt ? ["192.0.2.0/24", "2001:db8:2::/48"].map(parsePrefix) : [];
      const rules = ofFamily(planFirewall({ ...wish, noMasquerade }), family);
      const [nat, filter] = iptablesTables(rules, { fullyRandom: true });
      const nft = nftablesText(rules, { table: "flannel-lite", fullyRandom: true });
      test.each([...table])(
        `IPv${family}, ${exempt ? "with" : "without"} exemption: %s to %s with mark %p`,
        (from, to, mark, plain, withExemption = plain) => {
          const expected = exempt ? withExemption : plain;
          const packet = { source: names[family][from], destination: names[family][to], mark };
          expect(iptablesVerdict(nat?.rules ?? [], packet)).toBe(expected);
          expect(nftablesVerdict(nft, "postrtg", packet)).toBe(expected);
          const accepted = isPod(from) || isPod(to) ? "accept" : "none";
          expect(iptablesVerdict(filter?.rules ?? [], packet)).toBe(accepted);
          expect(nftablesVerdict(nft, "forward", packet)).toBe(accepted);
        },
      );
    }
  }
});
