import type { BackendSetup } from "../backend/backend.ts";
import type { Clock } from "../base/clock.ts";
import { errorText, FlannelError } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { ExtensionItem } from "../plan/plan.ts";

/** Runs an operator's commands, one at a time: the only shell that there is. */
export interface Commands {
  /** The peers that SubnetAddCommand was run for: this is the only place where it stands. */
  readonly held: readonly ExtensionItem[];
  /** @throws FlannelError `extension/command` */
  add(peer: ExtensionItem): Promise<void>;
  /** @throws FlannelError `extension/command` */
  remove(peer: ExtensionItem): Promise<void>;
  /**
   * Before the lease. @returns what to publish as BackendData; undefined where no command says
   * @throws FlannelError `extension/command`
   */
  preStartup(): Promise<string | undefined>;
  /** Once the lease is ours. @throws FlannelError `extension/command` */
  postStartup(own: OwnVariables): Promise<void>;
}

/** flannel's variables of PostStartupCommand. */
export type OwnVariables = Readonly<
  Record<"NETWORK" | "SUBNET" | "IPV6SUBNET" | "PUBLIC_IP" | "PUBLIC_IPV6", string>
>;

export interface CommandsContext {
  readonly commands: NonNullable<BackendSetup["commands"]>;
  readonly timeoutMs: number;
  readonly log: Log;
  readonly clock: Clock;
  /** Ends what runs for a start or for a peer that came; who went is seen off all the same. */
  readonly stop: AbortSignal;
}

/** What is kept of what a command prints; the rest is read and forgotten. */
const outputBytesMax = 8_192;

/** More than this in BackendData would be refused by every peer. */
const publishedBytesMax = 4_096;

/** Not the daemon's own: nothing of its environment reaches a command. */
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const never = new AbortController().signal;

export function openCommands({ commands, timeoutMs, log, clock, stop }: CommandsContext): Commands {
  const held = new Map<string, ExtensionItem>();

  const run = async (
    name: string,
    command: string,
    { variables, input = "" }: { variables: Readonly<Record<string, string>>; input?: string },
    until: AbortSignal,
  ): Promise<string> => {
    const result = await runShell(command, { variables, input: `${input}\n`, timeoutMs, clock }, until);
    const output = result.output.trim();
    if (result.trouble !== undefined) {
      throw new FlannelError(
        "extension/command",
        `${name} ${result.trouble}`,
        { output: output.slice(0, 500) },
        { retryable: true, remedy: "See its output" },
      );
    }
    log.info("command run", { command: name, ...variables, output: output.slice(0, 500) });
    return output;
  };

  return {
    get held() {
      return [...held.values()];
    },
    async add(peer) {
      const { subnetAdd } = commands;
      if (subnetAdd !== undefined)
        await run("SubnetAddCommand", subnetAdd, { variables: variablesOf(peer), input: peer.data }, stop);
      held.set(peer.key, peer);
    },
    async remove(peer) {
      const { subnetRemove } = commands;
      if (subnetRemove !== undefined)
        await run(
          "SubnetRemoveCommand",
          subnetRemove,
          { variables: variablesOf(peer), input: peer.data },
          never,
        );
      held.delete(peer.key);
    },
    async preStartup() {
      const { preStartup } = commands;
      if (preStartup === undefined) return undefined;
      const output = await run("PreStartupCommand", preStartup, { variables: {} }, stop);
      if (Buffer.byteLength(output) <= publishedBytesMax) return output;
      throw new FlannelError(
        "extension/command",
        `PreStartupCommand printed more than the ${publishedBytesMax} bytes that other nodes take`,
      );
    },
    async postStartup(variables) {
      const { postStartup } = commands;
      if (postStartup !== undefined) await run("PostStartupCommand", postStartup, { variables }, stop);
    },
  };
}

/** What names the peer; a family that it has not is left out. Every value has come through a parser. */
function variablesOf({ ipv4, ipv6, publicIp, publicIpv6 }: ExtensionItem): Record<string, string> {
  return {
    ...(ipv4 === undefined ? {} : { SUBNET: `${ipv4}` }),
    ...(ipv6 === undefined ? {} : { IPV6SUBNET: `${ipv6}` }),
    ...(publicIp === undefined ? {} : { PUBLIC_IP: `${publicIp}` }),
    ...(publicIpv6 === undefined ? {} : { PUBLIC_IPV6: `${publicIpv6}` }),
  };
}

interface ShellResult {
  readonly output: string;
  /** Why it does not count as done. */
  readonly trouble: string | undefined;
}

/** One command to its end. When its time is over, or `stop` aborts, it is killed with all that it started. */
async function runShell(
  command: string,
  {
    variables,
    input,
    timeoutMs,
    clock,
  }: {
    variables: Readonly<Record<string, string>>;
    input: string;
    timeoutMs: number;
    clock: Clock;
  },
  stop: AbortSignal,
): Promise<ShellResult> {
  let child: ReturnType<typeof spawnShell>;
  try {
    child = spawnShell(command, variables, input);
  } catch (error) {
    return { output: "", trouble: `could not be started: ${errorText(error)}` };
  }
  const ended = new AbortController();
  const limit = AbortSignal.any([stop, ended.signal]);
  let killed = false;
  void clock.sleep(timeoutMs, limit).then(() => {
    if (ended.signal.aborted) return;
    killed = true;
    killGroup(child.pid);
  });
  const [out, err] = await Promise.all([bounded(child.stdout), bounded(child.stderr)]);
  const code = await child.exited;
  ended.abort();
  return { output: out + err, trouble: troubleOf({ killed, stopped: stop.aborted, code, timeoutMs }) };
}

function spawnShell(command: string, variables: Readonly<Record<string, string>>, input: string) {
  return Bun.spawn(["/bin/sh", "-c", command], {
    env: { PATH: path, ...variables },
    cwd: "/",
    stdin: new Blob([input]),
    stdout: "pipe",
    stderr: "pipe",
    // A process group of its own, so that nothing it starts outlives its time.
    detached: true,
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has ended meanwhile.
  }
}

function troubleOf({
  killed,
  stopped,
  code,
  timeoutMs,
}: {
  killed: boolean;
  stopped: boolean;
  code: number;
  timeoutMs: number;
}): string | undefined {
  if (killed)
    return stopped ? "was ended by a stop" : `took longer than ${timeoutMs / 1_000} s and was ended`;
  return code === 0 ? undefined : `failed with exit code ${code}`;
}

/** The beginning of what comes; the rest is read too, so that the writer does not stand still. */
async function bounded(stream: ReadableStream<Uint8Array>): Promise<string> {
  const kept: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    if (bytes < outputBytesMax) kept.push(chunk.subarray(0, outputBytesMax - bytes));
    bytes += chunk.byteLength;
  }
  return Buffer.concat(kept).toString("utf8");
}
