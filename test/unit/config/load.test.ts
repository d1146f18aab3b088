import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { askedFor, loadConfig } from "../../../src/config/load.ts";
import { flanneldFlagsGone, flanneldFlagsWithoutEffect } from "../../../src/config/flanneld-flags.ts";
import { settings } from "../../../src/config/schema.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { configInput, configValue, loadFrom, problemsFrom } from "../../support/config.ts";
import { seededRandom } from "../../support/random.ts";

describe("config: defaults", () => {
  test("nothing given is flanneld's defaults, in domain types", () => {
    const { config, origins, warnings, file } = loadFrom({});
    expect(config).toEqual({
      uplink: {
        interface: [],
        interfaceRegex: [],
        canReach: undefined,
        publicIp: undefined,
        publicIpv6: undefined,
      },
      store: {
        type: "etcd",
        leaseTtl: 1440,
        renewMargin: 60,
        onConflict: "stop",
        offlineStart: true,
        etcd: {
          endpoints: ["http://127.0.0.1:4001", "http://127.0.0.1:2379"],
          api: "auto",
          transport: "gateway",
          prefix: "/coreos.com/network",
          cafile: undefined,
          certfile: undefined,
          keyfile: undefined,
          username: undefined,
          passwordFile: undefined,
          password: undefined,
        },
        embedded: {
          serve: false,
          listen: "127.0.0.1:2379",
          dataDir: "/var/lib/flannel-lite/store",
          certfile: undefined,
          keyfile: undefined,
          clientCafile: undefined,
          usersFile: undefined,
        },
      },
      kubernetes: {
        kubeconfig: undefined,
        apiUrl: undefined,
        annotationPrefix: "flannel.alpha.coreos.com",
        netConfig: "/etc/kube-flannel/net-conf.json",
        setNodeNetworkUnavailable: true,
        nodeName: undefined,
        annotateNode: false,
      },
      network: undefined,
      backend: {
        extensionCommands: "local",
        preStartupCommand: undefined,
        postStartupCommand: undefined,
        subnetAddCommand: undefined,
        subnetRemoveCommand: undefined,
        commandTimeout: 60,
      },
      datapath: {
        engine: "auto",
        latency: "auto",
        strict: "overlay",
        allowSources: [],
        txChecksum: "auto",
        onStop: "keep",
      },
      host: {
        ipForward: true,
        ipMasq: false,
        ipMasqFullyRandomDisable: false,
        noMasquerade: [],
        forwardRules: true,
        firewall: "auto",
        blackholeRoute: false,
        subnetFile: "/run/flannel/subnet.env",
        nodeId: undefined,
        runDir: "/run/flannel-lite",
        stateDir: "/var/lib/flannel-lite",
      },
      health: { ip: parseIpAddress("0.0.0.0"), port: 0 },
      metrics: { ip: parseIpAddress("127.0.0.1"), port: 0, peersMax: 200 },
      log: { level: "info", format: "text" },
    });
    expect([...new Set(origins.values())]).toEqual(["default"]);
    expect([...origins.keys()]).toEqual(settings.map(({ path }) => path));
    expect(warnings).toEqual([]);
    expect(file).toBeUndefined();
  });

  test("every option parses its own default and its own example", () => {
    for (const { path, option } of settings.filter((setting) => !setting.option.secret)) {
      expect([path, "value" in option.kind.parse(option.fallback ?? option.example)]).toEqual([path, true]);
    }
  });
});

const embeddedFlags = ["-store-type=embedded", "-store-embedded-serve"];

