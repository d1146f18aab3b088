import { expect, test } from "bun:test";
import { type NetworkConfig, parseNetworkConfig } from "../../src/config/network.ts";
import type { Lease, LeaseAttributes, LeaseUpdate, NodeIdentity } from "../../src/lease/lease.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { parseIpAddress } from "../../src/net/address.ts";
import { parsePrefix } from "../../src/net/prefix.ts";
import type { AcquireRequest, AcquireResult, RenewRequest, Store } from "../../src/store/store.ts";

/** A network in the store under test that nothing else uses, and a hand beside the store to reach into it. */
export interface StoreWorld extends AsyncDisposable {
  /** Another store on the same network, closed with the world. */
  open(options?: { ttlSeconds?: number }): Store;
  putConfig(document: string): Promise<void>;
  /** A lease as a stock node or an operator writes it; without a term it is a reservation. */
  put(subnet: string, value: string, ttlSeconds?: number): Promise<void>;
  delete(subnet: string): Promise<void>;
  /** What stands there for a subnet: the raw value, and whether it lapses. */
  get(subnet: string): Promise<{ value: string; lapses: boolean } | undefined>;
  /** What stands there beside a lease: who has this public IP. */
  getNode(publicIp: string): Promise<{ value: string; lapses: boolean } | undefined>;
  /** Says that another node has this public IP, or what nobody can read. */
  putNode(publicIp: string, value: string, ttlSeconds?: number): Promise<void>;
  deleteNode(publicIp: string): Promise<void>;
  /** Where leases are kept, something that is none. */
  putGarbage(): Promise<void>;
}

export const network: NetworkConfig = parseNetworkConfig('{"Network":"10.3.0.0/16"}');
export const never = new AbortController().signal;

/** What a vxlan node publishes, and how it is written, by those who keep leases in one kind of store. */
export interface LeaseForm {
  attributesOf(publicIp: string, mac?: string): LeaseAttributes;
  valueOf(publicIp: string, mac?: string): string;
  /** The value of a lease of a backend that publishes nothing. */
  bareValueOf(publicIp: string): string;
  requestFor(publicIp: string, more?: Partial<AcquireRequest>): AcquireRequest;
}

const macOfAll = "c6:d2:32:6f:8f:44";

/** flannel's form of today; `v2` that of flannel 0.11, which knows neither IPv6 nor a VNI in leases. */
export function leaseForm(version: "v3" | "v2"): LeaseForm {
  const [ipv6, vni] = version === "v3" ? [',"PublicIPv6":null', '"VNI":1,'] : ["", ""];
  const attributesOf = (publicIp: string, mac = macOfAll): LeaseAttributes => ({
    publicIp: parseIpAddress(publicIp),
    backendType: "vxlan",
    backendData: { ...(version === "v3" ? { VNI: 1 } : {}), VtepMAC: mac },
  });
  return {
    attributesOf,
    valueOf: (publicIp, mac = macOfAll) =>
      `{"PublicIP":"${publicIp}"${ipv6},"BackendType":"vxlan","BackendData":{${vni}"VtepMAC":"${mac}"}}`,
    bareValueOf: (publicIp) => `{"PublicIP":"${publicIp}"${ipv6}}`,
    requestFor(publicIp, more = {}) {
      const attributes = attributesOf(publicIp);
      return {
        network,
        attributes: () => attributes,
        publicIp: attributes.publicIp,
        node: nodeOf(publicIp),
        previous: undefined,
        ...more,
      };
    },
  };
}

export const { attributesOf, valueOf, requestFor } = leaseForm("v3");

/** The node that has this public IP in these tests. */
export function nodeOf(publicIp: string): NodeIdentity {
  return { id: `id-of-${publicIp}`, name: `name-of-${publicIp}` };
}

/** What the lease's own node asks when it renews. */
export function renewal(lease: Lease): RenewRequest {
  return { lease, node: nodeOf(`${lease.attributes.publicIp}`) };
}

export function acquired(result: AcquireResult): Lease {
  if (result.kind !== "acquired") throw new Error(`not acquired: ${result.kind}`);
  return result.lease;
}

