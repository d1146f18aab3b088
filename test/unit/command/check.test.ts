import { describe, expect, test } from "bun:test";
import toml from "toml";
import { checkFlags, checkOutput } from "../../../src/command/check.ts";
import { loadConfig } from "../../../src/config/load.ts";
import { settings } from "../../../src/config/schema.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { configInput } from "../../support/config.ts";

const text = `[uplink]
interface = ["eth0"]
[store.etcd]
username = "flannel"
[datapath]
allow_sources = ["10.0.0.0/8", "192.0.2.1"]
[network]
Network = "10.5.0.0/16"
Backend = { Type = "vxlan" }
`;
const env = { FLANNELD_ETCD_PASSWORD: "s3cret" };
const check = (...argv: string[]) =>
  checkOutput(loadConfig({ ...configInput({ toml: text, argv, env }), commandFlags: checkFlags }));

test("check: every option once, with its value and origin, grouped by table", () => {
  const output = check("-v=1");
  expect(output).toEndWith("\n");
  const lines = output.trimEnd().split("\n");
  const squeezed = lines.map((line) => line.replace(/ +#/, " #"));
  expect(squeezed).toContain('uplink.interface = ["eth0"] # /c.toml:2');
  expect(squeezed).toContain("# uplink.public_ip is not set # default");
  expect(squeezed).toContain('store.etcd.password = "<hidden>" # env FLANNELD_ETCD_PASSWORD');
  expect(squeezed).toContain('datapath.allow_sources = ["10.0.0.0/8", "192.0.2.1/32"] # /c.toml:6');
  expect(squeezed).toContain(
    'network = { Network = "10.5.0.0/16", Backend = { Type = "vxlan" } } # /c.toml:7',
  );
  expect(squeezed).toContain('log.level = "debug" # flag -v');
  const mentioned = lines.flatMap((line) => /^(?:# )?([a-z0-9_.]+) (?:=|is)/.exec(line)?.[1] ?? []);
  expect(mentioned.sort()).toEqual(settings.map(({ path }) => path).sort());
  expect(lines.filter((line) => line === "")).toHaveLength(new Set(settings.map(tablePath)).size - 1);
});

test("check: its lines are TOML again", () => {
  expect(toml.parse(check())).toMatchObject({
    uplink: { interface: ["eth0"] },
    store: { renew_margin: 60, etcd: { prefix: "/coreos.com/network" } },
  });
});

test("check: --json is one object of path to value and origin", () => {
  const answer = JSON.parse(check("--json")) as Record<string, unknown>;
  expect(Object.keys(answer).sort()).toEqual(settings.map(({ path }) => path).sort());
  expect(answer["uplink.public_ip"]).toEqual({ value: null, origin: "default" });
  expect(answer["datapath.allow_sources"]).toEqual({
    value: ["10.0.0.0/8", "192.0.2.1/32"],
    origin: "/c.toml:6",
  });
  expect(answer["store.etcd.password"]).toEqual({ value: "<hidden>", origin: "env FLANNELD_ETCD_PASSWORD" });
  expect(answer["network"]).toEqual({
    value: { Network: "10.5.0.0/16", Backend: { Type: "vxlan" } },
    origin: "/c.toml:7",
  });
});

test("check: no form shows a secret", () => {
  for (const argv of [[], ["-json"]]) expect(check(...argv)).not.toContain("s3cret");
});

function tablePath({ keys }: { readonly keys: readonly string[] }): string {
  return keys.slice(0, -1).join(".");
}

describe("check: this host's uplink", () => {
  const loaded = (...argv: string[]) =>
    loadConfig({ ...configInput({ toml: text, argv, env }), commandFlags: checkFlags });
  const address = parseIpAddress("192.0.2.7");
  const chosen = {
    uplink: { name: "eth0", index: 2, mtuBytes: 1500, address, publicIp: parseIpAddress("198.51.100.1") },
    reason: "it has the default route",
    passedOver: [{ candidate: "eth1 (10.0.0.1)", reason: "no default route" }],
  };

  test("the choice, its reason and what it beat stand as comments, the rest stays TOML", () => {
    const output = checkOutput(loaded(), chosen);
    expect(output).toEndWith(
      "\n\n# On this host, the uplink is eth0 with 192.0.2.7, known to others as 198.51.100.1: it has the default route\n" +
        "# Passed over:\n#   eth1 (10.0.0.1): no default route\n",
    );
    expect(toml.parse(output)).toEqual(toml.parse(check()));
  });

  test("in JSON it stands beside the options", () => {
    const answer = JSON.parse(checkOutput(loaded("-json"), chosen)) as Record<string, unknown>;
    expect(answer["uplink"]).toEqual({
      ...{ name: "eth0", index: 2, mtuBytes: 1500, address: "192.0.2.7", publicIp: "198.51.100.1" },
      ...{ reason: chosen.reason, passedOver: chosen.passedOver },
    });
  });

  test("what could not be looked at is said, and the options are told all the same", () => {
    const trouble = "cannot load the native addon. Mount /proc";
    expect(checkOutput(loaded(), { trouble })).toBe(
      `${checkOutput(loaded())}\n# On this host, no uplink: ${trouble}\n`,
    );
    expect(JSON.parse(checkOutput(loaded("-json"), { trouble }))).toMatchObject({ uplink: { trouble } });
  });

  test("of many interfaces the first sixteen are told to people, and how many more there are", () => {
    const many = Array.from({ length: 40 }, (_, at) => ({ candidate: `veth${at}`, reason: "none" }));
    const lines = checkOutput(loaded(), { ...chosen, passedOver: many })
      .trimEnd()
      .split("\n");
    expect(lines.slice(-2)).toEqual(["#   veth15: none", "#   and 24 more"]);
  });
});
