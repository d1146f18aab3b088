import { createPublished } from "../../../../src/store/kube/published.ts";
import { expect, test } from "bun:test";
import { silentLog } from "../../../../src/base/log.ts";
import { type LeaseSubnets, leaseKey } from "../../../../src/lease/lease.ts";
import { createLeaseTable } from "../../../../src/lease/table.ts";
import { parsePrefix } from "../../../../src/net/prefix.ts";
import { annotationNames } from "../../../../src/store/kube/codec.ts";
import { createLeaseReader, type OwnNode } from "../../../../src/store/kube/lease-reader.ts";
import type { KubeNode } from "../../../../src/store/kube/node.ts";
import { seededRandom } from "../../../support/random.ts";

const names = annotationNames("flannel.alpha.coreos.com");

function nodeOf(name: string, at: number, publicIp: string, uid = name): KubeNode {
  return {
    name,
    uid,
    resourceVersion: "1",
    createdAt: `2026-01-01T00:00:${name.slice(1).padStart(2, "0")}Z`,
    podCidrs: [`10.3.${at}.0/24`],
    annotations: new Map([
      [names.managed, "true"],
      [names.publicIp, publicIp],
      [names.backendType, "host-gw"],
    ]),
    networkUnavailable: undefined,
  };
}

function readerWith(own: OwnNode = { name: undefined, subnets: undefined }) {
  const published = createPublished(names);
  return createLeaseReader({ names, log: silentLog, families: () => undefined, own: () => own, published });
}

const shown = (table: ReturnType<typeof createLeaseTable>) =>
  table.leases.map(({ subnets, attributes }) => `${leaseKey(subnets)} ${attributes.publicIp}`);

test("lease reader: after any changes it shows what a first look at the same nodes would", () => {
  for (let seed = 1; seed <= 50; seed++) {
    const { below: pick } = seededRandom(seed);
    const nodes = new Map<string, KubeNode>();
    const reader = readerWith();
    const table = createLeaseTable();
    table.apply({ kind: "snapshot", leases: reader.snapshot([]) });
    for (let step = 0; step < 200; step++) {
      const name = `n${pick(8)}`;
      const before = nodes.get(name);
      // Few subnets, so that nodes often share one.
      const node = nodeOf(name, pick(6), `192.0.2.${1 + pick(3)}`);
      const isGone = pick(4) === 0;
      if (isGone && before !== undefined) {
        nodes.delete(name);
        table.apply({ kind: "changes", changes: reader.change({ kind: "delete", node: before }) });
      } else {
        nodes.set(name, node);
        table.apply({ kind: "changes", changes: reader.change({ kind: "put", node }) });
      }
      const fresh = createLeaseTable();
      fresh.apply({ kind: "snapshot", leases: readerWith().snapshot([...nodes.values()]) });
      expect(shown(table)).toEqual(shown(fresh));
    }
  }
});

test("lease reader: nothing is told twice", () => {
  const reader = readerWith();
  const node = nodeOf("n1", 1, "192.0.2.1");
  expect(reader.change({ kind: "put", node })).toHaveLength(1);
  expect(reader.change({ kind: "put", node: { ...node, resourceVersion: "2" } })).toEqual([]);
  expect(reader.change({ kind: "delete", node })).toHaveLength(1);
  expect(reader.change({ kind: "delete", node })).toEqual([]);
});

test("lease reader: our node is shown with the subnets that we have taken, and goes before one that shares them", () => {
  const own: { name: string; subnets: LeaseSubnets | undefined } = { name: "n7", subnets: undefined };
  const reader = readerWith(own);
  const ours = nodeOf("n7", 1, "192.0.2.7");
  const first = nodeOf("n1", 1, "192.0.2.1");
  expect(reader.snapshot([first, ours]).map(({ attributes }) => `${attributes.publicIp}`)).toEqual([
    "192.0.2.7",
  ]);
  own.subnets = { ipv4: parsePrefix("10.3.1.0/24") };
  expect(reader.change({ kind: "put", node: nodeOf("n7", 2, "192.0.2.7") })).toMatchObject([
    { kind: "put", lease: { subnets: own.subnets } }, // the other's, which was behind ours
  ]);
  own.subnets = { ipv4: parsePrefix("10.3.2.0/24") };
  expect(reader.ownChanged()).toMatchObject([{ kind: "put", lease: { subnets: own.subnets } }]);
  expect(reader.ownChanged()).toEqual([]);
});

test("lease reader: what cannot be read keeps the node's last lease, another node of that name does not", () => {
  const reader = readerWith();
  const node = nodeOf("n1", 1, "192.0.2.1");
  reader.change({ kind: "put", node });
  expect(reader.change({ kind: "put", node: nodeOf("n1", 1, "nonsense") })).toEqual([]);
  expect(reader.change({ kind: "put", node: nodeOf("n1", 1, "nonsense", "another") })).toMatchObject([
    { kind: "delete" },
  ]);
});
