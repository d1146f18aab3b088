import { FlannelError } from "../../base/error.ts";

/** The packet filters' own programs: how they are found and run. */
export interface Programs {
  /** The path of a program; undefined where it is not installed. */
  find(name: string): string | undefined;
  /**
   * Runs a program to its end, without a shell.
   * @throws FlannelError `firewall/program`: it could not be started, took too long or said too much
   */
  run(command: readonly string[], input?: string): Promise<ProgramResult>;
}

export interface ProgramResult {
  readonly code: number;
  readonly output: string;
  /** Beginning of what it wrote to standard error, one line. */
  readonly errors: string;
}

/** iptables waits for the lock that others hold meanwhile. */
const runMsMax = 20_000;
/** A host with ten thousand services has some ten MiB of rules. */
const outputBytesMax = 128 * 1024 * 1024;
const errorCharsMax = 500;

/** Nothing is looked for in the current directory. */
const path = [...(process.env["PATH"] ?? "").split(":"), "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
  .filter((directory) => directory.startsWith("/"))
  .join(":");

export const systemPrograms: Programs = {
  find: (name) => Bun.which(name, { PATH: path }) ?? undefined,
  async run(command, input = "") {
    try {
      const child = Bun.spawn([...command], {
        stdin: new Blob([input]),
        stdout: "pipe",
        stderr: "pipe",
        env: { PATH: path, LC_ALL: "C" },
        cwd: "/",
        timeout: runMsMax,
        killSignal: "SIGKILL",
        maxBuffer: outputBytesMax,
      });
      const [output, errors] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      const code = await child.exited;
      if (child.signalCode !== null) throw new Error(`it was ended by ${child.signalCode}`);
      return { code, output, errors: errors.trim().slice(0, errorCharsMax).replace(/\s+/g, " ") };
    } catch (error) {
      throw new FlannelError(
        "firewall/program",
        `cannot run ${command[0]}`,
        {},
        { cause: error, retryable: true },
      );
    }
  },
};

/** What it printed. @throws FlannelError `firewall/program`: it could not be run, or it refused */
export async function outputOf(
  programs: Programs,
  command: readonly string[],
  input?: string,
): Promise<string> {
  const { code, output, errors } = await programs.run(command, input);
  if (code === 0) return output;
  throw new FlannelError("firewall/program", `${command.join(" ")} failed: ${errors}`, { code });
}
