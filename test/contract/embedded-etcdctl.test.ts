import { afterAll, beforeAll, expect, test } from "bun:test";
import { type EmbeddedStore, startEmbedded } from "../support/embedded.ts";
import { etcdProgram } from "../support/etcd.ts";

let store: EmbeddedStore;

beforeAll(async () => {
  store = await startEmbedded();
});

afterAll(async () => {
  await store?.[Symbol.asyncDispose]();
});

/** Host and port alone: with http:// before them etcdctl 3.4 sends an authority that HTTP/2 refuses to some calls. */
function command(args: readonly string[], endpoint = new URL(store.endpoint).host): string[] {
  return [`${etcdProgram()}ctl`, "--endpoints", endpoint, "--dial-timeout", "5s", ...args];
}

interface Result {
  readonly code: number;
  readonly output: string;
  readonly errors: string;
}

async function etcdctl(args: readonly string[], input = ""): Promise<Result> {
  const child = Bun.spawn(command(args), {
    env: { ETCDCTL_API: "3", PATH: process.env["PATH"] ?? "" },
    stdin: Buffer.from(input),
    stdout: "pipe",
    stderr: "pipe",
    timeout: 20_000,
  });
  const [output, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, output, errors };
}

/** The output of a call that must go well. */
async function says(...args: string[]): Promise<string> {
  const { code, output, errors } = await etcdctl(args);
  if (code !== 0) throw new Error(`etcdctl ${args.join(" ")}: ${errors}`);
  return output;
}

test("etcdctl: put, get with its flags, del and compact", async () => {
  expect(await says("put", "/k/a", "1")).toBe("OK\n");
  await says("put", "/k/b", "2");
  await says("put", "/k/c", "3");
  expect(await says("put", "--prev-kv", "/k/c", "4")).toBe("OK\n/k/c\n3\n");
  expect(await says("get", "/k/a")).toBe("/k/a\n1\n");
  expect(await says("get", "--prefix", "/k/", "--print-value-only")).toBe("1\n2\n4\n");
  expect(await says("get", "--prefix", "/k/", "--keys-only", "--limit", "2")).toBe("/k/a\n\n/k/b\n\n");
  expect(await says("get", "/k/a", "/k/c", "--order", "DESCEND", "--sort-by", "MODIFY")).toBe(
    "/k/b\n2\n/k/a\n1\n",
  );
  expect(await says("get", "--from-key", "/k/b", "--print-value-only")).toBe("2\n4\n");
  expect(await says("get", "--rev", "4", "/k/c")).toBe("/k/c\n3\n");
  expect(await says("del", "--prev-kv", "/k/a")).toBe("1\n/k/a\n1\n");
  expect(await says("del", "--prefix", "/k/")).toBe("2\n");
  expect(await says("compact", "5")).toBe("compacted revision 5\n");
  expect((await etcdctl(["get", "--rev", "3", "/k/c"])).errors).toContain(
    "etcdserver: mvcc: required revision has been compacted",
  );
  expect((await etcdctl(["get", "--rev", "999", "/k/c"])).errors).toContain(
    "required revision is a future revision",
  );
}, 60_000);

test("etcdctl: a transaction, won and lost", async () => {
  await says("put", "/t", "old");
  const txn = 'value("/t") = "old"\nversion("/none") = "0"\n\nput /t new\nget /t\n\nget /t\n\n';
  expect((await etcdctl(["txn"], txn)).output).toBe("SUCCESS\n\nOK\n\n/t\nnew\n");
  expect((await etcdctl(["txn"], txn)).output).toBe("FAILURE\n\n/t\nnew\n");
}, 60_000);

