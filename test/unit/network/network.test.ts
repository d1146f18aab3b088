import { describe, expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { setUpVxlan } from "../../../src/backend/vxlan.ts";
import type { Reconciler } from "../../../src/datapath/reconcile.ts";
import type { Lease, LeaseAttributes, LeaseChange } from "../../../src/lease/lease.ts";
import type { Keeper } from "../../../src/network/keeper.ts";
import { type Network, openNetwork } from "../../../src/network/network.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import type { Plan } from "../../../src/plan/plan.ts";
import { fakeStore, updateFeed } from "../../support/fake-store.ts";
import { testUplink, vxlanLease } from "../../support/leases.ts";
import { manualClock, settle } from "../../support/manual-clock.ts";
import { recordingLog } from "../../support/recording-log.ts";
import { noReach } from "../../support/backend.ts";

const minute = 60_000;
const own = vxlanLease("10.5.1.0/24", "192.0.2.1");
const { attributes: stranger } = vxlanLease("10.5.1.0/24", "192.0.2.99");

/** A loop over a feed of updates, with a keeper and a machine that only note what they are told. */
function bench({ remembered }: { remembered?: readonly Lease[] } = {}) {
  const clock = manualClock();
  const log = recordingLog();
  const feed = updateFeed();
  const plans: Plan[] = [];
  const published: LeaseAttributes[] = [];
  let wakes = 0;
  const keeper = {
    lease: own as Lease,
    events: { acquired: 1, renewed: 0, lost: 0, conflict: 0, failed: 0 },
    confirmedAt: new Date(0),
    trouble: undefined as string | undefined,
    conflict: undefined as string | undefined,
    contested: false,
    wake: () => wakes++,
    publish: (attributes: LeaseAttributes) => void published.push(attributes),
    run: () => Promise.reject(new Error("not run here")),
  } satisfies Keeper;
  const reconciler = { want: (plan: Plan) => void plans.push(plan) } as unknown as Reconciler;
  const setup = setUpVxlan(
    { type: "vxlan", options: {} },
    {
      uplink: testUplink,
      overlay: [parsePrefix("10.5.0.0/16")],
      subnetLengths: { 4: 24 },
      strict: "overlay",
      allowSources: [],
      latency: "auto",
      nodeId: "machine",
    },
  );
  let lists = 0;
  const answer = { list: (): Promise<readonly Lease[]> => Promise.reject(new Error("not asked for")) };
  const ending = new AbortController();
  const reach = { current: noReach };
  const saved: string[] = [];
  const network = openNetwork({
    store: fakeStore({
      watch: feed.watch,
      list: () => {
        lists++;
        return answer.list();
      },
    }),
    keeper,
    backend: setup.open("userspace"),
    reach,
    reconciler,
    log,
    clock,
    ...(remembered && { remembered }),
    onFirstPlan: () => saved.push("first plan"),
    onLeases: (how) => saved.push(how),
  });
  return {
    clock,
    log,
    keeper,
    network,
    plans,
    published,
    saved,
    answer,
    wakes: () => wakes,
    lists: () => lists,
    async snapshot(leases: readonly Lease[], replaced = false) {
      feed.give({ kind: "snapshot", leases, ...(replaced && { replaced }) });
      await settle();
    },
    async changes(...changes: LeaseChange[]) {
      feed.give({ kind: "changes", changes });
      await settle();
    },
    routes: () => plans.at(-1)?.routes.map(({ to }) => `${to}`) ?? [],
    async running(body: () => Promise<void>) {
      const running = network.run(ending.signal);
      try {
        await settle();
        await body();
      } finally {
        ending.abort();
        await running;
      }
    },
  };
}

const peer = (number: number, ends = new Date("2026-01-01T01:00:00Z")): Lease => ({
  ...vxlanLease(`10.5.${number}.0/24`, `192.0.2.${number}`),
  expiresAt: ends,
});
const peers = (...numbers: number[]) => numbers.map((number) => peer(number));
const put = (lease: Lease): LeaseChange => ({ kind: "put", lease });
const gone = (lease: Lease): LeaseChange => ({ kind: "delete", subnets: lease.subnets });
const heldOf = ({ held }: Network) => held.map(({ lease }) => `${lease.subnets.ipv4}`);

describe("network", () => {
  test("our own lease, deleted or another's, wakes the keeper once for each change", async () => {
    const { snapshot, changes, wakes, running } = bench();
    await running(async () => {
      await snapshot([own, ...peers(2)]);
      await changes(put(peer(3)));
      await changes(put({ ...own, expiresAt: new Date("2031-01-01T00:00:00Z") }));
      expect(wakes()).toBe(0);
      await changes(gone(own));
      expect(wakes()).toBe(1);
      await changes(put({ ...own, attributes: stranger }));
      expect(wakes()).toBe(2);
      await changes(put(peer(4)));
      expect(wakes()).toBe(2);
      await changes(put(own));
      expect(wakes()).toBe(2);
      await changes(put({ ...own, expiresAt: undefined }));
      expect(wakes()).toBe(3);
    });
  });

  test("a snapshot after a gap wakes a keeper that is in trouble", async () => {
    const { snapshot, keeper, wakes, running } = bench();
    await running(async () => {
      keeper.trouble = "etcd does not answer";
      await snapshot([own]);
      expect(wakes()).toBe(1);
    });
  });

  test("in a conflict the plan keeps device and address and sends nothing, until it is over", async () => {
    const { snapshot, keeper, network, plans, routes, running } = bench();
    await running(async () => {
      await snapshot([own, ...peers(2, 3)]);
      expect(routes()).toEqual(["10.5.2.0/24", "10.5.3.0/24"]);
      keeper.conflict = "192.0.2.99";
      network.ownChanged();
      expect(plans.at(-1)).toMatchObject({ routes: [], forwards: [] });
      expect(plans.at(-1)?.links).toHaveLength(1);
      expect(plans.at(-1)?.addresses).toHaveLength(1);
      expect(network.peers).toEqual([]);
      await snapshot([own, ...peers(2, 3, 4)]);
      expect(routes()).toEqual([]);
      keeper.conflict = undefined;
      network.ownChanged();
      expect(routes()).toEqual(["10.5.2.0/24", "10.5.3.0/24", "10.5.4.0/24"]);
    });
  });

  test("with a new subnet of ours, who has the old one is a peer", async () => {
    const { snapshot, keeper, network, routes, running } = bench();
    await running(async () => {
      await snapshot([{ ...own, attributes: stranger }, ...peers(2)]);
      expect(routes()).toEqual(["10.5.2.0/24"]);
      keeper.lease = vxlanLease("10.5.7.0/24", "192.0.2.1");
      network.ownChanged();
      expect(routes()).toEqual(["10.5.1.0/24", "10.5.2.0/24"]);
    });
  });

  test("a mass removal is held and asked about; what the list has comes back, the rest goes at its end", async () => {
    const { snapshot, network, answer, lists, routes, running, clock, log, plans } = bench();
    await running(async () => {
      answer.list = () => Promise.resolve([own, ...peers(2, 7)]);
      await snapshot([own, ...peers(2, 3, 4, 5, 6, 7)]);
      const before = plans.length;
      await snapshot([own, ...peers(2)]);
      expect(lists()).toBe(1);
      expect(heldOf(network)).toEqual(["10.5.3.0/24", "10.5.4.0/24", "10.5.5.0/24", "10.5.6.0/24"]);
      expect(routes()).toHaveLength(6);
      expect(network.held.every(({ confirmed }) => confirmed)).toBe(true);
      await clock.advance(60 * minute - 1);
      expect(routes()).toHaveLength(6);
      await clock.advance(1);
      expect(routes()).toEqual(["10.5.2.0/24", "10.5.7.0/24"]);
      expect(network.held).toEqual([]);
      expect(lists()).toBe(1);
      expect(plans.slice(before).every(({ routes: all }) => all.length === 6 || all.length === 2)).toBe(true);
      const said = log.messages.filter((message) => message.includes("kept"));
      expect(said).toEqual([
        "peers that the store no longer shows are kept until their leases end",
        "every peer that was kept is back or has reached its end",
      ]);
    });
  });

  test("an empty store, deletions that leave nothing, or another store take no peer away", async () => {
    for (const how of ["snapshot", "changes", "replaced"]) {
      const { snapshot, changes, network, answer, routes, running } = bench();
      answer.list = () => Promise.resolve([]);
      await running(async () => {
        await snapshot([own, ...peers(2, 3)]);
        if (how === "snapshot") await snapshot([]);
        else if (how === "changes") await changes(gone(own), gone(peer(2)), gone(peer(3)));
        else await snapshot([own], true);
        expect(heldOf(network)).toEqual(["10.5.2.0/24", "10.5.3.0/24"]);
        expect(routes()).toEqual(["10.5.2.0/24", "10.5.3.0/24"]);
        await changes(put(peer(3)));
        expect(heldOf(network)).toEqual(["10.5.2.0/24"]);
      });
    }
  });

  test("what is held stays beyond its end while no list can be had", async () => {
    const { snapshot, network, answer, routes, running, clock, lists } = bench();
    answer.list = () => Promise.reject(new FlannelError("store/unreachable", "etcd does not answer"));
    await running(async () => {
      await snapshot([own, ...peers(2)]);
      await snapshot([]);
      await clock.advance(2 * 60 * minute);
      expect(routes()).toEqual(["10.5.2.0/24"]);
      expect(lists()).toBeGreaterThan(10);
      answer.list = () => Promise.resolve([]);
      await clock.advance(10_000);
      expect(network.held).toEqual([]);
      expect(routes()).toEqual([]);
    });
  });

  test("a list that the watch has overtaken confirms nothing and brings nothing back", async () => {
    const { snapshot, changes, network, answer, running, clock } = bench();
    const lists = [Promise.withResolvers<readonly Lease[]>(), Promise.withResolvers<readonly Lease[]>()];
    let asked = 0;
    answer.list = () => lists[asked++]?.promise ?? Promise.reject(new Error("asked too often"));
    await running(async () => {
      await snapshot([own, ...peers(2, 3)]);
      await snapshot([]);
      await changes(put(own));
      lists[0]?.resolve([own, ...peers(2, 3)]);
      await settle();
      expect(heldOf(network)).toEqual(["10.5.2.0/24", "10.5.3.0/24"]);
      expect(network.held.some(({ confirmed }) => confirmed)).toBe(false);
      await clock.advance(10_000);
      expect(asked).toBe(2);
      lists[1]?.resolve([own, ...peers(3)]);
      await settle();
      expect(heldOf(network)).toEqual(["10.5.2.0/24"]);
      expect(network.held.every(({ confirmed }) => confirmed)).toBe(true);
    });
  });

  test("remembered peers are planned before the store tells anything, then go by the guard's rule", async () => {
    const remembered = peers(2, 3, 4, 5, 6, 7);
    const { snapshot, network, answer, routes, running, saved } = bench({ remembered });
    answer.list = () => Promise.resolve([own]);
    await running(async () => {
      expect(saved).toEqual(["first plan"]);
      expect(routes()).toHaveLength(6);
      network.ownChanged();
      expect(routes()).toHaveLength(6);
      await snapshot([own, ...peers(2, 3, 4)]);
      expect(routes()).toHaveLength(3);
      await snapshot([own]);
      expect(routes()).toHaveLength(3);
      expect(network.held).toHaveLength(3);
    });
  });

  test("a shared MAC makes our lease publish another, a bounded number of times", async () => {
    const { snapshot, changes, keeper, network, published, running, log } = bench();
    await running(async () => {
      await snapshot([own]);
      for (let round = 0; round < 12; round++) {
        const { backendData } = keeper.lease.attributes;
        await changes(
          put({ ...peer(0), attributes: { ...peer(0).attributes, backendData: backendData ?? null } }),
        );
        const attributes = published.at(-1);
        if (attributes === undefined) throw new Error("nothing was published");
        keeper.lease = { ...keeper.lease, attributes };
        network.ownChanged();
      }
      expect(published).toHaveLength(8);
      expect(log.messages.filter((message) => message.includes("again and again"))).toHaveLength(1);
    });
  });

  test("what is worth saving is told: changes and mere renewals apart", async () => {
    const { snapshot, changes, saved, running } = bench();
    await running(async () => {
      await snapshot([own, ...peers(2)]);
      await changes(put(peer(2, new Date("2026-01-02T00:00:00Z"))));
      await changes(put(peer(3)));
      expect(saved).toEqual(["first plan", "changed", "renewed", "changed"]);
    });
  });
});