/** Flag, a text for it, what it becomes, and other flags without which it would be refused. */
const samples: Record<string, readonly [text: string, value: unknown, also?: readonly string[]]> = {
  iface: ["eth0", ["eth0"]],
  "iface-regex": [String.raw`^192\.0\.2\.`, [String.raw`^192\.0\.2\.`]],
  "iface-can-reach": ["2001:db8::9", "2001:db8::9"],
  "public-ip": ["192.0.2.7", "192.0.2.7"],
  "public-ipv6": ["2001:DB8::7", "2001:db8::7"],
  "store-type": ["embedded", "embedded", ["-store-embedded-serve"]],
  "store-embedded-serve": ["true", true, ["-store-type=embedded"]],
  "store-embedded-listen": ["[::0001]:02379", "[::1]:2379", embeddedFlags],
  "store-embedded-data-dir": ["/var/store", "/var/store", embeddedFlags],
  "store-embedded-certfile": ["/s.crt", "/s.crt", embeddedFlags],
  "store-embedded-keyfile": ["/s.key", "/s.key", embeddedFlags],
  "store-embedded-client-cafile": ["/ca.crt", "/ca.crt", embeddedFlags],
  "store-embedded-users-file": ["/users", "/users", embeddedFlags],
  "kube-subnet-mgr": ["f", "etcd"],
  "kubeconfig-file": ["/k.conf", "/k.conf"],
  "kube-api-url": ["https://192.0.2.1:6443/k8s", "https://192.0.2.1:6443/k8s"],
  "kube-annotation-prefix": ["org.com/9", "org.com/9"],
  "net-config-path": ["/n.json", "/n.json"],
  "set-node-network-unavailable": ["0", false],
  "kubernetes-node-name": ["worker-7", "worker-7"],
  "kubernetes-annotate-node": ["true", true],
  "healthz-ip": ["::1", "::1"],
  "healthz-port": ["0x1f90", 8080],
  "metrics-ip": ["192.0.2.1", "192.0.2.1"],
  "metrics-port": ["9100", 9100],
  "metrics-peers-max": ["0", 0],
  "subnet-lease-renew-margin": ["0x10", 16],
  "etcd-endpoints": ["https://a:2379, https://[::1]/", ["https://a:2379", "https://[::1]"]],
  "store-etcd-api": ["v2", "v2"],
  "store-etcd-transport": ["grpc", "grpc"],
  "store-lease-ttl": ["600", 600],
  "store-on-conflict": ["new-subnet", "new-subnet"],
  "store-offline-start": ["F", false],
  "etcd-prefix": ["/a//b/", "/a/b"],
  "etcd-cafile": ["/ca.pem", "/ca.pem"],
  "etcd-certfile": ["/c.pem", "/c.pem", ["-etcd-keyfile=/k"]],
  "etcd-keyfile": ["/k.pem", "/k.pem", ["-etcd-certfile=/c"]],
  "etcd-username": ["u", "u", ["-etcd-password=p"]],
  "store-etcd-password-file": ["/p", "/p", ["-etcd-username=u"]],
  "etcd-password": ["p=,#", "p=,#", ["-etcd-username=u"]],
  network: ['{"network":"10.1.0.0/16"}', { Network: "10.1.0.0/16" }],
  "backend-extension-commands": ["store", "store"],
  "backend-pre-startup-command": ["echo key; cat", "echo key; cat"],
  "backend-post-startup-command": ["ip link", "ip link"],
  "backend-subnet-add-command": ['ip route add "$SUBNET"', 'ip route add "$SUBNET"'],
  "backend-subnet-remove-command": ['ip route del "$SUBNET"', 'ip route del "$SUBNET"'],
  "backend-command-timeout": ["5", 5],
  "datapath-engine": ["kernel", "kernel"],
  "datapath-latency": ["throughput", "throughput"],
  "datapath-strict": ["off", "off"],
  "datapath-allow-sources": ["192.0.2.1", ["192.0.2.1/32"]],
  "datapath-tx-checksum": ["off", "off"],
  "datapath-on-stop": ["remove", "remove"],
  "host-ip-forward": ["F", false],
  "ip-masq": ["1", true],
  "ip-masq-fully-random-disable": ["T", true],
  "host-no-masquerade": ["192.0.2.1", ["192.0.2.1/32"]],
  "iptables-forward-rules": ["false", false],
  "host-firewall": ["nftables", "nftables"],
  "ip-blackhole-route": ["true", true],
  "subnet-file": ["/s.env", "/s.env"],
  "host-node-id": ["edge-7", "edge-7"],
  "host-run-dir": ["/r", "/r"],
  "host-state-dir": ["/d", "/d"],
  "log-level": ["warn", "warn"],
  v: ["2", "debug"],
  "log-format": ["klog", "klog"],
};
const spellings = settings.flatMap((setting) => setting.flags.map(({ name }) => ({ name, setting })));