/** The updates of a watch, one by one; stops the watch when the test ends. */
export function follow(store: Store) {
  const abort = new AbortController();
  const updates = store.watch(abort.signal)[Symbol.asyncIterator]();
  return {
    async next(): Promise<LeaseUpdate> {
      const { value, done } = await updates.next();
      if (done === true) throw new Error("the watch ended");
      return value as LeaseUpdate;
    },
    /** Updates until `wanted` is true of one, as text. */
    async until(wanted: (text: string) => boolean): Promise<string[]> {
      const seen: string[] = [];
      for (;;) {
        const text = updateText(await this.next());
        seen.push(text);
        if (wanted(text)) return seen;
      }
    },
    updates,
    stop: () => abort.abort(),
    [Symbol.asyncDispose]: async () => {
      abort.abort();
      await updates.return?.(undefined);
    },
  };
}

/** `snapshot a b` or `+a -b`, a lease being its key. */
export function updateText(update: LeaseUpdate): string {
  if (update.kind === "snapshot") {
    return ["snapshot", ...update.leases.map((lease) => leaseKey(lease.subnets)).sort()].join(" ");
  }
  return update.changes
    .map((change) =>
      change.kind === "put" ? `+${leaseKey(change.lease.subnets)}` : `-${leaseKey(change.subnets)}`,
    )
    .join(" ");
}

/**
 * What every Store promises. `world` makes a fresh network, whose leases are written in the form given. Cases that
 * cannot hold for a store are named in `differs`, with the reason.
 */
