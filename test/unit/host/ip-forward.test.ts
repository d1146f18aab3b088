import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { enableIpForward, forwardingOff } from "../../../src/host/ip-forward.ts";
import { recordingLog } from "../../support/recording-log.ts";

let root: string;
const sysctl = () => join(root, "net/ipv4/ip_forward");

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "fl-sysctl-"));
  mkdirSync(join(root, "net/ipv4"), { recursive: true });
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

test("ip forward: what is off is turned on, what is on is left alone without a word", () => {
  const log = recordingLog();
  writeFileSync(sysctl(), "0\n");
  enableIpForward([4], log, root);
  expect(readFileSync(sysctl(), "utf8")).toBe("1");
  expect(log.messages).toEqual(["turned IP forwarding on"]);
  writeFileSync(sysctl(), "1\n");
  enableIpForward([4], log, root);
  expect(readFileSync(sysctl(), "utf8")).toBe("1\n");
  expect(log.messages).toHaveLength(1);
});

test("ip forward: what cannot be turned on is an error that says how the host does it, for each family", () => {
  const log = recordingLog();
  writeFileSync(sysctl(), "0\n");
  enableIpForward([6, 4], log, root);
  expect(log.messages).toEqual([
    "IP forwarding is not on and cannot be turned on: pods will not reach other hosts",
    "turned IP forwarding on",
  ]);
  expect(log.lines[0]).toContain("sysctl -w net.ipv6.conf.all.forwarding=1");
});

test("ip forward: what is off is named as sysctl names it; a family that the kernel has not is off too", () => {
  writeFileSync(sysctl(), "0\n");
  expect(forwardingOff([4, 6], root)).toEqual(["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]);
  writeFileSync(sysctl(), "1\n");
  expect(forwardingOff([4], root)).toEqual([]);
});
