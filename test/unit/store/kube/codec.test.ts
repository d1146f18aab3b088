import { describe, expect, test } from "bun:test";
import { parseNetworkConfig } from "../../../../src/config/network.ts";
import { leaseKey } from "../../../../src/lease/lease.ts";
import { parseIpAddress } from "../../../../src/net/address.ts";
import { parsePrefix } from "../../../../src/net/prefix.ts";
import {
  annotationNames,
  annotationPatch,
  encodeAnnotations,
  networkAvailablePatch,
  nodeSubnets,
  outsideNetwork,
  overwritten,
  readNode,
} from "../../../../src/store/kube/codec.ts";
import { type KubeNode, parseNode } from "../../../../src/store/kube/node.ts";

const names = annotationNames("flannel.alpha.coreos.com");

function nodeOf(
  annotations: Readonly<Record<string, string>>,
  podCidrs: readonly string[] = ["10.244.1.0/24"],
): KubeNode {
  const object = {
    metadata: { name: "n1", uid: "u1", resourceVersion: "7", annotations },
    spec: { podCIDRs: podCidrs },
  };
  const node = parseNode(object, names.prefix);
  if (node === undefined) throw new Error("no node");
  return node;
}

/** As flannel's reference shows a node. */
const flannelNode = {
  "flannel.alpha.coreos.com/backend-data": '{"VNI":1,"VtepMAC":"86:a8:e1:95:5e:cf"}',
  "flannel.alpha.coreos.com/backend-type": "vxlan",
  "flannel.alpha.coreos.com/kube-subnet-manager": "true",
  "flannel.alpha.coreos.com/public-ip": "10.1.10.152",
};

describe("annotation names", () => {
  test.each([
    ["flannel.alpha.coreos.com", "flannel.alpha.coreos.com/backend-type"],
    ["flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/backend-type"],
    ["flannel.alpha.coreos.com/prefix", "flannel.alpha.coreos.com/prefix-backend-type"],
    ["flannel.alpha.coreos.com/prefix-", "flannel.alpha.coreos.com/prefix-backend-type"],
    ["org.com", "org.com/backend-type"],
    ["org9.com", "org9.com/backend-type"],
    ["org.com/9", "org.com/9-backend-type"],
  ])("%s gives %s", (prefix, name) => {
    expect(annotationNames(prefix).backendType).toBe(name);
  });

  test.each([
    ["org", "subnet/kube: prefix must be in a format: fqdn/[0-9a-z-_]*"],
    ["org/", "subnet/kube: prefix must be in a format: fqdn/[0-9a-z-_]*"],
    ["org/prefix", "subnet/kube: prefix must be in a format: fqdn/[0-9a-z-_]*"],
    ["org.COM", "subnet/kube: prefix must be in a format: fqdn/[0-9a-z-_]*"],
    ["org.com/PREFIX", "subnet/kube: prefix must be in a format: fqdn/[0-9a-z-_]*"],
    ["org.com/a/b", "subnet/kube: prefix can contain at most single slash"],
  ])("%s is refused in flannel's words", (prefix, words) => {
    expect(() => annotationNames(prefix)).toThrow(words);
  });
});

