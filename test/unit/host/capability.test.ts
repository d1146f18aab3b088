import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hasNetAdmin } from "../../../src/host/capability.ts";

test("capability: NET_ADMIN is read from the effective set; what cannot be read is believed", () => {
  const directory = mkdtempSync(join(tmpdir(), "fl-capability-"));
  const status = join(directory, "status");
  const holds = (effective: string) => {
    writeFileSync(
      status,
      `Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t${effective}\nCapBnd:\t0000000000003000\n`,
    );
    return hasNetAdmin(status);
  };
  try {
    expect(holds("0000000000003000")).toBe(true);
    expect(holds("000001ffffffffff")).toBe(true);
    expect(holds("0000000000002000")).toBe(false);
    expect(holds("000001ffffffefff")).toBe(false);
    expect(holds("0000000000000000")).toBe(false);
    expect(holds("nonsense")).toBe(true);
    expect(hasNetAdmin(join(directory, "missing"))).toBe(true);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
