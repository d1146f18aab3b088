import { describe, expect, test } from "bun:test";
import { subnetsOverlap } from "../../../src/lease/allocate.ts";
import { createLeaseGuard, guardWindowMs, reservationHoldMs } from "../../../src/lease/guard.ts";
import { type Lease, leaseKey } from "../../../src/lease/lease.ts";
import { seededRandom } from "../../support/random.ts";
import { vxlanLease } from "../../support/leases.ts";

const startMs = Date.parse("2026-01-01T00:00:00Z");
const minute = 60_000;
const at = (ms: number) => new Date(startMs + ms);

/** Peer `number`, whose lease ends `endsMs` after the start; null for a reservation. */
function peer(number: number, endsMs: number | null = 60 * minute, length = 24): Lease {
  const lease = vxlanLease(`10.3.${number}.0/${length}`, `192.0.2.${number}`);
  return { ...lease, expiresAt: endsMs === null ? undefined : at(endsMs) };
}

const peers = (...numbers: number[]) => numbers.map((number) => peer(number));
const count = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const keys = (leases: readonly Lease[]) => leases.map(({ subnets }) => leaseKey(subnets)).sort();
const numbersOf = (leases: readonly Lease[]) =>
  leases.map(({ subnets }) => Number(`${subnets.ipv4?.address}`.split(".")[2])).sort((a, b) => a - b);

describe("guard", () => {
  test.each([
    [3, 3, 0],
    [4, 4, 4],
    [8, 4, 0],
    [8, 5, 5],
    [20, 10, 0],
    [20, 11, 11],
  ])("of %i peers %i vanish at once: %i are held", (all, gone, held) => {
    const guard = createLeaseGuard();
    guard.observe(peers(...count(1, all)), false, at(0));
    guard.observe(peers(...count(gone + 1, all)), false, at(minute));
    expect(guard.held).toHaveLength(held);
    expect(guard.believed).toHaveLength(all - gone + held);
  });

  test("removals one by one are added up over ten minutes, and what went before stays gone", () => {
    const guard = createLeaseGuard();
    guard.observe(peers(...count(1, 10)), false, at(0));
    for (let gone = 1; gone <= 9; gone++)
      guard.observe(peers(...count(gone + 1, 10)), false, at(gone * minute));
    expect(numbersOf(guard.held.map(({ lease }) => lease))).toEqual([6, 7, 8, 9]);
    expect(numbersOf(guard.believed)).toEqual([6, 7, 8, 9, 10]);
    expect(guard.held[0]?.reason).toBe("6 of 10 peers vanished within ten minutes");
  });

  test("removals that take longer than ten minutes are what they seem", () => {
    const guard = createLeaseGuard();
    guard.observe(peers(...count(1, 10)), false, at(0));
    for (let gone = 1; gone <= 10; gone++)
      guard.observe(peers(...count(gone + 1, 10)), false, at(gone * 4 * minute));
    expect(guard.held).toEqual([]);
    expect(guard.believed).toEqual([]);
  });

  test("half of those of ten minutes ago count, however many joined since", () => {
    const guard = createLeaseGuard();
    guard.observe(peers(...count(1, 8)), false, at(0));
    guard.observe(peers(...count(1, 100)), false, at(11 * minute));
    guard.observe(peers(...count(6, 100)), false, at(12 * minute));
    expect(numbersOf(guard.held.map(({ lease }) => lease))).toEqual([1, 2, 3, 4, 5]);
  });

  test("in an outage even a single peer is held", () => {
    const guard = createLeaseGuard();
    guard.observe(peers(1, 2), false, at(0));
    guard.observe(peers(2), true, at(1));
    expect(guard.held).toMatchObject([{ lease: peer(1), confirmed: false, until: at(60 * minute) }]);
  });

  test("what is held goes at its lease's last known end, not before, and not unconfirmed", () => {
    const guard = createLeaseGuard();
    guard.observe([peer(1, 5 * minute), peer(2, 9 * minute), peer(3, null)], false, at(0));
    guard.observe([peer(1, 7 * minute), peer(2, 9 * minute), peer(3, null)], false, at(minute));
    guard.observe([], true, at(2 * minute));
    expect(guard.expire(at(8 * minute))).toBe(false);
    guard.confirm();
    expect(guard.expire(at(7 * minute - 1))).toBe(false);
    expect(guard.expire(at(7 * minute))).toBe(true);
    expect(numbersOf(guard.believed)).toEqual([2, 3]);
    expect(guard.expire(at(9 * minute))).toBe(true);
    expect(guard.expire(at(2 * minute + reservationHoldMs - 1))).toBe(false);
    expect(guard.expire(at(2 * minute + reservationHoldMs))).toBe(true);
    expect(guard.believed).toEqual([]);
  });

  test("a peer that the store shows again is held no longer, with what it publishes now", () => {
    const guard = createLeaseGuard();
    guard.observe(peers(1, 2), false, at(0));
    guard.observe([], true, at(1));
    const back = { ...peer(1), attributes: peer(9).attributes };
    guard.observe([back], false, at(2));
    expect(guard.believed).toEqual([back, peer(2)]);
    expect(guard.held).toMatchObject([{ lease: peer(2) }]);
  });

  test("what is held yields to a lease that overlaps it, be that wider or narrower", () => {
    for (const [old, now] of [
      [24, 23],
      [24, 25],
    ] as const) {
      const guard = createLeaseGuard();
      guard.observe([peer(2, 60 * minute, old), peer(8)], false, at(0));
      guard.observe([peer(2, 60 * minute, now)], true, at(1));
      expect(keys(guard.believed)).toEqual([`10.3.2.0-${now}`, "10.3.8.0-24"]);
    }
  });

  test("random histories are what a model says that looks at everything anew each time", () => {
    for (let seed = 1; seed <= 60; seed++) {
      const { below } = seededRandom(seed);
      const guard = createLeaseGuard();
      const model = slowModel();
      let nowMs = 0;
      let shown: Lease[] = [];
      const all = 4 + below(16);
      for (let step = 0; step < 120; step++) {
        nowMs += below(3) === 0 ? below(8 * minute) : below(2_000);
        const kind = below(10);
        if (kind === 0) {
          guard.confirm();
          model.confirm();
        } else if (kind === 1) {
          guard.expire(at(nowMs));
          model.expire(nowMs);
        } else {
          const heavy = below(6) === 0;
          shown = Array.from({ length: all }, (_, number) => number)
            .filter((number) =>
              keys(shown).some((key) => key.startsWith(`10.3.${number}.`))
                ? below(heavy ? 2 : 12) > 0
                : below(3) === 0,
            )
            .map((number) =>
              peer(number, below(12) === 0 ? null : nowMs + below(20 * minute), below(15) === 0 ? 25 : 24),
            );
          const outage = below(15) === 0;
          guard.observe(shown, outage, at(nowMs));
          model.observe(shown, outage, nowMs);
        }
        expect({ seed, step, believed: keys(guard.believed) }).toEqual({
          seed,
          step,
          believed: model.believed(),
        });
        expect(guard.held.map(({ lease }) => leaseKey(lease.subnets)).sort()).toEqual(model.held());
      }
    }
  });
});

