import { benchAgents } from "../bench/agent.ts";
import { transferCommands } from "./transfer.ts";

/** What our own commands start of us; not part of the command line's contract. */
export const internalCommands: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = {
  ...transferCommands,
  ...benchAgents,
};
