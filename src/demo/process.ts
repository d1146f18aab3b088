import { FlannelError } from "../base/error.ts";

/** A program that is ours to end. */
export interface Child {
  readonly pid: number;
  readonly exited: Promise<number>;
  /** What it wrote to standard error, the last {@link tailCharsMax} characters. */
  readonly errorTail: () => string;
  readonly output: ReadableStream<Uint8Array>;
  /** Asks it to end, and makes it after `graceMs`. */
  end(graceMs?: number): Promise<void>;
}

const tailCharsMax = 4_000;

/** Starts a program without a shell; its standard error is kept, its standard input is empty. */
export function start(command: readonly string[], env: Record<string, string> = {}): Child {
  const child = Bun.spawn([...command], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin", HOME: "/", ...env },
  });
  let tail = "";
  const reading = (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stderr) tail = (tail + decoder.decode(chunk)).slice(-tailCharsMax);
  })().catch(() => undefined);
  return {
    pid: child.pid,
    exited: child.exited.then(async (code) => {
      await reading;
      return code;
    }),
    errorTail: () => tail,
    output: child.stdout,
    async end(graceMs = 5_000) {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
      await child.exited;
      clearTimeout(timer);
    },
  };
}

/** Runs a program to its end. @returns what it wrote to standard output @throws FlannelError `demo/program` */
export async function runProgram(command: readonly string[], timeoutMs = 30_000): Promise<string> {
  const { code, output, errors } = await tryProgram(command, timeoutMs);
  if (code === 0) return output;
  throw new FlannelError(
    "demo/program",
    `${command.join(" ")} failed`,
    { code },
    { cause: new Error(errors.trim()) },
  );
}

/** As {@link runProgram}, whatever its exit code. */
export async function tryProgram(
  command: readonly string[],
  timeoutMs = 30_000,
): Promise<{ code: number; output: string; errors: string }> {
  let child: Child;
  try {
    child = start(command);
  } catch (error) {
    throw new FlannelError(
      "demo/program",
      `cannot start ${command[0]}`,
      {},
      { cause: error, remedy: "Install the package that has it" },
    );
  }
  const timer = setTimeout(() => void child.end(0), timeoutMs);
  const output = await new Response(child.output).text();
  const code = await child.exited;
  clearTimeout(timer);
  return { code, output, errors: child.errorTail() };
}

/** The lines of a program's output as they come; what follows the last newline is left out. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, undefined> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  return undefined;
}
