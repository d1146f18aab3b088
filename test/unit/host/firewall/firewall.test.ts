import { describe, expect, test } from "bun:test";
import { type FirewallOptions, openFirewall } from "../../../../src/host/firewall/firewall.ts";
import type { FirewallChange } from "../../../../src/native/ports.ts";
import { parsePrefix } from "../../../../src/net/prefix.ts";
import { fakeIptables } from "../../../support/fake-iptables.ts";
import { fakeNft } from "../../../support/fake-nft.ts";
import { manualClock, settle } from "../../../support/manual-clock.ts";
import { recordingLog } from "../../../support/recording-log.ts";

const subnets = { ipv4: parsePrefix("10.42.1.0/24") };
const options: FirewallOptions = {
  engine: "auto",
  enableNftables: false,
  masquerade: true,
  forward: true,
  noMasquerade: [],
  fullyRandom: true,
  table: "flannel-lite",
  ranges: [parsePrefix("10.42.0.0/16")],
  previous: [],
};

/** A firewall over iptables in memory, whose notifications the test sends. */
function openTestFirewall(more: Partial<FirewallOptions> = {}) {
  const programs = fakeIptables();
  const clock = manualClock();
  const log = recordingLog();
  let next = Promise.withResolvers<FirewallChange | null>();
  let shape = "1";
  const changes: (string | undefined)[] = [];
  const firewall = openFirewall(
    { ...options, ...more },
    {
      addon: {
        openFirewallMonitor: async () => ({
          next: () => next.promise.finally(() => (next = Promise.withResolvers())),
          close: () => next.resolve(null),
        }),
        legacyTableState: () => shape,
      },
      log,
      clock,
      programs,
      onChange: () => changes.push(firewall.blocked),
    },
  );
  firewall.want(subnets);
  return {
    programs,
    clock,
    log,
    firewall,
    changes,
    tell: (change: Partial<FirewallChange>) =>
      next.resolve({ chains: ["POSTROUTING"], pid: 706, process: "nft", overrun: false, ...change }),
    reshape: (now: string) => (shape = now),
  };
}

/** Lets promises of several steps run, without moving the clock. */
async function rest() {
  for (let turns = 0; turns < 20; turns++) await settle();
}

const flush = (programs: ReturnType<typeof fakeIptables>) =>
  programs.change(
    "nat",
    programs.rules("nat").map((line) => line.replace("-A", "-D")),
  );

