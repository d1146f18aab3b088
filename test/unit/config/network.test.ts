import { expect, test } from "bun:test";
import { type NetworkConfig, type NetworkRange, parseNetworkConfig } from "../../../src/config/network.ts";
import { seededRandom } from "../../support/random.ts";

function rangeText(range: NetworkRange | undefined): string {
  return range === undefined
    ? "disabled"
    : `${range.network} ${range.subnetLength} ${range.subnetMin} ${range.subnetMax}`;
}

function failureOf(document: string): string {
  try {
    parseNetworkConfig(document);
  } catch (error) {
    expect(error).toMatchObject({ code: "network/invalid" });
    return (error as Error).message;
  }
  throw new Error(`accepted: ${document}`);
}

const v6 = (members: string) => `{"EnableIPv4":false,"EnableIPv6":true,${members}}`;

const defaults: [document: string, family: "ipv4" | "ipv6", range: string][] = [
  ['{"Network":"10.3.0.0/16"}', "ipv4", "10.3.0.0/16 24 10.3.1.0 10.3.255.0"],
  ['{"Network":"10.3.4.5/16"}', "ipv4", "10.3.0.0/16 24 10.3.1.0 10.3.255.0"],
  ['{"Network":"10.3.0.0/22"}', "ipv4", "10.3.0.0/22 24 10.3.1.0 10.3.3.0"],
  ['{"Network":"10.3.0.0/23"}', "ipv4", "10.3.0.0/23 25 10.3.0.128 10.3.1.128"],
  ['{"Network":"10.3.0.0/28"}', "ipv4", "10.3.0.0/28 30 10.3.0.4 10.3.0.12"],
  ['{"Network":"172.30.0.0/16","SubnetLen":21}', "ipv4", "172.30.0.0/16 21 172.30.8.0 172.30.248.0"],
  ['{"Network":"10.3.0.0/16","SubnetLen":18}', "ipv4", "10.3.0.0/16 18 10.3.64.0 10.3.192.0"],
  ['{"Network":"0.0.0.0/1"}', "ipv4", "0.0.0.0/1 24 0.0.1.0 127.255.255.0"],
  ['{"Network":"255.0.0.0/8"}', "ipv4", "255.0.0.0/8 24 255.0.1.0 255.255.255.0"],
  [v6('"IPv6Network":"fc00::/48"'), "ipv6", "fc00::/48 64 fc00:0:0:1:: fc00:0:0:ffff::"],
  [v6('"IPv6Network":"fc00::/62"'), "ipv6", "fc00::/62 64 fc00:0:0:1:: fc00:0:0:3::"],
  [v6('"IPv6Network":"fc00::/63"'), "ipv6", "fc00::/63 65 fc00::8000:0:0:0 fc00:0:0:1:8000::"],
  [v6('"IPv6Network":"fc00::/124"'), "ipv6", "fc00::/124 126 fc00::4 fc00::c"],
  [v6('"IPv6Network":"fd00:10::/56"'), "ipv6", "fd00:10::/56 64 fd00:10:0:1:: fd00:10:0:ff::"],
  [
    '{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0","SubnetLen":28}',
    "ipv4",
    "10.3.0.0/16 28 10.3.5.0 10.3.8.0",
  ],
  [
    v6(
      '"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00:0:0:1::","IPv6SubnetMax":"fc00:0:0:f::","IPv6SubnetLen":124',
    ),
    "ipv6",
    "fc00::/48 124 fc00:0:0:1:: fc00:0:0:f::",
  ],
  // The other way round is not rejected: allocation then finds nothing.
  [
    '{"Network":"10.3.0.0/16","SubnetMin":"10.3.8.0","SubnetMax":"10.3.5.0"}',
    "ipv4",
    "10.3.0.0/16 24 10.3.8.0 10.3.5.0",
  ],
  [
    '{"Network":"10.3.0.0/16","SubnetMin":"0.0.0.0","SubnetLen":0}',
    "ipv4",
    "10.3.0.0/16 24 10.3.1.0 10.3.255.0",
  ],
];

test.each(defaults)("network config: %s has flannel's %s range", (document, family, range) => {
  const config = parseNetworkConfig(document);
  expect(rangeText(config[family])).toBe(range);
  expect(rangeText(config[family === "ipv4" ? "ipv6" : "ipv4"])).toBe("disabled");
});

