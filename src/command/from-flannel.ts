import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { errorText, FlannelError } from "../base/error.ts";
import type { Config } from "../config/schema.ts";
import type { CommandFlag, Loaded } from "../config/load.ts";
import { takeOver } from "../config/taken-over.ts";
import { parseConflist } from "../host/cni-conflist.ts";
import { envFileBytesMax, envFileValues } from "../host/env-file.ts";
import { type FlanneldProcess, readFlanneldProcess } from "../host/flanneld-process.ts";
import { pathInRoot } from "../host/foreign-root.ts";
import { findFlanneld } from "../host/other-agent.ts";
import { openAddon } from "../native/addon.ts";
import type { KernelLink } from "../native/ports.ts";
import type { StoreEnvironment } from "../store/open.ts";
import { type CommandInput, isJson } from "./command.ts";
import { answerJson, answerLines, type FlannelHere } from "./from-flannel-text.ts";
import { parseInstallCni, previewInstallCni } from "./install-cni.ts";
import { type PlanReport, readPlan } from "./plan.ts";

export const fromFlannelFlags: readonly CommandFlag[] = [
  {
    name: "from-flannel",
    isBool: true,
    doc: "Print as well what flannel runs here with, the settings that do the same, and what is not taken over; needs no configuration.",
  },
  {
    name: "flanneld-pid",
    isBool: false,
    doc: "With -from-flannel: the flanneld that is meant, where several run.",
  },
  {
    name: "cni-bin-dir",
    isBool: false,
    doc: "With -from-flannel: where the CNI plugins are; by default /opt/cni/bin.",
  },
  {
    name: "cni-conf-dir",
    isBool: false,
    doc: "With -from-flannel: where their configuration is; by default /etc/cni/net.d.",
  },
];

/**
 * What swapping the flannel of this host for flannel-lite would change. Changes nothing, and needs neither a
 * configuration nor that flanneld is stopped. Where no plan can be made it says why, behind what can be said.
 * @throws FlannelError `command/flanneld` where it is not clear which flanneld is meant
 */
export async function planFromFlannel({
  loaded,
  reread,
  env,
  stop,
}: CommandInput): Promise<{ output: string; exitCode: number }> {
  const process = findProcess(loaded);
  const taken = takeOver(process?.argv ?? [], process?.env ?? {});
  const { effective, trouble } = merge(loaded, () => reread(taken.source));
  const { config } = effective;
  const cni = cniDirectories(loaded);
  const here: FlannelHere = {
    process,
    taken,
    subnetEnv: readVariables(config.host.subnetFile),
    devices: await readDevices(),
    conflists: findConflists(cni.confDir),
  };
  const planned =
    trouble === undefined
      ? await tryPlan(readable(effective, process?.root), accessOf(process, env), stop)
      : { trouble };
  const files = previewInstallCni(cni.request);
  const lost = [...taken.lost, ...podsAlone(config, process)];
  const answer = { here, effective, planned, files, lost };
  const output = isJson(loaded)
    ? `${JSON.stringify(answerJson(answer))}\n`
    : `${answerLines(answer).join("\n")}\n`;
  return { output, exitCode: "trouble" in planned ? 1 : 0 };
}

/** Where flanneld's settings contradict ours, or each other as we see it, those of this host alone, and why. */
function merge(loaded: Loaded, read: () => Loaded): { effective: Loaded; trouble?: string } {
  try {
    return { effective: read() };
  } catch (error) {
    if (!(error instanceof FlannelError)) throw error;
    return { effective: loaded, trouble: errorText(error) };
  }
}

/** What a flanneld has from being in a pod. */
function podsAlone({ store, kubernetes }: Config, process: FlanneldProcess | undefined): readonly string[] {
  if (process === undefined || store.type !== "kubernetes") return [];
  const { kubeconfig, apiUrl, nodeName } = kubernetes;
  return [
    ...(kubeconfig === undefined && apiUrl === undefined
      ? ["the service account of flanneld's pod: a flannel-lite outside of a pod takes kubernetes.kubeconfig"]
      : []),
    ...(nodeName === undefined
      ? [
          "the node's name, which flanneld has by POD_NAME: a flannel-lite outside of a pod takes kubernetes.node_name",
        ]
      : []),
  ];
}

function findProcess({ config, commandFlags }: Loaded): FlanneldProcess | undefined {
  const pid = commandFlags.get("flanneld-pid");
  const pids = pid === undefined ? candidates(config) : [Number(pid)];
  if (pids.length > 1)
    throw mistake(
      `several flannelds run here: pids ${pids.join(", ")}`,
      "Name the one that is meant with -flanneld-pid",
    );
  const [only] = pids;
  if (only === undefined) return undefined;
  const found = Number.isInteger(only) && only > 0 ? readFlanneldProcess(only) : undefined;
  if (found === undefined) throw mistake(`no process ${pid ?? only} to be looked at`, "Run this as root");
  return found;
}

