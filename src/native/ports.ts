import type { FlannelError } from "../base/error.ts";
import type { Latency } from "../plan/plan.ts";

/**
 * What TypeScript needs from the machine, as the addon offers it: `Kernel` over rtnetlink, `Engine` the
 * userspace datapath. Values cross as plain objects; addresses, prefixes and MACs as canonical text.
 * A failed call rejects with an Error whose message begins with the errno's name: `EEXIST: add vxlan …`.
 */
export interface Addon {
  /** Opens rtnetlink in the network namespace of the process. */
  openKernel(): Promise<Kernel>;
  /**
   * Attaches to the TUN `device` (making it, persistent, where it is missing), probes its offloads and binds
   * the UDP sockets, or goes on with those of them that were `handed` down and verified. The packet threads start
   * with the first table: until then packets wait in the kernel. On an error nothing is left behind.
   * Errors: EBUSY another process holds the TUN; EINVAL a device of that name is no TUN of ours;
   * EADDRINUSE the port is taken; EADDRNOTAVAIL `local` is not on this host; ENOENT or EACCES no /dev/net/tun; EPERM no CAP_NET_ADMIN.
   */
  openEngine(options: EngineOptions, handed?: Descriptors): Engine;
  /**
   * Attaches to the TUN `device`, making it where it is missing, with all offloads off. Errors as `openEngine`
   * has them of the TUN.
   */
  openTun(device: string): Tun;
  /** Claims `name` in the network namespace of the process, for as long as it lives; or goes on with its claim. */
  claim(name: string, handed?: Descriptors): Claim;
  /** Listens to nf_tables in the network namespace of the process, for changes to chains of these names. */
  openFirewallMonitor(chains: readonly string[]): Promise<FirewallMonitor>;
  /**
   * The shape of a table of legacy iptables; the text changes when rules come or go. The kernel makes a table
   * that it does not have yet. Errors: ENOENT it cannot.
   */
  legacyTableState(family: 4 | 6, table: string): string;
  /** Whether checksums of what `device` sends are left to be finished further on. Errors: ENODEV. */
  txChecksum(device: string): boolean;
  /** Switches that, and what depends on it. Errors: ENODEV, EPERM. */
  setTxChecksum(device: string, on: boolean): void;
  /**
   * Sends a datagram of 32 bytes to a port that nobody has; true where the host answers within `waitMs`, as it does
   * only where the checksum is right.
   */
  knock(address: string, port: number, waitMs: number): Promise<boolean>;
  /** Sends one datagram to the systemd notification socket `path` (`@` first: abstract). */
  notify(path: string, message: string): void;
  /** As `notify`, with `MONOTONIC_USEC=` and the time behind `message`. */
  notifyTimed(path: string, message: string): void;
  /** As `notify`, one message for each descriptor, with a copy of it and `FDNAME=` behind `message`. */
  notifyDescriptors(path: string, message: string, descriptors: readonly NamedDescriptor[]): void;
  /** Returns once systemd has handled what was sent before. Error ETIMEDOUT: not within two seconds. */
  notifyBarrier(path: string): void;
  /**
   * Takes the TUN queues and UDP sockets among the descriptors 3, 4, … that were passed to this process by these
   * names; the rest may be the runtime's own and is left alone. Gives none the second time.
   */
  inheritDescriptors(names: readonly string[]): Descriptors;
  /** Waits at the unix socket `path`, in a directory that only we can enter, for a successor of our own user. */
  openDoor(path: string): Door;
  /**
   * Asks the daemon at `path` for what it holds, and gives that, or the reason why not. Errors: ENOENT or
   * ECONNREFUSED nobody is there; EPERM it is another user's; EAGAIN it does not answer; EPROTO nonsense.
   */
  takeOver(path: string): Promise<Descriptors | string>;
  /** A new authority for certificates, with times in seconds since 1970. Errors: EINVAL. */
  issueAuthority(commonName: string, notBefore: number, notAfter: number): IssuedCertificate;
  /** A certificate with a new key, signed by an authority made by `issueAuthority`. Errors: EINVAL. */
  issueCertificate(
    authorityName: string,
    authorityKey: string,
    request: CertificateRequest,
  ): IssuedCertificate;
}

