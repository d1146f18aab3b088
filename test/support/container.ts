import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { LabHost } from "../../src/demo/lab.ts";
import { type Child, runProgram, start, tryProgram } from "../../src/demo/process.ts";

/** What `make image` writes. */
export const imageArchive = join(import.meta.dir, "../../dist/flannel-lite-image.tar");

/** Where runc keeps what it knows; ids tell processes apart. */
const stateDir = "/run/fl-test-runc";

/** How a container meets /dev/net/tun; `denied` by its device cgroup. */
export type TunDevice = "given" | "absent" | "denied" | "nodev";

export interface ContainerOptions {
  /** Whose network namespace it is in. */
  readonly host: LabHost;
  readonly command: readonly string[];
  /** Directories or files of this machine, by their path inside; writable unless they end with `:ro`. */
  readonly mounts?: Readonly<Record<string, string>>;
  readonly tun?: TunDevice;
  readonly env?: Readonly<Record<string, string>>;
  /** Whether it sees this machine's processes. */
  readonly hostPid?: boolean;
  /** Without `CAP_`; NET_ADMIN and NET_RAW by default. */
  readonly capabilities?: readonly string[];
  /** The runtime's filter of system calls for these capabilities; none by default. */
  readonly seccomp?: (capabilities: readonly string[]) => object;
}

/** Containers of one image, run by runc: their root file system read-only, without a Docker engine. */
export interface Containers extends AsyncDisposable {
  /** Where their files are; it vanishes with them. */
  readonly directory: string;
  /** The image's configuration, as `docker inspect` shows it. */
  readonly config: ImageConfig;
  /** The manifest's annotations. */
  readonly annotations: Readonly<Record<string, string>>;
  /** The command line that runs a container until its program ends; signals go to the program. */
  commandOf(options: ContainerOptions): string[];
  start(options: ContainerOptions): Child;
  run(options: ContainerOptions): Promise<{ code: number; output: string; errors: string }>;
}

export interface ImageConfig {
  readonly architecture: string;
  readonly config: {
    readonly Entrypoint: readonly string[];
    readonly Env: readonly string[];
    readonly Labels: Readonly<Record<string, string>>;
  };
}

/** Why no container can be run here; undefined when it can. */
export function imageRefused(): string | undefined {
  if (!existsSync(imageArchive)) return `${imageArchive} is missing: run make image`;
  return Bun.which("runc") === null ? "runc is not installed" : undefined;
}

/** Unpacks the archive below `directory`, as a runtime does: from the index to the layers, lowest first. */
export async function openContainers(): Promise<Containers> {
  await removeStale();
  const directory = mkdtempSync("/tmp/fl-containers-");
  const layout = join(directory, "layout");
  const root = join(directory, "root");
  mkdirSync(layout, { recursive: true });
  mkdirSync(root);
  await runProgram(["tar", "-xf", imageArchive, "-C", layout]);
  const index = readJson(join(layout, "index.json")) as { manifests: [Descriptor] };
  const manifest = readJson(blobPath(layout, index.manifests[0])) as Manifest;
  const config = readJson(blobPath(layout, manifest.config)) as ImageConfig;
  for (const layer of manifest.layers) {
    await runProgram(["tar", "-xzpf", blobPath(layout, layer), "-C", root, "--numeric-owner"], 60_000);
  }
  const ids: string[] = [];

  const commandOf = (options: ContainerOptions): string[] => {
    const id = `fl-${process.pid}-${made++}`;
    ids.push(id);
    const bundle = join(directory, id);
    mkdirSync(bundle);
    writeFileSync(join(bundle, "config.json"), JSON.stringify(runtimeSpec(root, config, options)));
    // `ip netns exec` hides the cgroups that runc needs.
    const visible = ["nsenter", `--mount=/proc/${process.pid}/ns/mnt`];
    return [...visible, "runc", "--root", stateDir, "run", "--bundle", bundle, id];
  };
  return {
    directory,
    config,
    annotations: manifest.annotations,
    commandOf,
    start: (options) => start(commandOf(options)),
    run: (options) => tryProgram(commandOf(options)),
    async [Symbol.asyncDispose]() {
      for (const id of ids) await remove(id);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

let made = 0;

interface Descriptor {
  readonly digest: string;
}

interface Manifest {
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}

function blobPath(layout: string, { digest }: Descriptor): string {
  return join(layout, "blobs", digest.replace(":", "/"));
}

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, "utf8"));
}

/** As Kubernetes has it run: host network, read-only, two capabilities, everything else as runtimes do by default. */
function runtimeSpec(root: string, image: ImageConfig, options: ContainerOptions): object {
  const { host, command, mounts = {}, tun = "given", env = {}, seccomp } = options;
  const capabilities = (options.capabilities ?? ["NET_ADMIN", "NET_RAW"]).map((name) => `CAP_${name}`);
  const allowed = { allow: true, type: "c", major: 10, minor: 200, access: "rwm" };
  // Whatever the runtime lets through by itself, this number it does not: opening it is EPERM, as of a TUN that was
  // mounted into the container and not allowed to it.
  const device = { path: "/dev/net/tun", type: "c", major: 10, minor: tun === "denied" ? 229 : 200 };
  return {
    ociVersion: "1.0.2",
    process: {
      user: { uid: 0, gid: 0 },
      args: command,
      env: [...image.config.Env, ...Object.entries(env).map(([name, value]) => `${name}=${value}`)],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      noNewPrivileges: true,
    },
    root: { path: root, readonly: true },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      ...(tun === "nodev"
        ? [{ destination: "/dev/net", type: "tmpfs", source: "tmpfs", options: ["nodev"] }]
        : []),
      { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
      ...Object.entries(mounts).map(([destination, source]) => ({
        destination,
        type: "bind",
        source: source.replace(/:ro$/, ""),
        options: ["rbind", source.endsWith(":ro") ? "ro" : "rw"],
      })),
    ],
    linux: {
      namespaces: [
        ...(options.hostPid === true ? [] : [{ type: "pid" }]),
        { type: "ipc" },
        { type: "mount" },
        { type: "network", path: `/run/netns/${host.namespace}` },
      ],
      devices: tun === "absent" ? [] : [{ ...device, fileMode: 0o666 }],
      resources: {
        devices: [{ allow: false, access: "rwm" }, ...(tun === "given" || tun === "nodev" ? [allowed] : [])],
      },
      ...(seccomp === undefined ? {} : { seccomp: seccomp(capabilities) }),
      maskedPaths: ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
      readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
  };
}

async function remove(id: string): Promise<void> {
  await tryProgram(["runc", "--root", stateDir, "delete", "--force", id]);
}

/** What a process left that was killed. */
async function removeStale(): Promise<void> {
  const { output } = await tryProgram(["runc", "--root", stateDir, "list", "--quiet"]);
  for (const id of output.split("\n")) {
    const pid = /^fl-(\d+)-/.exec(id)?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) await remove(id);
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
