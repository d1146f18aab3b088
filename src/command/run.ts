import { systemClock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import { openLog } from "../base/log.ts";
import type { CommandFlag } from "../config/load.ts";
import { runDaemon } from "../daemon/daemon.ts";
import { hasNetAdmin } from "../host/capability.ts";
import { watchdogIntervalMs } from "../host/sd-notify.ts";
import { openStartReason } from "../host/start-reason.ts";
import { openAddon } from "../native/addon.ts";
import { version } from "../version.ts";
import type { CommandInput } from "./command.ts";

export const runFlags: readonly CommandFlag[] = [
  {
    name: "take-over",
    isBool: true,
    doc: "Take over from the running daemon, which ends, without losing a packet; start as usual where there is none.",
  },
];

/** Runs the daemon until `stop` aborts or another one takes over. */
export async function run({
  loaded,
  reread,
  env,
  stop,
}: Pick<CommandInput, "loaded" | "reread" | "env" | "stop">): Promise<void> {
  const { config, file, warnings, commandFlags } = loaded;
  const log = openLog(config.log);
  for (const warning of warnings) log.warn(warning);
  requireRoot("run");
  log.info("flannel-lite starting", { version, pid: process.pid, configFile: file });
  const starting = openStartReason(config.host.subnetFile, log, systemClock.now);
  starting.say("flannel-lite is starting");
  const context = {
    addon: openAddon(),
    log: { ...starting.log, adjust: log.adjust },
    clock: systemClock,
    env,
    watchdogMs: watchdogIntervalMs(env, process.pid),
    reread,
    onHangup(listener: () => void) {
      process.on("SIGHUP", listener);
      return { [Symbol.dispose]: () => void process.off("SIGHUP", listener) };
    },
    takeOver: commandFlags.get("take-over") === "true",
  };
  try {
    await runDaemon(config, context, stop);
    starting.say("flannel-lite was stopped");
  } catch (error) {
    starting.say(`flannel-lite ended: ${errorText(error)}`);
    throw error;
  }
  log.info("stopped");
}

/** @throws FlannelError `command/not-root`, `command/no-net-admin` (exit code 2) */
export function requireRoot(command: string): void {
  if (process.geteuid?.() === 0) {
    if (hasNetAdmin()) return;
    throw new FlannelError(
      "command/no-net-admin",
      `flannel-lite ${command} changes devices and routes, and this container or unit is root without CAP_NET_ADMIN`,
      {},
      {
        exitCode: 2,
        remedy:
          "Give it the capability: --cap-add NET_ADMIN (docker, podman), capabilities.add (Kubernetes), CapabilityBoundingSet= (systemd)",
      },
    );
  }
  throw new FlannelError(
    "command/not-root",
    `flannel-lite ${command} changes devices and routes, which takes root`,
    {},
    { exitCode: 2, remedy: "Run it as root, with sudo or from the systemd unit" },
  );
}
