import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findFlanneld } from "../../../src/host/other-agent.ts";

const own = { prefix: "/coreos.com/network", subnetFile: "/run/flannel/subnet.env" };
const ours = "net:[1]";
let proc = "";

beforeEach(() => {
  proc = mkdtempSync(join(tmpdir(), "fl-proc-"));
  addProcess("self", { args: ["flannel-lite"], exe: join(proc, "flannel-lite"), sockets: ["500", "501"] });
  writeFileSync(join(proc, "flannel-lite"), "");
  writeFileSync(join(proc, "uptime"), "1 1");
});
afterEach(() => rmSync(proc, { recursive: true, force: true }));

interface FakeProcess {
  readonly args: readonly string[];
  readonly comm?: string;
  /** Left out: it cannot be read. */
  readonly exe?: string;
  readonly env?: readonly string[];
  readonly namespace?: string | null;
  readonly sockets?: readonly string[];
}

function addProcess(pid: string, { args, comm, exe, env, namespace = ours, sockets }: FakeProcess): void {
  const directory = join(proc, pid);
  mkdirSync(join(directory, "ns"), { recursive: true });
  mkdirSync(join(directory, "net"));
  writeFileSync(join(directory, "comm"), `${comm ?? "x"}\n`);
  writeFileSync(join(directory, "cmdline"), args.map((word) => `${word}\0`).join(""));
  if (exe !== undefined) symlinkSync(exe, join(directory, "exe"));
  if (env !== undefined) writeFileSync(join(directory, "environ"), env.map((word) => `${word}\0`).join(""));
  if (namespace !== null) symlinkSync(namespace, join(directory, "ns/net"));
  if (sockets !== undefined) {
    const rows = sockets.map((inode) => `0000000000000000: 00000002 00000000 00010000 0001 01 ${inode} @x`);
    writeFileSync(
      join(directory, "net/unix"),
      ["Num       RefCount Protocol Flags    Type St Inode Path", ...rows, ""].join("\n"),
    );
  }
}

const found = () => findFlanneld(own, proc);

test("flanneld: known by its program, its first argument or its name; others are not it", () => {
  addProcess("10", { args: ["/opt/bin/flanneld"], exe: "/opt/bin/flanneld", env: [] });
  addProcess("11", { args: ["x"], exe: "/opt/bin/flanneld (deleted)", env: [] });
  addProcess("12", { args: ["/usr/local/bin/flanneld-amd64", "-v=1"], env: [] });
  addProcess("13", { args: ["run"], comm: "flanneld", env: [] });
  addProcess("14", { args: ["vim", "flanneld"], exe: "/usr/bin/vim", env: [] });
  addProcess("15", { args: ["flanneld-exporter"], exe: "/usr/bin/flanneld-exporter", env: [] });
  addProcess("16", { args: ["/opt/flanneld-v0.11.0"], env: [] });
  addProcess("17", { args: ["/opt/flanneld-0.28.1-arm64"], env: [] });
  expect(
    found()
      .map(({ pid }) => pid)
      .sort(),
  ).toEqual([10, 11, 12, 13, 16, 17]);
  expect(found().every(({ servesAnother }) => !servesAnother)).toBe(true);
});

test("flanneld: one that has ended, flannel-lite under that name, and other namespaces do not count", () => {
  addProcess("10", { args: [], comm: "flanneld" });
  addProcess("11", { args: ["flanneld"], exe: join(proc, "flannel-lite"), env: [] });
  addProcess("12", { args: ["flanneld"], exe: "/opt/bin/flanneld", namespace: "net:[2]", env: [] });
  addProcess("13", { args: ["flanneld"], exe: "/usr/local/bin/flannel-lite (deleted)", env: [] });
  expect(found()).toEqual([]);
});

test("flanneld: a hidden namespace is told by the sockets in it; one that tells nothing counts as ours", () => {
  addProcess("10", { args: ["flanneld"], namespace: null, sockets: ["7", "501"] });
  addProcess("11", { args: ["flanneld"], namespace: null, sockets: ["7", "8"] });
  addProcess("12", { args: ["flanneld"], namespace: null });
  expect(
    found()
      .map(({ pid }) => pid)
      .sort(),
  ).toEqual([10, 12]);
});

test("flanneld: it serves another network when its keys and its subnet file are others, for sure", () => {
  const file = "-subnet-file=/run/other.env";
  const cases: readonly (readonly [readonly string[], readonly string[] | undefined, boolean])[] = [
    [[], [], false],
    [["-etcd-prefix=/other", file], [], true],
    [["--etcd-prefix", "/other", "--subnet-file", "/run/other.env"], undefined, true],
    [["-etcd-prefix=/other"], [], false],
    [[file], [], false],
    [["-etcd-prefix=/coreos.com//network/", file], [], false],
    [["-etcd-prefix=/other", "-etcd-prefix=/coreos.com/network", file], [], false],
    [["-etcd-prefix=/other"], ["FLANNELD_SUBNET_FILE=/run/other.env"], true],
    [[file], ["FLANNELD_ETCD_PREFIX=/other"], true],
    [["-etcd-prefix=/coreos.com/network", file], ["FLANNELD_ETCD_PREFIX=/other"], false],
    [[file], ["FLANNELD_ETCD_PREFIX="], false],
    [[file], undefined, false], // its environment is hidden
    [["-kube-subnet-mgr", file], [], true],
    [["-kube-subnet-mgr=false", file], [], false],
    [["-kube-subnet-mgr"], [], false],
  ];
  for (const [at, [args, env, another]] of cases.entries()) {
    addProcess(String(20 + at), {
      args: ["flanneld", ...args],
      exe: "/opt/bin/flanneld",
      ...(env && { env }),
    });
    expect([args, env, found().find(({ pid }) => pid === 20 + at)?.servesAnother]).toEqual([
      args,
      env,
      another,
    ]);
  }
});
