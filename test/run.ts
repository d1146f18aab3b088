import { readdirSync, statSync } from "node:fs";

/**
 * Runs all suites of both languages and closes with one line over all of them: `N passed, N failed`, and
 * `, N skipped` where any was. Exits non-zero when a test failed, a runner broke, or CI skipped one.
 */
interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

interface Runner {
  readonly name: string;
  readonly command: readonly string[];
  readonly cwd: string;
  readonly count: (output: string) => Counts;
}

const root = new URL("..", import.meta.url).pathname;

const cargo: Runner = {
  name: "cargo test",
  command: ["cargo", "test", "--release", "--locked", "--workspace", "--exclude", "flannel-lite-native"],
  cwd: `${root}native`,
  count(output) {
    const results = [...output.matchAll(/^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored/gm)];
    return { passed: sum(results, 1), failed: sum(results, 2), skipped: sum(results, 3) };
  },
};

function bun(...folders: string[]): Runner {
  return {
    name: `bun test ${folders.length > 4 ? `(${folders.length} files, ${folders[0]} …)` : folders.join(" ")}`,
    command: [process.execPath, "test", "--timeout", "60000", ...folders.map((folder) => `./test/${folder}`)],
    cwd: root,
    count: (output) => ({
      passed: sum([...output.matchAll(/^\s*(\d+) pass$/gm)], 1),
      failed: sum([...output.matchAll(/^\s*(\d+) fail$/gm)], 1),
      skipped: sum([...output.matchAll(/^\s*(\d+) (?:skip|todo)$/gm)], 1),
    }),
  };
}

/** What has tests, but for those that need programs which are not ours (`make interop`). */
const suites = readdirSync(`${root}test`).filter(
  (entry) => !["netns", "interop"].includes(entry) && hasTests(entry),
);

/** Each file of the namespaces' suites by itself. */
const netns = readdirSync(`${root}test/netns`)
  .filter((name) => name.endsWith(".test.ts"))
  .sort()
  .map((name) => bun(`netns/${name}`));

const total = { passed: 0, failed: 0, skipped: 0 };
const failures = new Set<string>();
await work([cargo], 1);
// Namespaces mostly wait, the other suites mostly compute.
await Promise.all([work([bun(...suites)], 1), work(netns, 2)]);

const inCi = process.env["CI"] === "true";
if (inCi && total.skipped > 0) process.stdout.write("skipped tests fail in CI\n");
// Once more, where they are found.
for (const failure of failures) process.stdout.write(`${failure}\n`);
const skippedText = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
process.stdout.write(`${total.passed} passed, ${total.failed} failed${skippedText}\n`);
process.exitCode = total.failed > 0 || total.passed === 0 || (inCi && total.skipped > 0) ? 1 : 0;

/** Runs them all, `width` at a time, and tells of each when it has ended. */
async function work(queue: readonly Runner[], width: number): Promise<void> {
  const next = queue.values();
  const worker = async () => {
    for (const runner of next) {
      const { counts, output } = await runOne(runner);
      process.stdout.write(output);
      for (const [line] of output.matchAll(/^(?:\(fail\) .*|test .* \.\.\. FAILED)$/gm)) failures.add(line);
      total.passed += counts.passed;
      total.failed += counts.failed;
      total.skipped += counts.skipped;
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
}

async function runOne({ name, command, cwd, count }: Runner): Promise<{ counts: Counts; output: string }> {
  const child = Bun.spawn([...command], { cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [output, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  const text = `== ${name}\n${output}${errors}`;
  const counts = count(text);
  if (counts.failed > 0 || (code === 0 && counts.passed > 0)) return { counts, output: text };
  const broken = `(fail) ${name} ended with code ${code} and ${counts.passed} tests passed\n`;
  return { counts: { ...counts, failed: 1 }, output: text + broken };
}

function hasTests(entry: string): boolean {
  const isTest = (name: string) => name.endsWith(".test.ts");
  const path = `${root}test/${entry}`;
  if (!statSync(path).isDirectory()) return isTest(entry);
  return readdirSync(path, { recursive: true, encoding: "utf8" }).some(isTest);
}

function sum(matches: readonly RegExpMatchArray[], group: number): number {
  return matches.reduce((total, match) => total + Number(match[group]), 0);
}
