import { FlannelError } from "../../base/error.ts";
import { contextText, type EtcdStoreOptions, openEtcdContext } from "./context.ts";
import { parseLeaseValue } from "./codec.ts";
import { type EtcdContext, parseLeaseEntry, readExpiries } from "./lease-entry.ts";
import type { KeyValue } from "./wire.ts";

/** What a copy from API v2 to v3 did. */
export interface Migration {
  /** Where the keys are now, for people. */
  readonly store: string;
  /** In the order written; null seconds for a key that does not lapse. */
  readonly copied: readonly { readonly key: string; readonly ttlSeconds: number | null }[];
  /** Keys that stood in v3 already, with the same value. */
  readonly present: readonly string[];
  /** Keys below the leases' that no node can use. */
  readonly skipped: readonly { readonly key: string; readonly reason: string }[];
}

/** A key to copy: its value goes over as it is. */
interface Copy {
  readonly key: string;
  readonly value: string;
  /** Undefined for one that does not lapse. */
  readonly ttlSeconds: number | undefined;
}

/** A key that lapses sooner than this is not worth copying: it would be gone before anybody reads it. */
const ttlSecondsMin = 5;

/**
 * Copies network configuration, leases and reservations from etcd's API v2 to v3, byte for byte; leases with
 * the time they have left. v2 is only read. Leases are written first: a daemon that looks for its network goes
 * by v3 as soon as the configuration is there. What names the nodes beside their leases is left behind: nodes
 * write it anew. May be repeated: what stands in v3 already is left.
 * @throws FlannelError `migrate/nothing` where v2 holds no network, `migrate/different` where v3 holds another
 * one, and nothing is written then; `migrate/failed` where v3 does not show what was written
 */
export async function migrateV2(options: EtcdStoreOptions, stop: AbortSignal): Promise<Migration> {
  using opened = new DisposableStack();
  const open = (api: "v2" | "v3") =>
    opened.adopt(openEtcdContext(options, api), ({ client }) => client.close());
  const [from, to] = [open("v2"), open("v3")];
  const { copies, skipped } = await readNetwork(from, stop);
  const standing = await readStanding(to, stop);
  const wanted = copies.map((copy) => ({ ...copy, key: keyIn(to, from, copy.key) }));
  refuseDifferent(to, wanted, standing);
  const missing = wanted.filter(({ key }) => !standing.has(key));
  for (const copy of missing) await write(to, copy, stop);
  await verify(to, wanted, stop);
  return {
    store: contextText(to),
    copied: missing.map(({ key, ttlSeconds }) => ({ key, ttlSeconds: ttlSeconds ?? null })),
    present: wanted.map(({ key }) => key).filter((key) => standing.has(key)),
    skipped,
  };
}

async function readNetwork(
  context: EtcdContext,
  stop: AbortSignal,
): Promise<{ copies: Copy[]; skipped: { key: string; reason: string }[] }> {
  const { client, layout, clock } = context;
  const config = await client.get(layout.config, stop);
  if (config === undefined) {
    throw new FlannelError(
      "migrate/nothing",
      `${contextText(context)} has no network configuration: there is nothing to copy`,
      {},
      { remedy: "Check store.etcd.prefix and the endpoints." },
    );
  }
  const { entries } = await client.list(layout.subnets, stop);
  const copies: Copy[] = [];
  const skipped: { key: string; reason: string }[] = [];
  const read = entries.map((entry) => ({ entry, lease: parseLeaseEntry(context, entry) }));
  const expiryOf = await readExpiries(
    context,
    read.flatMap(({ lease }) => (lease === undefined ? [] : [lease])),
    stop,
  );
  for (const { entry, lease } of read) {
    const { key } = entry;
    if (lease === undefined) skipped.push({ key, reason: "not a subnet as flannel writes it" });
    else if (parseLeaseValue(entry.value) === undefined)
      skipped.push({ key, reason: "its value cannot be read" });
    else {
      const endMs = expiryOf(lease)?.getTime();
      const ttlSeconds =
        endMs === undefined ? undefined : Math.round((endMs - clock.now().getTime()) / 1_000);
      if (ttlSeconds !== undefined && ttlSeconds < ttlSecondsMin)
        skipped.push({ key, reason: "it lapses right now" });
      else copies.push({ key, value: textOf(entry), ttlSeconds });
    }
  }
  return {
    copies: [...copies, { key: layout.config, value: textOf(config), ttlSeconds: undefined }],
    skipped,
  };
}

