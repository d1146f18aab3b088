import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CniAnswer, runCniPlugin } from "../support/cni-runtime.ts";
import { binary } from "../support/overlay.ts";

/** flannel's own CNI plugin; v0.9.1 of containernetworking/plugins, or any of flannel's since. */
const stock = process.env["FLANNEL_CNI_BIN"] ?? "";

const ipv4 = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n";
const ipv6 = "FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00:0:0:11::1/64\n";
const rest = "FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";

/** What a delegate answers, in full: flannel's plugin writes it anew. */
const result = { cniVersion: "0.3.1", ips: [{ version: "4", address: "10.1.17.2/24" }], dns: {} };
const oldResult = { cniVersion: "0.1.0", ip4: { ip: "10.1.17.2/24" }, dns: {} };

let directory: string;
let ours: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "fl-cni-interop-"));
  mkdirSync(join(directory, "own"));
  mkdirSync(join(directory, "bin"));
  ours = join(directory, "own/flannel");
  symlinkSync(binary, ours);
  for (const type of ["bridge", "other"]) {
    writeFileSync(
      join(directory, "bin", type),
      `#!/bin/sh
cat > ${directory}/input
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> ${directory}/calls
[ "$CNI_COMMAND" != ADD ] || cat ${directory}/result
`,
    );
    chmodSync(join(directory, "bin", type), 0o755);
  }
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

const call = (
  program: string,
  command: string,
  config: object | string,
  env = ipv4 + rest,
): Promise<CniAnswer> => {
  writeFileSync(join(directory, "subnet.env"), env);
  writeFileSync(
    join(directory, "result"),
    JSON.stringify("cniVersion" in Object(config) ? oldResult : result),
  );
  const text =
    typeof config === "string"
      ? config
      : JSON.stringify({
          name: "net",
          type: "flannel",
          cniVersion: "0.3.1",
          subnetFile: join(directory, "subnet.env"),
          dataDir: join(directory, "data"),
          ...config,
        });
  return runCniPlugin(program, { command, containerId: "pod1", netns: "/run/netns/none" }, text, {
    path: [join(directory, "bin")],
  });
};

const state = () => readFileSync(join(directory, "data/pod1"), "utf8");
const json = (text: string): unknown => JSON.parse(text);

describe("the CNI plugin beside flannel's", () => {
  test.each<[string, object, string]>([
    ["IPv4", {}, ipv4 + rest],
    ["IPv6", {}, ipv6 + rest],
    ["both", {}, ipv4 + ipv6 + rest],
    ["no version", { cniVersion: undefined }, ipv4 + rest],
    ["no masquerading", {}, ipv4 + rest.replace("true", "false")],
    ["flannel's list", { delegate: { hairpinMode: true, isDefaultGateway: true } }, ipv4 + rest],
    [
      "all of it said",
      { delegate: { type: "other", mtu: 9, ipMasq: true, isGateway: null, x: [{ b: 1, a: 2 }] } },
      ipv4 + rest,
    ],
    [
      "ipam",
      { ipam: { type: "x", dataDir: "/d", routes: [{ dst: "0.0.0.0/0" }], ranges: [] } },
      ipv4 + ipv6 + rest,
    ],
  ])(
    "%s: keeps the same bytes, gives the delegate the same, answers the same",
    async (_name, config, env) => {
      const theirs = await call(stock, "ADD", config, env);
      const kept = { state: state(), input: readFileSync(join(directory, "input"), "utf8") };
      rmSync(join(directory, "data/pod1"));
      const own = await call(ours, "ADD", config, env);
      expect({ code: own.code, output: json(own.output) }).toEqual({
        code: theirs.code,
        output: json(theirs.output),
      });
      expect({ state: state(), input: readFileSync(join(directory, "input"), "utf8") }).toEqual(kept);
    },
  );

  test("each undoes what the other added", async () => {
    for (const [adds, removes] of [
      [stock, ours],
      [ours, stock],
    ] as const) {
      expect((await call(adds, "ADD", {})).code).toBe(0);
      expect(readdirSync(join(directory, "data"))).toEqual(["pod1"]);
      expect(await call(removes, "DEL", {})).toMatchObject({ code: 0, output: "" });
      expect(readdirSync(join(directory, "data"))).toEqual([]);
    }
    expect(readFileSync(join(directory, "calls"), "utf8")).toBe("ADD pod1 eth0\nDEL pod1 eth0\n".repeat(2));
  });

  test.each<[string, string, object | string, string, number]>([
    ["no name", "ADD", { name: "" }, ipv4 + rest, 7],
    ["a path as name", "ADD", { name: "../net" }, ipv4 + rest, 7],
    ["no JSON", "ADD", "{", ipv4 + rest, 6],
    ["a version of tomorrow", "ADD", { cniVersion: "9.9.9" }, ipv4 + rest, 1],
    ["CHECK of old", "CHECK", {}, ipv4 + rest, 1],
    ["an unknown command", "MOVE", {}, ipv4 + rest, 4],
    ["an env file without anything", "ADD", {}, "foo=bar\n", 999],
    ["a delegate with a name", "ADD", { delegate: { name: "x" } }, ipv4 + rest, 999],
    ["a delegate with ipam", "ADD", { delegate: { ipam: {} } }, ipv4 + rest, 999],
    ["a delegate with a number as type", "ADD", { delegate: { type: 1 } }, ipv4 + rest, 999],
    ["a delegate that is not there", "ADD", { delegate: { type: "none" } }, ipv4 + rest, 999],
  ])("%s: the same code", async (_name, command, config, env, code) => {
    const [theirs, own] = [await call(stock, command, config, env), await call(ours, command, config, env)];
    // Plugins of before CNI 0.9 have 100 where later ones have 999.
    const theirCode = (json(theirs.output) as { code: number }).code;
    expect([theirs.code, theirCode === 100 ? 999 : theirCode]).toEqual([1, code]);
    expect([own.code, (json(own.output) as { code: number }).code]).toEqual([1, code]);
  });
});
