import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startEmbedded } from "../support/embedded.ts";

const isRoot = process.geteuid?.() === 0;
if (!isRoot) console.warn("SKIPPED test/contract/embedded-disk.test.ts: a small disk takes root to mount");

describe.skipIf(!isRoot)("embedded: a small disk", () => {
  let disk: string;

  beforeEach(() => {
    disk = mkdtempSync(join(tmpdir(), "fl-disk-"));
    run("mount", "-t", "tmpfs", "-o", "size=1m", "flannel-lite-test", disk);
  });

  afterEach(() => {
    Bun.spawnSync(["umount", "-l", disk]);
    rmSync(disk, { recursive: true, force: true });
  });

  test("full: writes are refused as etcd refuses them, reads and watches go on, and room lets it write again", async () => {
    const filler = join(disk, "filler");
    writeFileSync(filler, Buffer.alloc(400_000));
    const dataDir = join(disk, "store");
    const written: string[] = [];
    {
      await using store = await startEmbedded({ dataDir });
      const fill = async () => {
        for (let at = written.length; at < 1_000; at++) {
          await store.put(`/k${at}`, "x".repeat(5_000));
          written.push(`/k${at}`);
        }
      };
      await expect(fill()).rejects.toThrow("etcdserver: mvcc: database space exceeded");
      expect(written.length).toBeGreaterThan(10);
      for (const key of written) expect(await store.get(key)).toBeDefined();
      expect(await store.get(`/k${written.length}`)).toBeUndefined();
      const health = await fetch(`${store.endpoint}/health`, { proxy: false });
      expect([health.status, await health.json()]).toEqual([503, { health: "false" }]);
      rmSync(filler);
      await store.put("/after", "1");
      written.push("/after");
      expect((await fetch(`${store.endpoint}/health`, { proxy: false })).status).toBe(200);
    }
    await using again = await startEmbedded({ dataDir });
    for (const key of written) expect([key, await again.get(key)]).toEqual([key, expect.anything()]);
  }, 60_000);

  test("read-only: a start is refused by name, and what was there is there afterwards", async () => {
    const dataDir = join(disk, "store");
    {
      await using store = await startEmbedded({ dataDir });
      await store.put("/a", "1");
    }
    run("mount", "-o", "remount,ro", disk);
    await expect(startEmbedded({ dataDir })).rejects.toMatchObject({ code: "store/disk" });
    run("mount", "-o", "remount,rw", disk);
    await using again = await startEmbedded({ dataDir });
    expect(await again.get("/a")).toMatchObject({ value: "1" });
  }, 60_000);
});

function run(...command: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString()}`);
}