/** An open descriptor of this process, with the name by which the next one knows it. */
export interface NamedDescriptor {
  readonly name: string;
  readonly number: number;
}

/** Descriptors of another process; nothing is believed of them before `verify`. */
export interface Descriptors {
  names(): string[];
  /** Closes those that engines of these devices have no use for, and says so. */
  keepOnly(devices: readonly string[]): { readonly name: string; readonly reason: string }[];
  /** Closes those of `device` that an engine with these options could not go on with, and says why. */
  verify(
    device: string,
    local: string,
    port: number,
    encapsulation?: Encapsulation,
  ): { readonly name: string; readonly reason: string }[];
  /** Closes what nobody took; may be called twice. */
  close(): void;
}

/** Where a running daemon waits for its successor. */
export interface Door {
  /** Who asks; null after `close`. */
  next(): Promise<{ readonly pid: number } | null>;
  /** Says why not. */
  refuse(reason: string): void;
  /** Hands copies to who asks. False: it did not confirm, and has nothing. After true it waits for `close`. */
  grant(descriptors: readonly NamedDescriptor[]): Promise<boolean>;
  /** Ends `next`, and lets a successor begin; may be called twice. */
  close(): void;
}

/** ECDSA on P-256; both PEM, the key PKCS #8. */
export interface IssuedCertificate {
  readonly certificate: string;
  readonly key: string;
}

export interface CertificateRequest {
  readonly commonName: string;
  /** None where empty. */
  readonly organization: string;
  /** Host names and IP addresses that a server answers under. */
  readonly names: readonly string[];
  /** What it may prove. */
  readonly server: boolean;
  readonly client: boolean;
  /** Seconds since 1970, both included. */
  readonly notBefore: number;
  readonly notAfter: number;
}

export interface Claim {
  /** Who else holds the name, with the pid as we see it (0: from another pid namespace); null when we do. */
  holder(): { readonly pid: number; readonly uid: number } | null;
  /** What to hand over with it; null where another holds the name. */
  descriptor(): NamedDescriptor | null;
  /** Frees the name; may be called twice. */
  release(): void;
}

export interface FirewallMonitor {
  /** The next changes, several folded into one; null after `close`. */
  next(): Promise<FirewallChange | null>;
  /** Ends `next`; may be called twice. */
  close(): void;
}

export interface FirewallChange {
  /** Names of the chains that came, changed or went, in whatever table. */
  readonly chains: readonly string[];
  /** The last process that did so, as the first pid namespace counts; 0 when unknown. */
  readonly pid: number;
  /** Its name, at most 15 bytes. */
  readonly process: string;
  /** Some changes were lost (ENOBUFS): look at everything again. */
  readonly overrun: boolean;
}

export interface Kernel {
  links(): Promise<KernelLink[]>;
  /** Addresses of all links, both families. */
  addresses(): Promise<KernelAddress[]>;
  /** IP neighbours of one link, both families, in any state. */
  neighbours(linkIndex: number): Promise<KernelNeighbour[]>;
  /** Forwarding entries (AF_BRIDGE, self) of one vxlan link. */
  fdb(linkIndex: number): Promise<KernelFdbEntry[]>;
  /** Routes of the main table, both families and every `type`. */
  routes(): Promise<KernelRoute[]>;
  /** The route the kernel would take to `address`. Rejects with ENETUNREACH where there is none. */
  routeTo(address: string): Promise<KernelRoute>;

