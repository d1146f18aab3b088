import { logFormats, logLevels } from "../base/log.ts";
import * as kind from "./kind.ts";
import { networkDocument } from "./network-document.ts";
import {
  camelCase,
  type ConfigOf,
  type Option,
  option,
  type Table,
  table,
  type TableMembers,
} from "./option.ts";
import { commaForm, kubeSubnetManagerForm, type TextForm, verbosityForm } from "./text-form.ts";

/**
 * Every option there is, by its place in config.toml. Types, defaults, validation, flags, environment names,
 * `--help` and config.toml.example all come from here; a new option is one more entry.
 */
const root = table("", {
  uplink: table("Which interface and address of this host carry the tunnel.", {
    interface: option(kind.listOf(kind.interfaceChoice), {
      doc: "Interfaces to try in this order, by name or by an address on them; empty: the one with the default route.",
      fallback: [],
      flanneldFlag: "iface",
      live: "uplink",
    }),
    interface_regex: option(kind.listOf(kind.goRegex), {
      doc: "Where none of interface is here: Go regular expressions, tried in this order on the addresses of all interfaces, then on their names.",
      fallback: [],
      flanneldFlag: "iface-regex",
      live: "uplink",
    }),
    can_reach: option(kind.ip, {
      doc: "Where neither interface nor interface_regex finds one: the interface, and the source address, that the kernel would take to reach this address.",
      example: "192.0.2.1",
      flanneldFlag: "iface-can-reach",
      live: "uplink",
    }),
    public_ip: option(kind.ipv4, {
      doc: "Address under which other nodes reach this one; unset: the interface's. Where nothing above is set, the interface that has it is taken, or else, behind a NAT, the one with the default route.",
      example: "192.0.2.10",
      flanneldFlag: "public-ip",
      live: "uplink",
    }),
    public_ipv6: option(kind.ipv6, {
      doc: "Its IPv6 counterpart, published where the network has IPv6; unset: the interface's. Where the interface taken for IPv4 has no IPv6 address, the one that has this carries IPv6.",
      example: "2001:db8::10",
      flanneldFlag: "public-ipv6",
      live: "uplink",
    }),
  }),
  store: table("Where leases live.", {
    type: option(kind.choice(["etcd", "embedded", "kubernetes"]), {
      doc: "Kind of store; kubernetes: the annotations of its nodes; embedded: this daemon serves it itself, for a site without etcd. Other hosts use it as their etcd.",
      fallback: "etcd",
      alsoFlag: {
        name: "kube-subnet-mgr",
        form: kubeSubnetManagerForm,
        doc: "Keep leases in the Kubernetes API: store.type is kubernetes.",
      },
    }),
    lease_ttl: option(kind.integer(2, 525_600, "minutes"), {
      doc: "Term of our lease, which is renewed before it lapses; other nodes give our subnet up after it.",
      fallback: 1440,
      live: "lease",
    }),
    renew_margin: option(kind.integer(1, 1439, "minutes"), {
      doc: "How long before its expiry our lease is renewed.",
      fallback: 60,
      flanneldFlag: "subnet-lease-renew-margin",
      live: "lease",
    }),
    on_conflict: option(kind.choice(["stop", "new-subnet"]), {
      doc: "When another node has our subnet; stop: send nothing until it is ours again, new-subnet: take another.",
      fallback: "stop",
      live: "lease",
    }),
    offline_start: option(kind.boolean, {
      doc: "Start from the leases last seen where the store cannot be reached.",
      fallback: true,
    }),
    etcd: table("The etcd cluster.", {
      endpoints: option(kind.listOf(kind.httpEndpoint, { form: commaForm, min: 1 }), {
        doc: "Where etcd's members listen, all http or all https; host:port is https where certfile is set.",
        fallback: ["http://127.0.0.1:4001", "http://127.0.0.1:2379"],
        flanneldFlag: "etcd-endpoints",
      }),
      api: option(kind.choice(["auto", "v3", "v2"]), {
        doc: "Which keys hold the network, those of etcd's API v3 or v2 (flannel up to 0.17; etcd up to 3.5 with --enable-v2); auto: those with a network configuration, v3 first.",
        fallback: "auto",
      }),
      transport: option(kind.choice(["gateway", "grpc"]), {
        doc: "How API v3 is spoken; gateway: JSON over HTTP, grpc: its own protocol, for users known by their certificate's Common Name and for a gateway that is switched off.",
        fallback: "gateway",
      }),
      prefix: option(kind.keyPrefix, {
        doc: "What the keys of this network begin with.",
        fallback: "/coreos.com/network",
        flanneldFlag: "etcd-prefix",
      }),
      cafile: option(kind.absolutePath, {
        doc: "Certificates (PEM) that etcd's must be signed by; unset: the system's.",
        example: "/etc/etcd/ca.pem",
        flanneldFlag: "etcd-cafile",
      }),
      certfile: option(kind.absolutePath, {
        doc: "Our client certificate (PEM); goes with keyfile.",
        example: "/etc/etcd/client.pem",
        flanneldFlag: "etcd-certfile",
      }),
      keyfile: option(kind.absolutePath, {
        doc: "The client certificate's private key (PEM).",
        example: "/etc/etcd/client-key.pem",
        flanneldFlag: "etcd-keyfile",
      }),
      username: option(kind.text, {
        doc: "User to log in as; unset: no login.",
        example: "flannel",
        flanneldFlag: "etcd-username",
      }),
      password_file: option(kind.absolutePath, {
        doc: "File with the user's password; one newline at its end is ignored.",
        example: "/etc/flannel/etcd-password",
      }),
      password: option(kind.text, {
        doc: "The user's password. Other users see a command line; prefer the file.",
        example: "",
        flanneldFlag: "etcd-password",
        secret: true,
      }),
    }),
    embedded: table("The lease store that this host serves where type is embedded; prefix stays etcd's.", {
      serve: option(kind.boolean, {
        doc: "Serve the store. True on the one host that keeps the leases; the others have type etcd and its address in store.etcd.endpoints.",
        fallback: false,
      }),
      listen: option(kind.listenAddress, {
        doc: "Where to serve it; beyond loopback only with certfile, keyfile, and client_cafile or users_file.",
        fallback: "127.0.0.1:2379",
      }),
      data_dir: option(kind.absolutePath, {
        doc: "Directory of its database.",
        fallback: "/var/lib/flannel-lite/store",
      }),
      certfile: option(kind.absolutePath, {
        doc: "Certificate that the store proves itself with (PEM), for TLS; goes with keyfile. flannel-lite store init makes one.",
        example: "/var/lib/flannel-lite/store/certs/server.crt",
      }),
      keyfile: option(kind.absolutePath, {
        doc: "The certificate's private key (PEM).",
        example: "/var/lib/flannel-lite/store/certs/server.key",
      }),
      client_cafile: option(kind.absolutePath, {
        doc: "Certificates (PEM) that clients' must be signed by; with it a client needs one, or a login where users_file is set.",
        example: "/var/lib/flannel-lite/store/certs/ca.crt",
      }),
      users_file: option(kind.absolutePath, {
        doc: "Users who may log in with a password, a line each as flannel-lite store password writes it.",
        example: "/etc/flannel/store-users",
      }),
    }),
  }),
  kubernetes: table(
    "The Kubernetes API: as the store where store.type is kubernetes, else only for annotate_node.",
    {
      kubeconfig: option(kind.absolutePath, {
        doc: "How to reach the API server; unset, as api_url: as a pod does.",
        example: "/etc/kubernetes/flannel.kubeconfig",
        flanneldFlag: "kubeconfig-file",
      }),
      api_url: option(kind.httpUrl, {
        doc: "The API server, in place of kubeconfig's.",
        example: "https://192.0.2.1:6443",
        flanneldFlag: "kube-api-url",
      }),
      annotation_prefix: option(kind.annotationPrefix, {
        doc: "What the names of node annotations begin with.",
        fallback: "flannel.alpha.coreos.com",
        flanneldFlag: "kube-annotation-prefix",
      }),
      net_config: option(kind.absolutePath, {
        doc: "File with the network configuration.",
        fallback: "/etc/kube-flannel/net-conf.json",
        flanneldFlag: "net-config-path",
      }),
      set_node_network_unavailable: option(kind.boolean, {
        doc: "Set the node's condition NetworkUnavailable to False when up.",
        fallback: true,
        flanneldFlag: "set-node-network-unavailable",
      }),
      node_name: option(kind.identifier, {
        doc: "This node's name in Kubernetes; unset: NODE_NAME, else the node of the pod that POD_NAME and POD_NAMESPACE name.",
        example: "worker-7",
      }),
      annotate_node: option(kind.boolean, {
        doc: "While the leases live in another store: write ours to this node's annotations all the same, for programs that read them there.",
        fallback: false,
      }),
    },
  ),
  network: option(networkDocument, {
    doc: "The network configuration to publish into the store where it has none; same keys as flannel's JSON.",
    example: { Network: "10.5.0.0/16", SubnetLen: 24, Backend: { Type: "vxlan" } },
  }),
  backend: table(
    "What this host's own configuration says of the network's backend. extension: commands in place of a data path, run by sh as root.",
    {
      extension_commands: option(kind.choice(["local", "store"]), {
        doc: "Whose commands the extension backend runs; local: those given here, store: also those of the network configuration, which whoever may write to the store can change.",
        fallback: "local",
      }),
      pre_startup_command: option(kind.text, {
        doc: "Run before the lease is taken; what it prints is what other nodes' commands get on standard input.",
        example: "/etc/flannel/key.sh",
      }),
      post_startup_command: option(kind.text, {
        doc: "Run once the lease is ours, with NETWORK, SUBNET, IPV6SUBNET, PUBLIC_IP and PUBLIC_IPV6.",
        example: "/etc/flannel/up.sh",
      }),
      subnet_add_command: option(kind.text, {
        doc: "Run for each peer that comes or changes, with its SUBNET and PUBLIC_IP (IPV6SUBNET, PUBLIC_IPV6) and its own text on standard input; again until it succeeds, and at each start.",
        example: 'ip route replace "$SUBNET" via "$PUBLIC_IP"',
      }),
      subnet_remove_command: option(kind.text, {
        doc: "Run for each peer that goes, likewise.",
        example: 'ip route delete "$SUBNET"',
      }),
      command_timeout: option(kind.integer(1, 3600, "seconds"), {
        doc: "A command that takes longer is killed, with all it started, and has failed.",
        fallback: 60,
      }),
    },
  ),
  datapath: table("Who carries the packets, and from whom they are taken.", {
    engine: option(kind.choice(["auto", "userspace", "kernel", "dgram"]), {
      doc: "What moves packets; auto: userspace where /dev/net/tun opens, else kernel, which has no udp backend; dgram: a slow one for debugging.",
      fallback: "auto",
    }),
    latency: option(kind.choice(["auto", "latency", "throughput"]), {
      doc: "What the userspace engine is to be good at; latency: one thread, which looks for packets for up to 60 µs before it sleeps, throughput: two threads, auto: the one at low load, the other under load.",
      fallback: "auto",
      live: "plan",
    }),
    strict: option(kind.choice(["overlay", "full", "off"]), {
      doc: "Sender check of the userspace engine; overlay: inner sources inside the overlay must be the sender's, full: and none may lie outside, off: none.",
      fallback: "overlay",
      live: "plan",
    }),
    allow_sources: option(kind.listOf(kind.prefixOrAddress), {
      doc: "Outer sources that are believed although no lease has them.",
      fallback: [],
      live: "plan",
    }),
    tx_checksum: option(kind.choice(["auto", "on", "off"]), {
      doc: "Whether the kernel engine's device leaves the checksums of what it sends to be finished further on; auto: measured at a peer, and switched off where packets arrive only without it.",
      fallback: "auto",
      live: "checksum",
    }),
    on_stop: option(kind.choice(["keep", "remove", "kernel"]), {
      doc: "What a stop does to device and routes; keep: leave them to the successor, kernel: hand the traffic to the kernel's own device (not with the udp backend).",
      fallback: "keep",
      live: "use",
    }),
  }),
  host: table("What surrounds the overlay on this host.", {
    ip_forward: option(kind.boolean, {
      doc: "Switch the kernel's IP forwarding on where it is off.",
      fallback: true,
      live: "forwarding",
    }),
    ip_masq: option(kind.boolean, {
      doc: "Masquerade what pods send to addresses outside of the overlay.",
      fallback: false,
      flanneldFlag: "ip-masq",
      live: "firewall",
    }),
    ip_masq_fully_random_disable: option(kind.boolean, {
      doc: "Masquerade without fully random ports.",
      fallback: false,
      flanneldFlag: "ip-masq-fully-random-disable",
      live: "firewall",
    }),
    no_masquerade: option(kind.listOf(kind.prefixOrAddress), {
      doc: "Networks outside of the overlay with which pods talk unmasqueraded, both ways.",
      fallback: [],
      live: "firewall",
    }),
    forward_rules: option(kind.boolean, {
      doc: "Accept what is forwarded from and to the overlay; Docker drops it otherwise.",
      fallback: true,
      flanneldFlag: "iptables-forward-rules",
      live: "firewall",
    }),
    firewall: option(kind.choice(["auto", "iptables", "nftables"]), {
      doc: "Where these rules are kept; auto: nftables where the network configuration has EnableNFTables, else iptables, or the one that is installed.",
      fallback: "auto",
      live: "firewall",
    }),
    blackhole_route: option(kind.boolean, {
      doc: "Keep a blackhole route for our subnet, so that packets to addresses that no pod has do not go round.",
      fallback: false,
      flanneldFlag: "ip-blackhole-route",
      live: "plan",
    }),
    subnet_file: option(kind.absolutePath, {
      doc: "Where to write subnet.env, which also remembers our subnet.",
      fallback: "/run/flannel/subnet.env",
      flanneldFlag: "subnet-file",
    }),
    node_id: option(kind.identifier, {
      doc: "What tells this node from others; unset: made of machine id and board UUID, which containers may share.",
      example: "edge-7",
    }),
    run_dir: option(kind.absolutePath, {
      doc: "Directory of the admin socket; gone after a reboot.",
      fallback: "/run/flannel-lite",
    }),
    state_dir: option(kind.absolutePath, {
      doc: "Directory of what must survive a reboot.",
      fallback: "/var/lib/flannel-lite",
    }),
  }),
  health: table("Whether this node is well, for probes by HTTP: /healthz and /readyz.", {
    ip: option(kind.ip, {
      doc: "Address to listen on.",
      fallback: "0.0.0.0",
      flanneldFlag: "healthz-ip",
      live: "listeners",
    }),
    port: option(kind.optionalPort, {
      doc: "Port to listen on.",
      fallback: 0,
      flanneldFlag: "healthz-port",
      live: "listeners",
    }),
  }),
  metrics: table("Where /metrics answers, over HTTP in Prometheus' text format.", {
    ip: option(kind.ip, {
      doc: "Address to listen on; beyond this host anybody who reaches it can read them.",
      fallback: "127.0.0.1",
      live: "listeners",
    }),
    port: option(kind.optionalPort, {
      doc: "Port to listen on; may be the one of [health], with the same address.",
      fallback: 0,
      live: "listeners",
    }),
    peers_max: option(kind.integer(0, 10_000, "peers"), {
      doc: "With more peers than this there are no series for each of them, only totals.",
      fallback: 200,
      live: "use",
    }),
  }),
  log: table("What is said on standard error.", {
    level: option(kind.choice(logLevels), {
      doc: "How much is said; each level includes those before it.",
      fallback: "info",
      alsoFlag: {
        name: "v",
        form: verbosityForm,
        doc: "Log level as a number: 0 is info, 1 and more are debug.",
      },
      live: "log",
    }),
    format: option(kind.choice(logFormats), {
      doc: "How a line is written; klog: as flanneld does, for what reads its lines.",
      fallback: "text",
      live: "log",
    }),
  }),
});