describe("config: every flag and variable", () => {
  test("the table below knows them all", () => {
    expect(spellings.map(({ name }) => name).sort()).toEqual(Object.keys(samples).sort());
  });

  test("no name is given twice, and none is one of flanneld's for something else", () => {
    const flags = spellings.map(({ name }) => name);
    const variables = settings.flatMap((setting) => setting.variables.map(({ name }) => name));
    expect(new Set(flags).size).toBe(flags.length);
    expect(new Set(variables).size).toBe(variables.length);
    const others = [...flanneldFlagsWithoutEffect.map(({ name }) => name), ...flanneldFlagsGone.keys()];
    expect(flags.filter((name) => others.includes(name))).toEqual([]);
  });

  test.each(spellings)("-$name sets its option, in all of Go's spellings", ({ name, setting }) => {
    const [text, value, also = []] = samples[name] ?? ["", undefined];
    const forms = [[`-${name}=${text}`], [`--${name}=${text}`]];
    const isBool = setting.flags.some((flag) => flag.name === name && flag.form.isBool);
    if (!isBool) forms.push([`-${name}`, text], [`--${name}`, text]);
    for (const form of forms) {
      const { config, origins } = loadFrom({ argv: [...form, ...also] });
      expect(configValue(config, setting.configKeys)).toEqual(value);
      expect(origins.get(setting.path)).toBe(`flag -${name}`);
    }
  });

  const alsoFlags: Record<string, string> = { FLANNELD_V: "v", FLANNELD_KUBE_SUBNET_MGR: "kube-subnet-mgr" };
  const variables = settings.flatMap((setting) =>
    setting.variables.map(({ name }) => ({
      name,
      setting,
      flag: alsoFlags[name] ?? setting.flags[0]?.name ?? "",
    })),
  );
  test.each(variables)("$name sets its option", ({ name, setting, flag }) => {
    const [text, value, also = []] = samples[flag] ?? ["", undefined];
    const { config, origins, warnings } = loadFrom({ argv: also, env: { [name]: text } });
    expect(configValue(config, setting.configKeys)).toEqual(value);
    expect(origins.get(setting.path)).toBe(`env ${name}`);
    expect(warnings).toEqual(
      setting.keys[0] === "kubernetes" && flag !== "kubernetes-annotate-node"
        ? [`${setting.path} (env ${name}) has no effect: store.type is "etcd"`]
        : [],
    );
  });

  test("-iptables-resync and its variable are read and warned about, not silently dropped", () => {
    const why = "has no effect: rules are repaired as soon as somebody changes them, not on a timer";
    expect(loadFrom({ argv: ["-iptables-resync", "0x5", "-ip-masq"] })).toMatchObject({
      warnings: [`flag -iptables-resync ${why}`],
      config: { host: { ipMasq: true } },
    });
    expect(loadFrom({ env: { FLANNELD_IPTABLES_RESYNC: "5" } }).warnings).toEqual([
      `FLANNELD_IPTABLES_RESYNC ${why}`,
    ]);
    expect(problemsFrom(configInput({ argv: ["-iptables-resync=often"] }))).toEqual([
      'invalid value "often" for flag -iptables-resync: parse error',
    ]);
  });

  const idle: [flag: string, text: string, bad: string, refusal: string][] = [
    ["vmodule", "a=1,b*=2", "a=x", "syntax error: expect comma-separated list of filename=N"],
    ["log_backtrace_at", "vxlan.go:12", "vxlan.go", "syntax error: expect file.go:234"],
    ["use-multi-cluster-cidr", "true", "maybe", "parse error"],
  ];
  test.each(idle)("-%s and its variable likewise", (flag, text, bad, refusal) => {
    const variable = `FLANNELD_${flag.toUpperCase().replaceAll("-", "_")}`;
    const both = loadFrom({ argv: [`-${flag}=${text}`, "-ip-masq"], env: { [variable]: text } });
    expect(both.config.host.ipMasq).toBe(true);
    expect(both.warnings.map((warning) => warning.replace(/:.*/, ""))).toEqual([
      `flag -${flag} has no effect`,
      `${variable} has no effect`,
    ]);
    expect(problemsFrom(configInput({ argv: [`-${flag}=${bad}`] }))).toEqual([
      `invalid value "${bad}" for flag -${flag}: ${refusal}`,
    ]);
  });

  test("the tables know every flag of flanneld's, those of old and their variables included", () => {
    const flanneld =
      "etcd-endpoints etcd-prefix etcd-keyfile etcd-certfile etcd-cafile etcd-username etcd-password iface " +
      "iface-regex iface-can-reach subnet-file public-ip public-ipv6 subnet-lease-renew-margin ip-masq " +
      "ip-masq-fully-random-disable kube-subnet-mgr kube-api-url kube-annotation-prefix kubeconfig-file " +
      "net-config-path set-node-network-unavailable healthz-ip healthz-port iptables-resync " +
      "iptables-forward-rules ip-blackhole-route v vmodule log_backtrace_at use-multi-cluster-cidr";
    const known = [
      ...spellings.map(({ name }) => name),
      ...flanneldFlagsWithoutEffect.map(({ name }) => name),
    ];
    expect(flanneld.split(" ").filter((name) => !known.includes(name))).toEqual([]);
    const names = settings.flatMap((setting) => setting.variables.map(({ name }) => name));
    const variable = (flag: string) => `FLANNELD_${flag.toUpperCase().replaceAll("-", "_")}`;
    const without = flanneldFlagsWithoutEffect.map(({ name }) => name);
    expect(
      flanneld.split(" ").filter((flag) => !without.includes(flag) && !names.includes(variable(flag))),
    ).toEqual([]);
  });

  test("what belongs to another store is taken with a warning", () => {
    const given = { argv: ["-kube-api-url=http://a", "-kube-subnet-mgr=false"] };
    expect(loadFrom(given).warnings).toEqual([
      'kubernetes.api_url (flag -kube-api-url) has no effect: store.type is "etcd"',
    ]);
    const inNodes = {
      argv: ["-kube-subnet-mgr", "-etcd-username=u", "-etcd-password=p", "-kube-api-url=http://a"],
    };
    expect(loadFrom(inNodes)).toMatchObject({
      config: { store: { type: "kubernetes" } },
      warnings: ["username", "password"].map((key) => expect.stringContaining(`store.etcd.${key} (flag`)),
    });
    expect(loadFrom({ env: { FLANNELD_KUBE_SUBNET_MGR: "1" } }).config.store.type).toBe("kubernetes");
  });

  test("annotating a node makes use of what leads to Kubernetes, but of nothing else of its store", () => {
    const given = { argv: ["-kubernetes-annotate-node", "-kube-api-url=http://a", "-net-config-path=/n"] };
    expect(loadFrom(given).warnings).toEqual([
      'kubernetes.net_config (flag -net-config-path) has no effect: store.type is "etcd"',
    ]);
    expect(loadFrom({ argv: ["-kube-subnet-mgr", "-kubernetes-annotate-node"] }).warnings).toEqual([
      'kubernetes.annotate_node (flag -kubernetes-annotate-node) has no effect: store.type is "kubernetes"',
    ]);
  });

  test("values that flanneld would refuse, or should", () => {
    const refused = [
      "-iface-regex=(",
      "-iface-regex=(?=a)",
      "-iface-can-reach=host",
      "-public-ipv6=192.0.2.1",
      "-healthz-port=65536",
      "-healthz-port=http",
      "-healthz-ip=localhost",
      "-kube-api-url=https://user:pw@a",
      "-kube-api-url=a",
      "-kube-annotation-prefix=org",
      "-kube-annotation-prefix=org.COM",
      "-kube-annotation-prefix=org.com/PREFIX",
      "-kube-annotation-prefix=org.com/a/b",
      "-set-node-network-unavailable=maybe",
      "-logtostderr",
      "-remote=192.0.2.1:8888",
    ];
    for (const flag of refused)
      expect([flag, problemsFrom(configInput({ argv: [flag] })).length]).toEqual([flag, 1]);
    expect(loadFrom({ argv: ["-healthz-port=-1"] }).config.health.port).toBe(0);
  });

  test("the names are the ones of flanneld where it has one", () => {
    const byFlag = new Map(spellings.map(({ name, setting }) => [name, setting]));
    expect(byFlag.get("iface")?.variables.map(({ name }) => name)).toEqual([
      "FLANNEL_LITE_UPLINK_INTERFACE",
      "FLANNELD_IFACE",
    ]);
    expect(byFlag.get("log-level")?.variables.map(({ name }) => name)).toEqual([
      "FLANNEL_LITE_LOG_LEVEL",
      "FLANNELD_V",
    ]);
    expect(byFlag.get("datapath-on-stop")?.variables.map(({ name }) => name)).toEqual([
      "FLANNEL_LITE_DATAPATH_ON_STOP",
    ]);
  });
});

