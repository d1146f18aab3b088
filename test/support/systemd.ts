import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Lab, LabHost } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import { binary, overlayRefused } from "./overlay.ts";

/**
 * A host of a lab with a systemd of its own as PID 1: own processes, mounts, cgroups and host name, in the
 * host's network namespace. Its files are the machine's, seen through an overlay: what is written there stays
 * there. Units start only when a test starts them.
 */
export interface SystemdHost extends AsyncDisposable {
  readonly host: LabHost;
  /** The command line behind which a program runs inside. */
  readonly enter: readonly string[];
  /** Runs a program inside to its end. @returns what it wrote to standard output; rejects when it fails */
  run(command: readonly string[], timeoutMs?: number): Promise<string>;
  /** As {@link run}, whatever the exit code. */
  tryRun(
    command: readonly string[],
    timeoutMs?: number,
  ): Promise<{ code: number; output: string; errors: string }>;
  /** Rejects, when a unit does not start, with its journal. */
  systemctl(...args: string[]): Promise<string>;
  /** Properties of a unit as `systemctl show` prints them. */
  show(unit: string, ...properties: string[]): Promise<Record<string, string>>;
  /** What the unit wrote, and what systemd says of it. */
  journal(unit: string): Promise<string>;
  /** Where a path of the inside is found from outside. */
  path(inside: string): string;
  /** Writes a file of the inside, and its directory. */
  write(inside: string, text: string, mode?: number): void;
  read(inside: string): string;
  /** Writes units into /etc/systemd/system, by name, and makes systemd read them. */
  install(units: Readonly<Record<string, string>>): Promise<void>;
}

export interface SystemdOptions {
  /** Files and directories that appear inside, by where they shall; the compiled program is there anyway. */
  readonly binds?: Readonly<Record<string, string>>;
}

/** Where the compiled program is, inside. */
export const installedBinary = "/usr/local/bin/flannel-lite";

const bootMsMax = 30_000;
const stopMsMax = 10_000;

/** Why tests with systemd cannot run here; undefined when they can. */
export function systemdRefused(): string | undefined {
  const program = ["/lib/systemd/systemd", "/usr/bin/unshare", "/usr/bin/nsenter"].find(
    (path) => !existsSync(path),
  );
  return program === undefined ? overlayRefused() : `there is no ${program}`;
}

/** Boots systemd on a host of the lab; close it before the lab. */
export async function bootSystemd(
  lab: Lab,
  host: LabHost,
  options: SystemdOptions = {},
): Promise<SystemdHost> {
  const directory = join(lab.directory, `systemd-${host.number}`);
  mkdirSync(directory);
  const binds = Object.entries({ [installedBinary]: binary, ...options.binds }).flatMap(([to, from]) => [
    from,
    to,
  ]);
  const script = join(import.meta.dir, "systemd-boot.sh");
  const boot = lab.start(host.namespace, [
    ...["unshare", "--mount", "sh", script],
    ...[host.namespace, directory, ...binds],
  ]);
  let ended = false;
  void boot.exited.then(() => {
    ended = true;
  });
  let init: number | undefined;
  for (const deadline = Date.now() + bootMsMax; ; await Bun.sleep(30)) {
    init ??= await initOf(host.namespace);
    if (init !== undefined && existsSync(`/proc/${init}/root/run/systemd/private`)) break;
    if (!ended && Date.now() < deadline) continue;
    await boot.end();
    throw new Error(`systemd does not boot on ${host.namespace}: ${boot.errorTail()}`);
  }
  const pid = init;
  const enter = [
    ...["nsenter", `--target=${pid}`, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"],
    ...["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
  ];
  const wrapped = (command: readonly string[]) => [...enter, ...command];
  const path = (inside: string) => `/proc/${pid}/root${inside}`;
  const run = (command: readonly string[], timeoutMs?: number) => runProgram(wrapped(command), timeoutMs);
  const tryRun = (command: readonly string[], timeoutMs?: number) => tryProgram(wrapped(command), timeoutMs);
  const journal = async (unit: string) => {
    await run(["journalctl", "--sync"]);
    return run(["journalctl", "--no-pager", "--output=cat", `--unit=${unit}`]);
  };
  const write = (inside: string, text: string, mode = 0o644) => {
    mkdirSync(dirname(path(inside)), { recursive: true });
    writeFileSync(path(inside), text, { mode });
  };
  const systemctl = async (...args: string[]) => {
    try {
      return await run(["systemctl", "--no-pager", ...args]);
    } catch (error) {
      const unit = args.at(-1) ?? "";
      const said = unit.includes(".") ? await journal(unit).catch(() => "") : "";
      throw new Error(`systemctl ${args.join(" ")} on ${host.namespace}: ${said.slice(-3_000)}`, {
        cause: error,
      });
    }
  };
  const close = async () => {
    if (!ended) {
      await tryRun(["systemctl", "--no-block", "exit"]);
      await Promise.race([boot.exited, Bun.sleep(stopMsMax)]);
    }
    await boot.end();
  };
  try {
    // "degraded" would be a unit that failed, and none has been started.
    await run(["systemctl", "--wait", "is-system-running"], bootMsMax);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    host,
    enter,
    run,
    tryRun,
    systemctl,
    async show(unit, ...properties) {
      const text = await run(["systemctl", "show", unit, `--property=${properties.join(",")}`]);
      return Object.fromEntries(
        text
          .split("\n")
          .filter((line) => line.includes("="))
          .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
      ) as Record<string, string>;
    },
    journal,
    path,
    write,
    read: (inside) => readFileSync(path(inside), "utf8"),
    async install(units) {
      for (const [name, text] of Object.entries(units)) write(`/etc/systemd/system/${name}`, text);
      await systemctl("daemon-reload");
    },
    [Symbol.asyncDispose]: close,
  };
}

/** The process that is PID 1 of a pid namespace inside this network namespace, seen from outside. */
async function initOf(namespace: string): Promise<number | undefined> {
  const pids = (await runProgram(["ip", "netns", "pids", namespace])).split("\n").filter((pid) => pid !== "");
  const isInit = (pid: string) => {
    try {
      const line = /^NSpid:(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
      const seen = line.trim().split(/\s+/);
      return seen.length > 1 && seen.at(-1) === "1";
    } catch {
      return false; // it has ended meanwhile
    }
  };
  const found = pids.find(isInit);
  return found === undefined ? undefined : Number(found);
}
