import { expect, test } from "bun:test";
import { join } from "node:path";

const module = join(import.meta.dir, "../../../../src/store/etcd/etcd3.ts");

/** In a process of its own, where nothing has loaded it before. */
const script = `
  import fs from "node:fs";
  const { readFileSync } = fs;
  fs.readFileSync = (path, ...more) => {
    if (String(path).endsWith(".proto")) throw new Error("read " + path);
    return readFileSync(path, ...more);
  };
  const { loadEtcd3 } = await import(${JSON.stringify(module)});
  const { Host } = loadEtcd3();
  const { default: protobuf } = await import("protobufjs");
  const { credentials } = await import("@grpc/grpc-js");
  const host = new Host("127.0.0.1:1", credentials.createInsecure());
  const calls = ["KV", "Lease", "Watch", "Auth"].map((name) => Object.keys(Object.getPrototypeOf(host.getServiceClient(name))));
  console.log(JSON.stringify({ calls: calls.flat(), elsewhere: new protobuf.Root().resolvePath("/a/b", "rpc.proto") }));
`;

test("etcd3: its protocol is loaded from what is embedded, and from no file that only the builder has", () => {
  const { stdout, stderr, exitCode } = Bun.spawnSync([process.execPath, "-e", script], {
    cwd: join(import.meta.dir, "../../../.."),
  });
  expect([exitCode, stderr.toString()]).toEqual([0, ""]);
  const { calls, elsewhere } = JSON.parse(stdout.toString()) as { calls: string[]; elsewhere: string };
  for (const call of [
    "range",
    "txn",
    "leaseGrant",
    "leaseRevoke",
    "leaseTimeToLive",
    "watch",
    "authenticate",
  ]) {
    expect(calls).toContain(call);
  }
  // Others' files are resolved as before.
  expect(elsewhere).toBe("/a/rpc.proto");
});