describe("reading a node", () => {
  test("flannel's own example is a lease without a term", () => {
    expect(readNode(nodeOf(flannelNode), names, undefined)).toEqual({
      kind: "lease",
      lease: {
        subnets: { ipv4: parsePrefix("10.244.1.0/24") },
        attributes: {
          publicIp: parseIpAddress("10.1.10.152"),
          backendType: "vxlan",
          backendData: { VNI: 1, VtepMAC: "86:a8:e1:95:5e:cf" },
        },
        expiresAt: undefined,
      },
    });
  });

  test("null and the empty text are no backend data", () => {
    for (const text of ["null", ""]) {
      const reading = readNode(nodeOf({ ...flannelNode, [names.backendData]: text }), names, undefined);
      expect(reading).toMatchObject({ kind: "lease" });
      if (reading.kind === "lease") expect(reading.lease.attributes).not.toHaveProperty("backendData");
    }
  });

  test("a node that flannel does not manage is no lease, whatever else it says", () => {
    for (const managed of ["", "false", "True", "yes", " true"])
      expect(readNode(nodeOf({ ...flannelNode, [names.managed]: managed }), names, undefined)).toEqual({
        kind: "unmanaged",
      });
    expect(readNode(nodeOf({}), names, undefined)).toEqual({ kind: "unmanaged" });
  });

  test.each<[what: string, annotations: Record<string, string>, podCidrs?: string[]]>([
    ["an address that is none", { [names.publicIp]: "10.1.10.999" }],
    ["an address of the other family", { [names.publicIp]: "2001:db8::1" }],
    ["a command in place of an address", { [names.publicIp]: "$(reboot)" }],
    ["no address at all", { [names.publicIp]: "" }],
    ["the zero address", { [names.publicIp]: "0.0.0.0" }],
    ["data cut off", { [names.backendData]: '{"VNI":1' }],
    ["data that would close the wrapping", { [names.backendData]: '1,"x":2' }],
    ["data nested deep", { [names.backendData]: `${"[".repeat(5_000)}${"]".repeat(5_000)}` }],
    ["data that is long", { [names.backendData]: `"${"x".repeat(70_000)}"` }],
    ["a long backend type", { [names.backendType]: "x".repeat(1_000) }],
    ["no pod CIDR", {}, []],
    ["three pod CIDRs", {}, ["10.244.1.0/24", "10.244.2.0/24", "fd00::/64"]],
    ["a pod CIDR that is none", {}, ["10.244.1.0/33"]],
    ["a pod CIDR with more behind it", {}, ["10.244.1.0/24;reboot"]],
  ])("%s is unreadable, with a reason on one line", (...[, annotations, podCidrs]) => {
    const reading = readNode(nodeOf({ ...flannelNode, ...annotations }, podCidrs), names, undefined);
    expect(reading).toEqual({ kind: "unreadable", reason: expect.stringMatching(/^.{5,300}$/) });
  });

  test("only the families of the network count", () => {
    const dual = nodeOf(flannelNode, ["10.244.1.0/24", "fd00:10:1::/64"]);
    const keyIn = (families: object | undefined) => {
      const reading = readNode(dual, names, families);
      return reading.kind === "lease" ? leaseKey(reading.lease.subnets) : reading.kind;
    };
    expect(keyIn({ ipv4: 1 })).toBe("10.244.1.0-24");
    expect(keyIn({ ipv6: 1 })).toBe("fd00:10:1::-64");
    expect(keyIn({ ipv4: 1, ipv6: 1 })).toBe("10.244.1.0-24&fd00:10:1::-64");
    expect(keyIn(undefined)).toBe("10.244.1.0-24&fd00:10:1::-64");
  });

  test("podCIDR counts where podCIDRs is empty", () => {
    const node = parseNode(
      { metadata: { name: "n" }, spec: { podCIDR: "10.244.9.0/24", podCIDRs: [] } },
      "x/",
    );
    expect(node && leaseKey(nodeSubnets(node, undefined))).toBe("10.244.9.0-24");
  });

  test("what is no node is none: names that are paths, members of other types", () => {
    for (const value of [
      null,
      [],
      "node",
      {},
      { metadata: { name: "../secrets" } },
      { metadata: { name: "a..b" } },
      { metadata: { name: "" } },
      { metadata: { name: 7 } },
    ])
      expect(parseNode(value, names.prefix)).toBeUndefined();
    const odd = {
      metadata: { name: "n", annotations: { [names.publicIp]: 7 } },
      spec: [],
      status: { conditions: {} },
    };
    expect(parseNode(odd, names.prefix)).toMatchObject({ podCidrs: [], networkUnavailable: undefined });
  });
});

describe("pod CIDR and network", () => {
  const outside = (subnet: string, network: object) =>
    outsideNetwork(
      subnet.includes(":") ? { ipv6: parsePrefix(subnet) } : { ipv4: parsePrefix(subnet) },
      parseNetworkConfig(JSON.stringify(network)),
      "n1",
    );
  const v4 = { Network: "10.244.0.0/16" };
  const v6 = { EnableIPv4: false, EnableIPv6: true, IPv6Network: "2001:db8:1234::/48" };

  test.each([
    ["10.244.0.0/16", v4],
    ["10.244.0.0/24", v4],
    ["10.244.255.0/24", v4],
    ["2001:db8:1234::/48", v6],
    ["2001:db8:1234::/64", v6],
    ["2001:db8:1234:ffff::/64", v6],
  ])("%s is inside", (subnet, network) => {
    expect(outside(subnet, network)).toBeUndefined();
  });

  test.each([
    ["10.244.0.0/15", v4],
    ["192.168.0.0/24", v4],
    ["2001:db8:1234::/47", v6],
    ["fe02::/32", v6],
    ["fd00::/64", v4],
  ])("%s is not, in flannel's words", (subnet, network) => {
    const kind = subnet.includes(":") ? "IPv6 PodCIDR" : "PodCIDR";
    expect(outside(subnet, network)).toMatch(
      new RegExp(
        `^subnet ".*" specified in the flannel net config doesn't contain ".*" ${kind} of the "n1" node$`,
      ),
    );
  });
});