const define = "please define a correct Network parameter in the flannel config";
const errors: [document: string, text: string][] = [
  ["{}", define],
  ['{"Network":"0.0.0.0/0"}', define],
  ['{"EnableIPv6":true,"Network":"10.3.0.0/16"}', define.replace("Network", "IPv6Network")],
  [v6('"IPv6Network":"::/0"'), define.replace("Network", "IPv6Network")],
  [v6('"IPv6Network":"10.3.0.0/16"'), define.replace("Network", "IPv6Network")],
  ['{"Network":"10.3.0.0/16","SubnetLen":31}', "SubnetLen must be less than /31"],
  ['{"Network":"10.3.0.0/16","SubnetLen":17}', "network must be able to accommodate at least four subnets"],
  ['{"Network":"10.3.0.0/29"}', "network is too small. Minimum useful network prefix is /28"],
  ['{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}', "SubnetMin is not in the range of the Network"],
  ['{"Network":"10.3.0.0/16","SubnetMax":"10.4.0.0"}', "SubnetMax is not in the range of the Network"],
  ['{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.1"}', "SubnetMin is not on a SubnetLen boundary: 10.3.1.1"],
  ['{"Network":"10.3.0.0/16","SubnetMax":"10.3.1.1"}', "SubnetMax is not on a SubnetLen boundary: 10.3.1.1"],
  [v6('"IPv6Network":"fc00::/48","IPv6SubnetLen":127'), "SubnetLen must be less than /127"],
  [
    v6('"IPv6Network":"fc00::/48","IPv6SubnetLen":49'),
    "network must be able to accommodate at least four subnets",
  ],
  [v6('"IPv6Network":"fc00::/125"'), "IPv6Network is too small. Minimum useful network prefix is /124"],
  [
    v6('"IPv6Network":"fc00::/48","IPv6SubnetMin":"fd00::"'),
    "IPv6SubnetMin is not in the range of the IPv6Network",
  ],
  [
    v6('"IPv6Network":"fc00::/48","IPv6SubnetMax":"fd00::"'),
    "IPv6SubnetMax is not in the range of the IPv6Network",
  ],
  [
    v6('"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00:0:0:1::1"'),
    "IPv6SubnetMin is not on a SubnetLen boundary: fc00:0:0:1::1",
  ],
  // Both ranges are checked before either boundary.
  [
    '{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.1","SubnetMax":"10.4.0.0"}',
    "SubnetMax is not in the range of the Network",
  ],
  [
    v6('"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00:0:0:1::1"'),
    "IPv6SubnetMax is not on a SubnetLen boundary: fc00:0:0:1::1",
  ],
  ['{"Network":"fc00::/48"}', "invalid IPv4 CIDR format"],
  ['{"Network":null}', "invalid CIDR address: null"],
  ['{"Network":""}', "invalid CIDR address: "],
  ['{"Network":"10.3.0.0"}', "invalid CIDR address: 10.3.0.0"],
  ['{"Network":"10.03.0.0/16"}', "invalid CIDR address: 10.03.0.0/16"],
  ['{"Network":"10.3.0.0/16","IPv6Network":"nonsense"}', "invalid CIDR address: nonsense"],
  ['{"Network":"10.3.0.0/16","SubnetMin":null}', "SubnetMin: invalid IP address format"],
  ['{"Network":"10.3.0.0/16","SubnetMin":"fc00::"}', "SubnetMin: invalid IP address format"],
  ['{"Network":"10.3.0.0/16","IPv6SubnetMin":7}', "IPv6SubnetMin: invalid IP address format"],
  ['{"Network":"10.3.0.0/16","SubnetLen":"24"}', "SubnetLen is not a whole number"],
  ['{"Network":"10.3.0.0/16","SubnetLen":-1}', "SubnetLen is not a whole number"],
  ['{"Network":"10.3.0.0/16","SubnetLen":24.5}', "SubnetLen is not a whole number"],
  ['{"Network":"10.3.0.0/16","EnableIPv4":"true"}', "EnableIPv4 is not true or false"],
  ['{"Network":"10.3.0.0/16","EnableNFTables":1}', "EnableNFTables is not true or false"],
  ['{"Network":"10.3.0.0/16","Backend":"vxlan"}', "error decoding Backend property of config: not an object"],
  ['{"Network":"10.3.0.0/16","Backend":[]}', "error decoding Backend property of config: not an object"],
  [
    '{"Network":"10.3.0.0/16","Backend":{"Type":7}}',
    "error decoding Backend property of config: Type is not a string",
  ],
  ["[]", "not a JSON object"],
  ["null", "not a JSON object"],
];

