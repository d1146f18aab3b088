import {
  chmodSync,
  closeSync,
  copyFileSync,
  constants,
  existsSync,
  fsyncSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  realpathSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { writeFileAtomic } from "../base/atomic-file.ts";
import { FlannelError } from "../base/error.ts";
import { type FlagDefinition, scanFlags } from "../config/flags.ts";
import { goBoolean } from "../config/text-form.ts";
import {
  conflistText,
  isOwnConflist,
  isSameConflist,
  parseConflist,
  precedence,
  shippedConflist,
} from "../host/cni-conflist.ts";
import { attempt, fileText, linkAtomic, type Presence, putAtomic, refuseForeign } from "./install-file.ts";

export const installCniUsage = `usage: flannel-lite install cni [flags]

Puts this program as the CNI plugin flannel and its configuration list in place, the plugin first.

  -root DIR          Write below DIR: for an image, or in a container where the host's directories are mounted.
  -bin-dir DIR       Directory of the plugins; by default /opt/cni/bin.
  -conf-dir DIR      Directory of the configuration; by default /etc/cni/net.d.
  -name FILE         Name of the configuration list there; by default 10-flannel.conflist.
  -conflist FILE     Install this list; by default flannel's.
  -subnet-file PATH  Let the list name this subnet.env; by default it names none, which is /run/flannel/subnet.env.
  -program PATH      The program; by default this file.
  -plugin-only       Leave the configuration to others.
  -conflist-only     Leave the plugin to others.
  -link              Link to the program instead of copying it.
  -force             Overwrite files that this command did not write, or that were changed since.
  -remove            Remove what this command wrote instead.
`;

const flags: readonly FlagDefinition[] = [
  ...["root", "bin-dir", "conf-dir", "name", "conflist", "subnet-file", "program"].map((name) => ({
    name,
    isBool: false,
  })),
  ...["plugin-only", "conflist-only", "link", "force", "remove"].map((name) => ({ name, isBool: true })),
];

/** By this our program is known among files named flannel. It stands in the program because it stands here. */
const programMark = "flannel-lite install cni: this program is the plugin (5f1c2b9e7d)";

/** What flannel's list runs beside flannel. */
const otherPlugins = ["bridge", "host-local", "loopback", "portmap"];

export interface InstallCniRequest {
  readonly plugin: string;
  readonly confDir: string;
  readonly name: string;
  readonly conflist: string | undefined;
  readonly subnetFile: string | undefined;
  readonly program: string;
  readonly pluginOnly: boolean;
  readonly conflistOnly: boolean;
  readonly link: boolean;
  readonly force: boolean;
  readonly remove: boolean;
}

/** @throws FlannelError `command/usage` (exit code 2) */
export function parseInstallCni(argv: readonly string[]): InstallCniRequest | "help" {
  const { given, help, problems } = scanFlags(argv, flags);
  if (help) return "help";
  if (problems[0] !== undefined) throw mistake(problems.join("; "));
  const last = (name: string) => given.findLast((flag) => flag.name === name)?.text;
  const isSet = (name: string) => {
    const text = last(name) ?? "false";
    const value = goBoolean(text);
    if (value === undefined) throw mistake(`invalid boolean value ${JSON.stringify(text)} for -${name}`);
    return value;
  };
  const root = resolve(last("root") ?? "/");
  const name = last("name") ?? "10-flannel.conflist";
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]*\.conflist$/.test(name))
    throw mistake(`-name: ${JSON.stringify(name)} is no plain file name that ends in .conflist`);
  const subnetFile = last("subnet-file");
  if (subnetFile !== undefined && !isAbsolute(subnetFile))
    throw mistake(`-subnet-file: ${JSON.stringify(subnetFile)} is not an absolute path`);
  const [pluginOnly, conflistOnly] = [isSet("plugin-only"), isSet("conflist-only")];
  if (pluginOnly && conflistOnly) throw mistake("-plugin-only and -conflist-only leave nothing to do");
  return {
    plugin: join(root, last("bin-dir") ?? "/opt/cni/bin", "flannel"),
    confDir: join(root, last("conf-dir") ?? "/etc/cni/net.d"),
    name,
    conflist: last("conflist"),
    subnetFile,
    program: resolve(last("program") ?? process.execPath),
    pluginOnly,
    conflistOnly,
    link: isSet("link"),
    force: isSet("force"),
    remove: isSet("remove"),
  };
}

