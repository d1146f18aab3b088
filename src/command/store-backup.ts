import { type CommandInput, isJson } from "./command.ts";
import { dataDirOf } from "./store-data-dir.ts";

/** Backs up the store in the data directory, be it served meanwhile or not. */
export async function storeBackup(input: CommandInput, file: string): Promise<string> {
  const { backUp } = await import("../store/embedded/backup.ts");
  const done = backUp(dataDirOf(input), file);
  if (isJson(input.loaded)) return `${JSON.stringify(done)}\n`;
  return `${done.path}: ${done.keys} keys and ${done.leases} leases at revision ${done.revision}, ${done.bytes} bytes\n`;
}

/** Makes a store of a backup. */
export async function storeRestore(input: CommandInput, file: string): Promise<string> {
  const { restore } = await import("../store/embedded/backup.ts");
  const done = restore(file, dataDirOf(input));
  if (isJson(input.loaded)) return `${JSON.stringify(done)}\n`;
  return `${done.path}: ${done.keys} keys and ${done.leases} leases; revisions go on from ${done.revision}\n`;
}