test.each(errors)("network config: %s is refused with flannel's text", (document, text) => {
  expect(failureOf(document)).toBe(text);
});

test.each([
  "",
  "{",
  '{"Network":"10.3.0.0/16"} x',
  "\uFEFF{}",
  "[".repeat(30_000),
  `{"a":"${"x".repeat(70_000)}"}`,
])("network config: what is no JSON document of a sane size is refused (%#)", (document) => {
  expect(failureOf(document)).not.toBe("");
});

test("network config: names match in any case, the last one wins, unknown ones are ignored", () => {
  const config = parseNetworkConfig(
    '{"network":"10.9.0.0/16","NETWORK":"10.3.0.0/16","enableipv6":true,"ipv6network":"fc00::/48","Colour":{"a":[1]}}',
  );
  expect(rangeText(config.ipv4)).toBe("10.3.0.0/16 24 10.3.1.0 10.3.255.0");
  expect(rangeText(config.ipv6)).toBe("fc00::/48 64 fc00:0:0:1:: fc00:0:0:ffff::");
});

const backends: [backend: string, expected: NetworkConfig["backend"]][] = [
  ["", { type: "udp", options: {} }],
  [',"Backend":null', { type: "", options: {} }],
  [',"Backend":{}', { type: "", options: {} }],
  [',"Backend":{"Type":null}', { type: "", options: {} }],
  [',"Backend":{"Type":"VXLAN"}', { type: "vxlan", options: {} }],
  [
    ',"backend":{"type":"vxlan","VNI":4096,"Port":4789}',
    { type: "vxlan", options: { VNI: 4096, Port: 4789 } },
  ],
];

test.each(backends)("network config: backend of {…%s} is read as flannel reads it", (backend, expected) => {
  expect(parseNetworkConfig(`{"Network":"10.3.0.0/16"${backend}}`).backend).toEqual(expected);
});

test("network config: a Backend member called __proto__ is an option like any other", () => {
  const { options } = parseNetworkConfig(
    '{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","__proto__":{"VNI":7}}}',
  ).backend;
  expect(Object.keys(options)).toEqual(["__proto__"]);
  expect(options["VNI"]).toBeUndefined();
});

test("network config: nftables is off unless asked for", () => {
  expect(parseNetworkConfig('{"Network":"10.3.0.0/16"}').enableNftables).toBe(false);
  expect(parseNetworkConfig('{"Network":"10.3.0.0/16","EnableNFTables":true}').enableNftables).toBe(true);
});

test("network config: arbitrary documents give a config or network/invalid, nothing else", () => {
  const values = [
    null,
    true,
    0,
    24,
    -3,
    1e99,
    "",
    "10.3.0.0/16",
    "fc00::/48",
    "10.3.1.0",
    "::",
    [],
    {},
    { Type: "x" },
  ];
  const names = [
    "Network",
    "IPv6Network",
    "EnableIPv4",
    "enableIPv6",
    "SubnetLen",
    "SubnetMin",
    "IPv6SubnetMax",
    "Backend",
  ];
  const { below } = seededRandom(1);
  for (let round = 0; round < 3_000; round++) {
    const document = JSON.stringify(
      Object.fromEntries(
        names.filter(() => below(2) === 0).map((name) => [name, values[below(values.length)]]),
      ),
    );
    try {
      const { ipv4, ipv6 } = parseNetworkConfig(document);
      for (const range of [ipv4, ipv6])
        if (range !== undefined) expect(range.network.contains(range.subnetMin)).toBe(true);
    } catch (error) {
      expect({ document, error }).toMatchObject({ error: { code: "network/invalid" } });
    }
  }
});
