import { describe, expect, test } from "bun:test";
import { openIptables } from "../../../../src/host/firewall/iptables.ts";
import { planFirewall } from "../../../../src/host/firewall/rules.ts";
import { parsePrefix } from "../../../../src/net/prefix.ts";
import { fakeIptables } from "../../../support/fake-iptables.ts";
import { seededRandom } from "../../../support/random.ts";

const network = parsePrefix("10.42.0.0/16");
const wish = {
  ranges: [network],
  subnets: { ipv4: parsePrefix("10.42.1.0/24") },
  masquerade: true,
  forward: true,
  noMasquerade: [],
};
const wanted = planFirewall(wish);
const networks = [network];

/** What another flannel network of this host has in the same chains. */
const neighbour = [
  '-A FLANNEL-POSTRTG -s 10.77.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE',
];
const docker = ["-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"];

async function installed() {
  const fake = fakeIptables();
  fake.change("nat", docker);
  const engine = openIptables(fake, { networks, fullyRandom: true });
  const changes = await engine.ensure(wanted);
  return { fake, engine, changes, nat: fake.rules("nat"), filter: fake.rules("filter") };
}

describe("iptables", () => {
  test("an empty host gets one restore a table, only additions, in order; repeating it does nothing", async () => {
    const { fake, engine, changes } = await installed();
    expect(fake.restored.map((text) => text.split("\n").slice(0, 3))).toEqual([
      ["iptables-restore --noflush --wait", "*nat", ":FLANNEL-POSTRTG - [0:0]"],
      ["iptables-restore --noflush --wait", "*filter", ":FLANNEL-FWD - [0:0]"],
    ]);
    expect(fake.restored.join("\n")).not.toMatch(/^-[DXI]/m);
    expect(changes.missing).toHaveLength(7 + 3);
    expect(await engine.ensure(wanted)).toEqual({ missing: [], removed: [] });
    expect(fake.restored).toHaveLength(2);
  });

  test("a second start finds everything in place and touches nothing", async () => {
    const { fake } = await installed();
    const again = openIptables(fake, { networks, fullyRandom: true });
    expect(await again.ensure(wanted)).toEqual({ missing: [], removed: [] });
    expect(fake.restored).toHaveLength(2);
  });

  test("whatever goes missing or moves comes back as it was, named; foreign rules stay", async () => {
    const random = seededRandom(5);
    const inChain = (lines: readonly string[]) => lines.filter((line) => line.includes(" FLANNEL-POSTRTG "));
    const sorted = (lines: readonly string[]) => [...lines].sort();
    for (let round = 0; round < 200; round++) {
      const { fake, engine, nat } = await installed();
      const ours = nat.filter((line) => line.includes("flanneld"));
      const victims = ours.filter(() => random.below(5) < 2);
      const readded = victims.filter(() => random.below(2) === 0);
      const gone = victims.filter((line) => !readded.includes(line));
      fake.change(
        "nat",
        victims.map((line) => line.replace("-A", "-D")),
      );
      fake.change("nat", readded);
      const moved = inChain(fake.rules("nat")).join() !== inChain(nat).join();
      const { missing, removed } = await engine.ensure(wanted);
      expect(inChain(fake.rules("nat"))).toEqual(inChain(nat));
      expect(sorted(fake.rules("nat"))).toEqual(sorted(nat));
      expect(missing).toEqual(gone.length === 0 && moved ? ["the order in FLANNEL-POSTRTG"] : gone);
      expect(removed).toEqual([]);
    }
  });

  test("a flush of both tables and a deletion of the chains are repaired", async () => {
    const { fake, engine, nat, filter } = await installed();
    for (const table of ["nat", "filter"]) {
      const chain = table === "nat" ? "FLANNEL-POSTRTG" : "FLANNEL-FWD";
      fake.change(table, [...fake.rules(table).map((line) => line.replace("-A", "-D")), `-X ${chain}`]);
    }
    await engine.ensure(wanted);
    expect(fake.rules("nat")).toEqual(nat.filter((line) => !docker.includes(line)));
    expect(fake.rules("filter")).toEqual(filter);
  });

  test("rules of a former subnet and of a former network go, those of another flannel network stay behind ours", async () => {
    const { fake } = await installed();
    fake.change("nat", neighbour);
    const moved = planFirewall({ ...wish, subnets: { ipv4: parsePrefix("10.42.9.0/24") } });
    await openIptables(fake, { networks, fullyRandom: true }).ensure(moved);
    const rules = fake.rules("nat").join("\n");
    expect(rules).not.toContain("10.42.1.0/24");
    expect(rules).toContain("-s 10.42.9.0/24 -d 10.42.0.0/16");
    expect(fake.rules("nat")).toContain(neighbour[0] ?? "");

    const other = parsePrefix("10.99.0.0/16");
    const next = planFirewall({ ...wish, ranges: [other], subnets: { ipv4: parsePrefix("10.99.1.0/24") } });
    await openIptables(fake, { networks: [other, network], fullyRandom: true }).ensure(next);
    expect(fake.rules("nat").join("\n")).not.toContain("10.42.");
    expect(fake.rules("nat")).toContain(neighbour[0] ?? "");
    expect(fake.rules("nat").find((line) => line.startsWith("-A FLANNEL-POSTRTG"))).toContain(
      "--mark 0x4000/0x4000",
    );
  });

  test("two networks in the same chains leave each other alone", async () => {
    const { fake, engine } = await installed();
    const other = parsePrefix("10.99.0.0/16");
    const second = openIptables(fake, { networks: [other], fullyRandom: true });
    const theirs = planFirewall({ ...wish, ranges: [other], subnets: { ipv4: parsePrefix("10.99.1.0/24") } });
    await second.ensure(theirs);
    expect(await engine.ensure(wanted)).toEqual({ missing: [], removed: [] });
    expect(await second.ensure(theirs)).toEqual({ missing: [], removed: [] });
    await engine.remove();
    expect(await second.ensure(theirs)).toEqual({ missing: [], removed: [] });
    expect(fake.rules("nat").join("\n")).not.toContain("10.42.");
  });

  test("removing leaves nothing of ours and everything of others", async () => {
    const { fake, engine } = await installed();
    const removed = await engine.remove();
    expect(fake.rules("nat")).toEqual(docker);
    expect(fake.rules("filter")).toEqual([]);
    expect(removed).toHaveLength(7 + 3);
    expect(await engine.remove()).toEqual([]);
  });

  test("v0.11's bare rules go as a whole set; a part of them is somebody else's", async () => {
    const bare = [
      "-A POSTROUTING -s 10.42.0.0/16 -d 10.42.0.0/16 -j RETURN",
      "-A POSTROUTING -s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
      "-A POSTROUTING ! -s 10.42.0.0/16 -d 10.42.7.0/24 -j RETURN",
      "-A POSTROUTING ! -s 10.42.0.0/16 -d 10.42.0.0/16 -j MASQUERADE",
    ];
    const forward = ["-A FORWARD -s 10.42.0.0/16 -j ACCEPT", "-A FORWARD -d 10.42.0.0/16 -j ACCEPT"];
    const fake = fakeIptables();
    fake.change("nat", [...bare, ...docker]);
    fake.change("filter", forward);
    await openIptables(fake, { networks, fullyRandom: true }).ensure(wanted);
    expect(fake.rules("nat").filter((line) => bare.includes(line))).toEqual([]);
    expect(fake.rules("filter").filter((line) => forward.includes(line))).toEqual([]);
    expect(fake.rules("nat")).toContain(docker[0] ?? "");

    for (const kept of bare) {
      const part = fakeIptables();
      const rest = bare.filter((line) => line !== kept);
      part.change("nat", rest);
      await openIptables(part, { networks, fullyRandom: true }).ensure(wanted);
      expect(part.rules("nat")).toEqual(expect.arrayContaining(rest));
    }
  });

  test("rules that flannel kept right in POSTROUTING with its comment go", async () => {
    const fake = fakeIptables();
    const old =
      '-A POSTROUTING -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN';
    fake.change("nat", [old]);
    const changes = await openIptables(fake, { networks, fullyRandom: true }).ensure(wanted);
    expect(changes.removed).toEqual([old.replace("-A ", "")]);
    expect(fake.rules("nat")).not.toContain(old);
  });

  test("the other variant's rules of ours go, unless legacy iptables has no such table", async () => {
    const { fake, nat } = await installed();
    fake.installed = [...fake.installed, "iptables-nft"];
    fake.version = "v1.8.9 (legacy)";
    fake.change(
      "nat",
      [":FLANNEL-POSTRTG - [0:0]", ...nat.filter((line) => !docker.includes(line))],
      "iptables-nft",
    );
    await openIptables(fake, { networks, fullyRandom: true }).ensure(wanted);
    expect(fake.rules("nat", "iptables-nft")).toEqual([]);
    expect(fake.rules("nat")).toEqual(nat);
  });

  test("before 1.6.2 neither --random-fully nor --wait is used; nor the former where it is switched off", async () => {
    const old = fakeIptables();
    old.version = "v1.4.21";
    await openIptables(old, { networks, fullyRandom: true }).ensure(wanted);
    expect(old.restored.join("")).not.toMatch(/random-fully|--wait/);
    const off = fakeIptables();
    await openIptables(off, { networks, fullyRandom: false }).ensure(wanted);
    expect(off.restored.join("")).not.toContain("random-fully");
    expect(off.restored.join("")).toContain("--wait");
  });

  test("a version that prints rules in other words is believed after one installation", async () => {
    const fake = fakeIptables();
    const { run } = fake;
    fake.run = async (command, input) => {
      const result = await run(command, input);
      return command[0]?.endsWith("-save")
        ? { ...result, output: result.output.replaceAll("-m comment --comment", "-m  comment --comment") }
        : result;
    };
    const engine = openIptables(fake, { networks, fullyRandom: true });
    const forwardless = wanted.map((rules) => ({ ...rules, forward: [] }));
    await engine.ensure(forwardless);
    expect(await engine.ensure(forwardless)).toEqual({ missing: [], removed: [] });
    expect(fake.restored).toHaveLength(1);
  });

  test("a missing program and a refusal are failures that say so", async () => {
    const fake = fakeIptables();
    fake.installed = [];
    const engine = openIptables(fake, { networks, fullyRandom: true });
    expect(engine.ensure(wanted)).rejects.toMatchObject({ code: "firewall/missing" });
    expect(await engine.remove()).toEqual([]);
    fake.installed = ["iptables"];
    fake.run = async ([program = ""], _input) =>
      program.endsWith("-save")
        ? { code: 1, output: "", errors: "table `nat' is incompatible, use 'nft' tool." }
        : { code: 0, output: "iptables v1.8.9 (nf_tables)", errors: "" };
    expect(engine.ensure(wanted)).rejects.toMatchObject({
      code: "firewall/program",
      message: "iptables-save -t nat failed: table `nat' is incompatible, use 'nft' tool.",
    });
  });
});
