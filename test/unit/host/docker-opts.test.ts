import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dockerOptsText, parseDockerOptsArguments } from "../../../src/host/docker-opts.ts";
import { envFileValues } from "../../../src/host/env-file.ts";

const subnetEnv =
  "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";
const bip = 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\n';
const masq = 'DOCKER_OPT_IPMASQ="--ip-masq=true"\n';
const mtu = 'DOCKER_OPT_MTU="--mtu=1472"\n';
const all = "--bip=10.1.74.1/24 --ip-masq=true --mtu=1472";

function text(argv: readonly string[], file = subnetEnv, env: Record<string, string> = {}): string {
  const request = parseDockerOptsArguments(argv);
  if (request === undefined) throw new Error(`refused: ${argv.join(" ")}`);
  return dockerOptsText(request, new Map([...Object.entries(env), ...envFileValues(file)]));
}

describe("docker-opts", () => {
  test.each([
    [[], `${bip}${masq}${mtu}DOCKER_OPTS=" ${all}"\n`],
    [["-i"], `${bip}${masq}${mtu}`],
    [["-c"], `DOCKER_OPTS=" ${all}"\n`],
    [["-ic"], `${bip}${masq}${mtu}DOCKER_OPTS=" ${all}"\n`],
    [["-k", "CUSTOM_KEY"], `${bip}${masq}${mtu}CUSTOM_KEY=" ${all}"\n`],
    [["-ckCUSTOM_KEY"], `CUSTOM_KEY=" ${all}"\n`],
    [["-m"], `${bip}${mtu}DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"\n`],
    [["-c", "word", "-i"], `DOCKER_OPTS=" ${all}"\n`],
    [["-c", "--", "-i"], `DOCKER_OPTS=" ${all}"\n`],
    [
      ["-k", "DOCKER_NETWORK_OPTIONS", "-d", "/run/flannel/docker"],
      `${bip}${masq}${mtu}DOCKER_NETWORK_OPTIONS=" ${all}"\n`,
    ],
  ])("%j writes the script's bytes", (argv, expected) => {
    expect(text(argv)).toBe(expected);
  });

  test("an old value of the key comes first, then two blanks; other DOCKER_OPT_ variables join in their order", () => {
    expect(text(["-c"], subnetEnv, { DOCKER_OPTS: "-H unix://" })).toBe(`DOCKER_OPTS="-H unix://  ${all}"\n`);
    expect(text(["-i"], subnetEnv, { DOCKER_OPT_CUSTOM: "--icc=false", DOCKER_OTHER: "x" })).toBe(
      `${bip}DOCKER_OPT_CUSTOM="--icc=false"\n${masq}${mtu}`,
    );
  });

  test("a missing file gives no options", () => {
    expect(text([], "")).toBe('DOCKER_OPTS=""\n');
  });

  test("who masquerades is flannel or Docker; any other word is refused, unless -m leaves it out", () => {
    expect(text(["-i"], "FLANNEL_IPMASQ=true\n")).toBe('DOCKER_OPT_IPMASQ="--ip-masq=false"\n');
    expect(() => text(["-i"], "FLANNEL_IPMASQ=maybe\n")).toThrow("Invalid value of FLANNEL_IPMASQ: maybe");
    expect(text(["-im"], "FLANNEL_IPMASQ=maybe\n")).toBe("");
  });

  test("values are text, never code", () => {
    expect(text(["-i"], "FLANNEL_MTU=$(touch /tmp/x)`id`;id\n")).toBe(
      'DOCKER_OPT_MTU="--mtu=$(touch /tmp/x)`id`;id"\n',
    );
    expect(parseDockerOptsArguments(["-k", "A;id"])).toBeUndefined();
  });

  test.each([[["-h"]], [["-?"]], [["-x"]], [["-f"]], [["-ik"]]])("%j is answered with the usage", (argv) => {
    expect(parseDockerOptsArguments(argv)).toBeUndefined();
  });

  test("defaults are the script's", () => {
    expect(parseDockerOptsArguments(["-f", "/e", "-d/d"])).toEqual({
      envFile: "/e",
      dockerFile: "/d",
      individual: true,
      combined: true,
      combinedKey: "DOCKER_OPTS",
      ipMasq: true,
    });
    expect(parseDockerOptsArguments([])).toMatchObject({
      envFile: "/run/flannel/subnet.env",
      dockerFile: "/run/docker_opts.env",
    });
  });
});

describe("docker-opts: the command", () => {
  const program = new URL("../../../src/main.ts", import.meta.url).pathname;
  const run = (...args: string[]) => {
    const child = Bun.spawnSync([process.execPath, program, "docker-opts", ...args], {
      env: { PATH: process.env["PATH"] ?? "" },
    });
    return { code: child.exitCode, errors: child.stderr.toString(), output: child.stdout.toString() };
  };

  test("writes the file, truncating what was there", () => {
    const directory = mkdtempSync(join(tmpdir(), "fl-docker-"));
    try {
      const [env, docker] = [join(directory, "subnet.env"), join(directory, "docker")];
      writeFileSync(env, subnetEnv);
      writeFileSync(docker, "x".repeat(5000));
      expect(run("-f", env, "-d", docker, "-k", "DOCKER_NETWORK_OPTIONS")).toEqual({
        code: 0,
        errors: "",
        output: "",
      });
      expect(readFileSync(docker, "utf8")).toBe(`${bip}${masq}${mtu}DOCKER_NETWORK_OPTIONS=" ${all}"\n`);
      writeFileSync(env, "FLANNEL_IPMASQ=maybe\n");
      expect(run("-f", env, "-d", docker)).toEqual({
        code: 1,
        errors: "Invalid value of FLANNEL_IPMASQ: maybe\n",
        output: "",
      });
      expect(readFileSync(docker, "utf8")).toContain("DOCKER_NETWORK_OPTIONS");
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test("-h prints the usage on standard error and ends with 1", () => {
    const { code, errors, output } = run("-h");
    expect([code, output]).toEqual([1, ""]);
    expect(errors).toStartWith(
      "flannel-lite docker-opts [-f FLANNEL-ENV-FILE] [-d DOCKER-ENV-FILE] [-i] [-c] [-m]",
    );
  });

  test("a file that cannot be written is named", () => {
    const { code, errors } = run("-d", "/dev/null/docker");
    expect(code).toBe(1);
    expect(errors).toContain("cannot write /dev/null/docker");
  });
});
