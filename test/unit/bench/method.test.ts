import { describe, expect, test } from "bun:test";
import { parseCpuTime, parseProcessCpu } from "../../../src/bench/cpu.ts";
import { designs } from "../../../src/bench/design.ts";
import { modes, parseFeatures, wantedFeatures } from "../../../src/bench/mode.ts";
import {
  interopRowSpecs,
  plannedRuns,
  type Run,
  rowOf,
  type RowSpec,
  rowSpecs,
} from "../../../src/bench/row.ts";
import { spreadOf } from "../../../src/bench/statistics.ts";
import { benchOptions } from "../../../src/command/bench.ts";

/** As `ethtool -k` prints a veth's. */
const features = `Features for eth0:
rx-checksumming: on
tx-checksumming: on
	tx-checksum-ipv4: off [fixed]
	tx-checksum-ip-generic: on
tcp-segmentation-offload: on
	tx-tcp-segmentation: on
	tx-tcp6-segmentation: on
generic-segmentation-offload: on
generic-receive-offload: off
rx-gro-hw: off [fixed]
tx-udp_tnl-segmentation: on
tx-udp_tnl-csum-segmentation: on
tx-gso-partial: off [fixed]
tx-udp-segmentation: on
tx-gso-list: on
tx-vlan-offload: on [requested off]
`;

describe("bench modes", () => {
  const names = [...parseFeatures(features).keys()];

  test("every segmentation by the link is off by its own name in all modes but offload", () => {
    for (const mode of modes) {
      const off = [...wantedFeatures(mode, names)].filter(([, on]) => !on).map(([name]) => name);
      const segmentation = [
        "generic-segmentation-offload",
        "tx-gso-list",
        "tx-gso-partial",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "tx-udp-segmentation",
        "tx-udp_tnl-csum-segmentation",
        "tx-udp_tnl-segmentation",
      ];
      expect(off.filter((name) => segmentation.includes(name)).sort()).toEqual(
        mode === "offload" ? [] : segmentation,
      );
    }
  });

  test("wire and nic join packets, and only wire and nocsum compute checksums", () => {
    const states = modes.map((mode) => {
      const wanted = wantedFeatures(mode, names);
      return [mode, wanted.get("generic-receive-offload"), wanted.get("tx-checksum-ip-generic")];
    });
    expect(states).toEqual([
      ["wire", true, false],
      ["nic", true, true],
      ["offload", undefined, undefined],
      ["plain", false, true],
      ["nocsum", false, false],
    ]);
  });

  test("a feature's state and whether it is fixed are read, whatever else stands there", () => {
    const parsed = parseFeatures(features);
    expect(parsed.get("tx-checksum-ipv4")).toEqual({ on: false, fixed: true });
    expect(parsed.get("tx-vlan-offload")).toEqual({ on: true, fixed: false });
    expect(parseFeatures("no such device").size).toBe(0);
  });
});

describe("bench rows", () => {
  test("every row names designs that exist, and no two rows have one name", () => {
    const known = designs.map(({ name }) => name);
    const rows = [...rowSpecs, ...interopRowSpecs];
    expect(rows.flatMap(({ of, against }) => [of, against]).filter((name) => !known.includes(name))).toEqual(
      [],
    );
    expect(new Set(rows.map(({ name }) => name)).size).toBe(rows.length);
  });

  test("each design is run once for a meter, the base next to the first two", () => {
    const tcp = plannedRuns(rowSpecs).filter(({ meter }) => meter === "tcp1");
    expect(tcp).toHaveLength(1);
    expect(tcp[0]?.designs.slice(0, 3)).toEqual(["userspace", "kernel", "from-kernel"]);
    expect(new Set(tcp[0]?.designs).size).toBe(tcp[0]?.designs.length ?? 0);
  });

  const spec: RowSpec = { name: "x", meter: "tcp1", of: "one", against: "two", must: 0.9 };
  const run = (design: string, round: number, value: number, cpuPerGigabit = 1): Run => ({
    meter: "tcp1",
    design,
    round,
    sample: { value, cpuPerGigabit, retransmits: round, busyCores: 1, stolenCores: 0 },
  });

  test("a ratio is the median of the rounds' ratios, not the ratio of medians", () => {
    const runs = [
      ...[run("one", 1, 1), run("two", 1, 1)],
      ...[run("one", 2, 100), run("two", 2, 50)],
      ...[run("one", 3, 6), run("two", 3, 2)],
    ];
    expect(rowOf(spec, "wire", runs)).toMatchObject({
      ratio: 2,
      min: 1,
      max: 3,
      rounds: 3,
      value: 6,
      base: 2,
      retransmits: [2, 2],
      must: 0.9,
    });
  });

  test("a round without one of the two designs counts for nothing, and none at all gives no row", () => {
    const runs = [run("one", 1, 4), run("two", 1, 2), run("one", 2, 9)];
    expect(rowOf(spec, "wire", runs)?.rounds).toBe(1);
    expect(rowOf(spec, "wire", [run("one", 1, 4), run("two", 2, 2)])).toBeUndefined();
  });

  test("CPU is compared by what a gigabit costs, and goals stand in mode wire alone", () => {
    const runs = [run("one", 1, 5, 3), run("two", 1, 5, 2)];
    const row = rowOf({ ...spec, quantity: "cpuPerGigabit" }, "nic", runs);
    expect(row).toMatchObject({ ratio: 1.5, lowerIsBetter: true, unit: "CPU s/Gbit" });
    expect(row?.must).toBeUndefined();
  });

  test("a spread of an even number of values has the mean of the middle two as its median", () => {
    expect(spreadOf([4, 1, 3, 2])).toEqual({ median: 2.5, min: 1, max: 4 });
    expect(spreadOf([7])).toEqual({ median: 7, min: 7, max: 7 });
    expect(spreadOf([]).median).toBeNaN();
  });
});

