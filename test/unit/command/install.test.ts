import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { install, parseInstall } from "../../../src/command/install.ts";

let root: string;
let directory: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "fl-install-"));
  directory = join(root, "etc/systemd/system");
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Installs below `root`, quietly. @returns the exit code */
async function run(...flags: string[]): Promise<number> {
  const { stdout, stderr } = process;
  const writes = [stdout.write, stderr.write] as const;
  stdout.write = stderr.write = () => true;
  try {
    return await install("flannel-lite install", ["systemd", "-root", root, ...flags]);
  } finally {
    [stdout.write, stderr.write] = writes;
  }
}

const unit = () => readFileSync(join(directory, "flannel-lite.service"), "utf8");

describe("install systemd", () => {
  test("the unit is the shipped one behind a line of ours, with the program's path", async () => {
    expect(await run("-program", "/opt/bin/flannel-lite")).toBe(0);
    const shipped = readFileSync(
      join(import.meta.dir, "../../../deploy/systemd/flannel-lite.service"),
      "utf8",
    );
    const [mark = "", ...rest] = unit().split("\n");
    expect(mark).toStartWith("# Written by flannel-lite install systemd (");
    expect(rest.join("\n")).toBe(shipped.replaceAll("/usr/local/bin/", "/opt/bin/"));
    expect(lstatSync(join(directory, "flannel-lite.service")).mode & 0o7777).toBe(0o644);
    expect(readdirSync(directory)).toEqual(["flannel-lite.service"]);
  });

  test("the alias and Docker's options come when asked for, and -remove takes all of it", async () => {
    expect(await run("-flanneld-alias", "-docker")).toBe(0);
    expect(readlinkSync(join(directory, "flanneld.service"))).toBe("flannel-lite.service");
    expect(readFileSync(join(directory, "flannel-lite.service.d/docker.conf"), "utf8")).toContain(
      "ExecStartPost=/usr/local/bin/flannel-lite docker-opts -k DOCKER_NETWORK_OPTIONS -d /run/flannel/docker\n",
    );
    expect(await run("-remove")).toBe(0);
    expect(readdirSync(directory)).toEqual([]);
  });

  test("a unit that an older release wrote is replaced", async () => {
    await run("-program", "/opt/old/flannel-lite");
    expect(await run()).toBe(0);
    expect(unit()).not.toContain("/opt/old");
  });

  test("what somebody else wrote or changed stays, and nothing else is written, unless -force is given", async () => {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, "flanneld.service"), "[Service]\nExecStart=/usr/bin/flanneld\n");
    expect(await run("-flanneld-alias")).toBe(1);
    expect(readdirSync(directory)).toEqual(["flanneld.service"]);
    expect(await run("-flanneld-alias", "-force")).toBe(0);
    expect(lstatSync(join(directory, "flanneld.service")).isSymbolicLink()).toBe(true);

    const edited = unit().replace("RestartSec=5", "RestartSec=50");
    writeFileSync(join(directory, "flannel-lite.service"), edited);
    expect(await run()).toBe(1);
    expect(await run("-remove")).toBe(0);
    expect(unit()).toBe(edited);
    expect(await run("-force")).toBe(0);
    expect(unit()).toContain("RestartSec=5\n");
  });

  test("other drop-ins and links stay", async () => {
    await run("-docker");
    writeFileSync(join(directory, "flannel-lite.service.d/own.conf"), "[Service]\n");
    await run("-remove");
    expect(readdirSync(join(directory, "flannel-lite.service.d"))).toEqual(["own.conf"]);
  });

  test.each([
    [["docker"], 'cannot install "docker"'],
    [[], "install what?"],
    [["systemd", "-program", "bin/flannel-lite"], "-program"],
    [["systemd", "-program", "/opt/my bin/x"], "-program"],
    [["systemd", "-program", "/opt/%i/x"], "-program"],
    [["systemd", "-docker=maybe"], 'invalid boolean value "maybe" for -docker'],
    [["systemd", "-root", "/x", "-now"], "-now"],
    [["systemd", "-dokcer"], "flag provided but not defined: -dokcer"],
    [["systemd", "now"], 'unexpected argument "now"'],
  ])("%p is a mistake of the command line", (argv, message) => {
    expect(() => parseInstall(argv)).toThrow(message);
  });
});
