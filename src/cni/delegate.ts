import { accessSync, constants, statSync } from "node:fs";
import { join } from "node:path";
import { type ForeignResult, runForeign } from "../base/foreign-program.ts";
import { print } from "../base/print.ts";
import { isIdentifier, type Environment } from "./call.ts";
import { isJsonObject, type JsonObject } from "./config.ts";
import { sortedJson } from "./delegate-config.ts";
import { CniError, cniErrors } from "./error.ts";

/** Before kubelet gives up on the sandbox (two minutes), so that it gets to know why. */
export const delegateMsMax = 100_000;

/** Which versions a plugin knows it says without doing anything. */
const versionMsMax = 10_000;

/** A result has some kilobytes. */
const outputBytesMax = 1024 * 1024;

/** What of a plugin's standard error an error repeats. */
const errorCharsMax = 1_000;

/** Of a file's name. */
const nameCharsMax = 255;

export interface DelegateCall {
  readonly command: "ADD" | "DEL" | "GC" | "STATUS" | "VERSION";
  readonly config: JsonObject;
  readonly env: Environment;
  /** Directories to find it in. */
  readonly path: readonly string[];
  readonly timeoutMs?: number;
}

/**
 * Runs the plugin that `config.type` names, without a shell, and passes its standard error on.
 * @returns what it wrote to standard output
 * @throws CniError its own, unchanged; 7 for a type that is no plain name; 999 where it cannot be found or run,
 * says nothing of why it failed, or takes too long, and then it is ended with all it started
 */
export async function callDelegate(call: DelegateCall): Promise<string> {
  const type = String(call.config["type"]);
  const program = findPlugin(type, call.path);
  const doing = `failed to delegate ${call.command.toLowerCase()}:`;
  const { code, signal = null, output = "", errors: all = "", hitch } = await runPlugin(program, call);
  const errors = all.slice(-errorCharsMax);
  if (hitch !== undefined) throw new CniError(cniErrors.other, `${doing} ${type} ${hitch}`, errors);
  if (code === 0) return output;
  const ending = signal === null ? `ended with code ${code} and` : `was ended by ${signal} and gave`;
  const said = JSON.stringify((output.trim() || errors.trim()).slice(0, errorCharsMax));
  throw ownError(output) ?? new CniError(cniErrors.other, `${doing} ${type} ${ending} no CNI error: ${said}`);
}

/**
 * As {@link callDelegate} for ADD.
 * @throws CniError also 999 for a result that is not a JSON object
 */
export async function addDelegate(call: Omit<DelegateCall, "command">): Promise<string> {
  const output = await callDelegate({ ...call, command: "ADD" });
  if (parsedObject(output) !== undefined) return output;
  throw new CniError(
    cniErrors.other,
    `failed to delegate add: ${String(call.config["type"])} ended well, but its result is no JSON object: ${JSON.stringify(output.slice(0, 200))}`,
  );
}

/** Versions of the specification that the plugin knows; undefined where it does not say. */
export async function delegateVersions(
  call: Omit<DelegateCall, "command">,
): Promise<readonly unknown[] | undefined> {
  const timeoutMs = Math.min(call.timeoutMs ?? versionMsMax, versionMsMax);
  const answer = await callDelegate({ ...call, command: "VERSION", timeoutMs }).catch(() => "");
  const versions = parsedObject(answer)?.["supportedVersions"];
  return Array.isArray(versions) ? versions : undefined;
}

/** @throws CniError 7, 999 */
export function findPlugin(type: string, path: readonly string[]): string {
  if (!isIdentifier(type) || type.length > nameCharsMax)
    throw new CniError(cniErrors.invalidConfig, `invalid plugin name: ${JSON.stringify(type.slice(0, 100))}`);
  if (type === "flannel")
    throw new CniError(cniErrors.invalidConfig, "the delegate is flannel itself: name another type");
  const found = path.map((directory) => join(directory, type)).find(isProgram);
  if (found !== undefined) return found;
  throw new CniError(
    cniErrors.other,
    `failed to find plugin "${type}" in path [${path.join(" ")}]`,
    "Install the CNI plugins (Debian: containernetworking-plugins), or add their directory to the runtime's",
  );
}

function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

/** As {@link runForeign}; `hitch`: why what it said does not count. */
async function runPlugin(
  program: string,
  { command, config, env, timeoutMs = delegateMsMax }: DelegateCall,
): Promise<Partial<ForeignResult> & { readonly hitch?: string }> {
  const told = new AbortController();
  const onSignal = () => told.abort();
  for (const signal of endingSignals) process.on(signal, onSignal);
  try {
    const ended = await runForeign({
      command: [program],
      env: { ...env, CNI_COMMAND: command },
      input: Buffer.from(sortedJson(config)),
      timeoutMs,
      outputBytesMax,
      stop: told.signal,
      onErrors: (chunk) => print(2, chunk),
    });
    const { killedFor } = ended;
    return killedFor === undefined ? ended : { ...ended, hitch: hitchText(killedFor, timeoutMs) };
  } catch (error) {
    return { hitch: `cannot be run: ${error instanceof Error ? error.message : String(error)}` };
  } finally {
    for (const signal of endingSignals) process.off(signal, onSignal);
  }
}

function hitchText(killedFor: NonNullable<ForeignResult["killedFor"]>, timeoutMs: number): string {
  switch (killedFor) {
    case "time":
      return `did not end within ${Math.ceil(timeoutMs)} ms`;
    case "output":
      return `wrote more than ${outputBytesMax} bytes`;
    case "stop":
      return "was stopped, as this plugin was told to end";
  }
}

const endingSignals = ["SIGTERM", "SIGINT", "SIGHUP"] as const;

/** The error that a plugin printed; undefined where it is none. Runtimes read its code as an unsigned number. */
function ownError(output: string): CniError | undefined {
  const { code, msg, details } = parsedObject(output) ?? {};
  if (typeof code !== "number" || !Number.isSafeInteger(code) || code < 0 || typeof msg !== "string")
    return undefined;
  return new CniError(code, msg, typeof details === "string" ? details : undefined);
}

function parsedObject(text: string): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isJsonObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
