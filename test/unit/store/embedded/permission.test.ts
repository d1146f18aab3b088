import { expect, test } from "bun:test";
import { openPermission } from "../../../../src/store/embedded/permission.ts";

const latin1 = (text: string) => Buffer.from(text, "utf8").toString("latin1");
const put = (key: string) => ({ key: latin1(key), value: new Uint8Array(), lease: 0n });
const del = (key: string, end = "") => ({ key: latin1(key), range_end: latin1(end) });
const op = (one: object) => ({
  request_range: undefined,
  request_put: undefined,
  request_delete_range: undefined,
  request_txn: undefined,
  ...one,
});
const txn = (success: object[], failure: object[] = []) => ({ compare: [], success, failure });

/** What a member asks for, and whether he may. */
const members: readonly (readonly [string, object, boolean])[] = [
  ["KV/Range", { key: "\0", range_end: "\0" }, true],
  ["Watch/Watch", {}, true],
  ["Lease/LeaseGrant", {}, true],
  ["Lease/LeaseKeepAlive", {}, true],
  ["Maintenance/Status", {}, true],
  ["KV/Put", put("/net/subnets/10.3.0.0-24"), true],
  ["KV/Put", put("/net/nodes/192.0.2.1"), true],
  ["KV/Put", put("/net/config"), false],
  ["KV/Put", put("/net/subnets"), false],
  ["KV/Put", put("/net/subnets/"), true],
  ["KV/Put", put("/net/subnets0"), false],
  ["KV/Put", put("/net/subnets-of-others/x"), false],
  ["KV/Put", put("/other/subnets/10.3.0.0-24"), false],
  ["KV/Put", put("net/subnets/10.3.0.0-24"), false],
  ["KV/Put", put(""), false],
  ["KV/DeleteRange", del("/net/subnets/x"), true],
  ["KV/DeleteRange", del("/net/config"), false],
  ["KV/DeleteRange", del("/net/subnets/", "/net/subnets0"), true],
  ["KV/DeleteRange", del("/net/subnets/a", "/net/subnets/b"), true],
  ["KV/DeleteRange", del("/net/subnets/", "/net/subnets1"), false],
  ["KV/DeleteRange", del("/net/subnets/", "\0"), false],
  ["KV/DeleteRange", del("/net/nodes/", "/net/subnets0"), false],
  ["KV/DeleteRange", del("\0", "\0"), false],
  ["KV/Txn", txn([op({ request_put: put("/net/subnets/x") })]), true],
  ["KV/Txn", txn([op({ request_range: {} })], [op({ request_put: put("/net/config") })]), false],
  ["KV/Txn", txn([op({ request_put: put("/net/nodes/x") }), op({ request_put: put("/x") })]), false],
  ["KV/Txn", txn([op({ request_delete_range: del("/net/config") })]), false],
  ["KV/Txn", txn([op({ request_txn: txn([op({ request_put: put("/net/config") })]) })]), false],
  ["KV/Txn", txn([op({ request_txn: txn([op({ request_put: put("/net/nodes/x") })]) })]), true],
  ["Lease/LeaseRevoke", { ID: 1n }, true],
  ["Lease/LeaseRevoke", { ID: 2n }, false],
  ["KV/Compact", { revision: 1 }, false],
  ["Maintenance/Defragment", {}, false],
];

const keysOf = new Map([
  [1n, ["/net/subnets/x", "/net/nodes/x"]],
  [2n, ["/net/subnets/x", "/net/config"]],
]);
const attachedKeys = (lease: bigint) => keysOf.get(lease) ?? [];
const may = openPermission("/net");

for (const [rpc, request, expected] of members) {
  test(`permission: a member may ${expected ? "" : "not "}${rpc} ${JSON.stringify(request, (_, value) => (typeof value === "bigint" ? String(value) : value)).slice(0, 150)}`, () => {
    const operation = { rpc: `/etcdserverpb.${rpc}`, request };
    expect(may("member", operation, attachedKeys)).toBe(expected);
    expect(may("admin", operation, attachedKeys)).toBe(true);
  });
}

test("permission: a prefix beyond ASCII is compared by its bytes", () => {
  const umlaut = openPermission("/n\u00e4tz");
  const ask = (key: string) =>
    umlaut("member", { rpc: "/etcdserverpb.KV/Put", request: put(key) }, attachedKeys);
  expect([ask("/n\u00e4tz/subnets/x"), ask("/n\u00e4tz/config"), ask("/natz/subnets/x")]).toEqual([
    true,
    false,
    false,
  ]);
});
