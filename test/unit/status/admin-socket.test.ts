import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FlannelError } from "../../../src/base/error.ts";
import { adminSocketPath, readReport } from "../../../src/status/admin-socket.ts";

let runDir = "";
beforeEach(() => {
  runDir = mkdtempSync(join(tmpdir(), "fl-admin-"));
});
afterEach(() => rmSync(runDir, { recursive: true, force: true }));

const reasonOf = async (): Promise<unknown> => {
  const error = await readReport(runDir).catch((error: unknown) => error);
  if (!(error instanceof FlannelError)) throw new Error("it answered");
  expect(error.code).toBe("daemon/not-running");
  return error.fields["reason"];
};

test("admin socket: one that is not there, and one that a killed daemon left, are told apart", async () => {
  expect(await reasonOf()).toBe("there is no such socket");
  const left = Bun.spawnSync([
    process.execPath,
    "-e",
    `require("node:net").createServer().listen(${JSON.stringify(adminSocketPath(runDir))}, () => process.kill(process.pid, "SIGKILL"))`,
  ]);
  expect(left.signalCode).toBe("SIGKILL");
  expect(await reasonOf()).toBe("nobody listens on it");
});

test("admin socket: what is no daemon behind it is told too", async () => {
  const server = createServer((socket) => socket.end("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"));
  await new Promise<void>((resolve) => void server.listen(adminSocketPath(runDir), resolve));
  try {
    expect(await reasonOf()).toContain("it answered 500");
  } finally {
    server.close();
  }
});