/** The whole configuration, in domain types; it cannot be wrong. */
export type Config = ConfigOf<(typeof root)["members"]>;

export const schema: Table<TableMembers> = root;

/** An option with its place and all its names. */
export interface Setting {
  /** `store.etcd.endpoints`. */
  readonly path: string;
  readonly keys: readonly string[];
  /** The keys in Config. */
  readonly configKeys: readonly string[];
  readonly option: Option<unknown>;
  readonly flags: readonly Spelling[];
  /** Environment variables, the one that wins first. */
  readonly variables: readonly Spelling[];
}

/** One name of a setting in flags or environment, and how its text is read. */
export interface Spelling {
  readonly name: string;
  readonly form: TextForm;
}

/** All settings in the order of the schema. */
export const settings: readonly Setting[] = settingsOf(root, []);

/** A TOML table and the settings right in it. The top level has no path and no doc. */
export interface Section {
  readonly path: string;
  readonly doc: string;
  readonly settings: readonly Setting[];
}

/** All settings again, table by table, in the order of the schema. */
export const sections: readonly Section[] = sectionsOf(root, []);

export function flanneldVariable(flag: string): string {
  return `FLANNELD_${shout(flag)}`;
}

function ownVariable(path: string): string {
  return `FLANNEL_LITE_${shout(path)}`;
}

