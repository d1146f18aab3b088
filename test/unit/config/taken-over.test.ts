import { expect, test } from "bun:test";
import { loadConfig } from "../../../src/config/load.ts";
import { settings } from "../../../src/config/schema.ts";
import { settingsToml } from "../../../src/config/settings-text.ts";
import { takeOver } from "../../../src/config/taken-over.ts";

function missing(): never {
  throw Object.assign(new Error("no file"), { code: "ENOENT" });
}

/** What flanneld's words and variables make of a host that has no configuration, but for `argv`. */
function effective(
  words: readonly string[],
  env: Readonly<Record<string, string>> = {},
  argv: readonly string[] = [],
) {
  const taken = takeOver(words, env);
  return { taken, loaded: loadConfig({ argv, env: {}, readFile: missing, below: taken.source }) };
}

test("flanneld's flags and variables are settings of ours, a flag before its variable", () => {
  const { loaded, taken } = effective(
    ["--etcd-endpoints=https://192.0.2.1:2379", "-ip-masq", "-iface", "eth1", "-iface=eth2", "-v=2"],
    { FLANNELD_ETCD_PREFIX: "/other", FLANNELD_IFACE: "eth9", PATH: "/bin", FLANNELD_PUBLIC_IP: "" },
  );
  expect(loaded.config.store.etcd.endpoints).toEqual(["https://192.0.2.1:2379"]);
  expect(loaded.config.store.etcd.prefix).toBe("/other");
  expect(loaded.config.host.ipMasq).toBe(true);
  expect(loaded.config.log.level).toBe("debug");
  expect(taken.lost).toEqual([]);
  expect(settingsToml(loaded)).toEqual([
    "[uplink]",
    'interface = ["eth1", "eth2"]  # flanneld\'s flag -iface',
    "[store.etcd]",
    'endpoints = ["https://192.0.2.1:2379"]  # flanneld\'s flag -etcd-endpoints',
    'prefix = "/other"  # flanneld\'s env FLANNELD_ETCD_PREFIX',
    "[host]",
    "ip_masq = true  # flanneld's flag -ip-masq",
    "[log]",
    'level = "debug"  # flanneld\'s flag -v',
  ]);
});

test("what this host's own configuration says goes before flanneld's", () => {
  const { loaded } = effective(["-etcd-prefix=/theirs", "-ip-masq"], {}, ["-etcd-prefix=/ours"]);
  expect([loaded.config.store.etcd.prefix, loaded.config.host.ipMasq]).toEqual(["/ours", true]);
  expect(loaded.origins.get("store.etcd.prefix")).toBe("flag -etcd-prefix");
});

test("in Kubernetes: the kind of store, its files and the node's name", () => {
  const { loaded, taken } = effective(
    ["--kube-subnet-mgr", "--ip-masq", "-kubeconfig-file=/etc/flannel/kubeconfig"],
    { NODE_NAME: "worker-7", EVENT_QUEUE_DEPTH: "5000", KUBERNETES_SERVICE_HOST: "10.96.0.1" },
  );
  expect(loaded.config.store.type).toBe("kubernetes");
  expect(loaded.config.kubernetes).toMatchObject({
    kubeconfig: "/etc/flannel/kubeconfig",
    nodeName: "worker-7",
  });
  expect(taken.lost).toEqual(["EVENT_QUEUE_DEPTH has no effect"]);
});

test("a secret is taken, and shown nowhere", () => {
  const { loaded, taken } = effective(
    [
      "-etcd-username=flannel",
      "-etcd-password=hunter2",
      "-etcd-endpoints=http://root:hunter2@192.0.2.1:2379",
    ],
    { FLANNELD_ETCD_PASSWORD: "hunter2" },
  );
  expect(loaded.config.store.etcd.password).toBe("hunter2");
  const shown = [...taken.flags, ...taken.variables, ...taken.lost, ...settingsToml(loaded)].join("\n");
  expect(shown).not.toContain("hunter2");
  expect(shown).toContain("FLANNEL_LITE_STORE_ETCD_PASSWORD");
});

test("hostile words and variables are lost with a reason, and the rest is taken", () => {
  const words = [
    "-etcd-prefix=/kept",
    "-public-ip=1.2.3.4.5",
    "-subnet-lease-renew-margin=soon",
    "-etcd-cafile=ca.pem",
    "-no-such-flag=\u001b[2J",
    "-iptables-resync=5",
    "-logtostderr",
    `-iface-regex=${"(".repeat(10_000)}`,
    "--",
    "-ip-masq",
  ];
  const { loaded, taken } = effective(words, {
    FLANNELD_NO_SUCH: "x",
    FLANNELD_IP_MASQ: "perhaps",
    NODE_NAME: "../../pods",
  });
  expect(loaded.config.store.etcd.prefix).toBe("/kept");
  expect(loaded.config.uplink.publicIp).toBeUndefined();
  expect(loaded.config.host.ipMasq).toBe(false);
  for (const word of [
    "-public-ip",
    "-subnet-lease-renew-margin",
    "-etcd-cafile",
    "-no-such-flag",
    "-iptables-resync has no effect",
    "-logtostderr",
    "-iface-regex",
    "FLANNELD_NO_SUCH",
    "FLANNELD_IP_MASQ",
  ])
    expect(taken.lost.filter((text) => text.includes(word)).length).toBeGreaterThan(0);
  expect(taken.flags.join("\n")).not.toContain("\u001b");
});

test("any garbage gives settings that hold, or reasons", () => {
  const pieces = ["-", "--", "=", "-iface", "-etcd-prefix=", "\u0000", "é", "-ip-masq=", "x".repeat(5_000)];
  let seed = 7;
  const random = (below: number) => (seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648) % below;
  for (let run = 0; run < 300; run++) {
    const words = Array.from({ length: random(6) }, () => `${pieces[random(9)]}${pieces[random(9)]}`);
    expect(() => takeOver(words, { FLANNELD_IFACE: words.join() })).not.toThrow();
  }
});

test("the settings as they are shown, loaded again, are the same", () => {
  const { loaded } = effective(
    [
      "-etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379",
      "-public-ip=192.0.2.7",
      "-healthz-port=8471",
    ],
    { FLANNELD_IFACE_REGEX: 'eth"\\d' },
  );
  const text = settingsToml(loaded).join("\n");
  const again = loadConfig({ argv: ["-config", "/x"], env: {}, readFile: () => Buffer.from(text) });
  for (const { path, configKeys } of settings) {
    const value = (config: unknown) =>
      configKeys.reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], config);
    expect([path, value(again.config)]).toEqual([path, value(loaded.config)]);
  }
});
