import { describe, expect, test } from "bun:test";
import type { ExtensionPermission } from "../../../src/backend/backend.ts";
import { backendDataBytesMax } from "../../../src/backend/extension.ts";
import { setUpBackend } from "../../../src/backend/open.ts";
import type { Json, Lease } from "../../../src/lease/lease.ts";
import { encodeLeaseValue } from "../../../src/store/etcd/codec.ts";
import { hostGwLease } from "../../support/leases.ts";
import { noReach, planText, testContext } from "../../support/backend.ts";

const none: ExtensionPermission = {
  extensionCommands: "local",
  preStartupCommand: undefined,
  postStartupCommand: undefined,
  subnetAddCommand: undefined,
  subnetRemoveCommand: undefined,
};
const setUp = (options: Record<string, Json>, extension?: ExtensionPermission) =>
  setUpBackend({ type: "extension", options }, { ...testContext, ...(extension && { extension }) });

function peer(subnet: string, publicIp: string, backendData?: Json): Lease {
  const lease = hostGwLease(subnet, publicIp);
  return {
    ...lease,
    attributes: {
      ...lease.attributes,
      backendType: "extension",
      ...(backendData === undefined ? {} : { backendData }),
    },
  };
}

describe("extension", () => {
  test("commands of the network run nowhere by default: it is refused, and says how to allow it", () => {
    for (const name of ["PreStartupCommand", "postStartupCommand", "SUBNETADDCOMMAND", "SubnetRemoveCommand"])
      for (const permission of [undefined, none])
        expect(() => setUp({ [name]: "reboot" }, permission)).toThrow(
          expect.objectContaining({ code: "network/backend", exitCode: 2 }),
        );
  });

  test("this host's own commands are all that runs, whatever the network names", () => {
    const own = { ...none, subnetAddCommand: "mine" };
    expect(setUp({ SubnetAddCommand: "theirs", PreStartupCommand: "theirs" }, own).commands).toEqual({
      subnetAdd: "mine",
    });
    expect(setUp({}, none).commands).toEqual({});
  });

  test("where the store is allowed, its commands run but for those that this host has itself", () => {
    const permission: ExtensionPermission = { ...none, extensionCommands: "store", subnetAddCommand: "mine" };
    const options = {
      preStartupCommand: "pre",
      PostStartupCommand: "post",
      SubnetAddCommand: "theirs",
      SubnetRemoveCommand: "",
      ShutdownCommand: "flannel ignores it too",
    };
    expect(setUp(options, permission).commands).toEqual({
      preStartup: "pre",
      postStartup: "post",
      subnetAdd: "mine",
    });
    for (const wrong of [1, true, ["a"], "x".repeat(5_000), "a\0b"])
      expect(() => setUp({ SubnetAddCommand: wrong }, permission)).toThrow("SubnetAddCommand must be a text");
  });

  test("what the command before the lease printed is published as text", () => {
    const setup = setUp({}, none);
    const known = { existing: undefined, savedMac: undefined };
    expect(encodeLeaseValue(setup.attributes(known))).toBe(
      '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"extension"}',
    );
    expect(encodeLeaseValue(setup.attributes({ ...known, published: 'key "1"' }))).toBe(
      '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"extension","BackendData":"key \\"1\\""}',
    );
    expect(setup.open("none").mtuBytes).toBe(1500);
  });

  test("a peer's data is text of bounded length, or the peer is refused", () => {
    const long = "x".repeat(backendDataBytesMax);
    const peers = [
      peer("10.5.2.0/24", "192.0.2.2", "$(reboot)"),
      peer("10.5.3.0/24", "192.0.2.3"),
      peer("10.5.4.0/24", "192.0.2.4", { VNI: 1 }),
      peer("10.5.5.0/24", "192.0.2.5", `${long}x`),
      peer("10.5.6.0/24", "192.0.2.6", null),
      hostGwLease("10.5.7.0/24", "192.0.2.7"),
      peer("10.6.0.0/24", "192.0.2.8", "outside"),
    ];
    const own = peer("10.5.1.0/24", "192.0.2.1");
    const { plan, refused } = setUp({}, none).open("none").plan(own, peers, noReach);
    expect(planText(plan)).toBe(
      'extension 10.5.2.0-24 at 192.0.2.2 data "$(reboot)"\n' +
        "extension 10.5.3.0-24 at 192.0.2.3\nextension 10.5.6.0-24 at 192.0.2.6\n",
    );
    expect(refused.map(({ lease }) => `${lease.attributes.publicIp}`)).toEqual([
      "192.0.2.7",
      "192.0.2.8",
      "192.0.2.4",
      "192.0.2.5",
    ]);
  });
});