  /**
   * Makes the device as flannel does, down, with its alias or not at all. The kernel lowers an MTU above
   * the underlying link's MTU minus its overhead without a word.
   */
  addVxlan(spec: VxlanSpec): Promise<void>;
  /** As flannel does, without a remote: routes say where packets go. Down, with its alias or not at all. */
  addIpip(spec: IpIpSpec): Promise<void>;
  setLink(linkIndex: number, changes: LinkChanges): Promise<void>;
  /** For this and every other delete: something that is gone already is no error. */
  deleteLink(linkIndex: number): Promise<void>;
  /** Rejects with EEXIST where the link has it. IPv6 works at once: no duplicate address detection. */
  addAddress(linkIndex: number, address: string, length: number): Promise<void>;
  deleteAddress(linkIndex: number, address: string, length: number): Promise<void>;
  /** Permanent neighbour; replaces one of the same address. */
  putNeighbour(linkIndex: number, ip: string, mac: string): Promise<void>;
  deleteNeighbour(linkIndex: number, ip: string): Promise<void>;
  /** Permanent static FDB entry; replaces the destination of the same MAC. */
  putFdb(linkIndex: number, mac: string, via: string): Promise<void>;
  deleteFdb(linkIndex: number, mac: string, via: string): Promise<void>;
  /**
   * Makes changes in their order, many in one system call. Gives for each why it failed, as the method for one would
   * reject, undefined where it did not; those behind a failure are made all the same. ENOBUFS: the kernel's answer
   * was lost, and the change may have been made or not.
   */
  apply(edits: readonly KernelEdit[]): Promise<(FlannelError | undefined)[]>;
  /** Adds or replaces (by destination and metric) a unicast route of the main table. */
  putRoute(route: RouteSpec): Promise<void>;
  /** Deletes the route of this destination, gateway, link and protocol, no other. */
  deleteRoute(route: RouteSpec): Promise<void>;
  /** Adds a route of the main table that discards. Rejects with EEXIST where one has that destination and metric. */
  putBlackhole(route: BlackholeSpec): Promise<void>;
  /** Deletes the route of this destination, metric and protocol, no other. */
  deleteBlackhole(route: BlackholeSpec): Promise<void>;

  /**
   * The next batch of changes to links, addresses, neighbours and routes, several folded into one; null
   * after `close`. `overrun` says that some were lost (ENOBUFS): look at everything again. Neighbours and
   * forwarding entries are told only of links for which this handle has listed or put some: elsewhere the
   * kernel reports every ARP entry that ages. What this process changed itself is not among `changes`, unless the
   * kernel does not say whose change it was.
   */
  nextEvents(): Promise<KernelEvents | null>;
  /** Has `nextEvents` tell of neighbours and forwarding entries of exactly these links. */
  watchNeighbours(linkIndexes: readonly number[]): void;
  /** Ends `nextEvents`; may be called twice. */
  close(): void;
}

export interface KernelLink {
  readonly index: number;
  readonly name: string;
  /** `vxlan`, `ipip`, `tun`, `bridge`, `veth` …; the empty string for physical devices. */
  readonly kind: string;
  readonly mtuBytes: number;
  /** Empty on links without one, such as a TUN. */
  readonly mac: string;
  readonly up: boolean;
  readonly carrier: boolean;
  readonly loopback: boolean;
  /** IFLA_IFALIAS, empty when unset. */
  readonly alias: string;
  readonly vxlan?: KernelVxlan;
  readonly ipip?: KernelIpIp;
}

export interface KernelIpIp {
  /** Empty when unset. */
  readonly local: string;
  /** Where it sends everything, empty when unset. */
  readonly remote: string;
}

export interface KernelVxlan {
  readonly vni: number;
  readonly port: number;
  readonly local: string;
  /** Index of the underlying link, 0 when unset. */
  readonly linkIndex: number;
  readonly learning: boolean;
  readonly gbp: boolean;
  readonly udpChecksum: boolean;
  /** Multicast group, empty when unset. */
  readonly group: string;
}

export interface KernelAddress {
  readonly linkIndex: number;
  readonly address: string;
  readonly length: number;
  /** `global`, `site`, `link`, `host` or the number. */
  readonly scope: string;
  readonly deprecated: boolean;
  readonly temporary: boolean;
  readonly permanent: boolean;
}

export interface KernelNeighbour {
  readonly linkIndex: number;
  readonly ip: string;
  readonly mac: string;
  readonly permanent: boolean;
}

export interface KernelFdbEntry {
  readonly linkIndex: number;
  readonly mac: string;
  /** Remote address, empty for an entry without one. */
  readonly via: string;
  readonly permanent: boolean;
}

export interface KernelRoute {
  /** Destination prefix; `0.0.0.0/0` and `::/0` for default routes. */
  readonly to: string;
  /** Gateway, empty for none. */
  readonly via: string;
  /** Output link, 0 for none (multipath, blackhole). */
  readonly linkIndex: number;
  readonly onLink: boolean;
  /** Preferred source, empty for none. */
  readonly source: string;
  /** rtm_protocol: 2 kernel, 3 boot, 4 static … */
  readonly protocol: number;
  /** Metric, 0 when unset. */
  readonly metric: number;
  readonly multipath: boolean;
  /** `unicast`, `blackhole` … or the number. */
  readonly type: string;
}

