import { Prefix } from "../net/prefix.ts";
import { type Lease, leaseKey, subnetsOf } from "./lease.ts";

/** Removals are counted over this long. */
export const guardWindowMs = 10 * 60_000;

/** So many peers may go however few there are. */
const removalsFree = 3;

/** How long a reservation, which names no end, is held: as a lease that was just renewed. */
export const reservationHoldMs = 24 * 60 * 60_000;

/** A peer that the store no longer shows and that is believed all the same. */
export interface HeldPeer {
  readonly lease: Lease;
  readonly since: Date;
  /** Its lease's last known end; it goes then, or once absence is confirmed after that. */
  readonly until: Date;
  readonly reason: string;
  /** Whether a list of the whole store, read since, lacked it too. */
  readonly confirmed: boolean;
}

/**
 * Stands between what a store shows and what is planned from it: when more than half of the peers, and more
 * than three, would be gone within ten minutes, those that vanish last are held until their leases end. Pure
 * but for its memory: time comes with each call and must not run backwards.
 */
export interface LeaseGuard {
  /** What to plan from: the peers that the store shows and those held, by lease key. */
  readonly believed: readonly Lease[];
  readonly held: readonly HeldPeer[];
  /**
   * Takes what the store shows now, all of it. With `outage` nobody removed what is missing: it is held,
   * however little it is.
   */
  observe(shown: readonly Lease[], outage: boolean, now: Date): void;
  /** A list of the whole store, read after the last observation, does not have what is held. */
  confirm(): void;
  /** Lets go what was held to its end and is confirmed; tells whether there was any. */
  expire(now: Date): boolean;
}

/** A time during which a peer was believed; `untilMs` is open while it is. */
interface Spell {
  readonly sinceMs: number;
  readonly untilMs: number;
}

export function createLeaseGuard(): LeaseGuard {
  const believed = new Map<string, { lease: Lease; sinceMs: number }>();
  const held = new Map<string, HeldPeer>();
  /** Peers that went within the window, oldest first. */
  let past: { key: string; spell: Spell }[] = [];

  const forget = (key: string, now: Date) => {
    const sinceMs = believed.get(key)?.sinceMs ?? now.getTime();
    believed.delete(key);
    held.delete(key);
    past.push({ key, spell: { sinceMs, untilMs: now.getTime() } });
  };

  /** Why so many must not go at once; undefined where they may. */
  const objection = (shown: ReadonlySet<string>, nowMs: number): string | undefined => {
    const spells = [
      ...past,
      ...[...believed].map(([key, { sinceMs }]) => ({ key, spell: { sinceMs, untilMs: Infinity } })),
    ];
    const then = nowMs - guardWindowMs;
    // Those of ten minutes ago alone would leave a young process, and peers that joined since, unguarded.
    const recent = new Set(spells.map(({ key }) => key));
    const before = new Set(
      spells.filter(({ spell }) => spell.sinceMs <= then && spell.untilMs > then).map(({ key }) => key),
    );
    for (const peers of [before, recent]) {
      const gone = [...peers].filter((key) => !shown.has(key)).length;
      if (gone > removalsFree && gone > peers.size / 2)
        return `${gone} of ${peers.size} peers vanished within ten minutes`;
    }
    return undefined;
  };

  return {
    get believed() {
      return [...believed].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, { lease }]) => lease);
    },
    get held() {
      return [...held].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, peer]) => peer);
    },
    observe(leases, outage, now) {
      const nowMs = now.getTime();
      past = past.filter(({ spell }) => spell.untilMs > nowMs - guardWindowMs);
      const shown = new Map(leases.map((lease) => [leaseKey(lease.subnets), lease]));
      const vanished = [...believed.keys()].filter((key) => !shown.has(key) && !held.has(key));
      const reason =
        vanished.length === 0
          ? undefined
          : outage
            ? "the store is empty or another one, which is an outage and no removal"
            : objection(new Set(shown.keys()), nowMs);
      for (const key of vanished) {
        const lease = believed.get(key)?.lease;
        if (lease === undefined || reason === undefined) forget(key, now);
        else held.set(key, { lease, since: now, until: endOf(lease, nowMs), reason, confirmed: false });
      }
      for (const [key, lease] of shown) {
        believed.set(key, { lease, sinceMs: believed.get(key)?.sinceMs ?? nowMs });
        held.delete(key);
      }
      // Whoever has the subnet now, the store shows; what is held must not stand in its way.
      for (const key of overlapped(held, leases)) forget(key, now);
    },
    confirm() {
      for (const [key, peer] of held) held.set(key, { ...peer, confirmed: true });
    },
    expire(now) {
      const over = [...held].filter(([, { until, confirmed }]) => confirmed && until <= now);
      for (const [key] of over) forget(key, now);
      return over.length > 0;
    },
  };
}

function endOf({ expiresAt }: Lease, nowMs: number): Date {
  return expiresAt ?? new Date(nowMs + reservationHoldMs);
}

/** Keys of those held that share a subnet, in whole or in part, with a lease of `leases`. */
function overlapped(held: ReadonlyMap<string, HeldPeer>, leases: readonly Lease[]): string[] {
  if (held.size === 0) return [];
  const present = prefixIndex(leases.flatMap(({ subnets }) => subnetsOf(subnets)));
  const own = prefixIndex([...held.values()].flatMap(({ lease }) => subnetsOf(lease.subnets)));
  const enclosing = new Set(
    leases.flatMap(({ subnets }) => subnetsOf(subnets)).flatMap((subnet) => own.around(subnet)),
  );
  return [...held]
    .filter(([, { lease }]) =>
      subnetsOf(lease.subnets).some(
        (subnet) => enclosing.has(`${subnet}`) || present.around(subnet).length > 0,
      ),
    )
    .map(([key]) => key);
}

/** Finds those of `prefixes` that contain another: one look for each length there is. */
function prefixIndex(prefixes: readonly Prefix[]) {
  const all = new Set(prefixes.map(String));
  const lengths = new Set(prefixes.map(({ length }) => length));
  return {
    around: (inner: Prefix): string[] =>
      [...lengths]
        .filter((length) => length <= inner.length)
        .map((length) => `${new Prefix(inner.address, length)}`)
        .filter((text) => all.has(text)),
  };
}
