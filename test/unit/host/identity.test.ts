import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { readIdentity } from "../../../src/host/identity.ts";
import { readSavedMac, saveMac } from "../../../src/host/saved-mac.ts";
import { silentLog } from "../../../src/base/log.ts";
import { parseMac } from "../../../src/net/mac.ts";
import { recordingLog } from "../../support/recording-log.ts";

const machineId = "0123456789abcdef0123456789abcdef";
const board = "4C4C4544-0042-3510-8051-B7C04F4E4E31";

function withRoot(files: Record<string, string>, body: (root: string) => void): void {
  const root = mkdtempSync(join(tmpdir(), "fl-identity-"));
  try {
    for (const [path, content] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), content);
    }
    body(root);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

function idOf(files: Record<string, string>, nodeId?: string, name = "web-1"): string {
  let id = "";
  withRoot(files, (root) => {
    id = readIdentity({ nodeId, root, name }).id;
  });
  return id;
}

const machine = { "/etc/machine-id": `${machineId}\n` };
const withBoard = { ...machine, "/sys/class/dmi/id/product_uuid": `${board}\n` };

test("identity: what is configured is the id", () => {
  expect(idOf(withBoard, "edge-7")).toBe("edge-7");
});

test("identity: without it, the same machine has the same id, whatever it is called", () => {
  expect(idOf(withBoard)).toMatch(/^[0-9a-f]{32}$/);
  expect(idOf(withBoard, undefined, "renamed")).toBe(idOf(withBoard));
  expect(idOf({ "/var/lib/dbus/machine-id": machineId })).toBe(idOf(machine));
});

test("identity: clones of a disk on other boards, and other machines, are told apart", () => {
  const other = { ...withBoard, "/sys/class/dmi/id/product_uuid": board.replace("4C4C", "5D5D") };
  const ids = [idOf(withBoard), idOf(other), idOf(machine), idOf({ "/etc/machine-id": "f".repeat(32) })];
  expect(new Set(ids).size).toBe(4);
});

test("identity: without a machine id the name stands in; the id itself gives neither away", () => {
  expect(idOf({})).not.toBe(idOf({}, undefined, "web-2"));
  expect(idOf({ "/etc/machine-id": "uninitialized\n" })).toBe(idOf({}));
  expect(idOf(machine)).not.toContain(machineId.slice(0, 8));
});

test("saved MAC: what is saved is read, one for each device; writing it again changes nothing", () => {
  withRoot({}, (root) => {
    const mac = parseMac("02:00:00:00:00:01");
    expect(readSavedMac(root, "flannel.1", silentLog)).toBeUndefined();
    saveMac(root, "flannel.1", mac, silentLog);
    expect(readSavedMac(root, "flannel.1", silentLog)).toBe(mac);
    expect(readSavedMac(root, "flannel.2", silentLog)).toBeUndefined();
    expect(readFileSync(join(root, "flannel.1.mac"), "utf8")).toBe("02:00:00:00:00:01\n");
  });
});

test.each([
  "",
  "nonsense",
  "01:00:5e:00:00:01",
  "00:00:00:00:00:00",
  "\u0000".repeat(100_000),
  `02:00:00:00:00:01${"x".repeat(70)}`,
])("saved MAC: %j is ignored with a warning and replaced", (content) => {
  withRoot({ "flannel.1.mac": content }, (root) => {
    const log = recordingLog();
    expect(readSavedMac(root, "flannel.1", log)).toBeUndefined();
    expect(log.messages).toEqual(["the saved VTEP MAC is ignored"]);
    saveMac(root, "flannel.1", parseMac("02:00:00:00:00:01"), log);
    expect(readSavedMac(root, "flannel.1", log)).toBe(parseMac("02:00:00:00:00:01"));
  });
});

test("saved MAC: a directory that cannot be written is a warning", () => {
  withRoot({ state: "a file" }, (root) => {
    const log = recordingLog();
    saveMac(join(root, "state"), "flannel.1", parseMac("02:00:00:00:00:01"), log);
    expect(log.messages).toEqual(["the VTEP MAC cannot be saved"]);
  });
});
