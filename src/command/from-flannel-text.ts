import type { Loaded } from "../config/load.ts";
import { settingsToml } from "../config/settings-text.ts";
import type { TakenOver } from "../config/taken-over.ts";
import type { FlanneldProcess } from "../host/flanneld-process.ts";
import type { CniChange } from "./install-cni.ts";
import { planJson, planLines, type PlanReport } from "./plan.ts";

/** What flannel has on this host. */
export interface FlannelHere {
  readonly process: FlanneldProcess | undefined;
  readonly taken: TakenOver;
  /** Variables of subnet.env, `NAME=value`. */
  readonly subnetEnv: readonly string[];
  readonly devices: readonly string[];
  /** Configuration lists with a plugin `flannel`. */
  readonly conflists: readonly string[];
}

/** All that `plan -from-flannel` has to say. */
export interface FlannelAnswer {
  readonly here: FlannelHere;
  readonly effective: Loaded;
  readonly planned: PlanReport | { readonly trouble: string };
  readonly files: readonly CniChange[];
  /** What of flanneld's is not taken over, and why. */
  readonly lost: readonly string[];
}

export function answerJson({ here, effective, planned, files, lost }: FlannelAnswer): object {
  const { process, taken, ...rest } = here;
  const isPlan = !("trouble" in planned);
  return {
    flannel: {
      pid: process?.pid ?? null,
      program: process?.program ?? null,
      startedBy: process?.startedBy ?? null,
      flags: taken.flags,
      variables: process?.env === undefined ? null : taken.variables,
      store: isPlan ? planned.store : null,
      network: isPlan ? planned.network : null,
      ...rest,
    },
    configToml: settingsToml(effective),
    plan: isPlan ? planJson(planned) : null,
    planTrouble: isPlan ? null : planned.trouble,
    cniFiles: files,
    notTakenOver: lost,
  };
}

export function answerLines({ here, effective, planned, files, lost }: FlannelAnswer): string[] {
  const isPlan = !("trouble" in planned);
  const { process, taken } = here;
  const variables = process?.env === undefined ? ["cannot be read"] : taken.variables;
  const facts: [string, readonly string[]][] = [
    ["program", process?.program === undefined ? [] : [process.program]],
    ["started by", process?.startedBy === undefined ? [] : [process.startedBy]],
    ["flags", taken.flags],
    ["environment", process === undefined ? [] : variables],
    ["leases", isPlan ? [planned.store] : []],
    ["network", isPlan ? [planned.network.trim().replaceAll(/\s+/g, " ")] : []],
    ["subnet.env", here.subnetEnv],
    ["devices", here.devices],
    ["CNI", here.conflists],
  ];
  const settings = settingsToml(effective);
  return [
    process === undefined
      ? "# No flanneld runs here: what follows is what one has left"
      : `# flanneld runs here, pid ${process.pid}`,
    ...facts.flatMap(([name, values]) =>
      values.map((value, at) => `#   ${at === 0 ? name : ""}`.padEnd(16) + value),
    ),
    "",
    "# config.toml that does the same, but for defaults",
    ...(settings.length === 0 ? ["# (the defaults do)"] : settings),
    "",
    "# A start of flannel-lite with it",
    ...(isPlan ? planLines(planned) : commented(`cannot be planned: ${planned.trouble}`)),
    "",
    "# flannel-lite install cni",
    ...(files.length === 0 ? ["# changes nothing"] : files.map(fileText)),
    ...(lost.length === 0 ? [] : ["", "# Not taken over", ...lost.map((text) => `# ${printable(text)}`)]),
  ];
}

function commented(text: string): string[] {
  return text.split("\n").map((line) => `# ${printable(line)}`);
}

/** Names and texts that others chose must not steer a terminal. */
function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, "?");
}

function fileText({ op, path, was }: CniChange): string {
  return `${op} file ${path}${was === "foreign" ? "  # not written by us: takes -force" : ""}`;
}
