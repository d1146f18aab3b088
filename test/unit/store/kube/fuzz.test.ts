import { expect, test } from "bun:test";
import { setUpVxlan } from "../../../../src/backend/vxlan.ts";
import { annotationNames, readNode } from "../../../../src/store/kube/codec.ts";
import { parseNode } from "../../../../src/store/kube/node.ts";
import { noReach, planText, testContext } from "../../../support/backend.ts";
import { vxlanLease } from "../../../support/leases.ts";
import { seededRandom } from "../../../support/random.ts";

const names = annotationNames("flannel.alpha.coreos.com");

const node = JSON.stringify({
  metadata: {
    name: "n1",
    uid: "u1",
    annotations: {
      [names.managed]: "true",
      [names.backendType]: "vxlan",
      [names.backendData]: '{"VNI":1,"VtepMAC":"86:a8:e1:95:5e:cf"}',
      [names.publicIp]: "192.0.2.7",
    },
  },
  spec: { podCIDR: "10.5.7.0/24", podCIDRs: ["10.5.7.0/24"] },
  status: { conditions: [{ type: "NetworkUnavailable", status: "False" }] },
});

/** JSON and what stands in its texts, of several tools and of an attacker. */
const pieces = [
  ...[
    '"',
    "\\",
    "{",
    "}",
    "[",
    "[[[[[[[[",
    ",",
    ":",
    "null",
    "1e999",
    "-1",
    "true",
    "true2",
    "\\u0000",
    "\\n",
  ],
  ...[
    '\\"VNI\\":1,',
    '\\"VtepMAC\\":7,',
    "__proto__",
    "constructor",
    "\\ud800",
    "é",
    "\u202e",
    "0",
    "/",
    "..",
    "::",
  ],
  ...[
    '"podCIDRs":["0.0.0.0/0"],',
    '"podCIDR":"10.5.0.0/15",',
    "10.5.1.0/25",
    "255.255.255.255",
    "x".repeat(300),
  ],
];

test("a node damaged at random is a lease that plans, no lease, or unreadable for a reason on one line", () => {
  const random = seededRandom(14);
  const own = vxlanLease("10.5.1.0/24", "192.0.2.1");
  const kinds = { lease: 0, unmanaged: 0, unreadable: 0 };
  for (let round = 0; round < 20_000; round++) {
    let text = node;
    for (let times = random.below(3); times >= 0; times--) {
      const at = random.below(text.length + 1);
      text =
        text.slice(0, at) + (pieces[random.below(pieces.length)] ?? "") + text.slice(at + random.below(5));
    }
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      continue;
    }
    const parsed = parseNode(value, names.prefix);
    if (parsed === undefined) continue;
    const reading = readNode(parsed, names, { ipv4: true });
    kinds[reading.kind]++;
    if (reading.kind === "unreadable") expect(reading.reason).toMatch(/^[^\p{Cc}]{5,500}$/u);
    if (reading.kind !== "lease") continue;
    const { plan, refused } = setUpVxlan({ type: "vxlan", options: {} }, testContext)
      .open("kernel")
      .plan(own, [reading.lease], noReach);
    // Routes lead into the overlay and not to ourselves, whatever the node says of itself.
    for (const { to } of plan.routes) {
      expect(testContext.overlay.some((network) => network.contains(to))).toBe(true);
      expect(to.overlaps(own.subnets.ipv4 ?? to)).toBe(false);
    }
    expect(plan.routes.length).toBe(refused.length === 0 ? 1 : 0);
    expect(planText(plan)).toMatch(/^[ -~\n]*$/);
  }
  for (const count of Object.values(kinds)) expect(count).toBeGreaterThan(100);
});
