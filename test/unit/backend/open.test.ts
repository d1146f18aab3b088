import { expect, test } from "bun:test";
import { withBlackhole } from "../../../src/backend/blackhole.ts";
import { setUpBackend } from "../../../src/backend/open.ts";
import { errorText } from "../../../src/base/error.ts";
import { encodeLeaseValue } from "../../../src/store/etcd/codec.ts";
import { vxlanLease } from "../../support/leases.ts";
import { noReach, planText, testContext } from "../../support/backend.ts";

const setUp = (type: string) => setUpBackend({ type, options: {} }, testContext);

test.each([
  ["wireguard", "backend type wireguard is not served yet"],
  ["ipsec", "backend type ipsec is not served yet"],
  ["aws-vpc", "backend type aws-vpc is not served yet"],
  ["nonsense", "unknown backend type: nonsense"],
  ["constructor", "unknown backend type: constructor"],
  ["", "unknown backend type: "],
])("backend: %p ends with exit code 2 and one line that names what to do", (type, message) => {
  let failure: unknown;
  try {
    setUp(type);
  } catch (error) {
    failure = error;
  }
  expect(failure).toMatchObject({ code: "network/backend", exitCode: 2, message });
  expect(errorText(failure)).toContain('Put "Backend": {"Type": "vxlan"} into the network configuration');
  expect(errorText(failure)).not.toContain("\n");
});

test("alloc: publishes no type, as flannel's, and wants nothing of the machine", () => {
  const setup = setUp("alloc");
  expect(encodeLeaseValue(setup.attributes({ existing: undefined, savedMac: undefined }))).toBe(
    '{"PublicIP":"192.0.2.1","PublicIPv6":null}',
  );
  const backend = setup.open("none");
  expect(backend.mtuBytes).toBe(1500);
  const own = vxlanLease("10.5.1.0/24", "192.0.2.1");
  expect(planText(backend.plan(own, [vxlanLease("10.5.2.0/24", "192.0.2.2")], noReach).plan)).toBe("");
});

test("blackhole: our own subnets, and the backend's plan beside them", () => {
  const own = vxlanLease("10.5.1.0/24", "192.0.2.1", undefined, "fd00:5:0:1::/64");
  const peers = [vxlanLease("10.5.2.0/24", "192.0.2.2")];
  const plain = setUp("vxlan").open("kernel").plan(own, peers, noReach).plan;
  const { plan } = withBlackhole(setUp("vxlan")).open("kernel").plan(own, peers, noReach);
  expect(planText(plan)).toBe(`${planText(plain)}blackhole 10.5.1.0/24\nblackhole fd00:5:0:1::/64\n`);
});
