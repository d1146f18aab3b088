import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { isOwnUnit, isUnitPath, serviceUnit, shippedProgram } from "../../../src/host/systemd-unit.ts";

const deploy = join(import.meta.dir, "../../../deploy");

test("systemd unit: the Ansible role's has every limit that the shipped one has", () => {
  const shipped = readFileSync(join(deploy, "systemd/flannel-lite.service"), "utf8");
  const role = readFileSync(
    join(deploy, "ansible/roles/flannel_lite/templates/flanneld.service.j2"),
    "utf8",
  ).split("\n");
  const limits = shipped.slice(shipped.indexOf("\nTimeoutStartSec="), shipped.indexOf("\n[Install]"));
  const isVariable = (line: string) => /^(RestartSec|LimitNOFILE|LimitNPROC)=/.test(line);
  const lines = limits.split("\n").filter((line) => /^[A-Z]/.test(line) && !isVariable(line));
  expect(lines.length).toBeGreaterThan(20);
  expect(lines.filter((line) => !role.includes(line))).toEqual([]);
});

test("systemd unit: one with any other byte is not ours", () => {
  const { text } = serviceUnit(shippedProgram);
  expect(isOwnUnit(text)).toBe(true);
  expect(isOwnUnit(text.replace("Restart=always", "Restart=no"))).toBe(false);
  expect(isOwnUnit(`${text}\n`)).toBe(false);
  expect(isOwnUnit(text.slice(text.indexOf("\n") + 1))).toBe(false);
  expect(isOwnUnit("")).toBe(false);
});

test("systemd unit: only a path that needs no quoting stands in it", () => {
  expect(["/opt/bin/flannel-lite", "/usr/local/bin/fl_2.0+x"].every(isUnitPath)).toBe(true);
  const wrong = ["", "/", "bin/x", "/a b", "/a%i", "/a$b", "/a;b", "/a\nb", '/a"b', "/a/"];
  expect(wrong.filter(isUnitPath)).toEqual([]);
});
