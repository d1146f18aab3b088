import { FlannelError } from "../../base/error.ts";
import { contextText, type EtcdStoreOptions, openEtcdContext } from "./context.ts";
import type { EtcdContext } from "./lease-entry.ts";
import type { KeyValue } from "./wire.ts";

/** What a copy from one store to another did. */
export interface Transfer {
  /** For people. */
  readonly from: string;
  readonly to: string;
  /** Keys that were written, in that order; null seconds for one that does not lapse. */
  readonly copied: readonly { readonly key: string; readonly ttlSeconds: number | null }[];
  /** Keys that stood there as they should already. */
  readonly present: number;
  /** Time the first of all copied leases has left; null where none lapses. */
  readonly soonestLapseSeconds: number | null;
}

/** How often keys that changed meanwhile are copied again. */
const roundsMax = 5;
/** What a lease may lose or win on its way: the seconds are whole, and reading takes time. */
const toleranceSeconds = 5;
/** Lines about what is different; the rest is counted. */
const differencesMax = 20;

/** A key as it stands in one store, with the time its lease has left; null for one that does not lapse. */
interface Held {
  readonly entry: KeyValue;
  readonly ttlSeconds: number | null;
}

/**
 * Copies every key below the network's prefix, byte for byte: leases with the time they have left, keys of one
 * lease on one lease, reservations without. The source is only read, and may be in use: what changes meanwhile is
 * copied again. May be repeated. The configuration comes last: whoever waits for the network finds it whole.
 * @throws FlannelError `migrate/nothing`, `migrate/different` where the target holds something else (nothing is
 * written then), `migrate/failed` where it does not come to hold the same
 */
export async function transfer(
  from: EtcdStoreOptions,
  to: EtcdStoreOptions,
  stop: AbortSignal,
): Promise<Transfer> {
  using opened = new DisposableStack();
  const open = (options: EtcdStoreOptions) =>
    opened.adopt(openEtcdContext(options, "v3"), ({ client }) => client.close());
  const [source, target] = [open(from), open(to)];
  const copied = new Map<string, number | null>();
  /** Keys of ours at the target, with the revision they were written at. */
  const written = new Set<string>();
  let present = 0;
  for (let round = 0; round < roundsMax; round++) {
    const [wanted, standing] = [await readAll(source, stop), await readAll(target, stop)];
    if (wanted.size === 0) throw nothing(source);
    requireText(wanted);
    const strange = [...standing].filter(
      ([key, held]) => !written.has(key) && isStrange(wanted.get(key), held),
    );
    if (strange.length > 0) throw different(target, strange, wanted);
    if (round === 0) present = standing.size;
    const missing = [...wanted].filter(([key, held]) => isMissing(standing.get(key), held));
    const gone = [...standing].filter(([key]) => !wanted.has(key));
    if (missing.length === 0 && gone.length === 0) {
      const ttls = [...wanted.values()].map(({ ttlSeconds }) => ttlSeconds).filter((ttl) => ttl !== null);
      return {
        from: contextText(source),
        to: contextText(target),
        copied: [...copied].map(([key, ttlSeconds]) => ({ key, ttlSeconds })),
        present,
        soonestLapseSeconds: ttls.length === 0 ? null : Math.min(...ttls),
      };
    }
    for (const [key, { entry }] of gone)
      await target.client.delete([{ key, ifRevision: entry.revision }], stop);
    for (const group of byLease(missing, source.layout.config)) {
      const puts = group.keys.map(([key, { entry }]) => ({
        key,
        value: textOf(entry),
        ifRevision: standing.get(key)?.entry.revision ?? 0n,
      }));
      const lease = group.ttlSeconds === null ? "0" : (await target.client.grant(group.ttlSeconds, stop)).id;
      for (const { key } of puts) written.add(key);
      if (
        await target.client.put(
          puts.map((put) => ({ ...put, lease })),
          stop,
        )
      ) {
        for (const { key } of puts) copied.set(key, group.ttlSeconds);
      } else if (lease !== "0") await target.client.revoke(lease, stop); // seen again in the next round
    }
  }
  throw new FlannelError(
    "migrate/failed",
    "the two stores did not come to hold the same",
    { from: contextText(source), to: contextText(target), rounds: roundsMax },
    { remedy: "Somebody writes to the target, or the source changes all the time; look, then repeat" },
  );
}

