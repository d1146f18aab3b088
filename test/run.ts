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

/** Every other file of the namespaces' suites, so that two processes share them. */
const netns = readdirSync(`${root}test/netns`)
  .filter((name) => name.endsWith(".test.ts"))
  .sort();
const half = (which: number) => netns.filter((_, at) => at % 2 === which).map((name) => `netns/${name}`);

/** Those of one line run side by side: namespaces mostly wait, the others mostly compute. */
const runners: readonly (readonly Runner[])[] = [[cargo], [bun(...half(0)), bun(...half(1)), bun(...suites)]];

const total = { passed: 0, failed: 0, skipped: 0 };
for (const together of runners) {
  // The first is told as it goes, the others when they have ended.
  const all = together.map((runner, at) => runAll(runner, at === 0));
  for (const one of all) {
    const { counts, output } = await one;
    process.stdout.write(output);
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
  }
}
const inCi = process.env["CI"] === "true";
if (inCi && total.skipped > 0) process.stdout.write("skipped tests fail in CI\n");
const skippedText = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
process.stdout.write(`${total.passed} passed, ${total.failed} failed${skippedText}\n`);
process.exitCode = total.failed > 0 || total.passed === 0 || (inCi && total.skipped > 0) ? 1 : 0;

async function runAll(
  { name, command, cwd, count }: Runner,
  live: boolean,
): Promise<{ counts: Counts; output: string }> {
  let held = "";
  const write = (text: string | Uint8Array) => {
    if (live) process.stdout.write(text);
    else held += typeof text === "string" ? text : new TextDecoder().decode(text);
  };
  write(`== ${name}\n`);
  const child = Bun.spawn([...command], { cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [output, errors, code] = await Promise.all([
    follow(child.stdout, write),
    follow(child.stderr, write),
    child.exited,
  ]);
  const counts = count(`${output}\n${errors}`);
  const broken = counts.failed === 0 && (code !== 0 || counts.passed === 0);
  if (broken) write(`${name} ended with code ${code} and ${counts.passed} tests passed\n`);
  return { counts: broken ? { ...counts, failed: 1 } : counts, output: held };
}

async function follow(
  stream: ReadableStream<Uint8Array>,
  write: (chunk: Uint8Array) => void,
): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    write(chunk);
    text += decoder.decode(chunk, { stream: true });
  }
  return text;
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
