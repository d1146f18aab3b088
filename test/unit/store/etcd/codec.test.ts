import { expect, test } from "bun:test";
import type { LeaseAttributes } from "../../../../src/lease/lease.ts";
import { leaseKey } from "../../../../src/lease/lease.ts";
import { parseIpAddress } from "../../../../src/net/address.ts";
import {
  encodeLeaseValue,
  encodeLeaseValueV2,
  etcdLayout,
  parseLeaseValue,
  parseSubnetKey,
  valueBytesMax,
} from "../../../../src/store/etcd/codec.ts";
import { seededRandom } from "../../../support/random.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const read = (text: string) => parseLeaseValue(bytes(text));

test.each(["10.12.13.0-24", "10.5.34.0-24", "0.0.0.0-0", "10.12.13.0-24&fd00:12:13::-56"])(
  "etcd key: %s is read and written back the same",
  (key) => {
    const subnets = parseSubnetKey(key);
    expect(subnets && leaseKey(subnets)).toBe(key);
    expect(parseSubnetKey(`/coreos.com/network/subnets/${key}`)).toEqual(subnets);
  },
);

test.each([
  "10",
  "10.12.13.0",
  "10.12.13-24",
  "10.12.13.300-24",
  "10.12.13.0-24hi",
  "&2001::-56",
  "10.12.13.0-24&:12:13:-56",
  "10.12.13.0-24&20011::-56",
  "10.12.13.0-24&2001-56",
  "10.12.13.0-24&2001::",
  "10.12.13.0-24&2001::-56hi",
  "10.12.13.0-32",
  "10.12.13.0-24&2001::-128",
  "10.12.13.0-24&2001:DB8::-56",
  "10.12.13.0-24&::ffff:1:2-120",
  "10.12.13.0-99999999999999999999",
  "010.12.13.0-24",
  "",
  "10.12.13.0-24\n",
])("etcd key: %p is no subnet", (key) => {
  expect(parseSubnetKey(key)).toBeUndefined();
});

test("etcd layout: a lease has one key; other names for the same subnet and longer paths are none", () => {
  const layout = etcdLayout("/coreos.com/network/");
  expect(layout.config).toBe("/coreos.com/network/config");
  expect(layout.subnets).toBe("/coreos.com/network/subnets");
  const key = "/coreos.com/network/subnets/10.5.34.0-24";
  const subnets = layout.parseLeaseKey(key);
  expect(subnets && layout.leaseKey(subnets)).toBe(key);
  for (const other of [
    "/coreos.com/network/subnets/10.5.34.7-24",
    "/coreos.com/network/subnets/x10.5.34.0-24",
    "/coreos.com/network/subnets/x/10.5.34.0-24",
    "/coreos.com/network/subnets-x/10.5.34.0-24",
    "/coreos.com/network/subnets/10.5.34.0-24&fd00:0:0::-64",
    "10.5.34.0-24",
  ]) {
    expect(layout.parseLeaseKey(other)).toBeUndefined();
  }
});

test("etcd layout: superfluous slashes are dropped, as flannel joins paths", () => {
  expect(etcdLayout("//a//b//").config).toBe("/a/b/config");
  expect(etcdLayout("a").subnets).toBe("a/subnets");
  expect(etcdLayout("/").config).toBe("/config");
});

const publicIp = parseIpAddress("192.168.64.3");
const values: [attributes: LeaseAttributes, value: string][] = [
  [{ publicIp, backendType: "" }, '{"PublicIP":"192.168.64.3","PublicIPv6":null}'],
  [
    { publicIp, backendType: "vxlan", backendData: { VNI: 1, VtepMAC: "c6:d2:32:6f:8f:44" } },
    '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}',
  ],
  [
    {
      publicIp,
      publicIpv6: parseIpAddress("2001:db8::1"),
      backendType: "vxlan",
      backendData: { VNI: 1, VtepMAC: "c6:d2:32:6f:8f:44" },
      backendV6Data: { VNI: 1, VtepMAC: "c6:d2:32:6f:8f:45" },
    },
    '{"PublicIP":"192.168.64.3","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}',
  ],
  [
    { publicIp, backendType: "host-gw" },
    '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"host-gw"}',
  ],
  [
    { publicIp, backendType: "extension", backendData: "a<b>&c\u2028" },
    '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"extension","BackendData":"a\\u003cb\\u003e\\u0026c\\u2028"}',
  ],
  [{ backendType: "udp" }, '{"PublicIP":"0.0.0.0","PublicIPv6":null,"BackendType":"udp"}'],
];