/** Those of our network, else any: without a configuration nothing says which network is meant. */
function candidates({ host, store }: Config): number[] {
  const all = findFlanneld({ prefix: store.etcd.prefix, subnetFile: host.subnetFile });
  const ours = all.filter(({ servesAnother }) => !servesAnother);
  return (ours.length > 0 ? ours : all).map(({ pid }) => pid);
}

function mistake(message: string, remedy: string): FlannelError {
  return new FlannelError("command/flanneld", message, {}, { exitCode: 2, remedy });
}

function cniDirectories({ commandFlags }: Loaded) {
  const given = (name: string, flag: string) => {
    const directory = commandFlags.get(name);
    return directory === undefined ? [] : [`-${flag}=${directory}`];
  };
  const request = parseInstallCni([...given("cni-bin-dir", "bin-dir"), ...given("cni-conf-dir", "conf-dir")]);
  if (request === "help") throw new Error("nobody asked for help");
  return { request, confDir: request.confDir };
}

function readVariables(path: string): string[] {
  const text = smallFile(path) ?? "";
  return [...envFileValues(text)].map(([name, value]) => `${name}=${value}`);
}

function findConflists(directory: string): string[] {
  let names: string[];
  try {
    names = readdirSync(directory).sort();
  } catch {
    return [];
  }
  const paths = names
    .filter((name) => /\.(conf|conflist|json)$/.test(name))
    .map((name) => join(directory, name));
  return paths.filter((path) => parseConflist(smallFile(path) ?? "") !== undefined);
}

/** Undefined for what is no small regular file that can be read. */
function smallFile(path: string): string | undefined {
  try {
    const stat = statSync(path);
    return stat.isFile() && stat.size <= envFileBytesMax ? readFileSync(path, "utf8") : undefined;
  } catch {
    return undefined;
  }
}

async function readDevices(): Promise<string[]> {
  const kernel = await openAddon().openKernel();
  try {
    const links = await kernel.links();
    return links.filter(({ name }) => /^flannel[.\d-]/.test(name)).map(linkText);
  } finally {
    kernel.close();
  }
}

function linkText({ name, kind, mtuBytes, mac, vxlan, alias }: KernelLink): string {
  const tunnel =
    vxlan === undefined
      ? ""
      : ` id ${vxlan.vni}${vxlan.local && ` local ${vxlan.local}`} dstport ${vxlan.port}`;
  return `${name} ${kind}${tunnel} mtu ${mtuBytes}${mac && ` mac ${mac}`}${alias && " (ours)"}`;
}

/** Files that flanneld names are looked for where it sees them, which may be in a container. */
function readable({ config, origins }: Loaded, root: string | undefined): Config {
  if (root === undefined) return config;
  const seen = (path: string, file: string | undefined) => {
    const origin = origins.get(path) ?? "default";
    const isTheirs = origin === "default" || origin.startsWith("flanneld's ");
    return file !== undefined && isTheirs ? (pathInRoot(root, file) ?? file) : file;
  };
  const { store, kubernetes } = config;
  const { cafile, certfile, keyfile } = store.etcd;
  return {
    ...config,
    store: {
      ...store,
      etcd: {
        ...store.etcd,
        cafile: seen("store.etcd.cafile", cafile),
        certfile: seen("store.etcd.certfile", certfile),
        keyfile: seen("store.etcd.keyfile", keyfile),
      },
    },
    kubernetes: {
      ...kubernetes,
      kubeconfig: seen("kubernetes.kubeconfig", kubernetes.kubeconfig),
      netConfig: seen("kubernetes.net_config", kubernetes.netConfig) ?? kubernetes.netConfig,
    },
  };
}

const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Outside of a pod the store is asked in the way, and with the account, that flanneld's pod has. */
function accessOf(
  process: FlanneldProcess | undefined,
  env: CommandInput["env"],
): Pick<StoreEnvironment, "env" | "serviceAccountDir"> {
  const isPod = (env["KUBERNETES_SERVICE_HOST"] ?? "") !== "";
  const account =
    isPod || process?.root === undefined ? undefined : pathInRoot(process.root, serviceAccountDir);
  return {
    env: { ...process?.env, ...env },
    ...(account === undefined ? {} : { serviceAccountDir: account }),
  };
}

async function tryPlan(
  config: Config,
  access: Pick<StoreEnvironment, "env" | "serviceAccountDir">,
  stop: AbortSignal,
): Promise<PlanReport | { readonly trouble: string }> {
  try {
    return await readPlan(config, access, stop);
  } catch (error) {
    if (!(error instanceof FlannelError)) throw error;
    return { trouble: errorText(error) };
  }
}
