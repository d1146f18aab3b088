import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { parseCall } from "../../../src/cni/call.ts";
import { parseCniConfig } from "../../../src/cni/config.ts";
import { addDelegate, callDelegate } from "../../../src/cni/delegate.ts";
import { cniErrorText } from "../../../src/cni/error.ts";
import { collectGarbage } from "../../../src/cni/garbage.ts";
import { type CniBench, openCniBench } from "../../support/fake-delegate.ts";

let bench: CniBench;

beforeEach(() => {
  bench = openCniBench();
  bench.delegate("bridge");
});

afterEach(() => bench[Symbol.dispose]());

/** What the runtime would read on standard output. */
async function failure(answer: Promise<string>): Promise<{ code: number; msg: string; details?: string }> {
  try {
    await answer;
  } catch (error) {
    return JSON.parse(cniErrorText(error)) as { code: number; msg: string; details?: string };
  }
  throw new Error("it succeeded");
}

const state = (name: string) => join(bench.dataDir, name);

describe("the life of an attachment", () => {
  test("ADD keeps the delegate's configuration for DEL, which needs neither subnet.env nor the same input", async () => {
    expect(await bench.call("ADD")).toBe('{"cniVersion":"1.0.0","ips":[]}\n');
    const expected = {
      cniVersion: "1.0.0",
      ipMasq: false,
      ipam: { ranges: [[{ subnet: "10.1.17.0/24" }]], routes: [{ dst: "10.1.0.0/16" }], type: "host-local" },
      isGateway: true,
      mtu: 1472,
      name: "net",
      type: "bridge",
    };
    expect(JSON.parse(readFileSync(state("pod1"), "utf8"))).toEqual(expected);
    expect(statSync(bench.dataDir).mode & 0o7777).toBe(0o700);
    expect(statSync(state("pod1")).mode & 0o7777).toBe(0o600);
    rmSync(bench.subnetFile);
    expect(await bench.call("DEL", { delegate: { type: "other" } }, { CNI_NETNS: "" })).toBe("");
    expect(readdirSync(bench.dataDir)).toEqual([]);
    expect(bench.calls()).toEqual([
      { line: "bridge ADD pod1 eth0", config: expected },
      { line: "bridge DEL pod1 eth0", config: expected },
    ]);
    expect(await bench.call("DEL")).toBe("");
    expect(bench.calls()).toHaveLength(2);
  });

  test("each interface of a container has its own state", async () => {
    await bench.call("ADD");
    await bench.call("ADD", { delegate: { mtu: 1300 } }, { CNI_IFNAME: "net1" });
    expect(readdirSync(bench.dataDir).sort()).toEqual(["pod1", "pod1:net1"]);
    await bench.call("DEL", {}, { CNI_IFNAME: "net1" });
    expect(readdirSync(bench.dataDir)).toEqual(["pod1"]);
    expect(bench.calls().at(-1)).toMatchObject({ line: "bridge DEL pod1 net1", config: { mtu: 1300 } });
  });

  test("what the stock plugin kept serves a second interface too, of the same network alone, and stays for the first", async () => {
    mkdirSync(bench.dataDir, { mode: 0o700 });
    writeFileSync(state("pod1"), '{"name":"net","type":"bridge"}');
    await bench.call("DEL", { name: "other" }, { CNI_IFNAME: "net1" });
    expect(bench.calls()).toEqual([]);
    await bench.call("DEL", {}, { CNI_IFNAME: "net1" });
    await bench.call("DEL");
    expect(bench.calls().map(({ line }) => line)).toEqual(["bridge DEL pod1 net1", "bridge DEL pod1 eth0"]);
    expect(readdirSync(bench.dataDir)).toEqual([]);
  });

  test("a delegate that fails at DEL is asked again", async () => {
    await bench.call("ADD");
    bench.delegate("bridge", `echo '{"code":11,"msg":"busy"}'; exit 1`);
    expect(await failure(bench.call("DEL"))).toEqual({ code: 11, msg: "busy" });
    bench.delegate("bridge");
    expect(await bench.call("DEL")).toBe("");
    expect(readdirSync(bench.dataDir)).toEqual([]);
  });

  test.each(["", "{", "[]", '{"name":"net"}', "\0\0\0\0", "null"])(
    "state that reads %j makes DEL succeed, and no delegate is called",
    async (text) => {
      mkdirSync(bench.dataDir, { mode: 0o700 });
      writeFileSync(state("pod1"), text);
      expect(await bench.call("DEL")).toBe("");
      expect(bench.calls()).toEqual([]);
    },
  );

  test("DEL leaves what an ADD has kept meanwhile, which the next DEL undoes", async () => {
    await bench.call("ADD");
    const [kept, copy] = [state("pod1"), state(".copy")];
    bench.delegate("bridge", `test $CNI_COMMAND = ADD || { cp -p ${kept} ${copy} && mv ${copy} ${kept}; }`);
    expect(await bench.call("DEL")).toBe("");
    expect(readdirSync(bench.dataDir)).toEqual(["pod1"]);
    bench.delegate("bridge");
    expect(await bench.call("DEL")).toBe("");
    expect(readdirSync(bench.dataDir)).toEqual([]);
  });

  test("state may name no program outside CNI_PATH", async () => {
    mkdirSync(bench.dataDir, { mode: 0o700 });
    writeFileSync(state("pod1"), '{"name":"net","type":"../bridge"}');
    expect(await failure(bench.call("DEL"))).toEqual({ code: 7, msg: 'invalid plugin name: "../bridge"' });
  });

  test("CHECK knows what ADD kept, and asks no delegate", async () => {
    expect(await failure(bench.call("CHECK"))).toEqual({
      code: 3,
      msg: `unknown container pod1: nothing is kept in ${bench.dataDir}`,
    });
    await bench.call("ADD");
    expect(await bench.call("CHECK", { prevResult: { ips: [] } })).toBe("");
    expect(bench.calls()).toHaveLength(1);
    writeFileSync(state("pod1"), "{");
    expect((await failure(bench.call("CHECK"))).code).toBe(3);
  });

  test("GC undoes what is not valid any more, of its own network, and goes on after a failure", async () => {
    for (const pod of ["a", "b", "c"]) await bench.call("ADD", {}, { CNI_CONTAINERID: pod });
    await bench.call("ADD", {}, { CNI_CONTAINERID: "c", CNI_IFNAME: "net1" });
    await bench.call("ADD", { name: "other" }, { CNI_CONTAINERID: "z" });
    writeFileSync(state("torn"), "{");
    bench.delegate("bridge", `[ "$CNI_CONTAINERID" != a ] || { echo '{"code":11,"msg":"busy"}'; exit 1; }`);
    const gc = (valid: unknown) =>
      bench.call("GC", {
        cniVersion: "1.1.0",
        ...(valid === undefined ? {} : { "cni.dev/valid-attachments": valid }),
      });
    await gc(undefined);
    expect(readdirSync(bench.dataDir).sort()).toEqual(["a", "b", "c", "c:net1", "torn", "z"]);
    expect(await failure(gc([{ containerID: "c", ifname: "eth0" }]))).toEqual({ code: 11, msg: "busy" });
    expect(readdirSync(bench.dataDir).sort()).toEqual(["a", "c", "torn", "z"]);
    bench.delegate("bridge");
    await gc(null);
    expect(readdirSync(bench.dataDir).sort()).toEqual(["torn", "z"]);
  });
});