describe("config: precedence", () => {
  const toml = '[store.etcd]\nprefix = "/toml"\n';
  const env = { FLANNELD_ETCD_PREFIX: "/env" };

  test("flag, environment, file, default, and each origin is kept", () => {
    const of = (sources: Parameters<typeof loadFrom>[0]) => {
      const { config, origins } = loadFrom(sources);
      return [config.store.etcd.prefix, origins.get("store.etcd.prefix")];
    };
    expect(of({ toml, env, argv: ["-etcd-prefix=/flag"] })).toEqual(["/flag", "flag -etcd-prefix"]);
    expect(of({ toml, env })).toEqual(["/env", "env FLANNELD_ETCD_PREFIX"]);
    expect(of({ toml })).toEqual(["/toml", "/c.toml:2"]);
    expect(of({})).toEqual(["/coreos.com/network", "default"]);
  });

  test("our variable wins over flanneld's, an empty one counts as unset", () => {
    const both = { ...env, FLANNEL_LITE_STORE_ETCD_PREFIX: "/own" };
    expect(loadFrom({ env: both }).config.store.etcd.prefix).toBe("/own");
    expect(loadFrom({ env: { ...both, FLANNEL_LITE_STORE_ETCD_PREFIX: "" } }).config.store.etcd.prefix).toBe(
      "/env",
    );
  });

  test("the last of a repeated flag wins, also between two flags for one option", () => {
    expect(
      loadFrom({ argv: ["-etcd-endpoints=http://a", "-etcd-endpoints=http://b"] }).config.store.etcd
        .endpoints,
    ).toEqual(["http://b"]);
    const levels = (...argv: string[]) => loadFrom({ argv }).config.log.level;
    expect([levels("-v=1", "-log-level=warn"), levels("-log-level=warn", "-v=1")]).toEqual(["warn", "debug"]);
  });

  test("list flags collect in order, commas stay, and the environment is not merged in", () => {
    const { config } = loadFrom({
      argv: ["-iface=eth1", "-v=1", "--iface", "10.0.0.1"],
      env: { FLANNELD_IFACE: "eth9" },
    });
    expect(config.uplink.interface).toEqual(["eth1", parseIpAddress("10.0.0.1")]);
    expect(loadFrom({ env: { FLANNELD_IFACE: "a,b" } }).config.uplink.interface).toEqual(["a,b"]);
  });

  test("an empty text unsets what has no default, and empties a list", () => {
    const sources = { toml: '[uplink]\npublic_ip = "192.0.2.1"\ninterface = ["eth0"]\n' };
    const { config, origins } = loadFrom({ ...sources, argv: ["-public-ip=", "-iface="] });
    expect(config.uplink).toMatchObject({ interface: [], publicIp: undefined });
    expect(origins.get("uplink.public_ip")).toBe("flag -public-ip");
    expect(loadFrom({ toml: '[uplink]\npublic_ip = ""\n' }).config.uplink.publicIp).toBeUndefined();
  });

  test("values of the file arrive in domain types", () => {
    const { config, origins } = loadFrom({
      toml: `uplink.public_ip = "192.0.2.1"
[datapath]
allow_sources = [
  "10.0.0.7/8", "2001:db8::1",
]
[network]
network = "10.5.0.0/16"
backend = { type = "vxlan", Port = 8472 }
`,
    });
    expect(config.uplink.publicIp).toEqual(parseIpAddress("192.0.2.1"));
    expect(config.datapath.allowSources).toEqual([parsePrefix("10.0.0.0/8"), parsePrefix("2001:db8::1/128")]);
    expect(config.network).toEqual({ Network: "10.5.0.0/16", Backend: { type: "vxlan", Port: 8472 } });
    expect([
      origins.get("uplink.public_ip"),
      origins.get("datapath.allow_sources"),
      origins.get("network"),
    ]).toEqual(["/c.toml:1", "/c.toml:3", "/c.toml:6"]);
  });
});

