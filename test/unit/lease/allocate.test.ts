import { expect, test } from "bun:test";
import {
  allocateSubnets,
  candidatesMax,
  freeSubnets,
  isCompatible,
  type SubnetRange,
  subnetsOverlap,
} from "../../../src/lease/allocate.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parsePrefix, Prefix } from "../../../src/net/prefix.ts";
import { seededRandom } from "../../support/random.ts";

function range(subnetMin: string, subnetMax: string, subnetLength: number): SubnetRange {
  return { subnetLength, subnetMin: parseIpAddress(subnetMin), subnetMax: parseIpAddress(subnetMax) };
}

/** The slow model: every candidate against every lease. */
function freeSlowly({ subnetMin, subnetMax, subnetLength }: SubnetRange, taken: readonly Prefix[]): string[] {
  const free: string[] = [];
  let candidate = new Prefix(subnetMin, subnetLength);
  while (candidate.address.compare(subnetMax) <= 0 && free.length < candidatesMax) {
    if (!taken.some((subnet) => subnet.overlaps(candidate))) free.push(`${candidate}`);
    candidate = new Prefix(candidate.address.plus(candidate.size), subnetLength);
  }
  return free;
}

test("allocate: free subnets are those of a model that tries each against each, over random leases", () => {
  const { below } = seededRandom(1);
  for (let round = 0; round < 500; round++) {
    const v6 = round % 2 === 1;
    const subnetLength = (v6 ? 96 : 0) + 22 + below(7);
    const bits = v6 ? 128 : 32;
    const base = v6 ? "fd00::a03:0" : "10.3.0.0";
    const at = (value: number) => parseIpAddress(base).plus(value);
    const step = 2 ** (bits - subnetLength);
    const from = below(40) * step;
    const one: SubnetRange = {
      subnetLength,
      subnetMin: at(from),
      subnetMax: at(from + below(200) * step),
    };
    const taken = Array.from({ length: below(60) }, () => {
      return new Prefix(at(below(65_536)), (v6 ? 96 : 0) + 18 + below(14));
    });
    if (round % 5 === 0) taken.push(parsePrefix(v6 ? "10.3.0.0/16" : "fd00::/16"));
    expect(freeSubnets(one, taken).map(String)).toEqual(freeSlowly(one, taken));
  }
});

test("allocate: one lease that covers more subnets than could be walked is stepped over", () => {
  const wide = range("fd00::", "fdff:ffff:ffff:ffff::", 64);
  expect(freeSubnets(wide, [parsePrefix("fd00::/9")], 1).map(String)).toEqual(["fd80::/64"]);
  expect(freeSubnets(wide, [parsePrefix("fd00::/8")])).toEqual([]);
  expect(freeSubnets(range("10.0.0.0", "10.255.255.0", 24), [parsePrefix("0.0.0.0/0")])).toEqual([]);
});

test("allocate: the range ends with the last address there is", () => {
  expect(freeSubnets(range("255.255.254.0", "255.255.255.0", 24), []).map(String)).toEqual([
    "255.255.254.0/24",
    "255.255.255.0/24",
  ]);
});

test("allocate: a range that ends before it begins has nothing free", () => {
  expect(freeSubnets(range("10.3.8.0", "10.3.5.0", 24), [])).toEqual([]);
});

test("allocate: the first hundred free subnets are drawn from, first and last included", () => {
  const ranges = { ipv4: range("10.3.1.0", "10.3.255.0", 24) };
  const taken = [{ ipv4: parsePrefix("10.3.1.0/24") }];
  expect(`${allocateSubnets(ranges, taken, () => 0)?.ipv4}`).toBe("10.3.2.0/24");
  expect(`${allocateSubnets(ranges, taken, () => 0.999999)?.ipv4}`).toBe("10.3.101.0/24");
});

test("allocate: both families are drawn, independently, and one without a free subnet is no answer", () => {
  const ranges = {
    ipv4: range("10.3.1.0", "10.3.9.0", 24),
    ipv6: range("fd00:0:0:1::", "fd00:0:0:2::", 64),
  };
  const draws = [0.5, 0];
  const drawn = allocateSubnets(ranges, [], () => draws.shift() ?? 0);
  expect(`${drawn?.ipv4} ${drawn?.ipv6}`).toBe("10.3.5.0/24 fd00:0:0:1::/64");
  expect(allocateSubnets(ranges, [{ ipv6: parsePrefix("fd00::/62") }], () => 0)).toBeUndefined();
  expect(allocateSubnets({}, [], () => 0)).toBeUndefined();
});

test("allocate: compatible is within both bounds, of the right length, and of the same families", () => {
  const ranges = { ipv4: range("10.3.2.0", "10.3.9.0", 24) };
  const dual = { ...ranges, ipv6: range("fd00:0:0:1::", "fd00:0:0:2::", 64) };
  const fits = (ipv4: string) => isCompatible(ranges, { ipv4: parsePrefix(ipv4) });
  expect(["10.3.1.0/24", "10.3.2.0/24", "10.3.9.0/24", "10.3.10.0/24", "10.3.4.0/25"].map(fits)).toEqual([
    false,
    true,
    true,
    false,
    false,
  ]);
  const both = { ipv4: parsePrefix("10.3.2.0/24"), ipv6: parsePrefix("fd00:0:0:1::/64") };
  expect(isCompatible(dual, both)).toBe(true);
  expect(isCompatible(ranges, both)).toBe(false);
  expect(isCompatible(dual, { ipv4: both.ipv4 })).toBe(false);
});

test("allocate: subnets overlap when either family does", () => {
  const a = { ipv4: parsePrefix("10.3.2.0/24"), ipv6: parsePrefix("fd00:0:0:1::/64") };
  expect(subnetsOverlap(a, { ipv4: parsePrefix("10.3.0.0/16") })).toBe(true);
  expect(subnetsOverlap(a, { ipv4: parsePrefix("10.3.3.0/24"), ipv6: parsePrefix("fd00::/48") })).toBe(true);
  expect(subnetsOverlap(a, { ipv4: parsePrefix("10.3.3.0/24") })).toBe(false);
  expect(subnetsOverlap(a, { ipv6: parsePrefix("fd00:0:0:2::/64") })).toBe(false);
});
