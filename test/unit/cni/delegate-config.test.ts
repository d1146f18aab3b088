import { describe, expect, test } from "bun:test";
import { parseCniConfig } from "../../../src/cni/config.ts";
import { delegateConfig, sortedJson } from "../../../src/cni/delegate-config.ts";
import { parseSubnetEnv } from "../../../src/cni/subnet-env.ts";

const ipv4 = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n";
const ipv6 = "FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00:0:0:11::1/64\n";
const rest = "FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";

function composed(config: object, env: string): string {
  const parsed = parseCniConfig(JSON.stringify({ name: "cni-flannel", type: "flannel", ...config }));
  return sortedJson(delegateConfig(parsed, parseSubnetEnv(env, "/run/flannel/subnet.env")));
}

describe("the delegate's configuration", () => {
  test.each([
    [
      "of IPv4 alone is flannel's, byte for byte",
      {},
      ipv4 + rest,
      '{"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cni-flannel","type":"bridge"}',
    ],
    [
      "has a route for each of two networks, once",
      {},
      `${ipv4.replace("10.1.0.0/16", "10.1.0.0/16,10.2.0.0/16,10.1.0.0/16")}${rest}`,
      '{"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"},{"dst":"10.2.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cni-flannel","type":"bridge"}',
    ],
    [
      "of IPv6 alone",
      {},
      ipv6 + rest,
      '{"ipMasq":false,"ipam":{"ranges":[[{"subnet":"fc00:0:0:11::/64"}]],"routes":[{"dst":"fc00::/48"}],"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cni-flannel","type":"bridge"}',
    ],
    [
      "of two families has a range and a route each",
      { cniVersion: "1.0.0" },
      ipv4 + ipv6 + rest,
      '{"cniVersion":"1.0.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}],[{"subnet":"fc00:0:0:11::/64"}]],"routes":[{"dst":"10.1.0.0/16"},{"dst":"fc00::/48"}],"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cni-flannel","type":"bridge"}',
    ],
    [
      "keeps what stands in delegate and takes what the runtime adds",
      {
        delegate: { hairpinMode: true, isDefaultGateway: true, mtu: 9000, ipMasq: true, isGateway: false },
        runtimeConfig: { portMappings: [{ hostPort: 80 }] },
      },
      ipv4 + rest,
      '{"hairpinMode":true,"ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":false,"mtu":9000,"name":"cni-flannel","runtimeConfig":{"portMappings":[{"hostPort":80}]},"type":"bridge"}',
    ],
    [
      "of another type is no gateway, and masquerades where the daemon does not",
      { delegate: { type: "ipvlan", master: "eth0" } },
      ipv4 + rest.replace("true", "false"),
      '{"ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}],"type":"host-local"},"master":"eth0","mtu":1472,"name":"cni-flannel","type":"ipvlan"}',
    ],
    [
      "keeps ipam's type, unknown keys and routes, and replaces its ranges",
      {
        ipam: {
          type: "my-ipam",
          dataDir: "/data",
          ranges: [[{ subnet: "192.0.2.0/24" }]],
          routes: [{ dst: "0.0.0.0/0", gw: "10.1.17.1" }],
        },
      },
      ipv4 + rest,
      '{"ipMasq":false,"ipam":{"dataDir":"/data","ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.17.1"},{"dst":"10.1.0.0/16"}],"type":"my-ipam"},"isGateway":true,"mtu":1472,"name":"cni-flannel","type":"bridge"}',
    ],
  ])("%s", (_name, config, env, expected) => {
    expect(composed(config, env)).toBe(expected);
  });

  test.each([
    [
      { delegate: { name: "x" } },
      999,
      "'delegate' dictionary must not have 'name' field, it'll be set by flannel",
    ],
    [
      { delegate: { ipam: {} } },
      999,
      "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel",
    ],
    [{ delegate: { type: 7 } }, 999, "'delegate' dictionary, if present, must have (string) 'type' field"],
    [{ ipam: { routes: "all" } }, 7, "ipam.routes is not a list"],
  ])("%j is refused", (config, code, message) => {
    expect(() => composed(config, ipv4 + rest)).toThrow(expect.objectContaining({ code, message }));
  });

  test("a member called __proto__ is a member like any other", () => {
    const config = parseCniConfig('{"name":"n","delegate":{"__proto__":{"type":"host-device"},"a":1}}');
    const text = sortedJson(delegateConfig(config, parseSubnetEnv(ipv4 + rest, "f")));
    expect(JSON.parse(text)).toMatchObject({ type: "bridge", a: 1 });
  });
});

describe("subnet.env", () => {
  test.each([
    [
      "foo=bar\n",
      "f is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ",
    ],
    [ipv6, "f is missing FLANNEL_MTU, FLANNEL_IPMASQ"],
    [
      "",
      "f is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ",
    ],
    [`export ${ipv4}${rest}`, "f is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK"],
    [(ipv4 + rest).replaceAll("\n", "\r\n"), 'f: FLANNEL_NETWORK has no IPv4 CIDR: "10.1.0.0/16\\r"'],
    [ipv4 + rest.replace("1472", "-1"), 'f: FLANNEL_MTU is no MTU: "-1"'],
    [ipv4 + rest.replace("1472", "1e3"), 'f: FLANNEL_MTU is no MTU: "1e3"'],
    [ipv4.replace("10.1.17.1/24", "fc00::1/64") + rest, 'f: FLANNEL_SUBNET has no IPv4 CIDR: "fc00::1/64"'],
    [
      ipv4.replace("10.1.17.1/24", "../../etc/passwd") + rest,
      'f: FLANNEL_SUBNET has no IPv4 CIDR: "../../etc/passwd"',
    ],
  ])("%j is refused by name", (text, message) => {
    expect(() => parseSubnetEnv(text, "f")).toThrow(expect.objectContaining({ code: 999, message }));
  });

  test("masquerading is on only by exactly true; unknown keys do nothing", () => {
    expect(parseSubnetEnv(`${ipv4}FLANNEL_IPMASQ=yes\nFLANNEL_MTU=1450\nX\nY=1=2\n`, "f")).toEqual({
      ipv4: { networks: ["10.1.0.0/16"], subnet: "10.1.17.0/24" },
      ipv6: { networks: [], subnet: undefined },
      mtuBytes: 1450,
      ipMasq: false,
    });
  });
});