export interface VxlanSpec {
  readonly name: string;
  readonly mtuBytes: number;
  readonly mac: string;
  readonly vni: number;
  readonly port: number;
  readonly local: string;
  /** Index of the underlying link. */
  readonly linkIndex: number;
  readonly learning: boolean;
  readonly gbp: boolean;
  readonly alias: string;
}

export interface IpIpSpec {
  readonly name: string;
  readonly mtuBytes: number;
  /** IPv4. */
  readonly local: string;
  readonly alias: string;
}

/** Absent members stay as they are. */
export interface LinkChanges {
  readonly mtuBytes?: number;
  readonly mac?: string;
  readonly up?: boolean;
  readonly alias?: string;
  readonly txQueueLength?: number;
}

export interface RouteSpec {
  readonly to: string;
  /** Empty for a directly attached destination. */
  readonly via: string;
  readonly linkIndex: number;
  readonly onLink: boolean;
  readonly protocol: number;
}

export interface BlackholeSpec {
  readonly to: string;
  /** From 1: routes to the same destination with a lower one go before it. */
  readonly metric: number;
  readonly protocol: number;
}

/** One change of {@link Kernel.apply}: as the method for one of the table puts or deletes. */
export type KernelEdit = {
  /** It shall go. */
  readonly gone: boolean;
  readonly linkIndex: number;
} & (
  | { readonly table: "neighbour"; readonly ip: string; readonly mac: string }
  | { readonly table: "fdb"; readonly mac: string; readonly via: string }
  /** EINVAL for an IPv6 route without a gateway that shall go: that takes a look, and {@link Kernel.deleteRoute}. */
  | ({ readonly table: "route" } & RouteSpec)
);

export interface KernelEvents {
  /** Which tables changed, each at most once. */
  readonly changed: readonly KernelTable[];
  readonly overrun: boolean;
  /** The changes one by one, in order. */
  readonly changes: readonly KernelChange[];
  /** Some are not in `changes`: a flood, or routes of other tables. */
  readonly unnamed: boolean;
}

export interface KernelChange {
  readonly table: KernelTable | "fdb";
  /** 0 for a route. */
  readonly linkIndex: number;
  /** Name of the link; `address/length`; IP of the neighbour; MAC of the forwarding entry; destination prefix. */
  readonly subject: string;
  /** It went; else it came or changed. */
  readonly gone: boolean;
  /** Of a link: set up. */
  readonly up: boolean;
  /** Netlink port of whoever asked for it; 0 where the kernel acted by itself, or does not tell. */
  readonly port: number;
  /** The process that holds the port, looked up at once; 0 where that is not certain. */
  readonly pid: number;
  /** Its name, empty where it is not known. */
  readonly process: string;
}

export type KernelTable = "link" | "address" | "neighbour" | "route";

export interface EngineOptions {
  /** Name of the TUN device, at most 15 bytes. */
  readonly device: string;
  /** UDP port we receive on and send to; of `ipip` its protocol, 4. */
  readonly port: number;
  /** Source address of what we send; it must be on this host. */
  readonly local: string;
  /** The device's MTU in bytes: super-packets towards it are segmented to it. */
  readonly mtuBytes: number;
  /**
   * What it is to be good at. `latency`: one thread, which looks for packets for up to 60 µs before it sleeps while
   * that pays; `throughput`: two threads; `auto`, the default: the one at low load, the other under load.
   */
  readonly latency?: Latency;
  /**
   * How packets are carried, in every table too; `vxlan` where it is not said. `udp` has one socket on `local`, from
   * whose port its datagrams leave, `ipip` a raw one; `vxlan` receives on the wildcard address and sends from several ports.
   */
  readonly encapsulation?: Encapsulation;
}

