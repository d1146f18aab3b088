import { statSync } from "node:fs";
import { print } from "../base/print.ts";
import { version } from "../version.ts";
import { type Call, type Environment, parseCall } from "./call.ts";
import { type CniConfig, type JsonObject, parseCniConfig } from "./config.ts";
import { addDelegate, callDelegate, delegateVersions, findPlugin } from "./delegate.ts";
import { delegateConfig, sortedJson } from "./delegate-config.ts";
import { CniError, cniErrors, cniErrorText } from "./error.ts";
import { collectGarbage } from "./garbage.ts";
import { readInput } from "./input.ts";
import { isOwnState, readState, removeState, saveState } from "./state.ts";
import { readSubnetEnv } from "./subnet-env.ts";
import { isAtLeast, supportedVersions, versionText } from "./version.ts";

/**
 * The CNI plugin `flannel`: composes the configuration of another plugin, which does the work (CNI 1.1.0).
 * Standard output carries the result or the error, and nothing else.
 * @returns the exit code
 */
export async function cniProgram(env: Environment): Promise<number> {
  if ((env["CNI_COMMAND"] ?? "") === "") {
    print(2, aboutText());
    return 0;
  }
  try {
    // A runtime that does not get the result must not take it for a success: the pod has an address by now.
    return print(1, await cniResult(env, readInput)) ? 0 : 1;
  } catch (error) {
    print(1, cniErrorText(error));
    return 1;
  }
}

/** What goes to standard output. @throws CniError */
export async function cniResult(env: Environment, input: () => string): Promise<string> {
  const call = parseCall(env);
  if (call.command === "VERSION") return versionText();
  const config = parseCniConfig(input());
  const oldest = { ADD: "0.1.0", DEL: "0.1.0", CHECK: "0.4.0", GC: "1.1.0", STATUS: "1.1.0" }[call.command];
  if (!isAtLeast(config.version, oldest)) {
    throw new CniError(cniErrors.incompatibleVersion, `config version does not allow ${call.command}`);
  }
  const context = { call, config, env };
  switch (call.command) {
    case "ADD":
      refuseOwnNetns(call);
      return await add(context);
    case "CHECK":
      check(context);
      return "";
    case "DEL":
      refuseOwnNetns(call);
      await remove(context);
      return "";
    case "GC":
      await collectGarbage(context);
      return "";
    case "STATUS":
      await status(context);
      return "";
  }
}

interface Context {
  readonly call: Call;
  readonly config: CniConfig;
  readonly env: Environment;
}

/** Saves before it calls: whatever becomes of the delegate, DEL can undo it. */
async function add({ call, config, env }: Context): Promise<string> {
  const delegate = delegateConfig(config, readSubnetEnv(config.subnetFile));
  findPlugin(String(delegate["type"]), call.path);
  print(2, `${sortedJson(delegate)}\n`);
  saveState(config.dataDir, call, delegate);
  return await addDelegate({ config: delegate, env, path: call.path });
}

/**
 * That ADD was here is all there is of ours to look for. The delegate is not asked, as the stock plugin does not:
 * bridge misses the route to the overlay, which it has added itself with its gateway (1.1.1).
 */
function check({ call, config }: Context): void {
  const state = readState(config.dataDir, call);
  if (state !== "absent" && !("unreadable" in state)) return;
  const why = state === "absent" ? `nothing is kept in ${config.dataDir}` : state.unreadable;
  throw new CniError(cniErrors.unknownContainer, `unknown container ${call.containerId}: ${why}`);
}

/**
 * Undoes ADD by what that kept, whatever subnet.env says by now. Nothing kept is nothing to do; what is kept stays
 * until the delegate has succeeded, so that a repetition reaches it again.
 */
async function remove({ call, config, env }: Context): Promise<void> {
  const state = readState(config.dataDir, call);
  if (state === "absent") return;
  if ("unreadable" in state) {
    print(2, `${state.unreadable}: nothing to undo\n`);
    return;
  }
  const isOwn = isOwnState(state, call);
  if (!isOwn && state.config["name"] !== config.name) return;
  await callDelegate({ command: "DEL", config: state.config, env, path: call.path });
  if (isOwn) removeState(state);
}

/** @throws CniError 50 where an ADD would fail; what a delegate says that can be asked */
async function status({ call, config, env }: Context): Promise<void> {
  let delegate: JsonObject;
  try {
    delegate = delegateConfig(config, readSubnetEnv(config.subnetFile));
    findPlugin(String(delegate["type"]), call.path);
  } catch (error) {
    if (!(error instanceof CniError)) throw error;
    throw new CniError(cniErrors.notAvailable, error.message, error.details);
  }
  const asked = { config: delegate, env, path: call.path };
  const versions = await delegateVersions(asked);
  if (versions === undefined) return;
  if (!versions.includes(config.version)) {
    throw new CniError(
      cniErrors.notAvailable,
      `${String(delegate["type"])} does not know CNI version ${config.version}`,
      `It knows ${versions.join(", ").slice(0, 200)}: let the configuration say one of these, or install newer plugins`,
    );
  }
  await callDelegate({ ...asked, command: "STATUS" });
}

/** The delegate would turn the host's own devices inside out. @throws CniError 8 */
function refuseOwnNetns({ netns, netnsOverride }: Call): void {
  if (netnsOverride || netns === "") return;
  const own = statSync("/proc/self/ns/net", { throwIfNoEntry: false });
  let given: ReturnType<typeof statSync>;
  try {
    given = statSync(netns, { throwIfNoEntry: false });
  } catch {
    return; // the delegate's to complain of
  }
  if (own !== undefined && given !== undefined && own.dev === given.dev && own.ino === given.ino) {
    throw new CniError(
      cniErrors.invalidNetns,
      "plugin's netns and netns from CNI_NETNS should not be the same",
    );
  }
}

function aboutText(): string {
  const machine = `${process.platform}/${process.arch === "x64" ? "amd64" : process.arch}`;
  return `CNI Plugin flannel version ${version} (${machine}) of flannel-lite
CNI protocol versions supported: ${supportedVersions.join(", ")}
A container runtime starts it with CNI_COMMAND set; flannel-lite install cni puts it in place.
`;
}
