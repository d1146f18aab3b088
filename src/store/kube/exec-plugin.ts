import { dirname, isAbsolute, join } from "node:path";
import { FlannelError } from "../../base/error.ts";
import { asGoObject, parseGoObject } from "../../base/go-json.ts";
import type { ExecPlugin } from "./kubeconfig.ts";

/** What a plugin gave; without `until` it lasts until it is refused. */
export interface PluginCredentials {
  readonly token: string | undefined;
  readonly certificate: string | undefined;
  readonly key: string | undefined;
  readonly until: Date | undefined;
}

const runMsMax = 30_000;
const outputBytesMax = 1024 * 1024;

/** Credentials are asked for anew so long before their end. */
const marginMs = 30_000;

export interface ExecContext {
  /** The kubeconfig that names the plugin. */
  readonly path: string;
  /** The plugin's environment, beside what the kubeconfig says. */
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** Runs a plugin when its credentials are needed, and keeps them until their end. */
export function openExecPlugin(plugin: ExecPlugin, context: ExecContext) {
  let held: PluginCredentials | undefined;
  let running: Promise<PluginCredentials> | undefined;
  return {
    async current(now: Date): Promise<PluginCredentials> {
      const isFresh =
        held !== undefined && (held.until === undefined || held.until.getTime() - marginMs > now.getTime());
      if (isFresh && held !== undefined) return held;
      running ??= runPlugin(plugin, context).finally(() => (running = undefined));
      held = await running;
      return held;
    },
    /** They were refused. */
    forget() {
      held = undefined;
    },
  };
}

/** @throws FlannelError `store/exec-plugin` (retryable) with what it wrote to standard error */
async function runPlugin(plugin: ExecPlugin, { path, env }: ExecContext): Promise<PluginCredentials> {
  const { command, args, apiVersion } = plugin;
  const program = command.includes("/") && !isAbsolute(command) ? join(dirname(path), command) : command;
  const info = { kind: "ExecCredential", apiVersion, spec: { interactive: false } };
  let child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  try {
    child = Bun.spawn([program, ...args], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: {
        PATH: env["PATH"],
        HOME: env["HOME"],
        ...plugin.env,
        KUBERNETES_EXEC_INFO: JSON.stringify(info),
      },
    });
  } catch (cause) {
    throw failed(program, "it cannot be started", cause);
  }
  const timer = setTimeout(() => child.kill("SIGKILL"), runMsMax);
  try {
    const [output, errors] = await Promise.all([bounded(child, child.stdout), bounded(child, child.stderr)]);
    const code = await child.exited;
    if (child.signalCode !== null) throw failed(program, `it took over ${runMsMax} ms, or wrote too much`);
    if (code !== 0) throw failed(program, `exit code ${code}: ${errors.trim().slice(-300)}`);
    return parseCredentials(output, apiVersion, program);
  } finally {
    clearTimeout(timer);
    child.kill("SIGKILL");
  }
}

function parseCredentials(output: string, apiVersion: string, program: string): PluginCredentials {
  let status: ReturnType<typeof asGoObject>;
  try {
    const credential = parseGoObject(output);
    if (credential.get("kind") !== "ExecCredential" || credential.get("apiVersion") !== apiVersion)
      throw new Error();
    status = asGoObject(credential.get("status"));
  } catch {
    throw failed(program, `its output is no ExecCredential of ${apiVersion}`); // it may hold a secret
  }
  const text = (name: string) => {
    const value = status?.get(name);
    return typeof value === "string" && value !== "" ? value : undefined;
  };
  const [token, certificate, key] = [text("token"), text("clientCertificateData"), text("clientKeyData")];
  const ends = text("expirationTimestamp");
  const until = ends === undefined ? undefined : new Date(ends);
  if (token === undefined && (certificate === undefined || key === undefined))
    throw failed(program, "its output has neither a token nor a certificate with its key");
  if (until !== undefined && Number.isNaN(until.getTime()))
    throw failed(program, "its expirationTimestamp is no time");
  return { token, certificate, key, until };
}

async function bounded(child: Bun.Subprocess, stream: ReadableStream<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    bytes += chunk.byteLength;
    if (bytes > outputBytesMax) child.kill("SIGKILL");
    else chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function failed(program: string, reason: string, cause?: unknown): FlannelError {
  return new FlannelError(
    "store/exec-plugin",
    `the kubeconfig's plugin gave no credentials: ${reason}`,
    { program },
    {
      cause,
      retryable: true,
      remedy: "Run it by hand with the same arguments",
    },
  );
}
