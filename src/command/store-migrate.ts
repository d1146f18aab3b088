import { systemClock } from "../base/clock.ts";
import { silentLog } from "../base/log.ts";
import { type RemoteStore, transferStore } from "../store/open.ts";
import { type CommandInput, isJson, usage } from "./command.ts";

/** Copies the network between the configured store and another one, and says how hosts change over. */
export async function storeMigrate(input: CommandInput): Promise<string> {
  const { loaded, stop } = input;
  const flag = (name: string) => loaded.commandFlags.get(name);
  const [to, from] = [flag("to"), flag("from")];
  if ((to === undefined) === (from === undefined))
    throw usage("store migrate takes -to or -from, with endpoints");
  const direction = to === undefined ? "from" : "to";
  const remote: RemoteStore = {
    endpoints: (to ?? from ?? "").split(","),
    cafile: flag("remote-cafile"),
    certfile: flag("remote-certfile"),
    keyfile: flag("remote-keyfile"),
    username: flag("remote-username"),
    passwordFile: flag("remote-password-file"),
  };
  const environment = { log: silentLog, clock: systemClock };
  const done = await transferStore(loaded.config, { remote, direction }, environment, stop);
  if (isJson(input.loaded)) return `${JSON.stringify(done, null, 2)}\n`;
  return [
    ...done.copied.map(({ key, ttlSeconds }) =>
      ttlSeconds === null ? `copied ${key}` : `copied ${key}, which lapses in ${ttlSeconds} s`,
    ),
    `# ${done.to} holds what ${done.from} holds: ${done.copied.length} keys copied, ${done.present} were there`,
    "# Now one host after the other, with traffic going on:",
    `#   1. on the host, set [store] type = "etcd" and [store.etcd] endpoints (and its certificates) to the new store,`,
    "#      and restart flannel-lite; it finds its own lease and everybody else's there",
    done.soonestLapseSeconds === null
      ? "#   2. no lease lapses, so there is no hurry"
      : `#   2. be done with all hosts in ${durationText(done.soonestLapseSeconds)}, when the first copied lease would lapse; repeating this command gives every lease that was renewed in the old store its new term`,
    "#   3. hosts on the two stores do not see each other's changes: let no host join meanwhile",
    "#   4. when the last host has changed over, stop the old store; its data stay as they are",
    "",
  ].join("\n");
}

function durationText(seconds: number): string {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${seconds} s`;
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}
