import { expect, test } from "bun:test";
import { parseNetworkConfig } from "../../../src/config/network.ts";
import { type Lease, leaseKey } from "../../../src/lease/lease.ts";
import { reservationProblem, strandedLeases } from "../../../src/lease/reservation.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { vxlanLease } from "../../support/leases.ts";

const network = parseNetworkConfig('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}');
const macOf = ({ attributes }: Lease) => {
  const data = attributes.backendData;
  return typeof data === "object" && data !== null && "VtepMAC" in data ? String(data["VtepMAC"]) : undefined;
};
const reserved = (lease: Lease): Lease => ({ ...lease, expiresAt: undefined });
const node = vxlanLease("10.5.2.0/24", "192.0.2.2");
const gateway = reserved(vxlanLease("10.5.100.0/24", "192.0.2.245", "02:00:00:00:00:f5"));

const problemOf = (subnet: string, publicIp: string, mac: string | undefined, subnetV6?: string) => {
  const { subnets, attributes } = vxlanLease(subnet, publicIp, mac ?? null, subnetV6);
  const problem = reservationProblem(network, { subnets, attributes, vtepMac: mac }, [node, gateway], macOf);
  if (problem === undefined) return undefined;
  return "by" in problem
    ? `${problem.kind} ${leaseKey(problem.by.subnets)}`
    : `${problem.kind} ${problem.subnet}`;
};

test.each([
  ["a free subnet of a new gateway", "10.5.101.0/24", "192.0.2.246", "02:00:00:00:00:f6", undefined],
  ["a second subnet of the same gateway", "10.5.101.0/24", "192.0.2.245", "02:00:00:00:00:f5", undefined],
  [
    "the network's first subnet, which nodes are not given",
    "10.5.0.0/24",
    "192.0.2.246",
    undefined,
    undefined,
  ],
  ["one outside of the network", "10.6.0.0/24", "192.0.2.246", undefined, "outside 10.6.0.0/24"],
  ["one around the network", "10.0.0.0/8", "192.0.2.246", undefined, "outside 10.0.0.0/8"],
  ["a node's", "10.5.2.0/24", "192.0.2.246", undefined, "taken 10.5.2.0-24"],
  ["a part of a node's", "10.5.2.16/28", "192.0.2.246", undefined, "taken 10.5.2.0-24"],
  ["one around a reservation", "10.5.96.0/20", "192.0.2.246", undefined, "taken 10.5.100.0-24"],
  ["one for a node that has a lease", "10.5.101.0/24", "192.0.2.2", undefined, "same-public-ip 10.5.2.0-24"],
  ["one with a node's MAC", "10.5.101.0/24", "192.0.2.246", "02:00:00:00:00:02", "same-mac 10.5.2.0-24"],
] as const)("reservation: %s", (_, subnet, publicIp, mac, expected) => {
  expect(problemOf(subnet, publicIp, mac)).toBe(expected);
});

test("reservation: an IPv6 part needs a network of that family", () => {
  expect(problemOf("10.5.101.0/24", "192.0.2.246", undefined, "fd00:5::/64")).toBe("outside fd00:5::/64");
});

test.each([
  ['{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":9}}', []],
  ['{"Network":"10.5.0.0/16","SubnetLen":25,"Backend":{"Type":"vxlan"}}', ["10.5.2.0-24"]],
  ['{"Network":"10.5.0.0/16","SubnetMin":"10.5.3.0","Backend":{"Type":"vxlan"}}', ["10.5.2.0-24"]],
  ['{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}', ["10.5.2.0-24", "10.5.100.0-24"]],
  ['{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}', ["10.5.2.0-24", "10.5.100.0-24"]],
  ['{"Network":"10.5.0.0/16"}', []],
  [
    '{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}',
    ["10.5.2.0-24"],
  ],
  [
    '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}',
    ["10.5.2.0-24", "10.5.100.0-24"],
  ],
] as const)("stranded leases under %s", (document, expected) => {
  const stranded = strandedLeases(parseNetworkConfig(document), [node, gateway]);
  expect(stranded.map(({ lease }) => leaseKey(lease.subnets))).toEqual([...expected]);
});

test("stranded leases: one that nobody can read is worth nothing before either", () => {
  const other = parseNetworkConfig('{"Network":"10.6.0.0/16"}');
  const unreadable = {
    subnets: { ipv4: parsePrefix("10.5.9.0/24") },
    attributes: undefined,
    expiresAt: undefined,
  };
  expect(strandedLeases(other, [unreadable])).toEqual([]);
  const bare = { ...unreadable, attributes: { publicIp: parseIpAddress("192.0.2.9"), backendType: "" } };
  expect(strandedLeases(other, [bare])).toHaveLength(1);
});
