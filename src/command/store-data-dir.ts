import type { CommandInput } from "./command.ts";

/** Where the embedded store is: what the command line says, else the configuration. */
export function dataDirOf({ loaded: { config, commandFlags } }: CommandInput): string {
  return commandFlags.get("data-dir") ?? config.store.embedded.dataDir;
}