test("etcdctl: a lease from its grant to its end", async () => {
  const [, lease = ""] =
    /^lease (\w+) granted with TTL\(100s\)/.exec(await says("lease", "grant", "100")) ?? [];
  await says("put", "--lease", lease, "/l", "1");
  expect(await says("lease", "timetolive", lease, "--keys")).toContain("attached keys([/l])");
  expect(await says("lease", "list")).toContain(lease);
  expect(await says("lease", "keep-alive", "--once", lease)).toContain("keepalived with TTL(100)");
  expect(await says("lease", "revoke", lease)).toBe(`lease ${lease} revoked\n`);
  expect(await says("get", "/l")).toBe("");
  expect(await says("lease", "timetolive", lease)).toContain("already expired");
  expect((await etcdctl(["lease", "revoke", lease])).errors).toContain(
    "etcdserver: requested lease not found",
  );
  expect((await etcdctl(["put", "--lease", "77", "/l", "1"])).errors).toContain("requested lease not found");
}, 60_000);

test("etcdctl: a watch tells the past from a revision on, and what comes", async () => {
  await says("put", "/w/a", "1");
  const { revision = "" } = (await store.get("/w/a")) ?? {};
  await says("put", "/w/a", "2");
  const child = Bun.spawn(command(["watch", "--prefix", "/w/", "--rev", revision, "--prev-kv"]), {
    env: { ETCDCTL_API: "3" },
    stdout: "pipe",
    stderr: "ignore",
  });
  try {
    await says("del", "/w/a");
    const wanted = "PUT\n/w/a\n1\nPUT\n/w/a\n1\n/w/a\n2\nDELETE\n/w/a\n2\n/w/a\n\n";
    let heard = "";
    for await (const chunk of child.stdout) {
      heard += Buffer.from(chunk).toString();
      if (heard.length >= wanted.length) break;
    }
    expect(heard).toBe(wanted);
  } finally {
    child.kill();
    await child.exited;
  }
}, 60_000);

test("etcdctl: lock and elect, which are made of the rest", async () => {
  expect(await says("lock", "mutex", "echo", "held")).toBe("held\n");
  const child = Bun.spawn(command(["elect", "office", "me"]), {
    env: { ETCDCTL_API: "3" },
    stdout: "pipe",
    stderr: "ignore",
  });
  try {
    let heard = "";
    for await (const chunk of child.stdout) {
      heard += Buffer.from(chunk).toString();
      if (heard.includes("me\n")) break;
    }
    expect(heard).toMatch(/^office\/\w+\nme\n$/);
  } finally {
    child.kill();
    await child.exited;
  }
}, 60_000);

test("etcdctl: the state of the one member there is", async () => {
  expect((await etcdctl(["endpoint", "health"])).errors).toContain("is healthy");
  expect(await says("endpoint", "status", "-w", "fields")).toMatch(
    /"Version" : "3\.4\.0\+flannel-lite\.test"/,
  );
  expect(await says("member", "list")).toMatch(/^\w+, started, flannel-lite, , , false\n$/);
  expect(await says("alarm", "list")).toBe("");
}, 60_000);

test("etcdctl: what there is not is Unimplemented, by name, and a snapshot has its counterpart named", async () => {
  const refused: readonly (readonly [readonly string[], string])[] = [
    [["user", "list"], "/etcdserverpb.Auth/UserList"],
    [["auth", "enable"], "/etcdserverpb.Auth/AuthEnable"],
    [["role", "add", "x"], "/etcdserverpb.Auth/RoleAdd"],
    [["defrag"], "/etcdserverpb.Maintenance/Defragment"],
    [["member", "remove", "1"], "/etcdserverpb.Cluster/MemberRemove"],
    [["endpoint", "hashkv"], "/etcdserverpb.Maintenance/HashKV"],
  ];
  for (const [args, text] of refused) {
    const { code, errors } = await etcdctl(args);
    expect([args, code !== 0, errors.includes("Unimplemented"), errors.includes(text)]).toEqual([
      args,
      true,
      true,
      true,
    ]);
  }
  const { errors } = await etcdctl(["snapshot", "save", `${store.dataDir}/snapshot`]);
  expect(errors).toContain("Unimplemented");
  expect(errors).toContain("flannel-lite store backup");
}, 60_000);
