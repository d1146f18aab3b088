/** How long the output of a program that has ended is waited for: a process it left may hold the pipe. */
const drainMs = 1_000;

export interface ForeignProgram {
  readonly command: readonly string[];
  /** All of its environment. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly input?: Uint8Array;
  readonly timeoutMs: number;
  /** Of standard output, and of standard error. */
  readonly outputBytesMax: number;
  /** Ends it. */
  readonly stop: AbortSignal;
  /** Gets what it writes to standard error as it comes. */
  readonly onErrors?: (chunk: Uint8Array) => void;
}

export interface ForeignResult {
  readonly code: number;
  /** What ended it, where that was a signal. */
  readonly signal: string | number | null;
  readonly output: string;
  readonly errors: string;
  /** Why it was killed, and what it said does not count. */
  readonly killedFor?: "time" | "output" | "stop";
}

/**
 * Runs a program that is not ours to its end, without a shell and in a process group of its own: when its time is over, it
 * writes too much, or `stop` aborts, it is killed with all it started.
 * @throws what starting it fails with
 */
export async function runForeign(program: ForeignProgram): Promise<ForeignResult> {
  const { command, env, input, timeoutMs, outputBytesMax, stop, onErrors } = program;
  const child = Bun.spawn([...command], {
    env,
    stdin: input ?? "ignore",
    stdout: "pipe",
    stderr: "pipe",
    detached: true,
  });
  let killedFor: ForeignResult["killedFor"];
  const kill = (why: NonNullable<ForeignResult["killedFor"]>) => {
    killedFor ??= why;
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // All of it has ended.
    }
  };
  const onStop = () => kill("stop");
  stop.addEventListener("abort", onStop);
  if (stop.aborted) onStop();
  const timer = setTimeout(() => kill("time"), timeoutMs);
  try {
    const output = collect(child.stdout, outputBytesMax, () => kill("output"));
    const errors = collect(child.stderr, outputBytesMax, () => kill("output"), onErrors);
    const code = await child.exited;
    await Promise.race([Promise.all([output.ended, errors.ended]), Bun.sleep(drainMs)]);
    const said = { code, signal: child.signalCode, output: output.text(), errors: errors.text() };
    return killedFor === undefined ? said : { ...said, killedFor };
  } finally {
    clearTimeout(timer);
    stop.removeEventListener("abort", onStop);
  }
}

/** Reads a stream to its end; what comes beyond the bound is dropped. */
function collect(
  stream: ReadableStream<Uint8Array>,
  bytesMax: number,
  onTooMuch: () => void,
  onChunk?: (chunk: Uint8Array) => void,
) {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  const read = async () => {
    for await (const chunk of stream) {
      onChunk?.(chunk);
      bytes += chunk.byteLength;
      if (bytes > bytesMax) onTooMuch();
      else chunks.push(chunk);
    }
  };
  return { ended: read(), text: () => Buffer.concat(chunks).toString("utf8") };
}
