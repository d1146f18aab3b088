import { expect, test } from "bun:test";
import { parseIpAddress, tryParseIpAddress } from "../../../src/net/address.ts";
import { localMac, parseMac } from "../../../src/net/mac.ts";
import { parsePrefix, tryParsePrefix } from "../../../src/net/prefix.ts";

test.each([
  "0.0.0.0",
  "1.2.3.4",
  "255.255.255.255",
  "::",
  "::1",
  "fc00::1",
  "2001:db8::1",
  "1:2:3:4:5:6:7:8",
  "fc00:0:0:1::",
  "1:0:0:2:0:0:0:3".replace("0:0:0", ":").replace(":::", "::"),
  "fe80::1:0:0:1",
])("address: %p is its own canonical text", (text) => {
  expect(`${parseIpAddress(text)}`).toBe(text);
});

test.each([
  ["FC00:0000::0001", "fc00::1"],
  ["1:0:2:0:0:3:0:0", "1:0:2::3:0:0"],
  ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
  ["::ffff:192.0.2.1", "192.0.2.1"],
  ["64:ff9b::192.0.2.33", "64:ff9b::c000:221"],
])("address: %p prints as %p", (text, canonical) => {
  expect(`${parseIpAddress(text)}`).toBe(canonical);
});

test.each([
  "",
  "1.2.3",
  "1.2.3.4.5",
  "1.2.3.256",
  "01.2.3.4",
  "1.2.3.04",
  " 1.2.3.4",
  "1.2.3.4 ",
  "1.2.3.-4",
  "a.b.c.d",
  ":",
  ":::",
  "1::2::3",
  "12345::",
  "g::",
  "1:2:3:4:5:6:7",
  "1:2:3:4:5:6:7:8:9",
  "1:2:3:4:5:6:7:8::",
  "fe80::1%eth0",
  "::1.2.3",
  "::1.2.3.4.5",
])("address: %p is none", (text) => {
  expect(tryParseIpAddress(text)).toBeUndefined();
});

test("prefix: host bits are cleared; containment and overlap as in flannel's checklist", () => {
  const net = parsePrefix("1.2.3.9/24");
  expect(`${net}`).toBe("1.2.3.0/24");
  expect(net.overlaps(net)).toBe(true);
  expect(net.overlaps(parsePrefix("1.2.0.0/16"))).toBe(true);
  expect(net.overlaps(parsePrefix("1.2.4.0/24"))).toBe(false);
  expect(net.overlaps(parsePrefix("7.2.4.0/22"))).toBe(false);
  expect(net.contains(parseIpAddress("1.2.3.4"))).toBe(true);
  expect(net.contains(parseIpAddress("1.2.4.0"))).toBe(false);
  expect(parsePrefix("1.2.0.0/16").contains(net)).toBe(true);
  expect(net.contains(parsePrefix("1.2.0.0/16"))).toBe(false);
  expect(parsePrefix("fc00:1::/64").overlaps(parsePrefix("fc00::/16"))).toBe(true);
  expect(parsePrefix("fc00:1::/64").overlaps(parsePrefix("fc00:2::/64"))).toBe(false);
  expect(parsePrefix("::/0").overlaps(parsePrefix("0.0.0.0/0"))).toBe(false);
  expect(`${parsePrefix("10.0.0.0/8").last}`).toBe("10.255.255.255");
});

test.each([
  "",
  "/",
  "1.2.3.4",
  "1.2.3.4/",
  "1.2.3.4/33",
  "1.2.3.4/08",
  "1.2.3.4/-1",
  "::/129",
  "1.2.3.4/24/24",
])("prefix: %p is none", (text) => {
  expect(tryParsePrefix(text)).toBeUndefined();
});

test("mac: text of one station only", () => {
  expect(parseMac("0E-2A-00-00-00-01") as string).toBe("0e:2a:00:00:00:01");
  for (const text of [
    "",
    "01:00:00:00:00:00",
    "00:00:00:00:00:00",
    "ff:ff:ff:ff:ff:ff",
    "0e:2a:00:00:00",
    "0e:2a:00:00:00:0g",
  ]) {
    expect(() => parseMac(text)).toThrow("not a unicast MAC address");
  }
});

test("mac: made of any bytes it is locally administered and unicast", () => {
  for (let first = 0; first < 256; first++) {
    const mac = localMac(Uint8Array.of(first, 1, 2, 3, 4, 5));
    expect(Number.parseInt(mac.slice(0, 2), 16) & 3).toBe(2);
    expect(parseMac(mac)).toBe(mac);
  }
});
