import { FlannelError } from "../base/error.ts";
import { openLog } from "../base/log.ts";
import type { CommandFlag } from "../config/load.ts";
import { version } from "../version.ts";
import type { CommandInput } from "./command.ts";

export const storeWords = "serve";

export const storeFlags: readonly CommandFlag[] = [
  {
    name: "data-dir",
    isBool: false,
    doc: "serve: directory of the database; by default store.embedded.data_dir.",
  },
  { name: "listen", isBool: false, doc: "serve: HOST:PORT on loopback; by default store.embedded.listen." },
];

/**
 * The embedded lease store by itself, without a daemon around it.
 * @throws FlannelError `config/invalid` (exit code 2) for the words, and of openStoreServer
 */
export async function store(input: CommandInput): Promise<string> {
  const [action, extra] = input.words;
  if (action !== "serve") throw usage(`store takes ${storeWords}, not ${JSON.stringify(action ?? "")}`);
  if (extra !== undefined) throw usage(`one word too many: ${JSON.stringify(extra)}`);
  await serve(input);
  return "";
}

/** Serves until `stop` aborts. */
async function serve({ loaded: { config, commandFlags, warnings }, stop }: CommandInput): Promise<void> {
  const { embedded } = config.store;
  const log = openLog(config.log);
  for (const warning of warnings) log.warn(warning);
  const { openStoreServer } = await import("../store/embedded/serve.ts");
  await using server = await openStoreServer({
    dataDir: commandFlags.get("data-dir") ?? embedded.dataDir,
    listen: commandFlags.get("listen") ?? embedded.listen,
    log,
    version,
  });
  await new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    stop.addEventListener("abort", () => resolve());
  });
  log.info("stopping", { endpoint: server.endpoint });
}

function usage(message: string): FlannelError {
  return new FlannelError("config/invalid", message, {}, { exitCode: 2 });
}