test("GC gives up on a delegate that hangs, and leaves the rest to the next one", async () => {
  for (const id of ["a1", "a2", "a3"]) await bench.call("ADD", {}, { CNI_CONTAINERID: id });
  bench.delegate("bridge", "sleep 1000");
  const config = parseCniConfig(
    JSON.stringify({
      ...{ cniVersion: "1.1.0", name: "net", "cni.dev/valid-attachments": [] },
      ...{ subnetFile: bench.subnetFile, dataDir: bench.dataDir },
    }),
  );
  const env = { CNI_COMMAND: "GC", CNI_PATH: bench.directory, PATH: process.env["PATH"] };
  const collecting = collectGarbage({ call: parseCall(env), config, env, timeoutMs: 400 });
  expect((await failure(collecting.then(() => ""))).msg).toMatch(
    /^failed to delegate del: bridge did not end within \d+ ms$/,
  );
  expect(bench.calls().filter(({ line }) => line.includes(" DEL "))).toHaveLength(1);
  expect(readdirSync(bench.dataDir)).toHaveLength(3);
  bench.delegate("bridge");
  await collectGarbage({ call: parseCall(env), config, env });
  expect(readdirSync(bench.dataDir)).toEqual([]);
});

describe("STATUS", () => {
  const versions = (list: string, rest = "true") =>
    bench.delegate(
      "bridge",
      `if [ "$CNI_COMMAND" = VERSION ]; then echo '{"supportedVersions":["1.0.0"${list}]}'; else ${rest}; fi`,
    );

  test("is well where an ADD would have what it needs and the delegate, which is asked too, says so", async () => {
    versions(',"1.1.0"');
    expect(await bench.call("STATUS", { cniVersion: "1.1.0" })).toBe("");
    expect(bench.calls().map(({ line }) => line.split(" ")[1])).toEqual(["VERSION", "STATUS"]);
    versions(',"1.1.0"', `echo '{"code":51,"msg":"low"}'; exit 1`);
    expect(await failure(bench.call("STATUS", { cniVersion: "1.1.0" }))).toEqual({ code: 51, msg: "low" });
  });

  test("is 50 with a delegate that does not know the configuration's version", async () => {
    versions("");
    expect(await failure(bench.call("STATUS", { cniVersion: "1.1.0" }))).toEqual({
      code: 50,
      msg: "bridge does not know CNI version 1.1.0",
      details: "It knows 1.0.0: let the configuration say one of these, or install newer plugins",
    });
  });

  test("is 50 without subnet.env and without the delegate", async () => {
    expect(
      await failure(bench.call("STATUS", { cniVersion: "1.1.0", delegate: { type: "none" } })),
    ).toMatchObject({
      code: 50,
      msg: `failed to find plugin "none" in path [${bench.directory}]`,
    });
    rmSync(bench.subnetFile);
    expect((await failure(bench.call("STATUS", { cniVersion: "1.1.0" }))).code).toBe(50);
  });
});