/** What stands in v3 already, by key. */
async function readStanding(
  { client, layout }: EtcdContext,
  stop: AbortSignal,
): Promise<Map<string, KeyValue>> {
  const config = await client.get(layout.config, stop);
  const { entries } = await client.list(layout.subnets, stop);
  const all = [...(config === undefined ? [] : [config]), ...entries];
  return new Map(all.map((entry) => [entry.key, entry]));
}

/** Whatever else v3 holds there would be mixed up with what comes: a lease of its own, another network. */
function refuseDifferent(to: EtcdContext, wanted: readonly Copy[], standing: Map<string, KeyValue>): void {
  const byKey = new Map(wanted.map((copy) => [copy.key, copy]));
  const different = [...standing.values()].flatMap((entry) => {
    const copy = byKey.get(entry.key);
    if (copy === undefined) return [`${shown(entry.key)} is not in v2`];
    if (copy.value !== textOf(entry)) return [`${shown(entry.key)} has another value`];
    const lapses = entry.lease !== "0";
    if (lapses === (copy.ttlSeconds !== undefined)) return [];
    return [`${shown(entry.key)} ${lapses ? "lapses, in v2 it does not" : "does not lapse, in v2 it does"}`];
  });
  if (different.length === 0) return;
  const lines = different.slice(0, differencesMax);
  if (different.length > lines.length) lines.push(`and ${different.length - lines.length} more`);
  throw new FlannelError(
    "migrate/different",
    [`${contextText(to)} holds something else, nothing was written:`, ...lines].join("\n  "),
    {},
    { remedy: "If that is of no use, delete it with etcdctl (API v3) first" },
  );
}

/** Lines about what is different; the rest is counted. */
const differencesMax = 20;

async function write(
  { client }: EtcdContext,
  { key, value, ttlSeconds }: Copy,
  stop: AbortSignal,
): Promise<void> {
  const lease = ttlSeconds === undefined ? "0" : (await client.grant(ttlSeconds, stop)).id;
  if (await client.put([{ key, value, lease, ifRevision: 0n }], stop)) return;
  if (lease !== "0") await client.revoke(lease, stop);
  throw failed(key, "somebody else wrote it just now");
}

async function verify(to: EtcdContext, wanted: readonly Copy[], stop: AbortSignal): Promise<void> {
  const standing = await readStanding(to, stop);
  for (const { key, value, ttlSeconds } of wanted) {
    const entry = standing.get(key);
    if (entry === undefined || textOf(entry) !== value)
      throw failed(key, "it does not stand there as it was written");
    if ((entry.lease !== "0") !== (ttlSeconds !== undefined))
      throw failed(key, "its term is not as it was written");
  }
}

/** The same key of the other API, whose prefix may lack the slash that v2's keys begin with. */
function keyIn(to: EtcdContext, from: EtcdContext, key: string): string {
  const base = (context: EtcdContext) => context.layout.config.replace(/\/config$/, "");
  return base(to) + key.slice(base(from).length);
}

function textOf({ value }: KeyValue): string {
  return Buffer.from(value).toString("utf8");
}

function shown(key: string): string {
  return JSON.stringify(key.slice(0, 200));
}

function failed(key: string, reason: string): FlannelError {
  return new FlannelError(
    "migrate/failed",
    "the copy is not whole",
    { key, reason },
    { remedy: "Nothing was taken from v2; look at the key, then repeat" },
  );
}
