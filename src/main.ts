import { writeSync } from "node:fs";
import { basename } from "node:path";
import { errorText, FlannelError } from "./base/error.ts";
import { commands } from "./command/commands.ts";
import { dockerOptsProgram } from "./command/docker-opts.ts";
import { internalCommands } from "./command/internal.ts";
import { helpText } from "./config/help.ts";
import { takeWords } from "./config/flags.ts";
import { askedFor, definitions, loadConfig } from "./config/load.ts";
import { version } from "./version.ts";

/** Under this name the program takes flanneld's command line: flags, and no commands. */
const isFlanneld = basename(process.argv0) === "flanneld";

process.exit(await main([...commandOfName(process.argv0), ...process.argv.slice(2)]));

/** @returns the exit code: 0 fine; 2 configuration, flags, not root; 1 anything else */
async function main(argv: readonly string[]): Promise<number> {
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
      const isNamedSo = commandOfName(process.argv0).length > 0;
      const program = isNamedSo ? process.argv0 : `flannel-lite ${command.name}`;
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
    const loaded = loadConfig({
      argv: flags,
      commandFlags: command.flags,
      ignoreLastWords: isFlanneld,
      ...sources,
    });
    if (command.name !== "run") for (const warning of loaded.warnings) complain(`warning: ${warning}`);
    const { output, exitCode = 0 } = await command.run({
      loaded,
      words,
      env: process.env,
      stop: stopSignal(command.abandonable ?? false),
    });
    print(output);
    return exitCode;
  } catch (error) {
    complain(error instanceof FlannelError ? `error: ${errorText(error)}` : bugText(error));
    return error instanceof FlannelError ? error.exitCode : 1;
  }
}

/** The command that another program's name stands for. */
function commandOfName(program: string): string[] {
  if (isFlanneld) return ["run"];
  return basename(program) === dockerOptsProgram ? ["docker-opts"] : [];
}

function noFile(): never {
  throw Object.assign(new Error("not read by this command"), { code: "ENOENT" });
}

/** Aborts on the first SIGTERM or SIGINT; the second ends an abandonable command at once. */
function stopSignal(abandonable: boolean): AbortSignal {
  const stopping = new AbortController();
  const stop = () => {
    if (stopping.signal.aborted && abandonable) process.exit(1);
    stopping.abort();
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  return stopping.signal;
}

/** Writes all of it: on a pipe, an exit right after an asynchronous write would cut it. */
function print(text: string): number {
  const bytes = Buffer.from(text);
  for (let done = 0; done < bytes.length;) {
    try {
      done += writeSync(1, bytes, done);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") continue;
      return 0; // nobody reads any more
    }
  }
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