export function storeContract(
  name: string,
  world: () => Promise<StoreWorld>,
  { attributesOf, valueOf, bareValueOf, requestFor }: LeaseForm = leaseForm("v3"),
  differs: Readonly<Record<string, string>> = {},
): void {
  const cases: string[] = [];
  const property = (text: string, body: (world: StoreWorld) => Promise<void>, msMax = 20_000) => {
    cases.push(text);
    if (differs[text] !== undefined) return;
    test(
      `${name}: ${text}`,
      async () => {
        await using fresh = await world();
        await body(fresh);
      },
      msMax,
    );
  };

  property("our own lease is found once it is there, beside others", async (world) => {
    const store = world.open();
    const publicIp = parseIpAddress("1.2.3.4");
    expect(await store.findOwn(publicIp, never)).toBeUndefined();
    acquired(await store.acquire(requestFor("1.2.3.5"), never));
    const lease = acquired(await store.acquire(requestFor("1.2.3.4"), never));
    const found = await store.findOwn(publicIp, never);
    expect([found?.subnets, found?.attributes]).toEqual([lease.subnets, lease.attributes]);
  });

  property("the network configuration is absent, then given verbatim", async (world) => {
    const store = world.open();
    expect(await store.readNetworkConfig(never)).toBeUndefined();
    const document = '{ "Network": "10.3.0.0/16",\n  "Backend": {"Type": "vxlan"} }\n';
    await world.putConfig(document);
    expect(await store.readNetworkConfig(never)).toBe(document);
  });

  property("a network configuration is published only where there is none", async (world) => {
    const store = world.open();
    expect(await store.createNetworkConfig('{"Network":"10.3.0.0/16"}', never)).toBe(true);
    expect(await store.createNetworkConfig('{"Network":"10.9.0.0/16"}', never)).toBe(false);
    expect(await store.readNetworkConfig(never)).toBe('{"Network":"10.3.0.0/16"}');
  });

  property("a lease is one key with flannel's exact value, a term, and gone after release", async (world) => {
    const store = world.open();
    const publicIp = parseIpAddress("1.2.3.4");
    const request = requestFor("1.2.3.4", {
      attributes: () => ({ publicIp, backendType: "" }),
      network: parseNetworkConfig('{"Network":"10.1.0.0/16","SubnetMin":"10.1.5.0","SubnetMax":"10.1.5.0"}'),
    });
    const lease = acquired(await store.acquire(request, never));
    expect(leaseKey(lease.subnets)).toBe("10.1.5.0-24");
    expect(await world.get("10.1.5.0-24")).toEqual({
      value: bareValueOf("1.2.3.4"),
      lapses: true,
    });
    expect(lease.expiresAt?.getTime()).toBeGreaterThan(Date.now());
    const listed = await store.list(never);
    expect(listed.map(({ subnets, attributes }) => ({ subnets, attributes }))).toEqual([
      { subnets: lease.subnets, attributes: lease.attributes },
    ]);
    await store.release(lease, never);
    expect(await world.get("10.1.5.0-24")).toBeUndefined();
    await store.release(lease, never);
  });

  property(
    "acquiring twice gives the same subnet, and the lease that stands there is shown",
    async (world) => {
      const first = acquired(await world.open().acquire(requestFor("192.0.2.1"), never));
      let existing: Lease | undefined;
      const attributes = (found: Lease | undefined) => {
        existing = found;
        return attributesOf("192.0.2.1", "02:00:00:00:00:09");
      };
      const again = await world.open().acquire(requestFor("192.0.2.1", { attributes }), never);
      expect(again).toMatchObject({ kind: "acquired", how: "own", lease: { subnets: first.subnets } });
      expect(existing).toMatchObject({ subnets: first.subnets, attributes: first.attributes });
      expect((await world.get(leaseKey(first.subnets)))?.value).toBe(
        valueOf("192.0.2.1", "02:00:00:00:00:09"),
      );
    },
  );

  property(
    "the previous subnet is taken again while it is free, in range and of the right length",
    async (world) => {
      const store = world.open();
      const ask = async (publicIp: string, previous: string) =>
        await store.acquire(requestFor(publicIp, { previous: { ipv4: parsePrefix(previous) } }), never);
      const free = await ask("192.0.2.1", "10.3.6.0/24");
      expect(free).toMatchObject({
        how: "previous",
        lease: { subnets: { ipv4: parsePrefix("10.3.6.0/24") } },
      });
      for (const [at, unusable] of ["10.4.1.0/24", "10.3.6.0/24", "10.3.7.0/25", "10.3.0.0/24"].entries()) {
        const result = await ask(`192.0.2.${at + 10}`, unusable);
        expect(result).toMatchObject({ kind: "acquired", how: "allocated" });
        expect(`${acquired(result).subnets.ipv4}`).not.toBe(unusable);
      }
    },
  );

  property("a changed network gives a subnet of the new range and the old lease back", async (world) => {
    const store = world.open();
    const old = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const moved = parseNetworkConfig('{"Network":"10.77.0.0/16"}');
    const lease = acquired(await store.acquire(requestFor("192.0.2.1", { network: moved }), never));
    expect(moved.ipv4?.network.contains(lease.subnets.ipv4 ?? parsePrefix("0.0.0.0/0"))).toBe(true);
    expect(await world.get(leaseKey(old.subnets))).toBeUndefined();
  });

  property("a dual-stack network leases one subnet of each family under one key", async (world) => {
    const dual = parseNetworkConfig(
      '{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10::/56"}',
    );
    const lease = acquired(await world.open().acquire(requestFor("192.0.2.1", { network: dual }), never));
    expect(lease.subnets.ipv6?.length).toBe(64);
    expect(await world.get(leaseKey(lease.subnets))).toBeDefined();
    const again = acquired(await world.open().acquire(requestFor("192.0.2.1", { network: dual }), never));
    expect(leaseKey(again.subnets)).toBe(leaseKey(lease.subnets));
  });

  property("a network without IPv4 is refused by name", async (world) => {
    const only = parseNetworkConfig('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}');
    const refused = world.open().acquire(requestFor("192.0.2.1", { network: only }), never);
    await expect(refused).rejects.toMatchObject({ code: "network/ipv6-only", exitCode: 2 });
  });

  property("twenty nodes at once get twenty subnets, nearly all there are", async (world) => {
    const tight = parseNetworkConfig(
      '{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.0","SubnetMax":"10.3.21.0"}',
    );
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, at) =>
        world.open().acquire(requestFor(`192.0.2.${at + 1}`, { network: tight }), never),
      ),
    );
    const keys = results.map((result) => leaseKey(acquired(result).subnets));
    expect(new Set(keys).size).toBe(20);
    for (const [at, key] of keys.entries()) {
      expect((await world.get(key))?.value).toBe(valueOf(`192.0.2.${at + 1}`));
    }
  });

  property(
    "a range without a free subnet is an answer, and a reservation counts as leased",
    async (world) => {
      const two = parseNetworkConfig(
        '{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.0","SubnetMax":"10.3.2.0"}',
      );
      await world.put("10.3.1.0-25", valueOf("192.0.2.200"));
      const store = world.open();
      const lease = acquired(await store.acquire(requestFor("192.0.2.1", { network: two }), never));
      expect(leaseKey(lease.subnets)).toBe("10.3.2.0-24");
      const result = await store.acquire(requestFor("192.0.2.2", { network: two }), never);
      expect(result).toEqual({ kind: "exhausted", leased: 2 });
    },
  );

  property("a reservation for this node is used and stays a reservation", async (world) => {
    await world.put("10.3.9.0-24", valueOf("192.0.2.1", "02:00:00:00:00:01"));
    const store = world.open();
    const result = await store.acquire(requestFor("192.0.2.1"), never);
    expect(result).toMatchObject({ how: "own", lease: { expiresAt: undefined } });
    const kept = { value: valueOf("192.0.2.1"), lapses: false };
    expect(await world.get("10.3.9.0-24")).toEqual(kept);
    expect(await store.renew(renewal(acquired(result)), never)).toMatchObject({
      kind: "renewed",
      lease: { expiresAt: undefined },
    });
    await store.release(acquired(result), never);
    expect(await world.get("10.3.9.0-24")).toEqual(kept);
    expect(await store.list(never)).toMatchObject([{ expiresAt: undefined }]);
  });

  property("a reservation for this node that does not fit the network is left alone", async (world) => {
    await world.put("10.99.1.0-24", valueOf("192.0.2.1"));
    const lease = acquired(await world.open().acquire(requestFor("192.0.2.1"), never));
    expect(network.ipv4?.network.contains(lease.subnets.ipv4 ?? parsePrefix("0.0.0.0/0"))).toBe(true);
    expect(await world.get("10.99.1.0-24")).toEqual({ value: valueOf("192.0.2.1"), lapses: false });
  });

  property("renewing extends the term and keeps the value", async (world) => {
    const store = world.open({ ttlSeconds: 5 });
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const longer = world.open({ ttlSeconds: 500 });
    const renewed = await longer.renew(renewal(lease), never);
    expect(renewed).toMatchObject({ kind: "renewed", lease: { subnets: lease.subnets } });
    const [listed] = await store.list(never);
    expect(listed?.expiresAt?.getTime()).toBeGreaterThan(Date.now() + 400_000);
    expect((await world.get(leaseKey(lease.subnets)))?.value).toBe(valueOf("192.0.2.1"));
  });

  property(
    "renewing a lease that is gone, or another's, says that it is lost and changes nothing",
    async (world) => {
      const store = world.open();
      const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
      const key = leaseKey(lease.subnets);
      await world.delete(key);
      expect(await store.renew(renewal(lease), never)).toEqual({ kind: "lost", reason: "the key is gone" });
      expect(await world.get(key)).toBeUndefined();
      for (const other of [valueOf("192.0.2.7"), valueOf("192.0.2.1", "02:00:00:00:00:07")]) {
        await world.put(key, other, 100);
        expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "conflict" });
        await store.release(lease, never);
        expect(await world.get(key)).toEqual({ value: other, lapses: true });
      }
    },
  );

  const strangerValue = '{"id":"stranger","name":"web-9","subnet":"10.3.77.0-24"}';

  property("beside a lease stands who holds it, with the same term, renewed with it", async (world) => {
    const store = world.open();
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const value = `{"id":"id-of-192.0.2.1","name":"name-of-192.0.2.1","subnet":"${leaseKey(lease.subnets)}"}`;
    expect(await world.getNode("192.0.2.1")).toEqual({ value, lapses: true });
    await world.deleteNode("192.0.2.1");
    const renewed = await store.renew(renewal(lease), never);
    expect(renewed).toMatchObject({
      kind: "renewed",
      heldUntil: renewed.kind === "renewed" && renewed.lease.expiresAt,
    });
    expect(await world.getNode("192.0.2.1")).toEqual({ value, lapses: true });
    await store.release(lease, never);
    expect(await world.getNode("192.0.2.1")).toBeUndefined();
  });

  property("a lease of our public IP that nobody says is his is taken over", async (world) => {
    await world.put("10.3.5.0-24", valueOf("192.0.2.1"), 100);
    const result = await world.open().acquire(requestFor("192.0.2.1"), never);
    expect(result).toMatchObject({ how: "own", lease: { subnets: { ipv4: parsePrefix("10.3.5.0/24") } } });
    expect((await world.getNode("192.0.2.1"))?.value).toContain("id-of-192.0.2.1");
  });

  property("what cannot be read beside a lease is nobody's and is written anew", async (world) => {
    const store = world.open();
    for (const garbage of ["", "{", "[]", '{"name":"x"}', '{"id":7}', `{"id":"${"x".repeat(5_000)}"}`]) {
      await world.putNode("192.0.2.1", garbage, 100);
      acquired(await store.acquire(requestFor("192.0.2.1"), never));
      expect((await world.getNode("192.0.2.1"))?.value).toContain('"id-of-192.0.2.1"');
    }
  });

  property(
    "another node that is alive with our public IP is not robbed, and both are named",
    async (world) => {
      const store = world.open();
      for (const subnet of [undefined, "10.3.77.0-24"]) {
        if (subnet !== undefined) await world.put(subnet, valueOf("192.0.2.1"), 100);
        await world.putNode("192.0.2.1", strangerValue, 100);
        const previous = { ipv4: parsePrefix("10.3.8.0/24") };
        const refused = await store
          .acquire(requestFor("192.0.2.1", { previous }), never)
          .catch((error) => error);
        expect(refused).toMatchObject({ code: "lease/owned", retryable: false, exitCode: 1 });
        for (const named of [
          "stranger",
          "web-9",
          "10.3.77.0-24",
          "id-of-192.0.2.1",
          "name-of-192.0.2.1",
          "10.3.8.0-24",
        ])
          expect(refused.message).toContain(named);
        expect(refused.remedy).toContain("host.node_id");
        expect(await world.getNode("192.0.2.1")).toEqual({ value: strangerValue, lapses: true });
      }
      await world.deleteNode("192.0.2.1");
      acquired(await store.acquire(requestFor("192.0.2.1"), never));
    },
  );

  property(
    "renewing after another node took our public IP over is a conflict that names it",
    async (world) => {
      const store = world.open();
      const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
      await world.putNode("192.0.2.1", strangerValue, 100);
      const held = await world.get(leaseKey(lease.subnets));
      const result = await store.renew(renewal(lease), never);
      expect(result).toEqual({
        kind: "conflict",
        owner: '192.0.2.1, node "web-9" (id "stranger", subnet "10.3.77.0-24")',
      });
      expect(await world.get(leaseKey(lease.subnets))).toEqual(held as { value: string; lapses: boolean });
      await world.deleteNode("192.0.2.1");
      expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "renewed" });
    },
  );

  property("a conflict over the subnet names the other node where it says who it is", async (world) => {
    const store = world.open();
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const other = acquired(await store.acquire(requestFor("192.0.2.7"), never));
    await world.put(leaseKey(lease.subnets), valueOf("192.0.2.7"), 100);
    expect(await store.renew(renewal(lease), never)).toEqual({
      kind: "conflict",
      owner: `192.0.2.7 with VTEP MAC c6:d2:32:6f:8f:44, node "name-of-192.0.2.7" (id "id-of-192.0.2.7", subnet "${leaseKey(other.subnets)}")`,
    });
  });

  property(
    "a node that signs off leaves its lease and lets another take over; another's word stays",
    async (world) => {
      const store = world.open();
      const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
      const { publicIp } = lease.attributes;
      if (publicIp === undefined) throw new Error("no public IP");
      const held = await world.get(leaseKey(lease.subnets));
      await store.signOff(publicIp, { id: "stranger", name: "" }, never);
      expect(await world.getNode("192.0.2.1")).toBeDefined();
      await store.signOff(publicIp, nodeOf("192.0.2.1"), never);
      await store.signOff(publicIp, nodeOf("192.0.2.1"), never);
      expect(await world.getNode("192.0.2.1")).toBeUndefined();
      expect(await world.get(leaseKey(lease.subnets))).toEqual(held as { value: string; lapses: boolean });
      const successor = { id: "reinstalled", name: "web-1" };
      const result = await store.acquire(requestFor("192.0.2.1", { node: successor }), never);
      expect(result).toMatchObject({ how: "own", lease: { subnets: lease.subnets } });
    },
  );

  const movedTo = (publicIp: string, remembered: Lease, more: Partial<AcquireRequest> = {}) =>
    requestFor(publicIp, { node: nodeOf("192.0.2.1"), remembered, ...more });
  const endings = ["killed", "stopped"] as const;
  const end = async (store: Store, how: (typeof endings)[number]) => {
    if (how === "stopped") await store.signOff(parseIpAddress("192.0.2.1"), nodeOf("192.0.2.1"), never);
  };

  property("a node that comes back under another address keeps its subnet and its VTEP", async (world) => {
    const store = world.open();
    for (const how of endings) {
      const remembered = acquired(await store.acquire(requestFor("192.0.2.1"), never));
      await end(store, how);
      let existing: Lease | undefined;
      const attributes = (found: Lease | undefined) => {
        existing = found;
        return attributesOf("192.0.2.2");
      };
      const result = await store.acquire(movedTo("192.0.2.2", remembered, { attributes }), never);
      expect(result).toMatchObject({ how: "moved", lease: { subnets: remembered.subnets } });
      expect(existing?.attributes).toEqual(remembered.attributes);
      const key = leaseKey(remembered.subnets);
      expect(await world.get(key)).toEqual({ value: valueOf("192.0.2.2"), lapses: true });
      expect(await world.getNode("192.0.2.1")).toBeUndefined();
      expect((await world.getNode("192.0.2.2"))?.value).toContain(`"id-of-192.0.2.1","name":`);
      expect(await store.list(never)).toHaveLength(1);
      await store.release(acquired(result), never);
    }
  });

  property("a node that has a lease of its new address gives the old one back", async (world) => {
    const store = world.open();
    for (const how of endings) {
      const remembered = acquired(await store.acquire(requestFor("192.0.2.1"), never));
      await end(store, how);
      await world.put("10.3.5.0-24", valueOf("192.0.2.2"), 100);
      const result = await store.acquire(movedTo("192.0.2.2", remembered), never);
      expect(result).toMatchObject({ how: "own", lease: { subnets: { ipv4: parsePrefix("10.3.5.0/24") } } });
      expect(await world.get(leaseKey(remembered.subnets))).toBeUndefined();
      expect(await world.getNode("192.0.2.1")).toBeUndefined();
      await store.release(acquired(result), never);
    }
  });

  property(
    "a moved node whose subnet does not fit the network gives it back and draws another",
    async (world) => {
      const store = world.open();
      const remembered = acquired(await store.acquire(requestFor("192.0.2.1"), never));
      const other = parseNetworkConfig('{"Network":"10.77.0.0/16"}');
      const result = await store.acquire(movedTo("192.0.2.2", remembered, { network: other }), never);
      expect(result).toMatchObject({ how: "allocated" });
      expect(await store.list(never)).toHaveLength(1);
      expect(await world.getNode("192.0.2.1")).toBeUndefined();
    },
  );

  property("a moved node takes no lease that may be somebody else's by now", async (world) => {
    const store = world.open();
    const own = valueOf("192.0.2.1");
    const cases: Record<string, (key: string) => Promise<void>> = {
      "written by a stock node with the same value": async (key) => await world.put(key, own, 100),
      "with another VTEP": async (key) =>
        await world.put(key, valueOf("192.0.2.1", "02:00:00:00:00:42"), 100),
      "of another address": async (key) => await world.put(key, valueOf("192.0.2.9"), 100),
      "a reservation": async (key) => await world.put(key, own),
      "of another node at the old address": async () => await world.putNode("192.0.2.1", strangerValue, 100),
      "beside which nobody can read what stands": async () => await world.putNode("192.0.2.1", "{", 100),
    };
    for (const [which, change] of Object.entries(cases)) {
      for (const how of endings) {
        const remembered = acquired(await store.acquire(requestFor("192.0.2.1"), never));
        const key = leaseKey(remembered.subnets);
        await end(store, how);
        await change(key);
        const [before, holder] = [await world.get(key), await world.getNode("192.0.2.1")];
        const result = await store.acquire(movedTo("192.0.2.2", remembered), never);
        expect([which, result]).toMatchObject([which, { how: "allocated" }]);
        expect([which, await world.get(key), await world.getNode("192.0.2.1")]).toEqual([
          which,
          before,
          holder,
        ]);
        await store.release(acquired(result), never);
        await world.delete(key);
        await world.deleteNode("192.0.2.1");
      }
    }
  });

  property("the same node id alone moves no lease: a clone's may be alive", async (world) => {
    const store = world.open();
    const first = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const clone = requestFor("192.0.2.2", { node: nodeOf("192.0.2.1"), previous: first.subnets });
    expect(await store.acquire(clone, never)).toMatchObject({ how: "allocated" });
    expect(await store.list(never)).toHaveLength(2);
  });

  property(
    "who has a public IP is attested until the key is gone or another's; renewing says it again",
    async (world) => {
      const store = world.open();
      const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
      const { publicIp } = lease.attributes;
      if (publicIp === undefined) throw new Error("no public IP");
      const node = nodeOf("192.0.2.1");
      expect(await store.attests(publicIp, node, never)).toBe(true);
      expect(await store.attests(publicIp, { id: "stranger", name: "" }, never)).toBe(false);
      await world.deleteNode("192.0.2.1");
      expect(await store.attests(publicIp, node, never)).toBe(false);
      expect(await store.renew({ lease, node }, never)).toMatchObject({ kind: "renewed" });
      expect(await store.attests(publicIp, node, never)).toBe(true);
    },
  );

  property(
    "who holds a reservation is said with a term, and renewed; the reservation has none",
    async (world) => {
      await world.put("10.3.9.0-24", valueOf("192.0.2.1"));
      const store = world.open({ ttlSeconds: 100 });
      const result = await store.acquire(requestFor("192.0.2.1"), never);
      expect(result).toMatchObject({
        how: "own",
        lease: { expiresAt: undefined },
        heldUntil: expect.any(Date),
      });
      expect(await world.getNode("192.0.2.1")).toMatchObject({ lapses: true });
      await world.deleteNode("192.0.2.1");
      expect(await store.renew(renewal(acquired(result)), never)).toMatchObject({
        kind: "renewed",
        lease: { expiresAt: undefined },
        heldUntil: expect.any(Date),
      });
      expect(await world.getNode("192.0.2.1")).toMatchObject({ lapses: true });
      expect(await world.get("10.3.9.0-24")).toMatchObject({ lapses: false });
    },
  );

  property("a renewal may publish something else; from then on that is what is ours", async (world) => {
    const store = world.open();
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const attributes = attributesOf("192.0.2.1", "02:00:00:00:00:42");
    const result = await store.renew({ ...renewal(lease), attributes }, never);
    if (result.kind !== "renewed") throw new Error(result.kind);
    expect(result.lease.attributes).toEqual(attributes);
    expect((await world.get(leaseKey(lease.subnets)))?.value).toBe(valueOf("192.0.2.1", "02:00:00:00:00:42"));
    expect(await store.renew(renewal(result.lease), never)).toMatchObject({ kind: "renewed" });
    expect(await store.renew(renewal(lease), never)).toMatchObject({ kind: "conflict" });
  });

  property("asked for exactly one subnet, a store gives that one or says whose it is", async (world) => {
    const store = world.open();
    const exactly = { ipv4: parsePrefix("10.3.40.0/24") };
    const first = acquired(await store.acquire(requestFor("192.0.2.1", { exactly }), never));
    expect(leaseKey(first.subnets)).toBe("10.3.40.0-24");
    expect(acquired(await store.acquire(requestFor("192.0.2.1", { exactly }), never)).subnets).toEqual(
      exactly,
    );
    const second = await store.acquire(requestFor("192.0.2.2", { exactly }), never);
    expect(second).toMatchObject({ kind: "taken", owner: expect.stringContaining("name-of-192.0.2.1") });
    await world.put("10.3.50.0-25", "{unreadable");
    const overlapping = { ipv4: parsePrefix("10.3.50.0/24") };
    expect(await store.acquire(requestFor("192.0.2.2", { exactly: overlapping }), never)).toMatchObject({
      kind: "taken",
    });
    expect(await world.getNode("192.0.2.2")).toBeUndefined();
  });

  property("garbage among the leases harms nothing", async (world) => {
    await world.putGarbage();
    const store = world.open();
    await using watch = follow(store);
    expect(updateText(await watch.next())).toBe("snapshot");
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    const key = leaseKey(lease.subnets);
    expect(updateText(await watch.next())).toBe(`+${key}`);
    await world.putGarbage();
    await world.put("10.3.250.0-24", valueOf("192.0.2.250"));
    expect(updateText(await watch.next())).toBe("+10.3.250.0-24");
    expect((await store.list(never)).map(({ subnets }) => leaseKey(subnets)).sort()).toEqual(
      [key, "10.3.250.0-24"].sort(),
    );
  });

  property("a watch begins with a snapshot, then tells puts and deletes in order", async (world) => {
    await world.put("10.3.5.0-24", valueOf("192.0.2.5"), 100);
    await using watch = follow(world.open());
    const first = await watch.next();
    expect(first).toMatchObject({ kind: "snapshot", leases: [{ attributes: attributesOf("192.0.2.5") }] });
    if (first.kind === "snapshot") expect(first.leases[0]?.expiresAt?.getTime()).toBeGreaterThan(Date.now());
    await world.put("10.3.6.0-24", valueOf("192.0.2.6"));
    expect(await watch.next()).toEqual({
      kind: "changes",
      changes: [
        {
          kind: "put",
          lease: {
            subnets: { ipv4: parsePrefix("10.3.6.0/24") },
            attributes: attributesOf("192.0.2.6"),
            expiresAt: undefined,
          },
        },
      ],
    });
    await world.put("10.3.6.0-24", valueOf("192.0.2.66"), 100);
    expect(await watch.next()).toMatchObject({
      changes: [{ kind: "put", lease: { attributes: attributesOf("192.0.2.66") } }],
    });
    await world.delete("10.3.5.0-24");
    expect(await watch.next()).toEqual({
      kind: "changes",
      changes: [{ kind: "delete", subnets: { ipv4: parsePrefix("10.3.5.0/24") } }],
    });
  });

  property("a lease that lapses is seen to go", async (world) => {
    await using watch = follow(world.open());
    await watch.next();
    await world.put("10.3.5.0-24", valueOf("192.0.2.5"), 3);
    expect(updateText(await watch.next())).toBe("+10.3.5.0-24");
    expect(updateText(await watch.next())).toBe("-10.3.5.0-24");
  });

  property("an unreadable value keeps the peer's last good lease until its key goes", async (world) => {
    await world.put("10.3.5.0-24", valueOf("192.0.2.5"));
    await using watch = follow(world.open());
    await watch.next();
    await world.put("10.3.5.0-24", "{not json");
    await world.put("10.3.6.0-24", valueOf("192.0.2.6"));
    expect(updateText(await watch.next())).toBe("+10.3.6.0-24");
    await world.delete("10.3.5.0-24");
    expect(updateText(await watch.next())).toBe("-10.3.5.0-24");
  });

  property("a subnet whose value cannot be read is not given to anybody else", async (world) => {
    const one = parseNetworkConfig('{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.0","SubnetMax":"10.3.1.0"}');
    await world.put("10.3.1.0-24", "{not json");
    const result = await world.open().acquire(requestFor("192.0.2.1", { network: one }), never);
    expect(result).toEqual({ kind: "exhausted", leased: 1 });
  });

  property("an aborted watch ends quietly, whether it waits or has not begun", async (world) => {
    const watch = follow(world.open());
    await watch.next();
    const waiting = watch.updates.next();
    watch.stop();
    expect(await waiting).toEqual({ done: true, value: undefined });
    const stopped = AbortSignal.abort();
    for await (const update of world.open().watch(stopped)) throw new Error(updateText(update));
  });

  property("an aborted call rejects with the reason given", async (world) => {
    const reason = new Error("stopped by the test");
    await expect(world.open().list(AbortSignal.abort(reason))).rejects.toBe(reason);
  });

  test(`${name}: what differs is named as it is here`, () => {
    expect(Object.keys(differs).filter((text) => !cases.includes(text))).toEqual([]);
    expect(cases.length).toBeGreaterThan(Object.keys(differs).length);
  });
}
