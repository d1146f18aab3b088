import { openLog } from "../base/log.ts";
import type { CommandFlag } from "../config/load.ts";
import { trustSettings } from "../store/open.ts";
import { version } from "../version.ts";
import { type CommandInput, jsonFlag, usage } from "./command.ts";
import { storeBackup, storeRestore } from "./store-backup.ts";
import { storeInit, storeRenew } from "./store-certificates.ts";
import { dataDirOf } from "./store-data-dir.ts";
import { storeMigrate } from "./store-migrate.ts";
import { storePassword } from "./store-password.ts";

export const storeWords = "serve | init | certs renew | password NAME | backup FILE | restore FILE | migrate";

export const storeFlags: readonly CommandFlag[] = [
  jsonFlag,
  {
    name: "data-dir",
    isBool: false,
    doc: "Directory of the embedded store's database and certificates; by default store.embedded.data_dir.",
  },
  { name: "listen", isBool: false, doc: "serve: HOST:PORT; by default store.embedded.listen." },
  {
    name: "host",
    isBool: false,
    repeats: true,
    doc: "init: a host by its names and IP addresses, comma-separated; repeated for each, the one that serves first.",
  },
  { name: "ca-key", isBool: false, doc: "init, certs renew: the authority's key, where it was moved to." },
  { name: "role", isBool: false, doc: "password: member (the default) or admin." },
  { name: "to", isBool: false, doc: "migrate: comma list of endpoints to copy the network to." },
  { name: "from", isBool: false, doc: "migrate: comma list of endpoints to copy the network from." },
  {
    name: "remote-cafile",
    isBool: false,
    doc: "migrate: what the other end's certificate is signed by (PEM).",
  },
  { name: "remote-certfile", isBool: false, doc: "migrate: our client certificate for the other end (PEM)." },
  { name: "remote-keyfile", isBool: false, doc: "migrate: its private key (PEM)." },
  { name: "remote-username", isBool: false, doc: "migrate: user to log in as at the other end." },
  { name: "remote-password-file", isBool: false, doc: "migrate: file with that user's password." },
];

/**
 * The embedded lease store by hand.
 * @throws FlannelError `config/invalid` (exit code 2) for the words, and of what they name
 */
export async function store(input: CommandInput): Promise<string> {
  const [action = "", ...words] = input.words;
  switch (action) {
    case "serve":
      refuseWords(words, 0);
      await serve(input);
      return "";
    case "init":
      return storeInit(input, words);
    case "certs":
      if (words[0] !== "renew") throw usage(`store certs takes renew, not ${JSON.stringify(words[0] ?? "")}`);
      refuseWords(words, 1);
      return storeRenew(input);
    case "password":
      refuseWords(words, 1);
      return await storePassword(input, requireWord(words, "store password takes a user's name"));
    case "backup":
      refuseWords(words, 1);
      return await storeBackup(input, requireWord(words, "store backup takes a file to write"));
    case "restore":
      refuseWords(words, 1);
      return await storeRestore(input, requireWord(words, "store restore takes a file to read"));
    case "migrate":
      refuseWords(words, 0);
      return await storeMigrate(input);
    default:
      throw usage(`store takes ${storeWords}, not ${JSON.stringify(action)}`);
  }
}

/** Serves until `stop` aborts. */
async function serve(input: CommandInput): Promise<void> {
  const { loaded, stop } = input;
  const { config, commandFlags } = loaded;
  const log = openLog(config.log);
  const { openStoreServer } = await import("../store/embedded/serve.ts");
  await using server = await openStoreServer({
    dataDir: dataDirOf(input),
    listen: commandFlags.get("listen") ?? config.store.embedded.listen,
    trust: trustSettings(config),
    log,
    version,
  });
  await new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    stop.addEventListener("abort", () => resolve());
  });
  log.info("stopping", { endpoint: server.endpoint });
}

function refuseWords(words: readonly string[], max: number): void {
  if (words.length > max) throw usage(`one word too many: ${JSON.stringify(words[max])}`);
}

function requireWord([word]: readonly string[], otherwise: string): string {
  if (word === undefined || word === "") throw usage(otherwise);
  return word;
}