test("bench: busy time leaves out idle, waiting and what the hypervisor took", () => {
  const stat = "cpu  100 10 200 9999 8888 30 40 500 60 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
  expect(parseCpuTime(stat)).toEqual({ busy: 3.8, stolen: 5 });
});

test("bench: a process's CPU time is found behind a name with spaces and parentheses", () => {
  const stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 99";
  expect(parseProcessCpu(stat)).toBe(2);
});

describe("bench flags", () => {
  const options = (flags: Record<string, string> = {}) => benchOptions(new Map(Object.entries(flags)));

  test("the defaults measure every row over a wire in at least five rounds; quick ones in three", () => {
    const [wire] = options().passes;
    expect(wire).toMatchObject({ mode: "wire", rows: rowSpecs });
    expect(wire?.rounds).toBeGreaterThanOrEqual(5);
    expect(options().leases).toEqual([1, 100, 1_000, 10_000]);
    expect(options({ quick: "true" }).passes).toEqual([{ mode: "wire", rows: rowSpecs, rounds: 3 }]);
    expect(options({ quick: "true", rounds: "1", seconds: "0.3" })).toMatchObject({
      passes: [{ rounds: 1 }],
      seconds: 0.3,
    });
  });

  test("the stores are measured unless other rows were chosen, by themselves where only theirs were", () => {
    expect(options()).toMatchObject({ store: { rounds: 3, seconds: 1 }, kube: { rounds: 3 } });
    expect(options({ rows: "store-put/embedded" }).kube).toBeUndefined();
    expect(options({ rows: "kube-change/5000-nodes", quick: "true" })).toMatchObject({
      store: undefined,
      kube: { rounds: 1 },
      passes: [],
    });
    expect(options({ rows: "rtt/default" }).store).toBeUndefined();
    expect(options({ rows: "store-put/embedded", quick: "true" })).toMatchObject({
      store: { rounds: 1 },
      passes: [],
      leases: [],
    });
    expect(options({ rows: "rtt/default,store-txn/embedded" })).toMatchObject({
      store: { rounds: 3 },
      passes: [{ rows: [{ name: "rtt/default" }] }],
    });
  });

  test("interoperation is measured in every mode, unless something was chosen", () => {
    expect(options().passes.map(({ mode }) => mode)).toEqual([...modes]);
    expect(
      options()
        .passes.slice(1)
        .every(({ rows }) => rows === interopRowSpecs),
    ).toBeTrue();
    expect(options({ rows: "rtt/default" })).toMatchObject({
      passes: [{ mode: "wire", rows: [{ name: "rtt/default" }] }],
      leases: [],
    });
    const chosen = options({ mode: "nic,plain", rows: "interop/to-kernel" }).passes;
    expect(chosen.map(({ mode, rows: [row] }) => [mode, row?.name])).toEqual([
      ["nic", "interop/to-kernel"],
      ["plain", "interop/to-kernel"],
    ]);
  });

  test.each([
    ["mode", "wires"],
    ["rows", "tcp1/nothing"],
    ["rows", "tcp1/userspace,"],
    ["rounds", "0"],
    ["rounds", "1.5"],
    ["seconds", "x"],
    ["seconds", "61"],
  ])("-%s=%s is refused", (flag, text) => {
    expect(() => options({ [flag]: text })).toThrow(`-${flag}`);
  });
});
