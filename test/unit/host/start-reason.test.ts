import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../../src/base/log.ts";
import { readSubnetEnv } from "../../../src/cni/subnet-env.ts";
import { parseNetworkConfig } from "../../../src/config/network.ts";
import { openStartReason, startReasonPath } from "../../../src/host/start-reason.ts";
import { removeOwnSubnetEnv, writeSubnetEnv } from "../../../src/host/subnet-env.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";

let directory: string;
let subnetFile: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "fl-reason-"));
  subnetFile = join(directory, "flannel/subnet.env");
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

const open = () => openStartReason(subnetFile, silentLog, () => new Date(0));

/** What a pod's runtime would be told. */
function told(): string | undefined {
  try {
    readSubnetEnv(subnetFile);
    return undefined;
  } catch (error) {
    return (error as { details?: string }).details;
  }
}

test("start reason: the CNI plugin tells what the daemon complained of last", () => {
  const reason = open();
  reason.say("flannel-lite is starting");
  expect(told()).toBe("flannel-lite says: flannel-lite is starting (since 1970-01-01T00:00:00.000Z)");
  reason.log.warn("no lease yet; trying again", { error: "every subnet\nis taken", waitMs: 5 });
  expect(told()).toContain("says: no lease yet; trying again: every subnet is taken (since");
  reason.log.info("something else");
  expect(told()).toContain("no lease yet");
});

test("start reason: it goes with the first subnet.env, and none comes while there is one", () => {
  const reason = open();
  reason.say("waiting");
  const paths = { subnetFile, stateDir: join(directory, "state") };
  writeSubnetEnv(paths, {
    network: parseNetworkConfig('{"Network":"10.1.0.0/16"}'),
    subnets: { ipv4: parsePrefix("10.1.2.0/24") },
    mtuBytes: 1450,
    ipMasq: false,
  });
  expect(existsSync(startReasonPath(subnetFile))).toBe(false);
  expect(told()).toBeUndefined();
  reason.log.error("etcd is lost", { error: "timeout" });
  expect(existsSync(startReasonPath(subnetFile))).toBe(false);
  removeOwnSubnetEnv(paths);
  reason.say("stopped");
  removeOwnSubnetEnv(paths);
  expect(existsSync(startReasonPath(subnetFile))).toBe(false);
});

test("start reason: a directory that cannot be written costs the hint and nothing else", () => {
  writeFileSync(join(directory, "flannel"), "a file");
  expect(() => open().say("waiting")).not.toThrow();
  expect(readFileSync(join(directory, "flannel"), "utf8")).toBe("a file");
});
