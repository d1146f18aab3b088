import { expect, test } from "bun:test";
import { parseIpAddress } from "../../../src/net/address.ts";
import { isOneHop } from "../../../src/net/reach.ts";
import { noReach, reachOf } from "../../support/backend.ts";

const reach = reachOf(["192.0.2.0/24", "198.51.100.7/32", "2001:db8::/64"], ["192.0.2.128/25", "0.0.0.0/0"]);

test.each([
  ["192.0.2.5", true],
  ["192.0.2.200", false],
  ["198.51.100.7", true],
  ["198.51.100.8", false],
  ["203.0.113.1", false],
  ["2001:db8::5", true],
  ["2001:db8:1::5", false],
])("reach: the longest prefix decides whether %s is one hop away: %p", (address, direct) => {
  expect(isOneHop(reach, parseIpAddress(address))).toBe(direct);
});

test("reach: of equal prefixes the first decides, and without routes nobody is one hop away", () => {
  const first = { routes: [...reachOf([], ["192.0.2.0/24"]).routes, ...reachOf(["192.0.2.0/24"]).routes] };
  expect(isOneHop(first, parseIpAddress("192.0.2.5"))).toBe(false);
  expect(isOneHop(noReach, parseIpAddress("192.0.2.5"))).toBe(false);
});