describe("config: mistakes", () => {
  const ofToml = (toml: string) => problemsFrom(configInput({ toml }));

  test("all mistakes of a file come at once, with line, key, what stood there and what is allowed", () => {
    const toml = `[uplink]
intreface = ["eth0"]
[store]
renew_margin = 2000
[datapath]
strict = "maybe"
`;
    expect(ofToml(toml)).toEqual([
      '/c.toml:2: uplink.intreface = ["eth0"]: unknown key; did you mean uplink.interface?',
      "/c.toml:4: store.renew_margin = 2000: must be 1 to 1439 (minutes)",
      '/c.toml:6: datapath.strict = "maybe": must be one of "overlay", "full", "off"',
    ]);
  });

  const single: [string, string][] = [
    ["[uplnk]", "1: uplnk = {}: unknown key; did you mean uplink?"],
    [
      "uplink = 3",
      "1: uplink = 3: must be a table: interface, interface_regex, can_reach, public_ip, public_ipv6",
    ],
    ["[store.ectd]\nprefix = 1", "1: store.ectd = { prefix = 1 }: unknown key; did you mean store.etcd?"],
    ["strict = 'off'", '1: strict = "off": unknown key; did you mean datapath.strict?'],
    ["[host]\niface = 'e'", '2: host.iface = "e": unknown key; did you mean uplink.interface?'],
    [
      "[host]\nqqqqq = 1",
      "2: host.qqqqq = 1: unknown key; [host] takes ip_forward, ip_masq, ip_masq_fully_random_disable, no_masquerade, forward_rules, firewall, blackhole_route, subnet_file, node_id, run_dir, state_dir",
    ],
    ["[host]\nip_forward = 1", "2: host.ip_forward = 1: must be true or false"],
    [
      "[host]\nnode_id = 'a b'",
      '2: host.node_id = "a b": must be 1 to 128 letters, digits or any of . _ : -',
    ],
    ["[host]\nrun_dir = 'x/y'", '2: host.run_dir = "x/y": must be an absolute path'],
    [
      "[host]\nrun_dir = '/a\\\\0'\nstate_dir = \"/\\u0000\"",
      '3: host.state_dir = "/\\u0000": must be an absolute path',
    ],
    [
      "[log]\nlevel = 1979-05-27",
      '2: log.level = "1979-05-27": must be one of "error", "warn", "info", "debug"',
    ],
    ["[store]\nrenew_margin = 60.5", "2: store.renew_margin = 60.5: must be 1 to 1439 (minutes)"],
    ["[store]\nrenew_margin = nan", "2: store.renew_margin = nan: must be 1 to 1439 (minutes)"],
    ["[store]\ntype = 'consul'", '2: store.type = "consul": must be one of "etcd", "embedded", "kubernetes"'],
    [
      "[datapath]\nengine = 'datagram'",
      '2: datapath.engine = "datagram": must be one of "auto", "userspace", "kernel", "dgram"',
    ],
    [
      "[datapath]\non_stop = 'hand-over'",
      '2: datapath.on_stop = "hand-over": must be one of "keep", "remove", "kernel"',
    ],
    [
      "[datapath]\nallow_sources = [\n'10.0.0.0/8',\n'x']",
      '4: datapath.allow_sources[1] = "x": must be a CIDR or an IP address',
    ],
    [
      "[datapath]\nallow_sources = '::/0'",
      '2: datapath.allow_sources = "::/0": must be a list, each a CIDR or an IP address',
    ],
    ["[uplink]\npublic_ip = '::1'", '2: uplink.public_ip = "::1": must be an IPv4 address'],
    ["[uplink]\npublic_ip = '10.0.0.01'", '2: uplink.public_ip = "10.0.0.01": must be an IPv4 address'],
    [
      "[uplink]\ninterface = ['eth0/1']",
      '2: uplink.interface[0] = "eth0/1": must be an interface name (at most 15 bytes) or an IP address',
    ],
    [
      "[uplink]\ninterface = ['éééééééé']",
      '2: uplink.interface[0] = "éééééééé": must be an interface name (at most 15 bytes) or an IP address',
    ],
    [
      "[store.etcd]\nendpoints = []",
      "2: store.etcd.endpoints = []: must be a list of at least 1, each an http:// or https:// URL of host and port only, or host:port",
    ],
    [
      "[store.etcd]\nendpoints = ['http://user:pw@h:1']",
      '2: store.etcd.endpoints[0] = "http://<hidden>@h:1": must be an http:// or https:// URL of host and port only, or host:port',
    ],
    [
      "[store.etcd]\nendpoints = ['user:pw@h:1']",
      '2: store.etcd.endpoints[0] = "<hidden>@h:1": must be an http:// or https:// URL of host and port only, or host:port',
    ],
    [
      "[store.etcd]\nprefix = '/a/../b'",
      '2: store.etcd.prefix = "/a/../b": must be a key prefix such as "/coreos.com/network", without "." or ".." in it',
    ],
    [
      "[store.etcd]\npassword = 's3cret'",
      "2: store.etcd.password = <hidden>: a secret is not read from here; set FLANNEL_LITE_STORE_ETCD_PASSWORD or name a file with it",
    ],
    [
      "[store.etcd]\npasswrd = 's3cret'",
      "2: store.etcd.passwrd = <hidden>: unknown key; [store.etcd] takes endpoints, api, transport, prefix, cafile, certfile, keyfile, username, password_file",
    ],
    [
      "[network]\nNetwrk = '10.0.0.0/8'",
      '2: network.Netwrk = "10.0.0.0/8": unknown key; did you mean Network?',
    ],
    ["[network]\nNetwork = 10", "2: network.Network = 10: must be a CIDR in quotes"],
    [
      "[network]\nNetwork='10.0.0.0/8'\nnetwork='10.0.0.0/8'",
      '3: network.network = "10.0.0.0/8": Network is there twice, in different case',
    ],
    [
      "[network]\nNetwork='10.0.0.0/8'\n[network.Backend]\nx = inf",
      "3: network.Backend = { x = inf }: must be a table with Type and the backend's options",
    ],
    ["network = 'x'", `1: network = "x": must be a table with the keys of flannel's network JSON`],
    ["[network]", "1: network = {}: please define a correct Network parameter in the flannel config"],
    [
      "__proto__ = 1",
      "1: __proto__ = 1: unknown key; the top level takes uplink, store, kubernetes, network, backend, datapath, host, health, metrics, log",
    ],
    ["[log]\nconstructor = 1", "2: log.constructor = 1: unknown key; [log] takes level, format"],
  ];
  test.each(single)("%j", (toml, problem) => {
    expect(ofToml(toml)).toEqual([`/c.toml:${problem}`]);
  });

  test("an endpoint may lack its scheme, which then is the store's to choose, but not its port", () => {
    const given = ["etcd-1.example:2379", "192.0.2.1:80", "[::1]:2379"];
    const { config } = loadFrom({ argv: [`-etcd-endpoints=${given.join(",")}`] });
    expect(config.store.etcd.endpoints).toEqual(given);
    const refused = ["etcd", "host:99999", ":2379", "host:2379/", "host:0x94b", "unix:/run/etcd", "::1"];
    for (const endpoint of refused) {
      expect(problemsFrom(configInput({ argv: [`-etcd-endpoints=${endpoint}`] }))).toHaveLength(1);
    }
  });

  test("an interface name may hold a comma but no colon, which ip would not find", () => {
    expect(loadFrom({ argv: ["-iface=a,b"] }).config.uplink.interface).toEqual(["a,b"]);
    expect(problemsFrom(configInput({ argv: ["-iface=eth0:1"] }))).toHaveLength(1);
  });

  test("no syntax: file, line, column and what stood there", () => {
    expect(ofToml("[log]\nlevel = info # word\n")).toEqual([
      '/c.toml:2:12: unexpected "o", in "level = info # word"',
    ]);
    expect(ofToml("[log]\nlevel = \n")).toEqual(['/c.toml:2:9: unexpected end of line, in "level ="']);
    expect(ofToml("[store.etcd]\npassword = s3cret\n").join()).not.toContain("s3cret");
  });

  test("settings that are right one by one and wrong together", () => {
    const of = (...argv: string[]) => problemsFrom(configInput({ argv }));
    expect(of("-etcd-certfile=/c")).toEqual([
      "store.etcd.certfile (flag -etcd-certfile) is set but store.etcd.keyfile is not",
    ]);
    expect(of("-store-type=embedded")).toEqual([
      'store.type (flag -store-type) is "embedded" but store.embedded.serve is false: set it to true on the one host that keeps the leases, and on all others store.type = "etcd" with that host\'s address in store.etcd.endpoints',
    ]);
    expect(of("-etcd-keyfile=/k")).toEqual([
      "store.etcd.keyfile (flag -etcd-keyfile) is set but store.etcd.certfile is not",
    ]);
    expect(of("-etcd-username=u")).toEqual([
      "store.etcd.username (flag -etcd-username) is set but neither password nor password_file is",
    ]);
    expect(of("-etcd-password=p")).toEqual([
      "store.etcd.password (flag -etcd-password) is set but store.etcd.username is not",
    ]);
    expect(of("-store-etcd-password-file=/p")).toEqual([
      "store.etcd.password_file (flag -store-etcd-password-file) is set but store.etcd.username is not",
    ]);
    expect(of("-etcd-username=u", "-etcd-password=p", "-store-etcd-password-file=/p")).toEqual([
      "store.etcd.password (flag -etcd-password) is set, and so is store.etcd.password_file: keep one",
    ]);
    expect(of("-etcd-endpoints=http://a,https://b")).toEqual([
      "store.etcd.endpoints (flag -etcd-endpoints) mixes http and https",
    ]);
    expect(of("-store-lease-ttl=60")).toEqual([
      "store.renew_margin (default) is 60 minutes and must be shorter than store.lease_ttl (flag -store-lease-ttl), 60 minutes",
    ]);
    expect(of("-healthz-port=9", "-metrics-port=9")).toEqual([
      "metrics.port (flag -metrics-port) is health.port, but metrics.ip 127.0.0.1 is not health.ip 0.0.0.0: give both one address, or each its port",
    ]);
    expect(of("-etcd-endpoints=https://a,b:2379")).toEqual([
      "store.etcd.endpoints (flag -etcd-endpoints) mixes http and https",
    ]);
  });

  test("flags, environment and file are all reported together, also what is overridden", () => {
    const input = configInput({
      toml: "[log]\nlevel = 'loud'\n",
      env: {
        FLANNELD_SUBNET_LEASE_RENEW_MARGIN: "x",
        FLANNEL_LITE_LOG_LEVEL: "warn",
        FLANNEL_LITE_HOST_IP_FORWARD: "maybe",
      },
      argv: [
        "-subnet-lease-renew-margin=0",
        "-host-ip-forward=maybe",
        "-v=x",
        "-iface=a/b",
        "-iface=ok",
        "stray",
      ],
    });
    expect(problemsFrom(input)).toEqual([
      'unexpected argument "stray"',
      'invalid value "0" for flag -subnet-lease-renew-margin: must be 1 to 1439 (minutes)',
      'invalid boolean value "maybe" for -host-ip-forward: parse error',
      'invalid value "x" for flag -v: strconv.ParseInt: parsing "x": invalid syntax',
      'invalid value "a/b" for flag -iface: must be an interface name (at most 15 bytes) or an IP address',
      'invalid value "x" for FLANNELD_SUBNET_LEASE_RENEW_MARGIN: parse error',
      'invalid boolean value "maybe" for FLANNEL_LITE_HOST_IP_FORWARD: parse error',
      `/c.toml:2: log.level = "loud": must be one of "error", "warn", "info", "debug"`,
    ]);
  });

  test("a network as JSON in a flag names the member at fault", () => {
    const of = (text: string) => problemsFrom(configInput({ argv: [`-network=${text}`] }));
    expect(of("{")).toEqual(['invalid value "{" for flag -network: not JSON']);
    expect(of('{"SubnetLen":"24"}')).toEqual([
      'invalid value "24" for flag -network: SubnetLen: must be a prefix length',
    ]);
    expect(of('{"constructor":null,"__proto__":1}')).toHaveLength(2);
  });

  test("a bad secret is not repeated", () => {
    const problems = problemsFrom(
      configInput({ env: { FLANNELD_ETCD_PASSWORD: "s3\ncret", FLANNELD_ETCD_USERNAME: "u" } }),
    );
    expect(problems).toEqual(["invalid value <hidden> for FLANNELD_ETCD_PASSWORD: must be a non-empty text"]);
  });

  test("a slip in a secret's name does not make its value known", () => {
    for (const line of [
      'pasword = "s3cret"',
      'passwrod="s3cret" x',
      'etcd_pasword = "s3cret"',
      'tokn = "s3cret"',
    ])
      expect(ofToml(`[store.etcd]\n${line}\n`).join()).not.toContain("s3cret");
    expect(ofToml('[store.etcd]\nprefixx = "shown"\n').join()).toContain("shown");
  });

  test("beyond fifty problems the rest is counted", () => {
    const problems = ofToml(Array.from({ length: 70 }, (_, at) => `zzzzzz${at} = 1`).join("\n"));
    expect(problems).toHaveLength(51);
    expect(problems.at(-1)).toBe("and 20 more");
  });

  test("unknown variables with our prefixes are warnings, others are nobody's business", () => {
    const env = {
      FLANNELD_ETCD_ENDPOINT: "x",
      FLANNELD_LOGTOSTDERR: "true",
      FLANNELD_VERSION: "true",
      FLANNEL_LITE_QQQQQQQQQQQQ: "1",
      "FLANNEL_LITE_\n": "1",
      FLANNELD_EMPTY: "",
      FLANNEL_OTHER: "1",
      PATH: "/bin",
    };
    expect(loadFrom({ env }).warnings).toEqual([
      "FLANNELD_ETCD_ENDPOINT has no effect: no such option; did you mean FLANNELD_ETCD_ENDPOINTS?",
      "FLANNELD_LOGTOSTDERR has no effect: flanneld refuses it too: the log goes to standard error, and only -v is there",
      "FLANNELD_VERSION has no effect: only the flag -version prints the version",
      '"FLANNEL_LITE_\\n" has no effect: no such option',
      "FLANNEL_LITE_QQQQQQQQQQQQ has no effect: no such option",
    ]);
  });
});

