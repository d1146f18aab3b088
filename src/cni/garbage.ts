import { basename } from "node:path";
import { type Call, type Environment, isIdentifier } from "./call.ts";
import type { Attachment, CniConfig } from "./config.ts";
import { callDelegate, delegateMsMax, delegateVersions } from "./delegate.ts";
import { delegateConfig } from "./delegate-config.ts";
import { CniError, cniErrors } from "./error.ts";
import { listState, removeState } from "./state.ts";
import { readSubnetEnv } from "./subnet-env.ts";

/** What is not removed in one call is in the next. */
const removalsMax = 1_000;

/**
 * Undoes the attachments of this network that the runtime does not know any more, each as its own DEL would, then
 * lets a delegate that can do so look for more. Goes on after a failure, for `timeoutMs` in all: a delegate that hangs
 * would hang for each of them.
 * @throws CniError of the first failure
 */
export async function collectGarbage({
  call,
  config,
  env,
  timeoutMs = delegateMsMax,
}: {
  readonly call: Call;
  readonly config: CniConfig;
  readonly env: Environment;
  readonly timeoutMs?: number;
}): Promise<void> {
  const { validAttachments } = config;
  if (validAttachments === undefined) return;
  const endMs = performance.now() + timeoutMs;
  const leftMs = () => Math.max(endMs - performance.now(), 0);
  const isValid = ({ containerId, interfaceName }: Attachment, isNamedSo: boolean) =>
    validAttachments.some(
      (valid) => valid.containerId === containerId && (!isNamedSo || valid.interfaceName === interfaceName),
    );
  const failures: unknown[] = [];
  let removals = 0;
  for (const { attachment, state } of listState(config.dataDir)) {
    if (state === "absent" || "unreadable" in state || state.config["name"] !== config.name) continue;
    // A file with no interface in its name may be the stock plugin's, which serves all of the container's.
    if (isValid(attachment, basename(state.file).includes(":"))) continue;
    if (removals++ >= removalsMax || leftMs() === 0) break;
    try {
      const gone = {
        CNI_CONTAINERID: attachment.containerId,
        CNI_IFNAME: attachment.interfaceName,
        CNI_NETNS: "",
      };
      const asked = { config: state.config, env: { ...env, ...gone }, path: call.path };
      await callDelegate({ ...asked, command: "DEL", timeoutMs: leftMs() });
      removeState(state);
    } catch (error) {
      failures.push(error);
    }
  }
  if (leftMs() > 0) await passOn(config, call, env, leftMs()).catch((error: unknown) => failures.push(error));
  if (failures[0] !== undefined) throw failures[0];
}

/** Without a subnet nothing new has been added, and nothing is left to ask a delegate of. */
async function passOn(config: CniConfig, call: Call, env: Environment, timeoutMs: number): Promise<void> {
  let delegate: ReturnType<typeof delegateConfig>;
  try {
    delegate = delegateConfig(config, readSubnetEnv(config.subnetFile));
  } catch (error) {
    if (error instanceof CniError && error.code !== cniErrors.invalidConfig) return;
    throw error;
  }
  const valid = config.validAttachments?.filter(({ containerId }) => isIdentifier(containerId)) ?? [];
  const attachments = valid.map(({ containerId, interfaceName }) => ({
    containerID: containerId,
    ifname: interfaceName,
  }));
  const asked = {
    config: { ...delegate, "cni.dev/valid-attachments": attachments },
    env,
    path: call.path,
    timeoutMs,
  };
  const versions = await delegateVersions(asked);
  if (versions?.includes(config.version)) await callDelegate({ ...asked, command: "GC" });
}
