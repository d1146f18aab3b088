import { dirname, isAbsolute, join } from "node:path";
import { FlannelError } from "../../base/error.ts";
import { type ForeignResult, runForeign } from "../../base/foreign-program.ts";
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
  let run: { readonly credentials: Promise<PluginCredentials>; waiting: number; end(): void } | undefined;

  const start = () => {
    const ending = new AbortController();
    const credentials = runPlugin(plugin, context, ending.signal).finally(() => (run = undefined));
    credentials.catch(() => {}); // whoever still waits is told
    return { credentials, waiting: 0, end: () => ending.abort() };
  };

  return {
    /** One run serves all who ask meanwhile; it is ended when the last of them has stopped. */
    async current(now: Date, stop: AbortSignal): Promise<PluginCredentials> {
      const isFresh =
        held !== undefined && (held.until === undefined || held.until.getTime() - marginMs > now.getTime());
      if (isFresh && held !== undefined) return held;
      const running = (run ??= start());
      running.waiting++;
      try {
        held = await unlessStopped(running.credentials, stop);
        return held;
      } finally {
        if (--running.waiting === 0) running.end();
      }
    },
    /** They were refused. */
    forget() {
      held = undefined;
    },
  };
}

/** @throws FlannelError `store/exec-plugin` (retryable) with what it wrote to standard error */
async function runPlugin(
  plugin: ExecPlugin,
  { path, env }: ExecContext,
  stop: AbortSignal,
): Promise<PluginCredentials> {
  const { command, args, apiVersion } = plugin;
  const program = command.includes("/") && !isAbsolute(command) ? join(dirname(path), command) : command;
  const info = { kind: "ExecCredential", apiVersion, spec: { interactive: false } };
  const environment = {
    PATH: env["PATH"],
    HOME: env["HOME"],
    ...plugin.env,
    KUBERNETES_EXEC_INFO: JSON.stringify(info),
  };
  const limits = { timeoutMs: runMsMax, outputBytesMax, stop };
  let ended: ForeignResult;
  try {
    ended = await runForeign({ command: [program, ...args], env: environment, ...limits });
  } catch (cause) {
    throw failed(program, "it cannot be started", cause);
  }
  const { code, signal, output, errors, killedFor } = ended;
  if (killedFor !== undefined) throw failed(program, hitches[killedFor]);
  if (signal !== null) throw failed(program, `it was ended by ${signal}`);
  if (code !== 0) throw failed(program, `exit code ${code}: ${errors.trim().slice(-300)}`);
  return parseCredentials(output, apiVersion, program);
}

const hitches = {
  time: `it took over ${runMsMax} ms`,
  output: "it wrote too much",
  stop: "nobody waits for it any more",
} as const;

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

/** @throws the signal's reason once it aborts */
async function unlessStopped<T>(work: Promise<T>, stop: AbortSignal): Promise<T> {
  stop.throwIfAborted();
  const stopped = Promise.withResolvers<never>();
  const onStop = () => stopped.reject(stop.reason);
  stop.addEventListener("abort", onStop);
  try {
    return await Promise.race([work, stopped.promise]);
  } finally {
    stop.removeEventListener("abort", onStop);
  }
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
