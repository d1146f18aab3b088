import { expect, test } from "bun:test";
import { networkDocument } from "../../../src/config/network-document.ts";

const network = "10.5.0.0/16";
const parse = (raw: unknown) => networkDocument.parse(raw);
const reasons = (raw: unknown) => {
  const result = parse(raw);
  return "refusals" in result ? result.refusals.map(({ at, reason }) => `${at.join(".")}: ${reason}`) : [];
};

test("network document: keys match in any case and come out in flannel's spelling", () => {
  expect(
    parse({ NETWORK: network, subnetlen: 26, enableipv6: false, BACKEND: { type: "vxlan", VNI: 7 } }),
  ).toEqual({
    value: { Network: network, SubnetLen: 26, EnableIPv6: false, Backend: { type: "vxlan", VNI: 7 } },
  });
});

test("network document: every member has its type, and all mistakes come at once", () => {
  expect(reasons({ Network: 1, SubnetLen: "24", EnableIPv4: 1, Backend: "vxlan", Netwerk: "" })).toEqual([
    "Network: must be a CIDR in quotes",
    "SubnetLen: must be a prefix length",
    "EnableIPv4: must be true or false",
    "Backend: must be a table with Type and the backend's options",
    "Netwerk: unknown key; did you mean Network?",
  ]);
});

test("network document: what JSON cannot carry is refused, at any depth", () => {
  for (const value of [
    new Date(0),
    Number.NaN,
    null,
    undefined,
    1n,
    [[Infinity]],
    { a: { b: new Date(0) } },
  ]) {
    expect(reasons({ Network: network, Backend: { Type: "x", Option: value } })).toEqual([
      "Backend: must be a table with Type and the backend's options",
    ]);
  }
  let deep: unknown = 1;
  for (let level = 0; level < 100_000; level++) deep = [deep];
  expect(reasons({ Network: network, Backend: { deep } })).toHaveLength(1);
});

test("network document: flannel's own checks are made, in its words", () => {
  expect(reasons({})).toEqual([": please define a correct Network parameter in the flannel config"]);
  expect(reasons({ Network: "10.0.0.0/29" })).toEqual([
    ": network is too small. Minimum useful network prefix is /28",
  ]);
  expect(reasons({ Network: network, SubnetMin: "11.0.0.0" })).toEqual([
    ": SubnetMin is not in the range of the Network",
  ]);
  expect(reasons([])).toEqual([": must be a table with the keys of flannel's network JSON"]);
});