test.each(values)("etcd value: %o is written as Go writes it, and read back", (attributes, value) => {
  expect(encodeLeaseValue(attributes)).toBe(value);
  expect(read(value)).toEqual(attributes);
});

const valuesV2: [attributes: LeaseAttributes, value: string][] = [
  [{ publicIp, backendType: "" }, '{"PublicIP":"192.168.64.3"}'],
  [
    { publicIp, backendType: "vxlan", backendData: { VNI: 1, VtepMAC: "82:4b:b6:2f:54:4e" } },
    '{"PublicIP":"192.168.64.3","BackendType":"vxlan","BackendData":{"VtepMAC":"82:4b:b6:2f:54:4e"}}',
  ],
  [{ publicIp, backendType: "host-gw" }, '{"PublicIP":"192.168.64.3","BackendType":"host-gw"}'],
  [
    { publicIp, backendType: "extension", backendData: { VNI: 1 } },
    '{"PublicIP":"192.168.64.3","BackendType":"extension","BackendData":{"VNI":1}}',
  ],
  [
    { publicIp, backendType: "vxlan", backendData: "none" },
    '{"PublicIP":"192.168.64.3","BackendType":"vxlan","BackendData":"none"}',
  ],
  [
    { publicIp, publicIpv6: parseIpAddress("2001:db8::1"), backendType: "vxlan", backendData: { VNI: 1 } },
    '{"PublicIP":"192.168.64.3","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{}}',
  ],
];

test.each(valuesV2)("etcd value: %o is written for API v2 as flannel 0.11 does", (attributes, value) => {
  expect(encodeLeaseValueV2(attributes)).toBe(value);
});

test("etcd value: one of flannel 0.11 is read", () => {
  const old =
    '{"PublicIP":"10.37.7.195","BackendType":"vxlan","BackendData":{"VtepMAC":"82:4b:b6:2f:54:4e"}}';
  expect(read(old)).toEqual({
    publicIp: parseIpAddress("10.37.7.195"),
    backendType: "vxlan",
    backendData: { VtepMAC: "82:4b:b6:2f:54:4e" },
  });
});

test("etcd value: names match in any case, unknown ones are ignored, null is no IPv6 address and no type", () => {
  expect(read('{"publicip":"1.2.3.4","PUBLICIPV6":null,"backendType":null,"Colour":1}')).toEqual({
    publicIp: parseIpAddress("1.2.3.4"),
    backendType: "",
  });
});

test("etcd value: absent and zero addresses are none; an IPv4 text in the IPv6 field is none either", () => {
  expect(read("{}")).toEqual({ backendType: "" });
  expect(read('{"PublicIP":"0.0.0.0","PublicIPv6":"::"}')).toEqual({ backendType: "" });
  expect(read('{"PublicIP":"1.2.3.4","PublicIPv6":"1.2.3.4"}')).toEqual({
    publicIp: parseIpAddress("1.2.3.4"),
    backendType: "",
  });
});

test.each([
  "",
  "null",
  "[]",
  "7",
  "{",
  '{"PublicIP":null}',
  '{"PublicIP":7}',
  '{"PublicIP":"1.2.3"}',
  '{"PublicIP":"2001:db8::1"}',
  '{"PublicIPv6":"nonsense"}',
  '{"PublicIPv6":7}',
  '{"BackendType":7}',
  '{"PublicIP":"1.2.3.4"} trailing',
  `{"BackendData":${"[".repeat(40)}${"]".repeat(40)}}`,
  "[".repeat(60_000),
  `{"BackendData":"${"x".repeat(valueBytesMax)}"}`,
])("etcd value: what flannel cannot read, or is absurd, is unreadable (%#)", (value) => {
  expect(read(value)).toBeUndefined();
});

test("etcd value: random bytes and mutilated values never throw", () => {
  const { below } = seededRandom(1);
  const good = bytes(values[2]?.[1] ?? "");
  for (let round = 0; round < 5_000; round++) {
    const mutilated = good.slice(0, below(good.length + 1));
    for (let hits = 0; hits < 3 && mutilated.length > 0; hits++) {
      mutilated[below(mutilated.length)] = below(256);
    }
    const attributes = parseLeaseValue(mutilated);
    if (attributes !== undefined) expect(read(encodeLeaseValue(attributes))).toEqual(attributes);
    parseSubnetKey(Buffer.from(mutilated).toString("latin1"));
  }
});
