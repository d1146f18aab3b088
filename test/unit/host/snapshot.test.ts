import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  encodeSnapshot,
  openSnapshotWriter,
  parseSnapshot,
  readSnapshot,
  type Snapshot,
  snapshotPath,
} from "../../../src/host/snapshot.ts";
import { silentLog } from "../../../src/base/log.ts";
import { vxlanLease } from "../../support/leases.ts";
import { manualClock, settle } from "../../support/manual-clock.ts";
import { seededRandom } from "../../support/random.ts";
import { recordingLog } from "../../support/recording-log.ts";

const snapshot: Snapshot = {
  savedAt: new Date("2026-01-01T00:00:00Z"),
  nodeId: "a1",
  document: '{"Network":"10.5.0.0/16"}\n',
  own: vxlanLease("10.5.1.0/24", "192.0.2.1"),
  peers: [
    vxlanLease("10.5.2.0/24", "192.0.2.2", { nested: ["x", null, 1.5] }, "fd00:5:0:2::/64"),
    { ...vxlanLease("10.5.3.0/24", "192.0.2.3"), expiresAt: undefined },
    { ...vxlanLease("10.5.4.0/24", "192.0.2.4"), attributes: { backendType: "" } },
  ],
};

async function inDirectory(body: (directory: string) => Promise<void> | void): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "fl-snapshot-"));
  try {
    await body(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

describe("snapshot", () => {
  test("what is encoded is read again, to the last member", () => {
    expect(parseSnapshot(encodeSnapshot(snapshot))).toEqual(snapshot);
  });

  test("each network has a file of its own", () => {
    expect(snapshotPath("/s", "/coreos.com/network")).toMatch(/^\/s\/leases-[0-9a-f]{16}\.snapshot$/);
    expect(snapshotPath("/s", "/a")).not.toBe(snapshotPath("/s", "/b"));
  });

  test("a file that was cut or changed anywhere is ignored with its reason", () =>
    inDirectory((directory) => {
      const path = join(directory, "x");
      const whole = encodeSnapshot(snapshot);
      const { below } = seededRandom(7);
      const damaged = Array.from({ length: 200 }, () => {
        const at = below(whole.length - 1);
        const other = String.fromCharCode(33 + ((whole.charCodeAt(at) - 33 + 1 + below(80)) % 90));
        return [whole.slice(0, at), `${whole.slice(0, at)}${other}${whole.slice(at + 1)}`];
      }).flat();
      for (const content of [...damaged, "", "\n", "\u0000", whole.replace("snapshot 1 ", "snapshot 0 ")]) {
        if (content === whole) continue;
        writeFileSync(path, content);
        const log = recordingLog();
        expect({ content, read: readSnapshot(path, log) }).toEqual({ content, read: undefined });
        expect(log.messages).toEqual(["the saved leases are ignored"]);
      }
    }));

  test("content that is whole but wrong is ignored too", () => {
    const wrong: unknown[] = [
      { ...snapshot, savedAt: new Date(Number.NaN) },
      { ...snapshot, peers: "none" },
      { ...snapshot, own: { ...snapshot.own, subnets: {} } },
      { ...snapshot, own: { ...snapshot.own, attributes: { publicIp: "nowhere", backendType: "" } } },
      { ...snapshot, document: 7 },
    ];
    for (const one of wrong) {
      expect(() => {
        const value = one as Snapshot;
        const peers = Array.isArray(value.peers) ? value.peers : [];
        const text = encodeSnapshot({ ...value, savedAt: snapshot.savedAt, peers });
        const body = JSON.parse(text.slice(text.indexOf("\n"))) as Record<string, unknown>;
        if (value.peers !== peers) body["peers"] = value.peers;
        if (value.savedAt !== snapshot.savedAt) body["savedAt"] = "yesterday";
        return parseSnapshot(signed(JSON.stringify(body)));
      }).toThrow();
    }
    for (const body of ["[]", "null", "{}", "{", "1"]) expect(() => parseSnapshot(signed(body))).toThrow();
  });

  test("none is no warning; a directory, or more than it can ever be, is one", () =>
    inDirectory((directory) => {
      const log = recordingLog();
      expect(readSnapshot(join(directory, "none"), log)).toBeUndefined();
      expect(log.messages).toEqual([]);
      mkdirSync(join(directory, "x"));
      expect(readSnapshot(join(directory, "x"), log)).toBeUndefined();
      expect(log.messages).toHaveLength(1);
    }));
});

describe("snapshot writer", () => {
  const open = (directory: string) => {
    const clock = manualClock();
    const path = join(directory, "state/x.snapshot");
    let writes = 0;
    const writer = openSnapshotWriter({
      path,
      current: () => {
        writes++;
        return { ...snapshot, savedAt: clock.now() };
      },
      log: silentLog,
      clock,
    });
    const ending = new AbortController();
    const running = writer.run(ending.signal);
    const end = async () => {
      ending.abort();
      await running;
    };
    return { clock, path, writer, writes: () => writes, end };
  };

  test("changes are written at once, then at most every five seconds; mere renewals every ten minutes", () =>
    inDirectory(async (directory) => {
      const { clock, path, writer, writes, end } = open(directory);
      writer.touch("changed");
      await settle();
      expect(writes()).toBe(1);
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect(statSync(join(directory, "state")).mode & 0o777).toBe(0o700);
      for (let at = 0; at < 40; at++) {
        writer.touch("changed");
        await clock.advance(500);
      }
      expect(writes()).toBe(1 + 4);
      await clock.advance(5_000);
      writer.touch("renewed");
      await clock.advance(9 * 60_000);
      expect(writes()).toBe(5);
      await clock.advance(60_000);
      expect(writes()).toBe(6);
      await end();
      expect(writes()).toBe(6);
    }));

  test("what was not written yet is written at the stop; what was forgotten is not", () =>
    inDirectory(async (directory) => {
      const { path, writer, writes, end } = open(directory);
      writer.touch("changed");
      await settle();
      writer.touch("renewed");
      await end();
      expect(writes()).toBe(2);
      expect(readSnapshot(path, silentLog)?.nodeId).toBe("a1");
      const other = open(directory);
      other.writer.touch("changed");
      other.writer.forget();
      expect(existsSync(path)).toBe(false);
      await other.end();
      expect(existsSync(path)).toBe(false);
    }));

  test("a directory that cannot be written is said once and harms nothing", () =>
    inDirectory(async (directory) => {
      const clock = manualClock();
      const log = recordingLog();
      writeFileSync(join(directory, "state"), "a file");
      const path = join(directory, "state/x.snapshot");
      const writer = openSnapshotWriter({ path, current: () => snapshot, log, clock });
      const ending = new AbortController();
      const running = writer.run(ending.signal);
      for (let at = 0; at < 3; at++) {
        writer.touch("changed");
        await clock.advance(5_000);
      }
      ending.abort();
      await running;
      expect(log.messages).toHaveLength(1);
      expect(readFileSync(join(directory, "state"), "utf8")).toBe("a file");
    }));
});

/** A body with a right first line. */
function signed(body: string): string {
  const hash = new Bun.CryptoHasher("sha256").update(body).digest("hex");
  return `flannel-lite-snapshot 1 ${hash}\n${body}\n`;
}
