import { expect, test } from "bun:test";
import { type EmbeddedStore, startEmbedded } from "../support/embedded.ts";
import { type Etcd, startEtcd } from "../support/etcd.ts";
import { type Random, seededRandom } from "../support/random.ts";
import { randomStoreCall, type StoreCall } from "../support/random-store-call.ts";
import { openWatchRecorder, type WatchRecorder } from "../support/watch-recorder.ts";

/** The same calls to a real etcd and to the embedded store; FL_SEED repeats a run. */
const seed = Number(process.env["FL_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const rounds = 3;
const callsPerRound = 400;
const settleMsMax = 10_000;

type Side = Pick<Etcd, "endpoint">;

interface Pair {
  readonly etcd: Side;
  readonly ours: Side;
}

async function answerOf({ endpoint }: Side, { path, body }: StoreCall): Promise<unknown> {
  const response = await fetch(`${endpoint}${path}`, {
    method: "POST",
    body: JSON.stringify(body),
    proxy: false,
    signal: AbortSignal.timeout(10_000),
  });
  return { status: response.status, answer: comparable(await response.json()) };
}

/** What must be equal: no ids of a cluster, no time that passes, no order that etcd leaves open. */
function comparable(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(comparable);
  if (typeof value !== "object" || value === null) return value;
  const { cluster_id, member_id, raft_term, ...rest } = value as Record<string, unknown>;
  void [cluster_id, member_id, raft_term];
  if ("grantedTTL" in rest) {
    delete rest["TTL"];
    if (Array.isArray(rest["keys"])) rest["keys"] = rest["keys"].toSorted();
  }
  if (Array.isArray(rest["leases"])) {
    rest["leases"] = rest["leases"].map((lease) => JSON.stringify(lease)).toSorted();
  }
  return Object.fromEntries(Object.entries(rest).map(([name, member]) => [name, comparable(member)]));
}

async function bothAnswer(pair: Pair, call: StoreCall, where: string): Promise<unknown> {
  const [etcd, ours] = await Promise.all([answerOf(pair.etcd, call), answerOf(pair.ours, call)]);
  // Named by the call, so that a difference tells where it is.
  expect({ where, call, answer: ours }).toEqual({ where, call, answer: etcd });
  return etcd;
}

interface WatchPair {
  readonly etcd: WatchRecorder;
  readonly ours: WatchRecorder;
  readonly request: object;
}

/** Both have told the same, as far as they have come. */
async function settle(watches: readonly WatchPair[]): Promise<void> {
  const deadline = Date.now() + settleMsMax;
  for (const { etcd, ours } of watches) {
    while (JSON.stringify(etcd.told) !== JSON.stringify(ours.told) && Date.now() < deadline)
      await Bun.sleep(10);
  }
  for (const { etcd, ours, request } of watches) {
    expect({ request, told: ours.told }).toEqual({ request, told: etcd.told });
  }
}

interface WatchBody {
  readonly create_request: { readonly key: string; readonly start_revision: string };
}

/** Lets the last watch catch up with its past before a compaction overtakes it; gives the revision then. */
async function catchUp(pair: Pair, watches: readonly WatchPair[], call: StoreCall, where: string) {
  const { key } = (call.body as WatchBody).create_request;
  // Whatever it filters, it tells of one of them.
  await bothAnswer(pair, { path: "/v3/kv/put", body: { key } }, where);
  const last = { path: "/v3/kv/deleterange", body: { key } };
  const { answer } = (await bothAnswer(pair, last, where)) as { answer: { header: { revision: string } } };
  const revision = Number(answer.header.revision);
  const { ours } = watches.at(-1) ?? { ours: undefined };
  const isCancelled = () => ours?.told.some((one) => "canceled" in one && one.canceled === true) ?? true;
  for (const deadline = Date.now() + settleMsMax; Date.now() < deadline; await Bun.sleep(5)) {
    if (isCancelled() || (ours?.revisions.at(-1) ?? 0) >= revision - 1) break;
  }
  await settle(watches);
  return revision;
}

async function playRound(pair: Pair, random: Random, round: number): Promise<void> {
  const watches: WatchPair[] = [];
  try {
    let [revision, compacted] = [1, -1];
    for (let at = 0; at < callsPerRound; at++) {
      const where = `seed ${seed}, round ${round}, call ${at}`;
      const call = randomStoreCall(random, { revision, compacted });
      if (call.path !== "/v3/watch") {
        const { status, answer } = (await bothAnswer(pair, call, where)) as {
          status: number;
          answer: { header?: { revision?: string } };
        };
        revision = Math.max(revision, Number(answer.header?.revision ?? 0));
        if (call.path === "/v3/kv/compaction" && status === 200) {
          compacted = Number((call.body as { revision: string }).revision);
        }
      } else if (watches.length < 12) {
        const [etcd, ours] = await Promise.all([
          openWatchRecorder(pair.etcd.endpoint, call.body),
          openWatchRecorder(pair.ours.endpoint, call.body),
        ]);
        watches.push({ etcd, ours, request: call.body });
        const start = Number((call.body as WatchBody).create_request.start_revision);
        if (start > 0 && start <= revision) revision = await catchUp(pair, watches, call, where);
      }
    }
    await settle(watches);
    expect(watches.some(({ ours }) => ours.told.length > 3)).toBe(true);
  } finally {
    for (const { etcd, ours } of watches) {
      etcd.close();
      ours.close();
    }
  }
}

test(`store: random histories have the same answers and watches as from etcd (FL_SEED=${seed})`, async () => {
  for (let round = 0; round < rounds; round++) {
    await using etcd: Etcd = await startEtcd();
    await using ours: EmbeddedStore = await startEmbedded();
    await playRound({ etcd, ours }, seededRandom(seed + round), round);
  }
}, 180_000);

test("store: a lease that ends takes its keys in one revision, as in etcd", async () => {
  await using etcd = await startEtcd();
  await using ours = await startEmbedded();
  const pair = { etcd, ours };
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  const ask = (path: string, body: object) => bothAnswer(pair, { path, body }, path);
  await ask("/v3/lease/grant", { TTL: "3", ID: "5" });
  for (const key of ["b", "c", "a"]) {
    await ask("/v3/kv/put", { key: base64(key), value: base64("x"), lease: "5" });
  }
  const request = { create_request: { key: base64("a"), range_end: base64("z"), prev_kv: true } };
  const [theirs, own] = await Promise.all([
    openWatchRecorder(etcd.endpoint, request),
    openWatchRecorder(ours.endpoint, request),
  ]);
  const deadline = Date.now() + 20_000;
  while ((theirs.told.length < 4 || own.told.length < 4) && Date.now() < deadline) await Bun.sleep(50);
  await settle([{ etcd: theirs, ours: own, request }]);
  await ask("/v3/kv/range", { key: base64("a"), range_end: base64("z") });
  await ask("/v3/lease/timetolive", { ID: "5" });
  theirs.close();
  own.close();
}, 60_000);

test("store: a watch gives no value before the creation of a key, though its transaction deleted one", async () => {
  await using etcd = await startEtcd();
  await using ours = await startEmbedded();
  const pair = { etcd, ours };
  const put = (value: string) => ({ key: "YQ==", value });
  const request = { create_request: { key: "YQ==", prev_kv: true } };
  const [theirs, own] = await Promise.all([
    openWatchRecorder(etcd.endpoint, request),
    openWatchRecorder(ours.endpoint, request),
  ]);
  await bothAnswer(pair, { path: "/v3/kv/put", body: put("MQ==") }, "the first value");
  // A deletion of everything from a key on is the one that may stand beside a put of that key.
  const success = [
    { request_delete_range: { key: "YQ==", range_end: "AA==" } },
    { request_put: put("Mg==") },
  ];
  await bothAnswer(pair, { path: "/v3/kv/txn", body: { success } }, "deleted and made anew");
  await bothAnswer(pair, { path: "/v3/kv/put", body: put("Mw==") }, "the last value");
  for (const deadline = Date.now() + settleMsMax; theirs.told.length < 5 && Date.now() < deadline;)
    await Bun.sleep(10);
  expect(theirs.revisions).toEqual([2, 3, 3, 4]);
  await settle([{ etcd: theirs, ours: own, request }]);
  theirs.close();
  own.close();
}, 60_000);