function settingsOf(from: Table<TableMembers>, above: readonly string[]): Setting[] {
  return Object.entries(from.members).flatMap(([key, member]) => {
    const keys = [...above, key];
    return member.is === "table" ? settingsOf(member, keys) : [settingOf(member, keys)];
  });
}

function sectionsOf(from: Table<TableMembers>, above: readonly string[]): Section[] {
  const path = above.join(".");
  const own = settings.filter(({ keys }) => keys.slice(0, -1).join(".") === path);
  const below = Object.entries(from.members).flatMap(([key, member]) =>
    member.is === "table" ? sectionsOf(member, [...above, key]) : [],
  );
  return own.length === 0 ? below : [{ path, doc: from.doc, settings: own }, ...below];
}

function settingOf(one: Option<unknown>, keys: readonly string[]): Setting {
  const path = keys.join(".");
  const { form } = one.kind;
  const flags = [{ name: one.flanneldFlag ?? path.replace(/[._]/g, "-"), form }];
  const variables = [{ name: ownVariable(path), form }];
  if (one.flanneldFlag !== undefined) variables.push({ name: flanneldVariable(one.flanneldFlag), form });
  if (one.alsoFlag !== undefined) {
    flags.push({ name: one.alsoFlag.name, form: one.alsoFlag.form });
    variables.push({ name: flanneldVariable(one.alsoFlag.name), form: one.alsoFlag.form });
  }
  return { path, keys, configKeys: keys.map(camelCase), option: one, flags, variables };
}

function shout(name: string): string {
  return name.replace(/[.-]/g, "_").toUpperCase();
}
