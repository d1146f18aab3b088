import { expect, test } from "bun:test";
import type { Json, Lease, LeaseUpdate } from "../../../src/lease/lease.ts";
import { leaseKey } from "../../../src/lease/lease.ts";
import { createLeaseTable } from "../../../src/lease/table.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { seededRandom } from "../../support/random.ts";

function lease(subnet: number, publicIp: number, backendData?: Json, expiresAt = 1_000): Lease {
  return {
    subnets: { ipv4: parsePrefix(`10.3.${subnet}.0/24`) },
    attributes: {
      publicIp: parseIpAddress(`192.0.2.${publicIp}`),
      backendType: "vxlan",
      ...(backendData === undefined ? {} : { backendData }),
    },
    expiresAt: new Date(expiresAt),
  };
}

function snapshot(...leases: Lease[]): LeaseUpdate {
  return { kind: "snapshot", leases };
}

function put(...leases: Lease[]): LeaseUpdate {
  return { kind: "changes", changes: leases.map((one) => ({ kind: "put", lease: one })) };
}

function remove(...leases: Lease[]): LeaseUpdate {
  return { kind: "changes", changes: leases.map(({ subnets }) => ({ kind: "delete", subnets })) };
}

const keysOf = (leases: readonly Lease[]) => leases.map(({ subnets }) => leaseKey(subnets));

test("table: leases are ordered by subnet, whatever the order they came in", () => {
  const leases = [lease(10, 1), lease(9, 2), lease(200, 3)];
  for (const order of [leases, leases.toReversed()]) {
    const table = createLeaseTable();
    expect(table.apply(snapshot(...order))).toBe(true);
    expect(keysOf(table.leases)).toEqual(["10.3.9.0-24", "10.3.10.0-24", "10.3.200.0-24"]);
  }
});

test("table: the own lease is told by its subnets, not by its public IP", () => {
  const table = createLeaseTable();
  table.apply(snapshot(lease(1, 1), lease(2, 1)));
  expect(keysOf(table.peers(lease(1, 9).subnets))).toEqual(["10.3.2.0-24"]);
  expect(table.peers(undefined).length).toBe(2);
});

test("table: a renewal is kept but is no change; another address, MAC or type is one", () => {
  const mac = (text: string) => ({ VNI: 1, VtepMAC: text });
  const table = createLeaseTable();
  table.apply(snapshot(lease(1, 1, mac("02:00:00:00:00:01"))));
  const renewed = lease(1, 1, { VtepMAC: "02:00:00:00:00:01", VNI: 1 }, 2_000);
  expect(table.apply(put(renewed))).toBe(false);
  expect(table.apply(snapshot(renewed))).toBe(false);
  expect(table.leases[0]?.expiresAt?.getTime()).toBe(2_000);
  expect(table.apply(snapshot(lease(1, 1, mac("02:00:00:00:00:02"))))).toBe(true);
  expect(table.apply(put(lease(1, 2, mac("02:00:00:00:00:02"))))).toBe(true);
  expect(table.apply(put(lease(1, 2)))).toBe(true);
  const { attributes, ...rest } = lease(1, 2);
  expect(table.apply(put({ ...rest, attributes: { ...attributes, backendType: "host-gw" } }))).toBe(true);
  expect(table.apply(put({ ...rest, attributes: { ...attributes, backendData: null } }))).toBe(true);
});

test("table: deleting a lease is a change once; deleting an unknown one is none", () => {
  const table = createLeaseTable();
  table.apply(snapshot(lease(1, 1)));
  expect(table.apply(remove(lease(2, 2)))).toBe(false);
  expect(table.apply(remove(lease(1, 1)))).toBe(true);
  expect(table.apply(remove(lease(1, 1)))).toBe(false);
  expect(table.leases).toEqual([]);
});

test("table: a snapshot drops what it does not name", () => {
  const table = createLeaseTable();
  table.apply(snapshot(lease(1, 1), lease(2, 2)));
  expect(table.apply(snapshot(lease(2, 2)))).toBe(true);
  expect(keysOf(table.leases)).toEqual(["10.3.2.0-24"]);
  expect(table.apply(snapshot())).toBe(true);
  expect(table.apply(snapshot())).toBe(false);
});

test("table: one batch may put and delete the same lease; the last word counts", () => {
  const table = createLeaseTable();
  table.apply({
    kind: "changes",
    changes: [
      { kind: "put", lease: lease(1, 1) },
      { kind: "delete", subnets: lease(1, 1).subnets },
      { kind: "put", lease: lease(1, 2) },
    ],
  });
  expect(table.leases.map(({ attributes }) => `${attributes.publicIp}`)).toEqual(["192.0.2.2"]);
});

test("table: random updates leave what a plain map would hold, and changed tells when it differs", () => {
  const { below } = seededRandom(1);
  const table = createLeaseTable();
  let model = new Map<string, Lease>();
  const text = () =>
    [...model.values()].map((one) => `${one.subnets.ipv4} ${one.attributes.publicIp}`).sort();
  for (let round = 0; round < 2_000; round++) {
    const before = text();
    const leases = Array.from({ length: below(6) }, () => lease(below(6), below(3)));
    const update = [snapshot, put, remove][below(3)]?.(...leases) ?? snapshot();
    if (update.kind === "snapshot") model = new Map();
    for (const one of leases) {
      const key = leaseKey(one.subnets);
      if (update.kind === "changes" && update.changes[0]?.kind === "delete") model.delete(key);
      else model.set(key, one);
    }
    const changed = table.apply(update);
    const after = table.leases.map((one) => `${one.subnets.ipv4} ${one.attributes.publicIp}`).sort();
    expect(after).toEqual(text());
    if (!changed) expect(after).toEqual(before);
  }
});
