import { basename } from "node:path";
import { errorText, FlannelError } from "../base/error.ts";
import { print as printTo } from "../base/print.ts";
import { takeWords } from "../config/flags.ts";
import { helpText } from "../config/help.ts";
import { askedFor, definitions, loadConfig } from "../config/load.ts";
import type { Source } from "../config/source.ts";
import { version } from "../version.ts";
import { commands } from "./commands.ts";
import { dockerOptsProgram } from "./docker-opts.ts";
import { installConfProgram } from "./install-conf.ts";
import { internalCommands } from "./internal.ts";

/**
 * All of the command line but the CNI plugin.
 * @param name what the program was started as
 * @param words behind the name
 * @param exit ends the process where it stands
 * @returns the exit code: 0 fine; 2 configuration, flags, not root; 1 anything else
 */
export async function program(
  name: string,
  words: readonly string[],
  exit: (code: number) => void,
): Promise<number> {
  // Under this name it takes flanneld's command line: flags, and no commands.
  const isFlanneld = basename(name) === "flanneld";
  const ofName = commandOfName(name);
  const argv = [...ofName, ...words];
  try {
    const internal = internalCommands[argv[0] ?? ""];
    if (internal !== undefined) {
      await internal(argv.slice(1));
      return 0;
    }
    const named = argv[0] !== undefined && !argv[0].startsWith("-") ? argv[0] : undefined;
    if (named === "help") return print(helpText({ commands }));
    const command = commands.find(({ name }) => name === (named ?? "run"));
    if (command === undefined) {
      const names = commands.map(({ name }) => name).join(", ");
      throw new FlannelError(
        "command/unknown",
        `there is no command ${JSON.stringify(named)}`,
        {},
        { exitCode: 2, remedy: `Commands: ${names}` },
      );
    }
    const behind = named === undefined ? argv : argv.slice(1);
    if (command.ownSyntax !== undefined) {
      const program = ofName.length > 0 ? name : `flannel-lite ${command.name}`;
      return await command.ownSyntax(program, behind, process.env);
    }
    const { words, flags } =
      command.words === undefined
        ? { words: [], flags: behind }
        : takeWords(behind, definitions(command.flags));
    const asked = askedFor(flags, command.flags);
    if (asked === "help" && isFlanneld) return printError(helpText({ commands: [], program: "flanneld" }));
    if (asked === "help") return print(helpText({ commands }));
    if (asked === "version") return (isFlanneld ? printError : print)(`flannel-lite ${version}\n`);
    const sources = command.unconfigured === true ? { env: {}, readFile: noFile } : { env: process.env };
    const load = (below?: Source) =>
      loadConfig({
        ...{ argv: flags, commandFlags: command.flags, ignoreLastWords: isFlanneld },
        ...sources,
        ...(below && { below }),
      });
    const loaded = load();
    if (command.name !== "run") for (const warning of loaded.warnings) complain(`warning: ${warning}`);
    const { output, exitCode = 0 } = await command.run({
      loaded,
      reread: load,
      words,
      env: process.env,
      stop: stopSignal(command.abandonable ?? false, exit),
    });
    print(output);
    return exitCode;
  } catch (error) {
    complain(error instanceof FlannelError ? `error: ${errorText(error)}` : bugText(error));
    return error instanceof FlannelError ? error.exitCode : 1;
  }
}

/** The command that another program's name stands for. */
function commandOfName(name: string): string[] {
  if (basename(name) === "flanneld") return ["run"];
  if (basename(name) === installConfProgram) return [installConfProgram];
  return basename(name) === dockerOptsProgram ? ["docker-opts"] : [];
}

function noFile(): never {
  throw Object.assign(new Error("not read by this command"), { code: "ENOENT" });
}

/** Aborts on the first SIGTERM or SIGINT; the second ends an abandonable command at once. */
function stopSignal(abandonable: boolean, exit: (code: number) => void): AbortSignal {
  const stopping = new AbortController();
  const stop = () => {
    if (stopping.signal.aborted && abandonable) exit(1);
    stopping.abort();
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  return stopping.signal;
}

function print(text: string): number {
  printTo(1, text);
  return 0;
}

function printError(text: string): number {
  process.stderr.write(text);
  return 0;
}

function complain(text: string): void {
  process.stderr.write(`flannel-lite: ${text}\n`);
}

function bugText(error: unknown): string {
  return `this is a bug: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
}
