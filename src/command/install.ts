import { lstatSync, readlinkSync, rmdirSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { writeFileAtomic } from "../base/atomic-file.ts";
import { errorText, FlannelError } from "../base/error.ts";
import { type FlagDefinition, scanFlags } from "../config/flags.ts";
import { goBoolean } from "../config/text-form.ts";
import {
  dockerOptionsUnit,
  isOwnUnit,
  isUnitPath,
  serviceUnit,
  shippedProgram,
} from "../host/systemd-unit.ts";
import { installCni, installCniUsage, parseInstallCni } from "./install-cni.ts";
import { attempt, fileText, linkAtomic, type Presence, refuseForeign } from "./install-file.ts";

const usage = `usage: flannel-lite install systemd [flags]

Writes the systemd unit into /etc/systemd/system. Runs no other program unless -now is given.

  -root DIR          Write below DIR, for an image.
  -program PATH      Where the unit finds the program; by default this file, with -root ${shippedProgram}.
  -flanneld-alias    Let flanneld.service be another name of the unit.
  -docker            Write Docker's options to /run/flannel/docker after each start.
  -force             Overwrite files that this command did not write, or that were changed since.
  -remove            Remove what this command wrote instead, all of it.
  -now               Have systemd read the units, and enable and start the service (-remove: stop, disable).
`;

const flags: readonly FlagDefinition[] = [
  { name: "root", isBool: false },
  { name: "program", isBool: false },
  ...["flanneld-alias", "docker", "force", "remove", "now"].map((name) => ({ name, isBool: true })),
];

const unitDirectory = "etc/systemd/system";
const serviceName = "flannel-lite.service";
const aliasName = "flanneld.service";

interface InstallRequest {
  readonly root: string;
  readonly program: string;
  readonly alias: boolean;
  readonly docker: boolean;
  readonly force: boolean;
  readonly remove: boolean;
  readonly now: boolean;
}

/** `install systemd` and `install cni`. @returns the exit code; what there is to say is said */
export async function install(_program: string, argv: readonly string[]): Promise<number> {
  try {
    process.stdout.write(argv[0] === "cni" ? cniOutput(argv.slice(1)) : await systemdOutput(argv));
    return 0;
  } catch (error) {
    if (!(error instanceof FlannelError)) throw error;
    process.stderr.write(`flannel-lite: error: ${errorText(error)}\n`);
    return error.exitCode;
  }
}

function cniOutput(argv: readonly string[]): string {
  const request = parseInstallCni(argv);
  return request === "help" ? installCniUsage : installCni(request);
}

async function systemdOutput(argv: readonly string[]): Promise<string> {
  const request = parseInstall(argv);
  if (request !== "help") return await carryOut(request);
  return argv[0] === "systemd" ? usage : `${usage}\n${installCniUsage}`;
}

/** @throws FlannelError `command/usage` (exit code 2) */
export function parseInstall(argv: readonly string[]): InstallRequest | "help" {
  const [what, ...rest] = argv;
  const { given, help, problems } = scanFlags(what === "systemd" ? rest : argv, flags);
  if (help) return "help";
  if (what !== "systemd") {
    throw mistake(what === undefined ? "install what?" : `cannot install ${JSON.stringify(what)}`);
  }
  const last = (name: string) => given.findLast((flag) => flag.name === name)?.text;
  const isSet = (name: string) => {
    const text = last(name) ?? "false";
    const value = goBoolean(text);
    if (value === undefined) throw mistake(`invalid boolean value ${JSON.stringify(text)} for -${name}`);
    return value;
  };
  if (problems[0] !== undefined) throw mistake(problems.join("; "));
  const root = last("root");
  const program = last("program") ?? (root === undefined ? process.execPath : shippedProgram);
  if (!isUnitPath(program)) {
    throw mistake(
      `-program: ${JSON.stringify(program)} is not an absolute path of letters, digits and . _ + @ -`,
    );
  }
  if (root !== undefined && isSet("now")) throw mistake("-now is for this host, -root for another's files");
  return {
    root: resolve(root ?? "/"),
    program,
    alias: isSet("flanneld-alias"),
    docker: isSet("docker"),
    force: isSet("force"),
    remove: isSet("remove"),
    now: isSet("now"),
  };
}

function mistake(message: string): FlannelError {
  return new FlannelError(
    "command/usage",
    message,
    {},
    { exitCode: 2, remedy: "flannel-lite install -help tells of systemd and cni" },
  );
}

async function carryOut(request: InstallRequest): Promise<string> {
  return request.remove ? await remove(request) : await write(request);
}

/** Looks at all that is there before it writes the first file. */
async function write({ root, program, alias, docker, force, now }: InstallRequest): Promise<string> {
  const files = [serviceUnit(program), ...(docker ? [dockerOptionsUnit(program)] : [])].map(
    ({ name, text }) => ({ path: join(root, unitDirectory, name), text }),
  );
  const link = join(root, unitDirectory, aliasName);
  const foreign = [
    ...files.map(({ path }) => path).filter((path) => presence(path) === "foreign"),
    ...(alias && presence(link) === "foreign" ? [link] : []),
  ];
  refuseForeign(foreign, force);
  const said: string[] = [];
  for (const { path, text } of files) {
    if (fileText(path) === text) {
      said.push(`${path} is as it should be`);
      continue;
    }
    attempt(path, () => writeFileAtomic(path, text, { mode: 0o644, directoryMode: 0o755 }));
    said.push(`wrote ${path}`);
  }
  if (alias && presence(link) === "own") said.push(`${link} is as it should be`);
  else if (alias) {
    attempt(link, () => linkAtomic(serviceName, link));
    said.push(`linked ${link} to ${serviceName}`);
  }
  const commands = [
    ["systemctl", "daemon-reload"],
    ["systemctl", "enable", "--now", serviceName],
  ];
  said.push(...(await runOrSay(commands, root, now)));
  if (docker) said.push("Docker reads /run/flannel/docker as docs/systemd.md says");
  return said.map((line) => `${line}\n`).join("");
}

async function remove({ root, now }: InstallRequest): Promise<string> {
  const names = [aliasName, dockerOptionsUnit(shippedProgram).name, serviceName];
  const paths = names.map((name) => join(root, unitDirectory, name));
  const said: string[] = [];
  if (now && presence(join(root, unitDirectory, serviceName)) === "own") {
    said.push(...(await runOrSay([["systemctl", "disable", "--now", serviceName]], root, true)));
  }
  for (const path of paths) {
    const found = presence(path);
    if (found === "foreign") said.push(`left ${path}: not written by this command, or changed since`);
    if (found !== "own") continue;
    attempt(path, () => rmSync(path));
    said.push(`removed ${path}`);
  }
  try {
    rmdirSync(join(root, unitDirectory, `${serviceName}.d`));
  } catch {
    // There is none, or other drop-ins are in it.
  }
  if (said.length === 0) return "nothing of ours is here\n";
  said.push(...(await runOrSay([["systemctl", "daemon-reload"]], root, now)));
  return said.map((line) => `${line}\n`).join("");
}

/** Runs the commands, or tells the user to. Without a shell; their own messages go to standard error. */
async function runOrSay(
  commands: readonly (readonly string[])[],
  root: string,
  now: boolean,
): Promise<string[]> {
  if (root !== "/") return [];
  if (!now) return [`next: ${commands.map((command) => command.join(" ")).join(" && ")}`];
  for (const command of commands) {
    let code: number;
    try {
      code = await Bun.spawn([...command], { stdin: "ignore", stdout: "inherit", stderr: "inherit" }).exited;
    } catch (error) {
      throw new FlannelError("install/systemctl", `cannot run ${command[0]}`, {}, { cause: error });
    }
    if (code !== 0) throw new FlannelError("install/systemctl", `${command.join(" ")} failed`, { code });
  }
  return commands.map((command) => `ran ${command.join(" ")}`);
}

/** Whose the file at `path` is. A link is ours when it is the alias. */
function presence(path: string): Presence {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return "absent";
  if (stat.isSymbolicLink()) return readlinkSync(path) === serviceName ? "own" : "foreign";
  const text = fileText(path);
  return text !== undefined && isOwnUnit(text) ? "own" : "foreign";
}
