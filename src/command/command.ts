import { FlannelError } from "../base/error.ts";
import type { CommandFlag, Loaded } from "../config/load.ts";
import type { Source } from "../config/source.ts";

/** What a command gets to work with. */
export interface CommandInput {
  readonly loaded: Loaded;
  /** Reads flags, environment and file again, with `below` under them. @throws FlannelError `config/invalid` */
  readonly reread: (below?: Source) => Loaded;
  /** What the command line has beside flags, where the command takes words. */
  readonly words: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborts on SIGTERM or SIGINT. */
  readonly stop: AbortSignal;
}

/** One subcommand. */
export interface Command {
  readonly name: string;
  /** For `--help`. */
  readonly doc: string;
  /** Flags beside those of the configuration. */
  readonly flags: readonly CommandFlag[];
  /** Its words in a usage line, `list | release SUBNET`; undefined where it takes none. */
  readonly words?: string;
  /** Whether it has nothing to do with this host's configuration, and so must not fail for it. */
  readonly unconfigured?: boolean;
  /** Whether a second signal ends the process where it stands; else the command always cleans up. */
  readonly abandonable?: boolean;
  /**
   * Takes the place of `run` where the command is another program's, with that one's command line.
   * @returns the exit code; what there is to say is said
   */
  ownSyntax?(
    program: string,
    argv: readonly string[],
    env: Readonly<Record<string, string | undefined>>,
  ): Promise<number>;
  /** @returns what belongs on standard output, and the exit code where it is not 0 */
  run(input: CommandInput): Promise<{ readonly output: string; readonly exitCode?: number }>;
}

export const jsonFlag: CommandFlag = { name: "json", isBool: true, doc: "Answer in JSON." };

/** Whether {@link jsonFlag} is set. */
export function isJson({ commandFlags }: Pick<Loaded, "commandFlags">): boolean {
  return commandFlags.get(jsonFlag.name) === "true";
}

/** For words of the command line that the command does not take. */
export function usage(message: string): FlannelError {
  return new FlannelError("config/invalid", message, {}, { exitCode: 2 });
}
