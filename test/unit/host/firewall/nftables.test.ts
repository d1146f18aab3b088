import { describe, expect, test } from "bun:test";
import { openNftables } from "../../../../src/host/firewall/nftables.ts";
import { planFirewall } from "../../../../src/host/firewall/rules.ts";
import { parsePrefix } from "../../../../src/net/prefix.ts";
import { fakeNft } from "../../../support/fake-nft.ts";

const network = parsePrefix("10.42.0.0/16");
const wanted = planFirewall({
  ranges: [network],
  subnets: { ipv4: parsePrefix("10.42.1.0/24") },
  masquerade: true,
  forward: true,
  noMasquerade: [],
});
const options = { networks: [network], table: "flannel-lite", fullyRandom: true };

const flannels = (of: string) =>
  `table ip flannel-ipv4 {\n\tchain postrtg {\n\t\tip saddr ${of} ip daddr != 224.0.0.0/4 masquerade\n\t}\n}\n`;

describe("nftables", () => {
  test("the table is replaced in one transaction; repeating it loads nothing", async () => {
    const nft = fakeNft();
    const engine = openNftables(nft, options);
    expect(await engine.ensure(wanted)).toEqual({ missing: ["table ip flannel-lite"], removed: [] });
    expect(nft.loaded).toHaveLength(1);
    expect(nft.loaded[0]).toStartWith(
      "add table ip flannel-lite\ndelete table ip flannel-lite\ntable ip flannel-lite {\n",
    );
    expect(await engine.ensure(wanted)).toEqual({ missing: [], removed: [] });
    expect(nft.loaded).toHaveLength(1);
    expect([...nft.tables.keys()]).toEqual(["ip flannel-lite"]);
  });

  test("a rule that is gone, added or moved is named, and the table is as before", async () => {
    const nft = fakeNft();
    const engine = openNftables(nft, options);
    await engine.ensure(wanted);
    const name = "ip flannel-lite";
    const right = nft.tables.get(name) ?? "";
    const mark = "\t\tmeta mark & 0x4000 == 0x4000 return\n";
    nft.tables.set(name, right.replace(mark, ""));
    expect(await engine.ensure(wanted)).toEqual({ missing: [`${name} ${mark.trim()}`], removed: [] });
    nft.tables.set(name, right.replace(mark, `${mark}\t\tip saddr 192.0.2.1 return\n`));
    expect(await engine.ensure(wanted)).toEqual({
      missing: [],
      removed: [`${name} ip saddr 192.0.2.1 return`],
    });
    const accepts = ["\t\tip saddr 10.42.0.0/16 accept\n", "\t\tip daddr 10.42.0.0/16 accept\n"];
    nft.tables.set(name, right.replace(accepts.join(""), accepts.toReversed().join("")));
    expect(await engine.ensure(wanted)).toEqual({ missing: [`the order in table ${name}`], removed: [] });
    expect(nft.tables.get(name)).toBe(right);
  });

  test("ports are fully random unless it is switched off or refused", async () => {
    for (const [fullyRandom, random, expected] of [
      [true, true, true],
      [true, false, false],
      [false, true, false],
    ] as const) {
      const nft = fakeNft();
      nft.random = random;
      await openNftables(nft, { ...options, fullyRandom }).ensure(wanted);
      expect(nft.loaded.join("").includes("fully-random")).toBe(expected);
    }
  });

  test("flannel's own tables go when they are this network's, an empty one only with the other", async () => {
    for (const [of, left] of [
      ["10.42.0.0/16", []],
      ["10.77.0.0/16", ["ip flannel-ipv4", "ip6 flannel-ipv6"]],
    ] as const) {
      const nft = fakeNft();
      nft.tables
        .set("ip flannel-ipv4", flannels(of))
        .set("ip6 flannel-ipv6", "table ip6 flannel-ipv6 {\n}\n");
      await openNftables(nft, options).ensure(wanted);
      expect([...nft.tables.keys()].filter((name) => name.includes("flannel-ipv"))).toEqual([...left]);
    }
  });

  test("a table of a former run is removed with the family, the wish, or all of ours; other names stay", async () => {
    const nft = fakeNft();
    const other = "table ip flannel-lite-0a1b2c3d {\n}\n";
    nft.tables
      .set("ip6 flannel-lite", "table ip6 flannel-lite {\n}\n")
      .set("ip flannel-lite-0a1b2c3d", other);
    const engine = openNftables(nft, options);
    expect((await engine.ensure(wanted)).removed).toEqual(["table ip6 flannel-lite"]);
    const nothing = wanted.map((rules) => ({ ...rules, masquerade: [], forward: [] }));
    expect((await engine.ensure(nothing)).removed).toEqual(["table ip flannel-lite"]);
    await engine.ensure(wanted);
    expect(await engine.remove()).toEqual(["table ip flannel-lite"]);
    expect([...nft.tables.keys()]).toEqual(["ip flannel-lite-0a1b2c3d"]);
  });

  test("a missing program is a failure that says so, but removes quietly nothing", async () => {
    const nft = fakeNft();
    nft.installed = false;
    const engine = openNftables(nft, options);
    expect(engine.ensure(wanted)).rejects.toMatchObject({ code: "firewall/missing" });
    expect(await engine.remove()).toEqual([]);
  });

  test("a listing that fails otherwise is a failure, not an absent table", async () => {
    const nft = fakeNft();
    nft.run = async () => ({ code: 1, output: "", errors: "Operation not permitted" });
    expect(openNftables(nft, { ...options, fullyRandom: false }).ensure(wanted)).rejects.toMatchObject({
      code: "firewall/program",
      message: "nft cannot list table ip flannel-lite: Operation not permitted",
    });
  });
});
