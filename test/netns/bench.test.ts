import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Report } from "../../src/bench/report.ts";
import { type Child, start } from "../../src/demo/process.ts";
import { binary, overlayRefused } from "../support/overlay.ts";

const missingProgram = ["iperf3", "ethtool"].find((program) => Bun.which(program) === null);
const refused = overlayRefused() ?? (missingProgram && `${missingProgram} is not installed`);
if (refused !== undefined) console.warn(`SKIPPED test/netns/bench.test.ts: ${refused}`);

describe.skipIf(refused !== undefined)("bench", () => {
  let child: Child | undefined;
  afterEach(() => child?.end());

  /** What a bench of this process id left. */
  const leftovers = (pid: number): string[] =>
    ["/run/netns", "/tmp"]
      .filter((directory) => existsSync(directory))
      .flatMap((directory) => readdirSync(directory))
      .filter((name) => name.startsWith(`fl-bench-${pid}-`));

  test("measures a row of each kind, tells it as JSON and as a page, and leaves nothing", async () => {
    const docs = mkdtempSync("/tmp/fl-bench-docs-");
    try {
      child = start([
        ...[binary, "bench", "--quick", "--json", "--rounds", "1", "--seconds", "0.3", "--write-docs", docs],
        ...[
          "--rows",
          "tcp1/userspace,cpu/userspace,rtt/default,pps64x1000/userspace,forwarded-tcp1/userspace",
        ],
      ]);
      const output = await new Response(child.output).text();
      expect({ code: await child.exited, errors: child.errorTail() }).toMatchObject({ code: 0 });
      const { rows, drops, restless } = JSON.parse(output) as Report;
      expect(rows.map(({ name, mode, rounds }) => [name, mode, rounds])).toEqual([
        ["tcp1/userspace", "wire", 1],
        ["cpu/userspace", "wire", 1],
        ["rtt/default", "wire", 1],
        ["pps64x1000/userspace", "wire", 1],
        ["forwarded-tcp1/userspace", "wire", 1],
      ]);
      for (const { ratio, min, max, value, base } of rows) {
        expect(ratio).toBeGreaterThan(0);
        expect([min, max]).toEqual([ratio, ratio]);
        expect(Math.min(value, base)).toBeGreaterThan(0);
      }
      // An engine that nothing is sent through takes nothing from the others.
      expect(restless).toEqual([]);
      // Every lease is known, and what comes from it believed.
      const wrong = ["noRoute", "wrongMac", "wrongVni", "unknownSender", "spoofedSource"];
      expect(drops.map(({ design }) => design)).toEqual(["userspace"]);
      expect(Object.keys(drops[0]?.reasons ?? {}).filter((reason) => wrong.includes(reason))).toEqual([]);
      expect(readFileSync(join(docs, "README.md"), "utf8")).toContain("| tcp1/userspace | wire |");
      expect(readFileSync(join(docs, "bench.svg"), "utf8")).toStartWith("<svg");
      expect(leftovers(child.pid)).toEqual([]);
    } finally {
      rmSync(docs, { recursive: true });
    }
  }, 120_000);

  test("the embedded store is measured beside a real etcd, with all watchers served, and nothing is left", async () => {
    child = start([binary, "bench", "--quick", "--json", "--rows", "store-put/embedded"]);
    const output = await new Response(child.output).text();
    expect({ code: await child.exited, errors: child.errorTail() }).toMatchObject({ code: 0 });
    const { rows, skipped } = JSON.parse(output) as Report;
    expect(skipped).toEqual([]);
    expect(rows.map(({ name, of, against, mode }) => [name, of, against, mode])).toEqual(
      ["put", "range1000", "txn", "fanout-delay", "fanout-rate", "memory"].map((name) => [
        `store-${name}/embedded`,
        "embedded",
        "etcd",
        "store",
      ]),
    );
    for (const { ratio, value, base } of rows) expect(Math.min(ratio, value, base)).toBeGreaterThan(0);
    expect(leftovers(child.pid)).toEqual([]);
  }, 120_000);

  test("Kubernetes: 5,000 nodes of real size are measured against 50, and nothing is left", async () => {
    const directory = mkdtempSync("/tmp/fl-bench-nodes-");
    try {
      const program = join(directory, "kube-nodes");
      const source = join(import.meta.dir, "../support/kube-nodes.ts");
      writeFileSync(program, `#!/bin/sh\nexec "${process.execPath}" "${source}" "$@"\n`, { mode: 0o755 });
      const command = [binary, "bench", "--quick", "--json", "--rows", "kube-start/5000-nodes"];
      child = start(command, { KUBE_NODES_BIN: program });
      const output = await new Response(child.output).text();
      expect({ code: await child.exited, errors: child.errorTail() }).toMatchObject({ code: 0 });
      const { rows, skipped } = JSON.parse(output) as Report;
      expect(skipped).toEqual([]);
      expect(rows.map(({ name, of, against }) => [name, of, against])).toEqual(
        ["start", "change", "idle-memory", "peak-memory"].map((name) => [
          `kube-${name}/5000-nodes`,
          "5000-nodes",
          "50-nodes",
        ]),
      );
      for (const { ratio, value, base } of rows) expect(Math.min(ratio, value, base)).toBeGreaterThan(0);
      expect(leftovers(child.pid)).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  }, 120_000);

  test("without an API server Kubernetes' rows are left out, with the reason", async () => {
    child = start([binary, "bench", "--quick", "--json", "--rows", "kube-start/5000-nodes"]);
    const { rows, skipped } = JSON.parse(await new Response(child.output).text()) as Report;
    expect(rows).toEqual([]);
    expect(skipped).toEqual([
      { name: "kube", reason: "KUBE_NODES_BIN names no API server, as make bench does" },
    ]);
  }, 60_000);

  test("SIGINT in the middle of a run ends it with an error and leaves nothing", async () => {
    child = start([binary, "bench", "--rows", "rtt/default", "--rounds", "1", "--seconds", "30"]);
    while (!child.errorTail().includes("round 1 of 1")) await Bun.sleep(20);
    process.kill(child.pid, "SIGINT");
    expect(await child.exited).toBe(1);
    expect(child.errorTail()).toContain("stopped before the end");
    expect(leftovers(child.pid)).toEqual([]);
  }, 120_000);

  test("a row that does not exist is refused before anything is made", async () => {
    child = start([binary, "bench", "--rows", "tcp9/userspace"]);
    expect(await child.exited).toBe(2);
    expect(child.errorTail()).toContain("tcp9/userspace");
  });
});