describe("config: the file", () => {
  const directory = mkdtempSync(join(tmpdir(), "fl-config-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const put = (name: string, content: string | Uint8Array): string => {
    const path = join(directory, name);
    writeFileSync(path, content);
    return path;
  };
  const load = (path: string) => loadConfig({ argv: ["-config", path], env: {} });
  const problem = (path: string) => problemsFrom({ argv: ["-config", path], env: {} });

  test("a real file is read, also through a link, and named in the origins", () => {
    const path = put("ok.toml", '[log]\nformat = "json"\n');
    expect(load(path)).toMatchObject({ file: path, config: { log: { format: "json" } } });
    expect(load(path).origins.get("log.format")).toBe(`${path}:2`);
    symlinkSync(path, join(directory, "link.toml"));
    expect(load(join(directory, "link.toml")).config.log.format).toBe("json");
    expect(load(put("empty.toml", "")).config.log.format).toBe("text");
  });

  test("the variable names the file where the flag does not", () => {
    const path = put("env.toml", "[log]\nformat = 'json'\n");
    expect(loadConfig({ argv: [], env: { FLANNEL_LITE_CONFIG: path } }).file).toBe(path);
    expect(
      loadConfig({ argv: ["-config", put("e.toml", "")], env: { FLANNEL_LITE_CONFIG: path } }).config.log
        .format,
    ).toBe("text");
  });

  test("one that is named must exist, the default one need not", () => {
    const path = join(directory, "none.toml");
    expect(problem(path)).toEqual([`${path}: no such file`]);
    const asked: string[] = [];
    const readFile = (name: string) => {
      asked.push(name);
      throw Object.assign(new Error(), { code: "ENOENT" });
    };
    expect(loadConfig({ argv: [], env: {}, readFile }).file).toBeUndefined();
    expect(asked).toEqual(["/etc/flannel/config.toml"]);
  });

  test("the default one that cannot be read is a mistake", () => {
    const readFile = () => {
      throw Object.assign(new Error("EACCES"), { code: "EACCES" });
    };
    expect(problemsFrom({ argv: [], env: {}, readFile })).toEqual([
      "/etc/flannel/config.toml: cannot be read: permission denied",
    ]);
  });

  test("a directory, a device, other encodings and more than 1 MiB are refused in words", () => {
    mkdirSync(join(directory, "d.toml"));
    expect(problem(join(directory, "d.toml"))).toEqual([
      `${join(directory, "d.toml")}: is a directory, not a file`,
    ]);
    expect(problem("/dev/zero")).toEqual(["/dev/zero: cannot be read: is not a regular file"]);
    const latin = put("latin.toml", new Uint8Array([0x23, 0x0a, 0x23, 0xe9, 0x0a]));
    expect(problem(latin)).toEqual([`${latin}:2: not UTF-8 text`]);
    const cut = put("cut.toml", new Uint8Array([0x23, 0xc3]));
    expect(problem(cut)).toEqual([`${cut}:1: not UTF-8 text`]);
    const huge = put("huge.toml", "#".repeat((1 << 20) + 1));
    expect(problem(huge)).toEqual([`${huge}: larger than 1048576 bytes`]);
    expect(load(put("full.toml", "#".repeat(1 << 20))).config.log.format).toBe("text");
  });
});

describe("config: the command line around it", () => {
  test("help and version are found without loading anything", () => {
    expect(askedFor(["-v=1", "-h"])).toBe("help");
    expect(askedFor(["-nonsense", "--help"])).toBe("help");
    expect(askedFor(["--version"])).toBe("version");
    expect(askedFor(["-version=false"])).toBeUndefined();
    expect(askedFor(["-iface", "-h"])).toBeUndefined();
    expect(askedFor(["-nodes", "-h"], [{ name: "nodes", isBool: false, doc: "" }])).toBeUndefined();
  });

  test("a word behind the last flag is a mistake, or as flanneld has it a warning; one before a flag always is", () => {
    const load = (...argv: string[]) => ({ ...configInput({ argv }), ignoreLastWords: true });
    expect(problemsFrom(configInput({ argv: ["-ip-masq", "true"] }))).toHaveLength(1);
    const { config, warnings } = loadConfig(load("-ip-masq", "true"));
    expect([config.host.ipMasq, warnings]).toEqual([
      true,
      ['unexpected argument "true"; did you mean -ip-masq=true?; it is ignored, as by flanneld'],
    ]);
    expect(problemsFrom(load("-ip-masq", "true", "-v=1"))).toHaveLength(1);
  });

  test("a command's own flags come back as text", () => {
    const commandFlags = [
      { name: "json", isBool: true, doc: "" },
      { name: "nodes", isBool: false, doc: "" },
    ];
    const { commandFlags: given } = loadConfig({
      ...configInput({ argv: ["-json=T", "--nodes", "3", "-v=1"] }),
      commandFlags,
    });
    expect([...given]).toEqual([
      ["json", "true"],
      ["nodes", "3"],
    ]);
    expect(problemsFrom({ ...configInput({ argv: ["-json=x"] }), commandFlags })).toEqual([
      'invalid boolean value "x" for -json: parse error',
    ]);
    expect(problemsFrom(configInput({ argv: ["-json"] }))).toEqual(["flag provided but not defined: -json"]);
  });
});

describe("config: hostile input", () => {
  const words = [
    ...settings.flatMap(({ keys }) => keys),
    ...[
      "[",
      "]",
      "{",
      "}",
      "=",
      ".",
      ",",
      "\n",
      "\n",
      "\n[",
      "]\n",
      '"',
      "'",
      '"""',
      "#",
      "-1",
      "0x7f",
      "nan",
      "true",
    ],
    ...[
      "1979-05-27",
      '"10.0.0.0/8"',
      '"vxlan"',
      "Network",
      "Backend",
      "__proto__",
      "constructor",
      "\u0000",
      "é",
      "\\u",
    ],
  ];
  const onlyProblems = (sources: Parameters<typeof configInput>[0]): boolean => {
    try {
      loadFrom(sources);
      return true;
    } catch {
      return problemsFrom(configInput(sources)).length === 0;
    }
  };

  test("random words as a file give a config or a list of problems, nothing else", () => {
    const random = seededRandom(11);
    for (let round = 0; round < 3000; round++) {
      const toml = Array.from({ length: random.below(30) }, () => words[random.below(words.length)]).join(
        random.pick(["", " "]),
      );
      onlyProblems({ toml });
    }
  });

  test("random values under every key are taken or refused, and the rest of the file with them", () => {
    const random = seededRandom(12);
    const values = [
      '""',
      '"x"',
      "-1",
      "0",
      "60",
      "1.5",
      "inf",
      "true",
      "[]",
      "[[]]",
      "{}",
      "{a=1}",
      '["x", 1]',
      "07:32:00",
    ];
    let taken = 0;
    for (let round = 0; round < 2000; round++) {
      const setting = settings[random.below(settings.length)];
      const toml = `${setting?.path} = ${values[random.below(values.length)]}\n`;
      if (onlyProblems({ toml })) taken++;
    }
    expect(taken).toBeGreaterThan(50);
  });

  test("random command lines and variables likewise", () => {
    const random = seededRandom(13);
    const names = [...spellings.map(({ name }) => name), "config", "version", "x", "", "-"];
    const texts = [
      "",
      "-",
      "--",
      "1",
      "true",
      "/a",
      "{}",
      '{"a":{}}',
      "[1]",
      "null",
      "\u0000",
      "10.0.0.1",
      "é".repeat(99),
      ",",
    ];
    for (let round = 0; round < 3000; round++) {
      const text = () => texts[random.below(texts.length)] ?? "";
      const name = () => names[random.below(names.length)] ?? "";
      const argv = Array.from({ length: random.below(6) }, () =>
        random.pick([`-${name()}=${text()}`, `--${name()}`, text()]),
      );
      const env = { [`FLANNELD_${name().toUpperCase().replaceAll("-", "_")}`]: text() };
      onlyProblems({ argv, env });
    }
  });

  test("the largest and the deepest file are answered", () => {
    for (const toml of [
      `a${".a".repeat(500_000)} = 1`,
      `[network]\nBackend${".a".repeat(500_000)} = 1`,
      `[network]\nBackend = ${"[".repeat(32)}${"]".repeat(32)}`,
      `[datapath]\nallow_sources = [${'"x",'.repeat(200_000)}]`,
      "k = 1\n".repeat(100_000),
      `[${"a.".repeat(250_000)}b]\n${Array.from({ length: 20_000 }, (_, at) => `k${at}=1`).join("\n")}`,
    ]) {
      const problems = problemsFrom(configInput({ toml: toml.slice(0, 1 << 20) }));
      expect(problems.join("\n").length).toBeLessThan(50_000);
    }
  }, 30_000);
});
