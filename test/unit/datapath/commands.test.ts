import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../../src/base/clock.ts";
import { openCommands } from "../../../src/datapath/commands.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import type { ExtensionItem } from "../../../src/plan/plan.ts";
import { recordingLog } from "../../support/recording-log.ts";

const directory = mkdtempSync("/tmp/fl-commands-");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const stopping = new AbortController();
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

function open(
  commands: Parameters<typeof openCommands>[0]["commands"],
  timeoutMs = 20_000,
  stop = stopping.signal,
) {
  const log = recordingLog();
  return { log, commands: openCommands({ commands, timeoutMs, log, clock: systemClock, stop }) };
}

const peer: ExtensionItem = {
  key: "10.5.2.0-24",
  ipv4: parsePrefix("10.5.2.0/24"),
  publicIp: parseIpAddress("192.0.2.2"),
  data: `$(touch ${directory}/run) \`touch ${directory}/run\`; touch ${directory}/run\n'"`,
};

describe("commands", () => {
  test("a command sees PATH and flannel's variables and nothing of ours, and the peer's data as it is", async () => {
    process.env["FL_SECRET"] = "secret";
    const { commands } = open({
      subnetAdd: `env | grep -v -e ^_= -e ^SHLVL= -e ^PWD= | sort > ${directory}/env; cat > ${directory}/input; pwd > ${directory}/pwd`,
    });
    await commands.add(peer);
    delete process.env["FL_SECRET"];
    expect(readFileSync(join(directory, "env"), "utf8")).toBe(
      `PATH=${path}\nPUBLIC_IP=192.0.2.2\nSUBNET=10.5.2.0/24\n`,
    );
    expect(readFileSync(join(directory, "input"), "utf8")).toBe(`${peer.data}\n`);
    expect(readFileSync(join(directory, "pwd"), "utf8")).toBe("/\n");
    expect(existsSync(join(directory, "run"))).toBe(false);
    expect(commands.held).toEqual([peer]);
  });

  test("one that fails is not held, and says what it printed; without a command a peer is just held", async () => {
    const failing = open({ subnetAdd: "echo on the way; echo wrong >&2; exit 3" });
    await expect(failing.commands.add(peer)).rejects.toMatchObject({
      code: "extension/command",
      message: "SubnetAddCommand failed with exit code 3",
      fields: { output: "on the way\nwrong" },
      retryable: true,
    });
    expect(failing.commands.held).toEqual([]);
    const { commands } = open({ subnetRemove: `test -e ${directory}/allowed` });
    await commands.add(peer);
    await expect(commands.remove(peer)).rejects.toThrow("SubnetRemoveCommand");
    expect(commands.held).toEqual([peer]);
    writeFileSync(join(directory, "allowed"), "");
    await commands.remove(peer);
    expect(commands.held).toEqual([]);
  });

  test("one that takes too long is killed with what it started, also where that goes on in the background", async () => {
    const file = join(directory, "late");
    const { commands } = open({ subnetAdd: `(sleep 1; touch ${file}) & exit 0` }, 100);
    await expect(commands.add(peer)).rejects.toThrow("took longer than 0.1 s and was ended");
    await Bun.sleep(1_200);
    expect(existsSync(file)).toBe(false);
  });

  test("a stop ends it", async () => {
    const stop = new AbortController();
    const { commands } = open({ postStartup: "sleep 100" }, 60_000, stop.signal);
    const own = { NETWORK: "", SUBNET: "", IPV6SUBNET: "", PUBLIC_IP: "", PUBLIC_IPV6: "" };
    const running = commands.postStartup(own);
    stop.abort();
    await expect(running).rejects.toThrow("PostStartupCommand was ended by a stop");
  });

  test("what is printed before the lease is published, but not without bound; endless output is no matter", async () => {
    expect(await open({ preStartup: "printf ' key\\n\\n'" }).commands.preStartup()).toBe("key");
    expect(await open({}).commands.preStartup()).toBeUndefined();
    const tooMuch = open({ preStartup: "head -c 10000000 /dev/zero | tr '\\0' x" });
    await expect(tooMuch.commands.preStartup()).rejects.toThrow("more than the 4096 bytes");
  });
});