describe("firewall", () => {
  test("a change that the kernel tells of is repaired within a tenth of a second, counted, and says who did what", async () => {
    const { programs, clock, log, firewall, tell } = openTestFirewall();
    await firewall.ensure();
    const stop = new AbortController();
    const running = firewall.run(stop.signal);
    await clock.advance(100);
    expect(firewall.status).toMatchObject({ engine: "iptables", rules: 8, repairs: 0, trouble: null });
    const nat = programs.rules("nat");
    flush(programs);
    tell({});
    await rest();
    await clock.advance(100);
    await rest();
    expect(programs.rules("nat")).toEqual(nat);
    expect(firewall.status.repairs).toBe(1);
    const line = log.lines.find((one) => one.includes("changed by others"));
    expect(line).toContain('"by":"nft (706)"');
    expect(line).toContain("-s 10.42.0.0/16 ! -d 224.0.0.0/4");
    stop.abort();
    await running;
  });

  test("changes elsewhere start no program; ours, heard of, start one comparison and change nothing", async () => {
    const { programs, clock, firewall, tell } = openTestFirewall();
    await firewall.ensure();
    const stop = new AbortController();
    const running = firewall.run(stop.signal);
    await clock.advance(100);
    await rest();
    let runs = 0;
    const { run } = programs;
    programs.run = (...args) => {
      runs++;
      return run(...args);
    };
    tell({ chains: ["KUBE-SERVICES"] });
    await rest();
    await clock.advance(1000);
    expect(runs).toBe(0);
    tell({ process: "iptables-nft-restore" });
    await rest();
    await clock.advance(1000);
    await rest();
    expect(runs).toBe(2);
    expect(programs.restored).toHaveLength(2);
    expect(firewall.status.repairs).toBe(0);
    stop.abort();
    await running;
  });

  test("legacy iptables is asked for its tables' shape, and compared when it differs", async () => {
    const { programs, clock, firewall, reshape } = openTestFirewall();
    programs.version = "v1.8.9 (legacy)";
    await firewall.ensure();
    const stop = new AbortController();
    const running = firewall.run(stop.signal);
    await clock.advance(700);
    await rest();
    flush(programs);
    reshape("2");
    await clock.advance(700);
    await rest();
    expect(firewall.status.repairs).toBe(1);
    expect(programs.rules("nat").length).toBe(7);
    stop.abort();
    await running;
  });

  test("whoever keeps changing them slows repairs down, is reported once, and forgotten in the end", async () => {
    const { programs, clock, log, firewall, tell } = openTestFirewall();
    await firewall.ensure();
    const stop = new AbortController();
    const running = firewall.run(stop.signal);
    await clock.advance(100);
    for (let times = 0; times < 200; times++) {
      flush(programs);
      tell({});
      await rest();
      await clock.advance(500);
      await rest();
    }
    expect(firewall.status.contested).toBe(true);
    expect(firewall.status.repairs).toBeLessThan(20);
    expect(log.messages.filter((message) => message.startsWith("somebody keeps"))).toHaveLength(1);
    await clock.advance(120_000);
    await rest();
    await clock.advance(180_000);
    expect(firewall.status.contested).toBe(false);
    const { repairs } = firewall.status;
    flush(programs);
    tell({});
    await rest();
    await clock.advance(61_000);
    await rest();
    expect(firewall.status).toMatchObject({ contested: false, repairs: repairs + 1 });
    stop.abort();
    await running;
  });

  test("without any program masquerading is blocked, says why once, and comes when one is installed", async () => {
    const { programs, clock, log, firewall, changes } = openTestFirewall();
    programs.installed = [];
    await firewall.ensure();
    expect(firewall.blocked).toContain("neither iptables nor nft is installed");
    const stop = new AbortController();
    const running = firewall.run(stop.signal);
    await clock.advance(20_000);
    await rest();
    expect(log.messages.filter((message) => message.startsWith("firewall rules could not"))).toHaveLength(1);
    programs.installed = ["iptables"];
    await clock.advance(60_000);
    await rest();
    expect(firewall.blocked).toBeUndefined();
    expect(firewall.status).toMatchObject({ engine: "iptables", trouble: null, repairs: 0 });
    expect(changes.at(-1)).toBeUndefined();
    stop.abort();
    await running;
  });

  test("forward rules alone block nothing; nor does a firewall of which nothing is asked", async () => {
    const forwardOnly = openTestFirewall({ masquerade: false });
    forwardOnly.programs.installed = [];
    await forwardOnly.firewall.ensure();
    expect(forwardOnly.firewall.blocked).toBeUndefined();
    expect(forwardOnly.firewall.status.trouble).toContain("neither iptables nor nft");
    const nothing = openTestFirewall({ masquerade: false, forward: false });
    nothing.programs.installed = [];
    await nothing.firewall.ensure();
    expect(nothing.firewall.status).toEqual({
      engine: null,
      rules: 0,
      repairs: 0,
      contested: false,
      trouble: null,
    });
    expect(nothing.log.messages).toEqual([]);
  });

  test("an older flannel's rules go once, also where the run before had the same network", async () => {
    const { programs, firewall } = openTestFirewall({ previous: options.ranges });
    const forward = ["-A FORWARD -s 10.42.0.0/16 -j ACCEPT", "-A FORWARD -d 10.42.0.0/16 -j ACCEPT"];
    programs.change("filter", forward);
    await firewall.ensure();
    expect(firewall.status.trouble).toBeNull();
    expect(programs.rules("filter").filter((line) => forward.includes(line))).toEqual([]);
  });

  test.each([
    [
      { enableNftables: true },
      ["iptables", "nft"],
      "nftables",
      "EnableNFTables in the network configuration",
    ],
    [{ enableNftables: true }, ["iptables"], "iptables", "nftables is not installed"],
    [{}, ["iptables", "nft"], "iptables", "the default"],
    [{}, ["nft"], "nftables", "iptables is not installed"],
    [{ engine: "nftables" }, ["iptables", "nft"], "nftables", "configured"],
  ] as const)("with %j and %j installed the choice is %s", async (more, installed, expected, reason) => {
    const { programs, firewall, log } = openTestFirewall(more);
    const [iptables, nft] = [fakeIptables(), fakeNft()];
    programs.installed = [...installed];
    iptables.installed = [...installed];
    programs.find = (name) =>
      name === "nft" && programs.installed.includes("nft") ? "nft" : iptables.find(name);
    programs.run = (command, input) => (command[0] === "nft" ? nft : iptables).run(command, input);
    await firewall.ensure();
    expect(firewall.status).toMatchObject({ engine: expected, trouble: null });
    expect(log.lines).toContain(JSON.stringify({ message: "firewall chosen", firewall: expected, reason }));
    expect([nft.tables.size, iptables.rules("nat").length]).toEqual(
      expected === "nftables" ? [1, 0] : [0, 7],
    );
  });

  test("a new subnet replaces the rules of the old one", async () => {
    const { programs, firewall } = openTestFirewall();
    await firewall.ensure();
    firewall.want({ ipv4: parsePrefix("10.42.9.0/24") });
    await firewall.ensure();
    expect(programs.rules("nat").join("\n")).toContain("-s 10.42.9.0/24");
    expect(programs.rules("nat").join("\n")).not.toContain("10.42.1.0/24");
    expect(firewall.status.repairs).toBe(0);
  });

  test("rules of a run that masqueraded go when it is switched off", async () => {
    const { programs, firewall } = openTestFirewall();
    await firewall.ensure();
    const off = openTestFirewall({ masquerade: false, forward: false });
    off.programs.change("nat", [":FLANNEL-POSTRTG - [0:0]", ...programs.rules("nat")]);
    await off.firewall.ensure();
    expect(off.programs.rules("nat")).toEqual([]);
  });
});
