import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readFlanneldProcess } from "../../../src/host/flanneld-process.ts";
import { pathInRoot } from "../../../src/host/foreign-root.ts";

let proc = "";
beforeEach(() => {
  proc = mkdtempSync(join(tmpdir(), "fl-proc-"));
  mkdirSync(join(proc, "self/ns"), { recursive: true });
  symlinkSync("mnt:[1]", join(proc, "self/ns/mnt"));
  mkdirSync(join(proc, "10/ns"), { recursive: true });
});
afterEach(() => rmSync(proc, { recursive: true, force: true }));

const file = (name: string, text: string) => writeFileSync(join(proc, "10", name), text);
const words = (...all: string[]) => all.map((word) => `${word}\0`).join("");

test("arguments behind the name, the variables that flanneld heeds, its unit, its files", () => {
  file("cmdline", words("/opt/bin/flanneld", "--kube-subnet-mgr", "a b", ""));
  file(
    "environ",
    words("AWS_SECRET=x", "NODE_NAME=n1", "FLANNELD_IFACE=eth1", "FLANNELD_IFACE=eth2", "=x", "POD_NAMES=y"),
  );
  file("cgroup", "0::/system.slice/flanneld.service\n");
  symlinkSync("/opt/bin/flanneld", join(proc, "10/exe"));
  symlinkSync("mnt:[2]", join(proc, "10/ns/mnt"));
  expect(readFlanneldProcess(10, proc)).toEqual({
    pid: 10,
    program: "/opt/bin/flanneld",
    argv: ["--kube-subnet-mgr", "a b", ""],
    env: { NODE_NAME: "n1", FLANNELD_IFACE: "eth1" },
    startedBy: "flanneld.service",
    root: join(proc, "10/root"),
  });
});

test("a pod's; what is hidden or gone; files of our own namespace need no other way", () => {
  expect(readFlanneldProcess(10, proc)).toBeUndefined();
  expect(readFlanneldProcess(11, proc)).toBeUndefined();
  file("cmdline", "");
  expect(readFlanneldProcess(10, proc)).toBeUndefined();
  file("cmdline", words("flanneld"));
  file("cgroup", "0::/kubepods.slice/kubepods-besteffort.slice/cri-containerd-0123.scope\n");
  symlinkSync("mnt:[1]", join(proc, "10/ns/mnt"));
  expect(readFlanneldProcess(10, proc)).toEqual({
    pid: 10,
    program: undefined,
    argv: [],
    env: undefined,
    startedBy: "a pod",
    root: undefined,
  });
});

test("below another root: links are followed as that process would, and never lead out", () => {
  const root = join(proc, "root");
  mkdirSync(join(root, "run/secrets"), { recursive: true });
  mkdirSync(join(root, "var"));
  writeFileSync(join(root, "run/secrets/token"), "x");
  symlinkSync("../run", join(root, "var/relative"));
  symlinkSync("/run", join(root, "var/absolute"));
  symlinkSync("../../../../../run/secrets", join(root, "var/above"));
  symlinkSync("/etc/shadow", join(root, "var/shadow"));
  symlinkSync("loop", join(root, "var/loop"));
  const token = join(root, "run/secrets/token");
  for (const path of [
    "/run/secrets/token",
    "/var/relative/secrets/token",
    "/var/absolute/secrets/token",
    "/var/above/token",
    "/../../run//./secrets/token",
  ])
    expect([path, pathInRoot(root, path)]).toEqual([path, token]);
  for (const path of ["/var/shadow", "/var/loop", "/run/absent", "/run/secrets/token/x"])
    expect([path, pathInRoot(root, path)]).toEqual([path, undefined]);
});
