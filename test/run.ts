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

const runners: readonly Runner[] = [
  {
    name: "cargo test",
    command: ["cargo", "test", "--release", "--locked", "--workspace", "--exclude", "flannel-lite-native"],
    cwd: `${root}native`,
    count(output) {
      const results = [...output.matchAll(/^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored/gm)];
      return { passed: sum(results, 1), failed: sum(results, 2), skipped: sum(results, 3) };
    },
  },
  {
    name: "bun test",
    command: [process.execPath, "test", "--timeout", "60000", "--path-ignore-patterns", "**/interop/**"],
    cwd: root,
    count: (output) => ({
      passed: sum([...output.matchAll(/^\s*(\d+) pass$/gm)], 1),
      failed: sum([...output.matchAll(/^\s*(\d+) fail$/gm)], 1),
      skipped: sum([...output.matchAll(/^\s*(\d+) (?:skip|todo)$/gm)], 1),
    }),
  },
];

const total = { passed: 0, failed: 0, skipped: 0 };
for (const runner of runners) {
  const { passed, failed, skipped } = await runAll(runner);
  total.passed += passed;
  total.failed += failed;
  total.skipped += skipped;
}
const inCi = process.env["CI"] === "true";
if (inCi && total.skipped > 0) process.stdout.write("skipped tests fail in CI\n");
const skippedText = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
process.stdout.write(`${total.passed} passed, ${total.failed} failed${skippedText}\n`);
process.exitCode = total.failed > 0 || total.passed === 0 || (inCi && total.skipped > 0) ? 1 : 0;

async function runAll({ name, command, cwd, count }: Runner): Promise<Counts> {
  process.stdout.write(`== ${name}\n`);
  const child = Bun.spawn([...command], { cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [output, errors, code] = await Promise.all([echo(child.stdout), echo(child.stderr), child.exited]);
  const counts = count(`${output}\n${errors}`);
  const broken = counts.failed === 0 && (code !== 0 || counts.passed === 0);
  if (broken) process.stdout.write(`${name} ended with code ${code} and ${counts.passed} tests passed\n`);
  return broken ? { ...counts, failed: 1 } : counts;
}

async function echo(stream: ReadableStream<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    process.stdout.write(chunk);
    text += decoder.decode(chunk, { stream: true });
  }
  return text;
}

function sum(matches: readonly RegExpMatchArray[], group: number): number {
  return matches.reduce((total, match) => total + Number(match[group]), 0);
}