export interface Engine {
  /**
   * Replaces the whole forwarding table between two batches; packets in flight finish with the old one.
   * A table that cannot be is refused as a whole and the old one stays: EINVAL for overlapping subnets of two
   * peers or another encapsulation than it was opened for, EAFNOSUPPORT for an endpoint of another family than `local`.
   */
  setTable(table: ForwardingTable): void;
  stats(): EngineStats;
  /** `failure` of the stats by itself, null where there is none: stats take time with thousands of peers. */
  failure(): string | null;
  /** What the next process could go on with; absent on an engine that cannot hand over. */
  descriptors?(): NamedDescriptor[];
  /** Stops the threads after what they have read is on its way, and gives the descriptors, which stay open. */
  pause?(): NamedDescriptor[];
  /** Goes on after `pause`. */
  resume?(): void;
  /**
   * Goes on with threads of another use; packets meanwhile wait in the kernel. Absent where there is nothing to choose.
   * An error (EAGAIN, EMFILE) leaves it without threads: close it.
   */
  setLatency?(latency: Latency): void;
  /** Stops and joins the threads and closes the descriptors; the device stays. May be called twice. */
  close(): void;
}

/** A TUN for one packet at a time. */
export interface Tun {
  /** The next IP packet that the kernel routes into it: complete, within its MTU. null after `close`. */
  read(): Promise<Uint8Array | null>;
  /** Hands the host an IP packet. Error EIO: the device is down. */
  write(packet: Uint8Array): void;
  /** Makes the device outlive this handle. */
  persist(): void;
  /** Ends `read` and closes the descriptor before it returns; may be called twice. */
  close(): void;
}

/** How packets are carried. */
export type Encapsulation = "vxlan" | "udp" | "ipip";

export type ForwardingTable = VxlanTable | UdpTable | IpIpTable;

/** VXLAN with the inner Ethernet header (RFC 7348 §5). */
export interface VxlanTable extends TableBase {
  readonly encapsulation: "vxlan";
  readonly vni: number;
  readonly vtepMac: string;
}

/** The IP packet alone, its TTL lowered at both ends, as flannel's udp backend has it. */
export interface UdpTable extends TableBase {
  readonly encapsulation: "udp";
  /** Our addresses, at most one of each family: ICMP answers to packets that no peer gets come from them. */
  readonly answerFrom: readonly string[];
}

/** IPv4 packets in IPv4, protocol 4 (RFC 2003). */
export interface IpIpTable extends TableBase {
  readonly encapsulation: "ipip";
}

interface TableBase {
  /** The overlay networks as prefixes. */
  readonly overlay: readonly string[];
  readonly strict: "off" | "overlay" | "full";
  /** Prefixes of outer sources believed although no peer has them. */
  readonly allowSources: readonly string[];
  readonly peers: readonly ForwardingPeer[];
}

export interface ForwardingPeer {
  /** Prefixes reached through this peer; those of different peers do not overlap. */
  readonly subnets: readonly string[];
  /** Outer destination address. */
  readonly endpoint: string;
  /** Inner destination MAC: the peer's VTEP. Of use to `vxlan` alone. */
  readonly mac?: string;
}

export interface EngineStats {
  /** What the probes found, by name: `tunTso4`, `tunTso6`, `tunUso`, `tunChecksum`, `udpGso`, `udpGro` … */
  readonly offloads: Readonly<Record<string, boolean>>;
  readonly sent: TrafficCounters;
  readonly received: TrafficCounters;
  /** Dropped packets by reason; reasons never met are present with 0. */
  readonly drops: Readonly<Record<string, number>>;
  readonly peers: readonly PeerStats[];
  /** The last packet refused by a sender check, if any. */
  readonly lastRefused?: RefusedPacket;
  /** Why a packet thread ended before `close`; then the engine carries nothing. */
  readonly failure?: string;
}

/**
 * Inner packets (segments of super-packets counted one by one) and their bytes from the IP header on. Received
 * ones are counted when they are accepted; what the TUN then refuses is a drop.
 */
export interface TrafficCounters {
  readonly packets: number;
  readonly bytes: number;
}

export interface PeerStats {
  readonly endpoint: string;
  readonly sent: TrafficCounters;
  readonly received: TrafficCounters;
}

export interface RefusedPacket {
  readonly reason: string;
  readonly outerSource: string;
  readonly innerSource: string;
  readonly innerDestination: string;
}