/** @returns what was done, a line each @throws FlannelError `install/…` */
export function installCni(request: InstallCniRequest): string {
  const said = explained(() => (request.remove ? remove(request) : write(request)));
  return said.map((line) => `${line}\n`).join("");
}

/** Looks at all that is there before it writes, and writes the list last: a runtime goes by it at once. */
function write(request: InstallCniRequest): string[] {
  const { plugin, program, force, conflistOnly } = request;
  if (!conflistOnly && !isOurProgram(program)) {
    throw new FlannelError(
      "install/program",
      `${program} is no flannel-lite that has the plugin in it`,
      {},
      { exitCode: 2, remedy: "Name the compiled program with -program" },
    );
  }
  const list = request.pluginOnly ? undefined : wantedList(request);
  refuseForeign(
    [
      ...(!conflistOnly && presenceOfPlugin(plugin) === "foreign" ? [plugin] : []),
      ...(list !== undefined && !list.isDone && presenceOfList(list.path) === "foreign" ? [list.path] : []),
    ],
    force,
  );
  const said = conflistOnly ? [] : [writePlugin(request)];
  if (list?.isDone === true) said.push(`${list.path} is as it should be`);
  else if (list !== undefined) {
    attempt(list.path, () =>
      writeFileAtomic(list.path, list.text, { mode: 0o644, directoryMode: 0o755, exactMode: true }),
    );
    said.push(`wrote ${list.path}`);
  }
  return [
    ...said,
    ...(list === undefined ? [] : rivalsOfList(request)),
    ...(conflistOnly ? [] : missingPlugins(request)),
  ];
}

/** What the system refuses us when we look is no bug of ours. @throws FlannelError `install/read` */
function explained<T>(look: () => T): T {
  try {
    return look();
  } catch (error) {
    if (!(error instanceof Error && "syscall" in error)) throw error;
    throw new FlannelError("install/read", "what is there cannot be looked at", {}, { cause: error });
  }
}

function writePlugin(request: InstallCniRequest): string {
  const { plugin, program, link } = request;
  if (isInstalled(request)) return `${plugin} is as it should be`;
  if (link) {
    attempt(plugin, () => linkAtomic(program, plugin));
    return `linked ${plugin} to ${program}`;
  }
  attempt(plugin, () => putAtomic(plugin, (temporary) => copyProgram(program, temporary)));
  return `wrote ${plugin}`;
}

/** A file that installing would make (`+`) or replace (`~`), and whose it is now. */
export interface CniChange {
  readonly op: "+" | "~";
  readonly path: string;
  readonly was: Presence;
}

/** What {@link installCni} would write, were it forced. Changes nothing. @throws FlannelError `install/…` */
export function previewInstallCni(request: InstallCniRequest): CniChange[] {
  return explained(() => preview(request));
}

function preview(request: InstallCniRequest): CniChange[] {
  const list = request.pluginOnly ? undefined : wantedList(request);
  const change = (path: string, was: Presence): CniChange => ({
    op: was === "absent" ? "+" : "~",
    path,
    was,
  });
  return [
    ...(isInstalled(request) ? [] : [change(request.plugin, presenceOfPlugin(request.plugin))]),
    ...(list === undefined || list.isDone ? [] : [change(list.path, presenceOfList(list.path))]),
  ];
}

/** The configuration list, and whether one that says the same is there already. */
function wantedList({ confDir, name, conflist, subnetFile }: InstallCniRequest) {
  const path = join(confDir, name);
  const text = conflistText(readConflist(conflist), { subnetFile });
  const found = fileText(path);
  return { path, text, isDone: found !== undefined && isSameConflist(found, text) };
}

function remove({ plugin, confDir, name, pluginOnly, conflistOnly }: InstallCniRequest): string[] {
  const said: string[] = [];
  const take = (path: string, presence: Presence) => {
    if (presence === "foreign") said.push(`left ${path}: not written by this command, or changed since`);
    if (presence !== "own") return;
    attempt(path, () => rmSync(path));
    said.push(`removed ${path}`);
  };
  const list = join(confDir, name);
  if (!pluginOnly) take(list, presenceOfList(list));
  if (!conflistOnly) take(plugin, presenceOfPlugin(plugin));
  return said.length === 0 ? ["nothing of ours is here"] : said;
}

