import { dirname } from "node:path";
import { FlannelError } from "../../src/base/error.ts";
import type { Kernel } from "../../src/native/ports.ts";

/** A network namespace of this test run, and the addon's kernel handle in a process inside it. */
export interface RemoteKernel extends AsyncDisposable {
  readonly namespace: string;
  readonly kernel: Kernel;
  /** Runs `ip -n <namespace> …`; fails the test when it fails. */
  ip(...args: string[]): Promise<string>;
  /** As {@link ip} with `-j`, parsed. */
  ipJson(...args: string[]): Promise<Record<string, unknown>[]>;
  /** Runs `bridge -n <namespace> -j …`, parsed. */
  bridgeJson(...args: string[]): Promise<Record<string, unknown>[]>;
  /** Feeds `lines` to `ip -n <namespace> -batch -`. */
  batch(lines: readonly string[]): Promise<void>;
  /** Open sockets of the process. */
  sockets(): Promise<number>;
  /** Ends the process's input; resolves with its exit code once nothing keeps it alive. */
  finish(): Promise<number>;
}

/** Undefined where namespaces can be made, else why not. */
export function namespacesRefused(): string | undefined {
  if (process.getuid?.() !== 0) return "network namespaces need root";
  const probe = `fl-probe-${process.pid}`;
  const made = Bun.spawnSync(["ip", "netns", "add", probe], { stderr: "pipe", stdout: "ignore" });
  if (made.exitCode !== 0) return `no network namespace: ${made.stderr.toString().trim()}`;
  Bun.spawnSync(["ip", "netns", "delete", probe]);
  return undefined;
}

let count = 0;

export async function openRemoteKernel(): Promise<RemoteKernel> {
  const namespace = `fl-kernel-${process.pid}-${count++}`;
  await run(["ip", "netns", "add", namespace]);
  const child = Bun.spawn(
    [
      "ip",
      "netns",
      "exec",
      namespace,
      process.execPath,
      `${dirname(import.meta.path)}/remote-kernel-child.ts`,
    ],
    { stdin: "pipe", stdout: "pipe", stderr: "inherit" },
  );
  const calls = new Map<number, PromiseWithResolvers<unknown>>();
  void readAnswers(child.stdout, calls);
  const call = (method: string, args: readonly unknown[]): Promise<unknown> => {
    const id = count++;
    const answer = Promise.withResolvers<unknown>();
    calls.set(id, answer);
    child.stdin.write(`${JSON.stringify({ id, method, args })}\n`);
    child.stdin.flush();
    return answer.promise;
  };
  const finish = async () => {
    child.stdin.end();
    return await child.exited;
  };
  const close = async () => {
    child.kill("SIGKILL");
    await child.exited;
    await run(["ip", "netns", "delete", namespace]);
  };
  const json = async (command: string[]) => {
    const text = await run(command);
    return (text.trim() === "" ? [] : JSON.parse(text)) as Record<string, unknown>[];
  };
  try {
    await call("open", []);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    namespace,
    kernel: new Proxy({} as Kernel, {
      get: (_, method) =>
        // A promise that resolves with the object asks it for `then`.
        method === "then" ? undefined : (...args: unknown[]) => call(String(method), args),
    }),
    ip: (...args) => run(["ip", "-n", namespace, ...args]),
    ipJson: (...args) => json(["ip", "-n", namespace, "-j", ...args]),
    bridgeJson: (...args) => json(["bridge", "-n", namespace, "-j", ...args]),
    batch: async (lines) => void (await run(["ip", "-n", namespace, "-batch", "-"], `${lines.join("\n")}\n`)),
    sockets: async () => Number(await call("sockets", [])),
    finish,
    [Symbol.asyncDispose]: close,
  };
}

interface Answer {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: { code: string; message: string; fields: Record<string, string> };
}

async function readAnswers(
  stream: ReadableStream<Uint8Array>,
  calls: Map<number, PromiseWithResolvers<unknown>>,
): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const { id, result, error } = JSON.parse(line) as Answer;
      if (error === undefined) calls.get(id)?.resolve(result);
      else calls.get(id)?.reject(new FlannelError(error.code, error.message, error.fields));
      calls.delete(id);
    }
  }
  for (const call of calls.values()) call.reject(new Error("the process in the namespace ended"));
}

async function run(command: string[], input = ""): Promise<string> {
  const child = Bun.spawn(command, { stdin: Buffer.from(input), stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (code !== 0) throw new Error(`${command.join(" ")}: ${stderr.trim()}`);
  return stdout;
}