describe("errors", () => {
  test.each<[string, string, object | string, Record<string, string>, object]>([
    ["an unknown command", "MOVE", {}, {}, { code: 4, msg: "unknown CNI_COMMAND: MOVE" }],
    [
      "missing variables",
      "ADD",
      {},
      { CNI_CONTAINERID: "", CNI_NETNS: "", CNI_IFNAME: "", CNI_PATH: "" },
      { code: 4, msg: "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing" },
    ],
    [
      "DEL without an interface",
      "DEL",
      {},
      { CNI_IFNAME: "" },
      { code: 4, msg: "required env variables [CNI_IFNAME] missing" },
    ],
    [
      "a path as container",
      "ADD",
      {},
      { CNI_CONTAINERID: "../x" },
      { code: 4, msg: "invalid characters in containerID", details: "../x" },
    ],
    [
      "a hidden container",
      "ADD",
      {},
      { CNI_CONTAINERID: ".x" },
      { code: 4, msg: "invalid characters in containerID", details: ".x" },
    ],
    [
      "a line as container",
      "ADD",
      {},
      { CNI_CONTAINERID: "x\n" },
      { code: 4, msg: "invalid characters in containerID", details: "x\n" },
    ],
    [
      "a long container",
      "DEL",
      {},
      { CNI_CONTAINERID: "x".repeat(201) },
      { code: 4, msg: "containerID is too long", details: "201 characters" },
    ],
    [
      "a path as interface",
      "ADD",
      {},
      { CNI_IFNAME: "../eth0" },
      { code: 4, msg: "interface name contains / or : or whitespace characters", details: '"../eth0"' },
    ],
    [
      "the directory above as interface",
      "ADD",
      {},
      { CNI_IFNAME: ".." },
      { code: 4, msg: "interface name is . or .." },
    ],
    [
      "a long interface",
      "ADD",
      {},
      { CNI_IFNAME: "x".repeat(16) },
      {
        code: 4,
        msg: "interface name is too long",
        details: "interface name should be less than 16 characters",
      },
    ],
    [
      "no input",
      "ADD",
      "",
      {},
      { code: 6, msg: expect.stringContaining("error unmarshall network config: ") },
    ],
    ["input cut off", "ADD", '{"name":"net","cniVer', {}, { code: 6 }],
    ["a list", "ADD", "[1]", {}, { code: 6 }],
    ["half a million brackets", "ADD", "[".repeat(500_000), {}, { code: 6 }],
    ["as many that close", "ADD", `${"[".repeat(250_000)}${"]".repeat(250_000)}`, {}, { code: 6 }],
    ["deep nesting", "ADD", `{"name":"n","x":${"[".repeat(5000)}${"]".repeat(5000)}}`, {}, { code: 6 }],
    [
      "a number as name",
      "ADD",
      { name: 5 },
      {},
      { code: 6, msg: "error unmarshall network config: name is a number, not a string" },
    ],
    [
      "a text as delegate",
      "ADD",
      { delegate: "bridge" },
      {},
      { code: 6, msg: "error unmarshall network config: delegate is a string, not an object" },
    ],
    [
      "a list as ipam",
      "ADD",
      { ipam: [] },
      {},
      { code: 6, msg: "error unmarshall network config: ipam is a list, not an object" },
    ],
    ["no name", "ADD", { name: undefined }, {}, { code: 7, msg: "missing network name" }],
    [
      "a path as name",
      "ADD",
      { name: "../net" },
      {},
      { code: 7, msg: "invalid characters found in network name", details: "../net" },
    ],
    [
      "the last of two names",
      "ADD",
      '{"name":"net","Name":"../net"}',
      {},
      { code: 7, msg: "invalid characters found in network name", details: "../net" },
    ],
    [
      "a relative subnetFile",
      "ADD",
      { subnetFile: "../subnet.env" },
      {},
      { code: 7, msg: 'subnetFile is not an absolute path: "../subnet.env"' },
    ],
    [
      "a relative dataDir",
      "DEL",
      { dataDir: "../data" },
      {},
      { code: 7, msg: 'dataDir is not an absolute path: "../data"' },
    ],
    [
      "a dataDir with a zero in it",
      "ADD",
      { dataDir: "/data\0/../x" },
      {},
      { code: 7, msg: 'dataDir is not an absolute path: "/data\\u0000/../x"' },
    ],
    [
      "a dataDir longer than paths are",
      "ADD",
      { dataDir: `/${"a/".repeat(3000)}` },
      {},
      { code: 7, msg: expect.stringMatching(/^dataDir is too long: "[a/]{100}"$/) },
    ],
    [
      "a version of tomorrow",
      "ADD",
      { cniVersion: "9.0.0" },
      {},
      {
        code: 1,
        msg: "incompatible CNI versions",
        details:
          'config is "9.0.0", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]',
      },
    ],
    [
      "CHECK of old",
      "CHECK",
      { cniVersion: "0.3.1" },
      {},
      { code: 1, msg: "config version does not allow CHECK" },
    ],
    [
      "STATUS of old",
      "STATUS",
      { cniVersion: "1.0.0" },
      {},
      { code: 1, msg: "config version does not allow STATUS" },
    ],
    ["GC of old", "GC", { cniVersion: "1.0.0" }, {}, { code: 1, msg: "config version does not allow GC" }],
    [
      "the plugin's own namespace",
      "ADD",
      {},
      { CNI_NETNS: "/proc/self/ns/net" },
      { code: 8, msg: "plugin's netns and netns from CNI_NETNS should not be the same" },
    ],
    ["the same at DEL", "DEL", {}, { CNI_NETNS: "/proc/self/ns/net" }, { code: 8 }],
    [
      "a path as delegate",
      "ADD",
      { delegate: { type: "../bridge" } },
      {},
      { code: 7, msg: 'invalid plugin name: "../bridge"' },
    ],
    [
      "a delegate with a long name",
      "ADD",
      { delegate: { type: "x".repeat(100_000) } },
      {},
      { code: 7, msg: `invalid plugin name: "${"x".repeat(100)}"` },
    ],
    [
      "a long word",
      "ADD",
      `{"name":${"a".repeat(100_000)}}`,
      {},
      { code: 6, msg: expect.stringMatching(/^.{20,300}$/) },
    ],
    ["itself as delegate", "ADD", { delegate: { type: "flannel" } }, {}, { code: 7 }],
    [
      "a valid attachment without a container",
      "GC",
      { cniVersion: "1.1.0", "cni.dev/valid-attachments": [{}] },
      {},
      { code: 6 },
    ],
  ])("%s", async (_name, command, config, env, expected) => {
    expect(await failure(bench.call(command, config, env))).toMatchObject(expected);
    expect(bench.calls()).toEqual([]);
    expect(existsSync(bench.dataDir)).toBe(false);
  });

  test("the own namespace is allowed where it is asked for", async () => {
    const env = { CNI_NETNS: "/proc/self/ns/net" };
    expect(await bench.call("ADD", {}, { ...env, CNI_NETNS_OVERRIDE: "true" })).toContain("ips");
    expect(await bench.call("DEL", {}, { ...env, CNI_NETNS_OVERRIDE: "1" })).toBe("");
  });

  test("without subnet.env the answer is the daemon's reason, or how to find one", async () => {
    rmSync(bench.subnetFile);
    const msg = `failed to load flannel 'subnet.env' file: open ${bench.subnetFile}: no such file or directory. Check the flannel pod log for this node.`;
    expect(await failure(bench.call("ADD"))).toEqual({
      code: 999,
      msg,
      details: expect.stringContaining("journalctl"),
    });
    writeFileSync(`${bench.subnetFile}.reason`, "no lease yet: every subnet is taken\nmore\n");
    expect(await failure(bench.call("ADD"))).toEqual({
      code: 11,
      msg,
      details: "flannel-lite says: no lease yet: every subnet is taken",
    });
  });

  test.each<[string, (path: string) => void, string]>([
    ["a directory", (path) => mkdirSync(path), "it is no regular file"],
    ["a pipe", (path) => void Bun.spawnSync(["mkfifo", path]), "it is no regular file"],
    ["a device without end", (path) => symlinkSync("/dev/zero", path), "it is no regular file"],
    ["a huge file", (path) => writeFileSync(path, "x".repeat(70_000)), "it is larger than 65536 bytes"],
    ["garbage", (path) => writeFileSync(path, Buffer.alloc(1000, 0xff)), "is missing FLANNEL_NETWORK"],
  ])("a subnetFile that is %s is refused", async (_name, make, why) => {
    rmSync(bench.subnetFile);
    make(bench.subnetFile);
    const { code, msg } = await failure(bench.call("ADD"));
    expect({ code, msg }).toEqual({ code: 999, msg: expect.stringContaining(why) });
  });

  test.each<[string, () => void, string]>([
    ["a link", () => symlinkSync(bench.directory, bench.dataDir), "it is no directory"],
    [
      "open to others",
      () => {
        mkdirSync(bench.dataDir);
        chmodSync(bench.dataDir, 0o777);
      },
      "others may write there",
    ],
  ])("a dataDir that is %s is not used", async (_name, make, why) => {
    make();
    expect((await failure(bench.call("ADD"))).msg).toBe(`dataDir ${bench.dataDir} is not used: ${why}`);
    writeFileSync(state("pod1"), '{"name":"net","type":"bridge"}');
    expect(await bench.call("DEL")).toBe("");
    await bench.call("GC", { cniVersion: "1.1.0", "cni.dev/valid-attachments": [] });
    expect(bench.calls().filter(({ line }) => !line.includes(" VERSION "))).toEqual([]);
  });

  test.each<[string, () => string]>([
    ["below a file", () => join(bench.subnetFile, "data")],
    ["of a name that is too long", () => join(bench.directory, "d".repeat(300))],
  ])("a dataDir that is %s: ADD says so, DEL and GC have nothing to undo", async (_name, path) => {
    const dataDir = path();
    const { code, msg } = await failure(bench.call("ADD", { dataDir }));
    expect({ code, msg }).toEqual({
      code: 999,
      msg: expect.stringContaining(`dataDir ${dataDir} is not used`),
    });
    expect(await bench.call("DEL", { dataDir })).toBe("");
    expect(await bench.call("GC", { dataDir, cniVersion: "1.1.0", "cni.dev/valid-attachments": [] })).toBe(
      "",
    );
  });

  test("only where there is no subnetFile is it said that no daemon has written one", async () => {
    rmSync(bench.subnetFile);
    mkdirSync(bench.subnetFile);
    expect((await failure(bench.call("ADD"))).details).toBe(
      "Remove it, and see that a flannel daemon writes it anew",
    );
  });

  test("state that is a link is replaced, and neither read nor written through", async () => {
    mkdirSync(bench.dataDir, { mode: 0o700 });
    const target = join(bench.directory, "target");
    writeFileSync(target, '{"name":"net","type":"bridge"}');
    symlinkSync(target, state("pod1"));
    expect(await bench.call("DEL")).toBe("");
    expect(bench.calls()).toEqual([]);
    await bench.call("ADD");
    expect(readFileSync(target, "utf8")).toBe('{"name":"net","type":"bridge"}');
    expect(JSON.parse(readFileSync(state("pod1"), "utf8"))).toMatchObject({ mtu: 1472 });
  });

  test("stdin may say each key once more: the last counts, in any case", () => {
    const config = parseCniConfig('{"name":"a","NAME":"b","dataDir":"/x","DataDir":"/y"}');
    expect(config).toMatchObject({ name: "b", dataDir: "/y" });
  });
});

