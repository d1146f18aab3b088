import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { errorText, FlannelError } from "../../../src/base/error.ts";
import { installCni, parseInstallCni, previewInstallCni } from "../../../src/command/install-cni.ts";
import { shippedConflist } from "../../../src/host/cni-conflist.ts";

const programText = `\x7fELF ${"x".repeat(5_000_000)} flannel-lite install cni: this program is the plugin (5f1c2b9e7d)`;

let root: string;
let plugin: string;
let list: string;
let program: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "fl-install-cni-"));
  plugin = join(root, "opt/cni/bin/flannel");
  list = join(root, "etc/cni/net.d/10-flannel.conflist");
  program = join(root, "flannel-lite");
  writeFileSync(program, programText, { mode: 0o700 });
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

/** @returns what it says, a line each */
function run(...flags: string[]): string[] {
  const request = parseInstallCni(["-root", root, "-program", program, ...flags]);
  if (request === "help") throw new Error("no help was asked for");
  return installCni(request).trimEnd().split("\n");
}

const tree = () =>
  readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory() && entry.name !== "flannel-lite")
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort();

const both = ["etc/cni/net.d/10-flannel.conflist", "opt/cni/bin/flannel"];

describe("install cni", () => {
  test("puts the plugin and flannel's list in place; a second run changes nothing; -remove takes both", () => {
    expect(run().slice(0, 2)).toEqual([`wrote ${plugin}`, `wrote ${list}`]);
    expect(tree()).toEqual(both);
    expect(readFileSync(plugin, "utf8")).toBe(programText);
    expect(statSync(plugin).mode & 0o7777).toBe(0o755);
    expect(statSync(list).mode & 0o7777).toBe(0o644);
    expect(JSON.parse(readFileSync(list, "utf8"))).toEqual({
      flannelLite: expect.stringContaining("written by flannel-lite install cni ("),
      ...shippedConflist,
    });
    const [one, other] = [statSync(plugin), statSync(list)];
    expect(run().slice(0, 2)).toEqual([`${plugin} is as it should be`, `${list} is as it should be`]);
    expect([statSync(plugin).ino, statSync(list).ino]).toEqual([one.ino, other.ino]);
    expect(run("-remove")).toEqual([`removed ${list}`, `removed ${plugin}`]);
    expect(tree()).toEqual([]);
    expect(run("-remove")).toEqual(["nothing of ours is here"]);
  });

  test("the preview names what a forced run then writes, whose it is, and writes nothing itself", () => {
    const preview = () => {
      const request = parseInstallCni(["-root", root, "-program", program]);
      if (request === "help") throw new Error("no help was asked for");
      return previewInstallCni(request).map(({ op, path, was }) => `${op} ${path} ${was}`);
    };
    expect(preview()).toEqual([`+ ${plugin} absent`, `+ ${list} absent`]);
    expect(tree()).toEqual([]);
    run();
    expect(preview()).toEqual([]);
    writeFileSync(program, `${programText} newer`);
    expect(preview()).toEqual([`~ ${plugin} own`]);
    writeFileSync(plugin, "flannel's");
    writeFileSync(list, JSON.stringify({ ...shippedConflist, name: "theirs" }));
    expect(preview()).toEqual([`~ ${plugin} foreign`, `~ ${list} foreign`]);
    run("-force");
    expect(preview()).toEqual([]);
    // A list that says the same is left as it is.
    writeFileSync(list, JSON.stringify(shippedConflist));
    expect(preview()).toEqual([]);
  });

  test("a release replaces what another one wrote, also while it runs", () => {
    run();
    const before = statSync(plugin).ino;
    writeFileSync(program, `${programText} newer`);
    expect(run("-subnet-file", "/run/flannel/b.env")[0]).toBe(`wrote ${plugin}`);
    expect(statSync(plugin).ino).not.toBe(before);
    expect(JSON.parse(readFileSync(list, "utf8"))).toMatchObject({
      plugins: [{ type: "flannel", subnetFile: "/run/flannel/b.env" }, { type: "portmap" }],
    });
    expect(tree()).toEqual(both);
  });

  test("-link links, and a copy replaces the link, not what it leads to", () => {
    expect(run("-link")[0]).toBe(`linked ${plugin} to ${program}`);
    expect(readlinkSync(plugin)).toBe(program);
    expect(run("-link")[0]).toBe(`${plugin} is as it should be`);
    expect(run()[0]).toBe(`wrote ${plugin}`);
    expect(lstatSync(plugin).isFile()).toBe(true);
    expect(readFileSync(program, "utf8")).toBe(programText);
  });

  test("a plugin or a list of somebody else stays, and nothing is written, unless -force is given", () => {
    mkdirSync(join(plugin, ".."), { recursive: true });
    writeFileSync(plugin, "the stock plugin");
    expect(() => run()).toThrow(expect.objectContaining({ code: "install/foreign" }));
    expect(tree()).toEqual(["opt/cni/bin/flannel"]);
    expect(run("-remove")).toEqual([`left ${plugin}: not written by this command, or changed since`]);
    expect(run("-force").slice(0, 2)).toEqual([`wrote ${plugin}`, `wrote ${list}`]);

    writeFileSync(list, readFileSync(list, "utf8").replace("cbr0", "mine"));
    expect(() => run()).toThrow(list);
    expect(run("-remove")).toEqual([
      `left ${list}: not written by this command, or changed since`,
      `removed ${plugin}`,
    ]);
    expect(readFileSync(list, "utf8")).toContain("mine");
  });

  test("a list that says the same, such as flannel's own, is left as it is", () => {
    mkdirSync(join(list, ".."), { recursive: true });
    const text = JSON.stringify(shippedConflist);
    writeFileSync(list, text);
    expect(run()[1]).toBe(`${list} is as it should be`);
    expect(readFileSync(list, "utf8")).toBe(text);
  });

  test("a list can be given, as a mounted ConfigMap has it; one without flannel is refused", () => {
    const given = join(root, "given.json");
    const target = join(root, "target.json");
    writeFileSync(
      target,
      '{"name":"net","cniVersion":"1.0.0","plugins":[{"type":"flannel","delegate":{"mtu":1400}}]}',
    );
    symlinkSync(target, given);
    run("-conflist", given, "-name", "05-net.conflist");
    expect(JSON.parse(readFileSync(join(list, "../05-net.conflist"), "utf8"))).toMatchObject({
      name: "net",
      plugins: [{ type: "flannel", delegate: { mtu: 1400 } }],
    });
    for (const text of [
      "",
      "[]",
      '{"name":"net","plugins":[{"type":"bridge"}]}',
      '{"plugins":[{"type":"flannel"}]}',
    ]) {
      writeFileSync(target, text);
      expect(() => run("-conflist", given)).toThrow(expect.objectContaining({ code: "install/conflist" }));
    }
  });

  test("it says which file wins, and which plugins are missing", () => {
    mkdirSync(join(list, ".."), { recursive: true });
    mkdirSync(join(plugin, ".."), { recursive: true });
    for (const name of [
      "10-flannel.conf",
      "05-calico.conflist",
      "99-loopback.json",
      "00-README",
      "01-old.conf.bak",
    ])
      writeFileSync(join(list, "..", name), "{}");
    for (const name of ["bridge", "host-local", "loopback"]) writeFileSync(join(plugin, "..", name), "");
    const directory = join(list, "..");
    expect(run().slice(2)).toEqual([
      `warning: 05-calico.conflist, 10-flannel.conf in ${directory} sorts before 10-flannel.conflist: runtimes go by 05-calico.conflist, not by ours; move it away`,
      `10-flannel.conflist goes before 99-loopback.json in ${directory}`,
      expect.stringContaining(`portmap not in ${join(plugin, "..")}`),
    ]);
  });

  test("a directory is no configuration, whatever its name", () => {
    mkdirSync(join(list, "..", "05-old.conflist"), { recursive: true });
    expect(run("-conflist-only")).toEqual([`wrote ${list}`]);
  });

  test.each<[string, string, string[]]>([
    ["plugins", "opt", []],
    ["configurations", "etc", ["-conflist-only"]],
    ["plugins, at removal", "opt", ["-plugin-only", "-remove"]],
    ["configurations, at removal", "etc", ["-conflist-only", "-remove"]],
  ])("a file where the directory of %s should be is named, and no bug", (_name, file, argv) => {
    writeFileSync(join(root, file), "");
    let error: unknown;
    try {
      run(...argv);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(FlannelError);
    expect(errorText(error)).toContain(`ENOTDIR: not a directory, lstat '${join(root, file)}/`);
  });

  test("-conflist-only leaves the plugin to others, whoever's it is", () => {
    mkdirSync(join(root, "opt/cni/bin"), { recursive: true });
    writeFileSync(plugin, "flannel's own");
    expect(run("-conflist-only")).toEqual([`wrote ${list}`]);
    expect(readFileSync(plugin, "utf8")).toBe("flannel's own");
    expect(run("-conflist-only", "-remove")).toEqual([`removed ${list}`]);
    expect(tree()).toEqual(["opt/cni/bin/flannel"]);
    expect(() => run("-conflist-only", "-plugin-only")).toThrow("leave nothing to do");
  });

  test("-plugin-only leaves the configuration to others", () => {
    run();
    writeFileSync(list, "theirs");
    expect(run("-plugin-only", "-link")).toEqual([
      `linked ${plugin} to ${program}`,
      expect.stringContaining("bridge, host-local, loopback, portmap not in"),
    ]);
    expect(run("-plugin-only", "-remove")).toEqual([`removed ${plugin}`]);
    expect(readFileSync(list, "utf8")).toBe("theirs");
  });

  test("what a killed run left is removed, and nothing that only looks like it", () => {
    const directory = join(plugin, "..");
    mkdirSync(directory, { recursive: true });
    const names = ["flannel.0123456789ab", "flannel.bak", "flannel.cba987654321", "other.0123456789ab"];
    for (const name of names) writeFileSync(join(directory, name), "");
    for (const name of names.filter((one) => !one.includes("cba"))) utimesSync(join(directory, name), 0, 0);
    run();
    expect(readdirSync(directory).sort()).toEqual([
      "flannel",
      "flannel.bak",
      "flannel.cba987654321",
      "other.0123456789ab",
    ]);
  });

  test("what is no flannel-lite is not installed", () => {
    writeFileSync(program, "#!/bin/sh\n");
    expect(() => run()).toThrow(expect.objectContaining({ code: "install/program" }));
    expect(tree()).toEqual([]);
  });

  test.each<[string]>([
    ["-name=../x.conflist"],
    ["-name=x.conf"],
    ["-subnet-file=subnet.env"],
    ["-force=maybe"],
    ["-nonsense"],
    ["word"],
  ])("%s is a mistake", (flag) => {
    expect(() => run(flag)).toThrow(expect.objectContaining({ code: "command/usage", exitCode: 2 }));
  });
});
