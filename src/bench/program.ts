import { FlannelError } from "../base/error.ts";
import type { Namespaces } from "../demo/lab.ts";
import { type Child, linesOf } from "../demo/process.ts";

/** A program in a namespace that prints a line when it is ready. */
export interface Program {
  readonly child: Child;
  /** The next line it prints; undefined after its last. */
  nextLine(): Promise<string | undefined>;
}

/** Starts one and waits for a line that has `ready` in it. @throws FlannelError `bench/program` */
export async function startProgram(
  namespaces: Pick<Namespaces, "start">,
  namespace: string,
  command: readonly string[],
  ready = "ready",
): Promise<Program> {
  const child = namespaces.start(namespace, command);
  const lines = linesOf(child.output);
  const program: Program = {
    child,
    async nextLine() {
      const next = await lines.next();
      return next.done === true ? undefined : next.value;
    },
  };
  for (;;) {
    const line = await program.nextLine();
    if (line === undefined) {
      const code = await child.exited;
      throw new FlannelError(
        "bench/program",
        `${command.slice(0, 2).join(" ")} did not start`,
        { code },
        { cause: new Error(child.errorTail().trim()) },
      );
    }
    if (line.includes(ready)) return program;
  }
}

/**
 * Runs a program to its end; it ends early with the namespaces. @returns what it wrote to standard output
 * @throws FlannelError `bench/program`
 */
export async function runInside(
  namespaces: Pick<Namespaces, "start">,
  namespace: string,
  command: readonly string[],
  timeoutMs: number,
): Promise<string> {
  const child = namespaces.start(namespace, command);
  const timer = setTimeout(() => void child.end(0), timeoutMs);
  const output = await new Response(child.output).text();
  const code = await child.exited;
  clearTimeout(timer);
  if (code === 0) return output;
  throw new FlannelError(
    "bench/program",
    `${command.slice(0, 2).join(" ")} failed`,
    { code },
    // iperf3 says in its report what it failed with.
    { cause: new Error(`${child.errorTail()} ${/"error":\s*"([^"]*)"/.exec(output)?.[1] ?? ""}`.trim()) },
  );
}

/** One of the bench's own programs. */
export function startAgent(
  namespaces: Pick<Namespaces, "start">,
  namespace: string,
  args: readonly string[],
): Promise<Program> {
  return startProgram(namespaces, namespace, [process.execPath, ...args]);
}

/** What an agent found. @throws FlannelError `bench/program` */
export async function resultOf<T>(program: Program): Promise<T> {
  const line = await program.nextLine();
  if (line === undefined) {
    throw new FlannelError(
      "bench/program",
      "a meter gave no result",
      {},
      { cause: new Error(program.child.errorTail().trim()) },
    );
  }
  return JSON.parse(line) as T;
}