describe("a delegate", () => {
  const call = (more: object = {}) => ({
    config: { type: "bad", name: "net" },
    env: { PATH: process.env["PATH"] },
    path: ["/nonexistent", bench.directory],
    ...more,
  });

  test.each<[string, string, object]>([
    [
      "with an error of its own",
      `echo '{"code":100,"msg":"no","details":"x"}'; exit 1`,
      { code: 100, msg: "no", details: "x" },
    ],
    [
      "without one",
      "echo oops >&2; exit 3",
      { code: 999, msg: 'failed to delegate add: bad ended with code 3 and no CNI error: "oops"' },
    ],
    [
      "that fails with rubbish",
      "echo '<html>'; exit 1",
      { code: 999, msg: 'failed to delegate add: bad ended with code 1 and no CNI error: "<html>"' },
    ],
    [
      "that succeeds with rubbish",
      "echo '<html>'",
      {
        code: 999,
        msg: 'failed to delegate add: bad ended well, but its result is no JSON object: "<html>\\n"',
      },
    ],
    ["that says nothing", "true", { code: 999 }],
    [
      "that never stops talking",
      "exec cat /dev/zero",
      { code: 999, msg: "failed to delegate add: bad wrote more than 1048576 bytes" },
    ],
    ["with a code that is none", `echo '{"code":"1","msg":"no"}'; exit 1`, { code: 999 }],
    // A runtime reads an unsigned number there, and would fail to read the error.
    ["with a code below zero", `echo '{"code":-1,"msg":"no"}'; exit 1`, { code: 999 }],
    [
      "that is killed",
      "kill -9 $$",
      { code: 999, msg: 'failed to delegate add: bad was ended by SIGKILL and gave no CNI error: ""' },
    ],
  ])("%s", async (_name, body, expected) => {
    bench.delegate("bad", body);
    expect(await failure(addDelegate(call()))).toMatchObject(expected);
  });

  test("that hangs is ended with all it started", async () => {
    const pids = join(bench.directory, "pids");
    bench.delegate("bad", `sleep 1000 & echo $! > ${pids}; wait`);
    expect(await failure(addDelegate(call({ timeoutMs: 500 })))).toMatchObject({
      code: 999,
      msg: "failed to delegate add: bad did not end within 500 ms",
    });
    const stat = `/proc/${readFileSync(pids, "utf8").trim()}/stat`;
    // It is gone, or a zombie that nobody has waited for.
    for (
      let tries = 0;
      tries < 200 && existsSync(stat) && !readFileSync(stat, "utf8").includes(") Z ");
      tries++
    )
      await Bun.sleep(10);
    expect(existsSync(stat) ? readFileSync(stat, "utf8") : ") Z ").toContain(") Z ");
  });

  test("that leaves a process with its output open is not waited for", async () => {
    const pids = join(bench.directory, "pids");
    bench.delegate("bad", `sleep 1000 & echo $! > ${pids}; echo '{"ips":[]}'`);
    expect(await addDelegate(call())).toBe('{"ips":[]}\n');
    process.kill(Number(readFileSync(pids, "utf8")));
  });

  test("that does not read its input, or cannot be run, is an answer too", async () => {
    writeFileSync(join(bench.directory, "bad"), "#!/bin/sh\nexec <&-\necho '{}'\n", { mode: 0o755 });
    const big = { type: "bad", filler: "x".repeat(500_000) };
    expect(await callDelegate({ ...call(), command: "ADD", config: big })).toBe("{}\n");
    writeFileSync(join(bench.directory, "bad"), "#!/no/such/interpreter\n");
    expect((await failure(addDelegate(call()))).msg).toContain("bad cannot be run");
    chmodSync(join(bench.directory, "bad"), 0o644);
    expect((await failure(addDelegate(call()))).msg).toContain(
      'failed to find plugin "bad" in path [/nonexistent ',
    );
  });
});