describe("writing", () => {
  const vxlan = {
    publicIp: parseIpAddress("10.1.10.152"),
    backendType: "vxlan",
    backendData: { VNI: 1, VtepMAC: "86:a8:e1:95:5e:cf" },
  };

  test("a patch has what differs and nothing else; none where nothing does", () => {
    const all = annotationPatch(new Map(), encodeAnnotations(vxlan, names));
    expect(all).toEqual({ metadata: { annotations: flannelNode } });
    const moved = { ...vxlan, publicIp: parseIpAddress("10.1.10.153") };
    const present = nodeOf({ ...flannelNode, "flannel.alpha.coreos.com/other": "kept" }).annotations;
    expect(annotationPatch(present, encodeAnnotations(moved, names))).toEqual({
      metadata: { annotations: { [names.publicIp]: "10.1.10.153" } },
    });
    expect(annotationPatch(present, encodeAnnotations(vxlan, names))).toBeUndefined();
  });

  test("a backend without data publishes null; one of both families both addresses", () => {
    const attributes = {
      publicIp: parseIpAddress("192.0.2.1"),
      publicIpv6: parseIpAddress("2001:db8::1"),
      backendType: "host-gw",
    };
    expect(Object.fromEntries(encodeAnnotations(attributes, names))).toEqual({
      [names.managed]: "true",
      [names.backendType]: "host-gw",
      [names.backendData]: "null",
      [names.publicIp]: "192.0.2.1",
      [names.backendV6Data]: "null",
      [names.publicIpv6]: "2001:db8::1",
    });
  });

  test("what an earlier backend of two families left is taken away", () => {
    const stale = nodeOf({ ...flannelNode, [names.publicIpv6]: "2001:db8::1", [names.backendV6Data]: "{}" });
    expect(annotationPatch(stale.annotations, encodeAnnotations(vxlan, names))).toEqual({
      metadata: { annotations: { [names.publicIpv6]: null, [names.backendV6Data]: null } },
    });
  });

  test("what is written is read back the same", () => {
    const written = [...encodeAnnotations(vxlan, names)].filter(([, value]) => value !== null);
    const reading = readNode(nodeOf(Object.fromEntries(written) as Record<string, string>), names, undefined);
    expect(reading).toMatchObject({ kind: "lease", lease: { attributes: vxlan } });
  });

  test("the condition is flannel's, in whole seconds", () => {
    expect(JSON.stringify(networkAvailablePatch(new Date("2026-01-02T03:04:05.678Z")))).toBe(
      '{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False",' +
        '"lastHeartbeatTime":"2026-01-02T03:04:05Z","lastTransitionTime":"2026-01-02T03:04:05Z",' +
        '"reason":"FlannelIsUp","message":"Flannel is running on this node"}]}}',
    );
  });

  test("annotations overwrite the published address, the overwrite before the node's own", () => {
    const publicIpWith = (annotations: Record<string, string>) =>
      `${overwritten(vxlan, nodeOf(annotations).annotations, names).publicIp}`;
    expect(publicIpWith({})).toBe("10.1.10.152");
    expect(publicIpWith({ [names.nodePublicIp]: "198.51.100.1" })).toBe("198.51.100.1");
    expect(
      publicIpWith({ [names.nodePublicIp]: "198.51.100.1", [names.publicIpOverwrite]: "198.51.100.2" }),
    ).toBe("198.51.100.2");
    expect(() => publicIpWith({ [names.publicIpOverwrite]: "nowhere" })).toThrow(
      "public-ip-overwrite is no IPv4 address",
    );
  });
});
