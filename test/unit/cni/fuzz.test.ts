import { expect, test } from "bun:test";
import { isIdentifier } from "../../../src/cni/call.ts";
import { parseCniConfig } from "../../../src/cni/config.ts";
import { delegateConfig, sortedJson } from "../../../src/cni/delegate-config.ts";
import { CniError } from "../../../src/cni/error.ts";
import { parseSubnetEnv } from "../../../src/cni/subnet-env.ts";
import { seededRandom } from "../../support/random.ts";

const config = JSON.stringify({
  cniVersion: "1.0.0",
  name: "net",
  subnetFile: "/run/flannel/subnet.env",
  dataDir: "/var/lib/cni/flannel",
  ipam: { routes: [{ dst: "0.0.0.0/0" }] },
  delegate: { type: "bridge", hairpinMode: true },
  runtimeConfig: { portMappings: [] },
});
const env =
  "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
const pieces = [
  "../",
  "\0",
  '"',
  "{",
  "[",
  "null",
  "1e999",
  "\\u0000",
  "=",
  "\n",
  "\r",
  "__proto__",
  "é",
  "-1",
  ",",
  ":",
];

test("cni: input and subnet.env damaged at random give a sound configuration or an error with a code", () => {
  const random = seededRandom(8);
  const damaged = (text: string): string => {
    let result = text;
    for (let times = random.below(4); times >= 0; times--) {
      const at = random.below(result.length + 1);
      const piece = pieces[random.below(pieces.length)] ?? "";
      result = result.slice(0, at) + piece + result.slice(at + random.below(5));
    }
    return result;
  };
  let sound = 0;
  for (let round = 0; round < 5_000; round++) {
    try {
      const parsed = parseCniConfig(damaged(config));
      const composed = delegateConfig(
        parsed,
        parseSubnetEnv(random.below(2) === 0 ? env : damaged(env), "f"),
      );
      expect(isIdentifier(parsed.name)).toBe(true);
      expect(parsed.dataDir.startsWith("/") && !parsed.dataDir.includes("\0")).toBe(true);
      expect(JSON.parse(sortedJson(composed))).toMatchObject({ name: parsed.name, mtu: expect.anything() });
      sound++;
    } catch (error) {
      if (!(error instanceof CniError)) throw error;
    }
  }
  expect(sound).toBeGreaterThan(100);
});