async function readAll({ client, layout }: EtcdContext, stop: AbortSignal): Promise<Map<string, Held>> {
  const { entries } = await client.list(layout.config.replace(/config$/, ""), stop);
  const leases = [...new Set(entries.map(({ lease }) => lease))].filter((lease) => lease !== "0");
  const ttls = new Map<string, number>();
  for (const lease of leases) ttls.set(lease, (await client.timeToLive(lease, stop)).ttlSeconds);
  // One that ended between the two reads is no more.
  const alive = entries.filter(({ lease }) => lease === "0" || (ttls.get(lease) ?? -1) > 0);
  return new Map(alive.map((entry) => [entry.key, { entry, ttlSeconds: ttls.get(entry.lease) ?? null }]));
}

/** Whether what stands at the target is something else than a copy made earlier. */
function isStrange(wanted: Held | undefined, standing: Held): boolean {
  return (
    wanted === undefined ||
    textOf(wanted.entry) !== textOf(standing.entry) ||
    (wanted.ttlSeconds === null) !== (standing.ttlSeconds === null)
  );
}

/** One with more time left at the target belongs to a host that has switched already: it keeps that. */
function isMissing(standing: Held | undefined, wanted: Held): boolean {
  if (standing === undefined || isStrange(wanted, standing)) return true;
  return wanted.ttlSeconds !== null && (standing.ttlSeconds ?? 0) < wanted.ttlSeconds - toleranceSeconds;
}

interface Group {
  readonly ttlSeconds: number | null;
  readonly keys: readonly (readonly [string, Held])[];
}

/** Keys of one lease go together; keys without one each by itself, the configuration last of all. */
function byLease(entries: readonly (readonly [string, Held])[], configKey: string): Group[] {
  const groups = Map.groupBy(entries, ([key, { entry }]) =>
    entry.lease === "0" ? `key ${key}` : entry.lease,
  );
  return [...groups.values()]
    .map((keys) => ({ keys, ttlSeconds: keys[0]?.[1].ttlSeconds ?? null }))
    .sort((a, b) => Number(a.keys[0]?.[0] === configKey) - Number(b.keys[0]?.[0] === configKey));
}

/** @throws FlannelError `migrate/failed` for a value that our client, which writes text, would change */
function requireText(wanted: ReadonlyMap<string, Held>): void {
  for (const [key, { entry }] of wanted) {
    const isText = Buffer.from(textOf(entry), "utf8").equals(Buffer.from(entry.value));
    if (isText && !key.includes("\u{fffd}")) continue;
    throw new FlannelError(
      "migrate/failed",
      "a key or its value is no text, and would not arrive as it is",
      { key: shown(key) },
      { remedy: "Delete it, or copy it with etcdctl; nothing was written" },
    );
  }
}

function textOf({ value }: KeyValue): string {
  return Buffer.from(value).toString("utf8");
}

function nothing(source: EtcdContext): FlannelError {
  return new FlannelError(
    "migrate/nothing",
    `${contextText(source)} holds nothing: there is nothing to copy`,
    {},
    { remedy: "Check store.etcd.prefix and the endpoints." },
  );
}

function different(
  target: EtcdContext,
  strange: readonly (readonly [string, Held])[],
  wanted: ReadonlyMap<string, Held>,
): FlannelError {
  const lines = strange.slice(0, differencesMax).map(([key, { entry }]) => {
    const source = wanted.get(key);
    if (source === undefined) return `${shown(key)} is not in the source`;
    const isSame = textOf(source.entry) === textOf(entry);
    return `${shown(key)} has another ${isSame ? "term" : "value"}`;
  });
  if (strange.length > lines.length) lines.push(`and ${strange.length - lines.length} more`);
  return new FlannelError(
    "migrate/different",
    [`${contextText(target)} holds something else, nothing of it was changed:`, ...lines].join("\n  "),
    {},
    { remedy: "If that is of no use, delete it with etcdctl first" },
  );
}

function shown(key: string): string {
  return JSON.stringify(key.slice(0, 200));
}