/** The rule as the design states it, over the whole history. */
function slowModel() {
  let believed = new Map<string, Lease>();
  const held = new Map<string, { untilMs: number; confirmed: boolean }>();
  const history: { ms: number; believed: ReadonlySet<string> }[] = [];
  const note = (ms: number) => history.push({ ms, believed: new Set(believed.keys()) });
  return {
    believed: () => [...believed.keys()].sort(),
    held: () => [...held.keys()].sort(),
    confirm() {
      for (const entry of held.values()) entry.confirmed = true;
    },
    expire(ms: number) {
      for (const [key, { untilMs, confirmed }] of [...held]) {
        if (!confirmed || untilMs > ms) continue;
        held.delete(key);
        believed.delete(key);
      }
      note(ms);
    },
    observe(shown: readonly Lease[], outage: boolean, ms: number) {
      const then = ms - guardWindowMs;
      const before = history.findLast((entry) => entry.ms <= then)?.believed ?? new Set<string>();
      const since = history.filter((entry) => entry.ms > then).flatMap((entry) => [...entry.believed]);
      const names = new Set(keys(shown));
      const tooMany = [before, new Set([...before, ...since])].some((base) => {
        const gone = [...base].filter((key) => !names.has(key)).length;
        return gone > 3 && gone * 2 > base.size;
      });
      for (const [key, lease] of [...believed]) {
        if (names.has(key) || held.has(key)) continue;
        if (!outage && !tooMany) believed.delete(key);
        else {
          const untilMs =
            lease.expiresAt === undefined ? ms + reservationHoldMs : lease.expiresAt.getTime() - startMs;
          held.set(key, { untilMs, confirmed: false });
        }
      }
      for (const lease of shown) {
        believed.set(leaseKey(lease.subnets), lease);
        held.delete(leaseKey(lease.subnets));
      }
      believed = new Map(
        [...believed].filter(([key, lease]) => {
          const yields = held.has(key) && shown.some((one) => subnetsOverlap(one.subnets, lease.subnets));
          if (yields) held.delete(key);
          return !yields;
        }),
      );
      note(ms);
    },
  };
}