/** Other configurations in the directory: a runtime goes by one. */
function rivalsOfList({ confDir, name }: InstallCniRequest): string[] {
  const files = readdirSync(confDir, { withFileTypes: true }).filter((entry) => !entry.isDirectory());
  const names = files.map((entry) => entry.name);
  const { winner, before, after } = precedence(names, name);
  const said: string[] = [];
  if (before.length > 0) {
    said.push(
      `warning: ${before.join(", ")} in ${confDir} sorts before ${name}: runtimes go by ${winner}, not by ours; move it away`,
    );
  }
  if (after.length > 0) said.push(`${name} goes before ${after.join(", ")} in ${confDir}`);
  return said;
}

function missingPlugins({ plugin }: InstallCniRequest): string[] {
  const directory = dirname(plugin);
  const missing = otherPlugins.filter((other) => !existsSync(join(directory, other)));
  if (missing.length === 0) return [];
  return [
    `${missing.join(", ")} not in ${directory}: pods need them from another directory of the runtime (Debian: containernetworking-plugins has /usr/lib/cni)`,
  ];
}

function readConflist(file: string | undefined): Readonly<Record<string, unknown>> {
  if (file === undefined) return shippedConflist;
  let text: string | undefined;
  try {
    // A link, as a mounted ConfigMap has it, is followed.
    text = fileText(realpathSync(file));
  } catch (error) {
    throw new FlannelError("install/conflist", `cannot read ${file}`, {}, { cause: error, exitCode: 2 });
  }
  const conflist = text === undefined ? undefined : parseConflist(text);
  if (conflist !== undefined) return conflist;
  throw new FlannelError(
    "install/conflist",
    `${file} is no CNI configuration list with a name and a plugin of type flannel`,
    {},
    { exitCode: 2 },
  );
}

function presenceOfList(path: string): Presence {
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return "absent";
  const text = fileText(path);
  return text !== undefined && isOwnConflist(text) ? "own" : "foreign";
}

function presenceOfPlugin(path: string): Presence {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return "absent";
  if (stat.isSymbolicLink() && !existsSync(path)) return "foreign";
  return isOurProgram(path) ? "own" : "foreign";
}

/** Whether the plugin is there already, in the way that is asked for. */
function isInstalled({ plugin, program, link }: InstallCniRequest): boolean {
  const stat = lstatSync(plugin, { throwIfNoEntry: false });
  if (stat === undefined) return false;
  if (stat.isSymbolicLink()) return link && readlinkSync(plugin) === program;
  return !link && stat.isFile() && (stat.mode & 0o7777) === 0o755 && isSameFile(plugin, program);
}

function copyProgram(from: string, to: string): void {
  copyFileSync(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  chmodSync(to, 0o755);
  const descriptor = openSync(to, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

const chunkBytes = 4 * 1024 * 1024;

function isOurProgram(path: string): boolean {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) return false;
  const mark = Buffer.from(programMark);
  let tail = Buffer.alloc(0);
  return someChunk(path, (chunk) => {
    const window = Buffer.concat([tail, chunk]);
    tail = Buffer.from(window.subarray(-mark.length));
    return window.includes(mark);
  });
}

function isSameFile(one: string, other: string): boolean {
  if (statSync(one).size !== statSync(other).size) return false;
  const descriptor = openSync(other, "r");
  const buffer = Buffer.allocUnsafe(chunkBytes);
  try {
    return !someChunk(one, (chunk) => {
      const length = readSync(descriptor, buffer, 0, chunk.length, null);
      return !buffer.subarray(0, length).equals(chunk);
    });
  } finally {
    closeSync(descriptor);
  }
}

/** Reads the file until `holds` does. */
function someChunk(path: string, holds: (chunk: Buffer) => boolean): boolean {
  const descriptor = openSync(path, "r");
  const buffer = Buffer.allocUnsafe(chunkBytes);
  try {
    for (let count = -1; count !== 0;) {
      count = readSync(descriptor, buffer, 0, chunkBytes, null);
      if (holds(buffer.subarray(0, count))) return true;
    }
    return false;
  } finally {
    closeSync(descriptor);
  }
}

function mistake(message: string): FlannelError {
  return new FlannelError(
    "command/usage",
    message,
    {},
    { exitCode: 2, remedy: "flannel-lite install cni -help tells more" },
  );
}
