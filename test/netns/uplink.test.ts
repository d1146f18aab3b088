import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { inside, type Namespaces, openNamespaces } from "../../src/demo/lab.ts";
import { tryProgram } from "../../src/demo/process.ts";
import {
  binary,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  vtepAddress,
} from "../support/overlay.ts";
import { namespacesRefused } from "../support/remote-kernel.ts";

const refused = namespacesRefused();
if (refused !== undefined) process.stderr.write(`SKIPPED test/netns/uplink.test.ts: ${refused}\n`);

interface Uplink {
  readonly name: string;
  readonly address: string;
  readonly addressV6?: string;
  readonly publicIp: string;
  readonly publicIpv6?: string;
  readonly reason: string;
  readonly passedOver: readonly { readonly candidate: string; readonly reason: string }[];
  readonly trouble?: string;
}

describe.skipIf(refused !== undefined)("uplink on a host with one interface of many addresses", () => {
  let namespaces: Namespaces;
  let host: string;

  /** flannel's own list, on a veth, whose other end is in the same namespace and has no address. */
  beforeAll(async () => {
    namespaces = await openNamespaces("uplink");
    host = await namespaces.add("1");
    await inside(host, ["ip", "link", "add", "dummy0", "type", "veth", "peer", "name", "other0"]);
    for (const address of [
      "1.10.100.1/24",
      "192.168.200.128/24",
      "172.16.30.18/24",
      "172.16.31.200/24",
      "172.16.32.100/24",
    ])
      await inside(host, ["ip", "address", "add", address, "dev", "dummy0"]);
    await inside(host, ["ip", "address", "add", "2001:db8::1/64", "dev", "dummy0", "nodad"]);
    await inside(host, ["ip", "link", "set", "dummy0", "up"]);
    await inside(host, ["ip", "link", "set", "other0", "up"]);
  });

  afterAll(() => namespaces[Symbol.asyncDispose]());

  const check = async (...flags: string[]): Promise<Uplink> => {
    const text = await inside(host, [binary, "check", "-json", ...flags]);
    return (JSON.parse(text) as { uplink: Uplink }).uplink;
  };

  const finds: [what: string, flags: string[], address: string][] = [
    ["a pattern of an address", [String.raw`-iface-regex=192\.168\.200\.\d+`], "192.168.200.128"],
    ["a pattern of a name", [String.raw`-iface-regex=dummy\d+`], "1.10.100.1"],
    ["a name", ["-iface=dummy0"], "1.10.100.1"],
    ["an address", ["-iface=172.16.30.18"], "172.16.30.18"],
    ["an IPv6 address", ["-iface=2001:db8::1"], "1.10.100.1"],
    ["a public IP that it has", ["-public-ip=172.16.32.100"], "172.16.32.100"],
    [
      "the second name, where the first is not here",
      ["-iface=eth9", "-iface=172.16.31.200"],
      "172.16.31.200",
    ],
    ["a pattern, where no name is here", ["-iface=eth9", "-iface-regex=^172"], "172.16.30.18"],
  ];
  test.each(finds)("%s finds it", async (_, flags, address) => {
    expect(await check(...flags)).toMatchObject({ name: "dummy0", address, addressV6: "2001:db8::1" });
  });

  test("a pattern and a public IP: packets leave from the one, others know the other", async () => {
    expect(await check("-iface-regex=dummy", "-public-ip=172.16.31.200")).toMatchObject({
      name: "dummy0",
      address: "1.10.100.1",
      publicIp: "172.16.31.200",
    });
  });

  test("what reaches an address: the interface and the source of the kernel's route", async () => {
    await inside(host, ["ip", "route", "add", "198.51.100.0/24", "via", "172.16.32.1", "dev", "dummy0"]);
    expect(await check("-iface-can-reach=198.51.100.7")).toMatchObject({
      name: "dummy0",
      address: "172.16.32.100",
      reason: "the kernel reaches 198.51.100.7 over it",
    });
    expect((await check("-iface-can-reach=203.0.113.1")).trouble).toContain("nreachable");
  });

  test("without a default route it takes a setting; with one, a NATed public IP works", async () => {
    expect((await check()).trouble).toContain("there is no default route");
    await inside(host, ["ip", "route", "add", "default", "via", "1.10.100.254"]);
    expect(await check("-public-ip=203.0.113.5", "-public-ipv6=2001:db8:5::5")).toMatchObject({
      name: "dummy0",
      address: "1.10.100.1",
      publicIp: "203.0.113.5",
      publicIpv6: "2001:db8:5::5",
    });
    await inside(host, ["ip", "route", "delete", "default"]);
  });

  test("what was passed over is told, in JSON and to people", async () => {
    const { passedOver } = await check("-iface=eth9", "-iface=172.16.31.200");
    expect(passedOver).toContainEqual({
      candidate: "interface eth9",
      reason: 'there is no interface named "eth9"',
    });
    expect(passedOver).toContainEqual({
      candidate: "1.10.100.1 on dummy0",
      reason: "172.16.31.200 is taken",
    });
    const text = await inside(host, [binary, "check", "-iface=eth9", "-iface=172.16.31.200"]);
    expect(text).toContain("# On this host, the uplink is dummy0 with 172.16.31.200 and 2001:db8::1: ");
    expect(text).toContain('#   interface eth9: there is no interface named "eth9"');
  });

  test("a check by somebody who is not root sees the same", async () => {
    const program = join(namespaces.directory, "program");
    copyFileSync(binary, program);
    chmodSync(program, 0o755);
    chmodSync(namespaces.directory, 0o755);
    const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    const text = await inside(host, [...nobody, program, "check", "-json", "-iface=172.16.30.18"]);
    expect((JSON.parse(text) as { uplink: Uplink }).uplink.address).toBe("172.16.30.18");
  });

  test("a start that finds no interface ends at once with 1, naming those that are here", async () => {
    const ran = await startAs(binary, "-iface=eth9");
    expect(ran.code).toBe(1);
    expect(ran.errors).toContain('there is no interface named "eth9"');
    expect(ran.errors).toContain("dummy0 (1.10.100.1)");
  });

  test("under the name flanneld a word behind the last flag is ignored as there, with a warning", async () => {
    const flanneld = join(namespaces.directory, "flanneld");
    symlinkSync(binary, flanneld);
    const stray = ["-iface=eth9", "-ip-masq", "true"];
    const ran = await startAs(flanneld, ...stray);
    expect(ran.errors).toContain('unexpected argument "true"; did you mean -ip-masq=true?; it is ignored');
    expect(ran.errors).toContain('there is no interface named "eth9"');
    expect([ran.code, (await startAs(binary, ...stray)).code]).toEqual([1, 2]);
  });

  test("a start by flanneld's flags and variables logs the choice once, what it beat, and no password", async () => {
    const flanneld = join(namespaces.directory, "daemon", "flanneld");
    mkdirSync(join(namespaces.directory, "daemon"));
    symlinkSync(binary, flanneld);
    const flags = ["-iface-regex=^192", "-v=1", "-subnet-file", join(namespaces.directory, "subnet.env")];
    const env = {
      FLANNELD_IFACE: "eth9",
      FLANNELD_ETCD_USERNAME: "flannel",
      FLANNELD_ETCD_PASSWORD: "s3cret",
      FLANNELD_ETCD_ENDPOINTS: "http://127.0.0.1:1",
      FLANNELD_VMODULE: "vxlan=2",
    };
    const child = namespaces.start(host, [flanneld, ...ownDirectories(), ...flags], env);
    for (let tries = 0; tries < 100 && !child.errorTail().includes("etcd"); tries++) await Bun.sleep(100);
    await child.end();
    const log = child.errorTail();
    expect(await child.exited).toBe(0);
    const chosen = log.split("\n").filter((line) => line.includes("uplink chosen"));
    expect(chosen).toHaveLength(1);
    expect(chosen[0]).toContain("192.168.200.128");
    expect(chosen[0]).toContain("interface eth9: there is no interface named");
    expect(log).toContain("FLANNELD_VMODULE has no effect");
    expect(log).not.toContain("s3cret");
  });

  const ownDirectories = () => {
    const { directory } = namespaces;
    return [`-host-run-dir=${directory}/run`, `-host-state-dir=${directory}/state`];
  };

  /** Starts the daemon with `flags`; none of these tests lets it come far. */
  const startAs = (program: string, ...flags: string[]) =>
    tryProgram(["ip", "netns", "exec", host, program, ...ownDirectories(), ...flags]);
});

const overlayImpossible = overlayRefused();
if (overlayImpossible !== undefined)
  process.stderr.write(`SKIPPED the overlays of test/netns/uplink.test.ts: ${overlayImpossible}\n`);

describe.skipIf(overlayImpossible !== undefined)("uplink under a real overlay", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const twoHosts = async (config: object) => {
    open = await openTestOverlay(2);
    await open.etcd("put", "/coreos.com/network/config", JSON.stringify(config));
    const [host, peer] = open.lab.hosts;
    if (host === undefined || peer === undefined) throw new Error("two hosts");
    return { net: open, host, peer };
  };

  test.each(["userspace", "kernel"] as const)(
    "%s: a node behind a NAT, one to one, is reached by its public_ip, which none of its interfaces has",
    async (engine) => {
      const { net, host, peer } = await twoHosts({ Network: "10.99.0.0/16", Backend: { Type: "vxlan" } });
      const publicIp = "10.77.0.201";
      const nat = `table ip fl {
        chain out { type nat hook postrouting priority 100; ip saddr ${host.address} udp dport 8472 snat to ${publicIp}; }
        chain in { type nat hook prerouting priority -100; ip daddr ${publicIp} dnat to ${host.address}; }
      }`;
      await inside(host.namespace, ["nft", nat]);
      const [link] = JSON.parse(await inside(host.namespace, ["ip", "-j", "link", "show", "eth0"])) as [
        { address: string },
      ];
      await inside(peer.namespace, ["ip", "neigh", "add", publicIp, "lladdr", link.address, "dev", "eth0"]);
      const daemons = [
        net.startDaemon(host, { engine, uplink: `public_ip = "${publicIp}"` }),
        net.startDaemon(peer, { engine }),
      ] as const;
      const reports = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
      expect(reports[0]?.uplink).toMatchObject({ name: "eth0", address: host.address, publicIp });
      expect(reports[0]?.uplink?.reason).toContain("counts as NATed");
      expect(reports[1]?.peers.map((one) => one.publicIp)).toEqual([publicIp]);
      for (const [from, to] of [
        [0, 1],
        [1, 0],
      ] as const)
        await ping([host, peer][from] ?? host, vtepAddress(reports[to] ?? never()));
    },
  );

  test.each(["userspace", "kernel"] as const)(
    "%s: each family's device has exactly our address inside the overlay; foreign ones stay",
    async (engine) => {
      const { net, host } = await twoHosts({
        ...{ EnableIPv6: true, Network: "10.99.0.0/16", IPv6Network: "fd00:99::/48" },
        Backend: { Type: "vxlan" },
      });
      const daemon = net.startDaemon(host, { engine });
      const report = await daemon.ready(0);
      const foreign = ["10.200.0.1/24", "2001:db8:200::1/64"];
      for (const address of [...foreign, "10.99.7.7/24", "fd00:99:0:77::2/64"])
        await inside(host.namespace, [
          "ip",
          "address",
          "add",
          address,
          "dev",
          address.includes(":") ? "flannel-v6.1" : "flannel.1",
          ...nodad(address),
        ]);
      const wanted = [`${vtepAddress(report)}/32`, `${vtepAddress(report, 6)}/128`, ...foreign].toSorted();
      let seen: string[] = [];
      for (let tries = 0; tries < 100 && seen.join() !== wanted.join(); tries++) {
        await Bun.sleep(50);
        seen = await addressesOf(host.namespace);
      }
      expect(seen).toEqual(wanted);
    },
  );

  const nodad = (address: string) => (address.includes(":") ? ["nodad"] : []);

  const addressesOf = async (namespace: string): Promise<string[]> => {
    const text = await inside(namespace, ["ip", "-j", "address", "show"]);
    type Link = { ifname: string; addr_info: { local: string; prefixlen: number }[] };
    return (JSON.parse(text) as Link[])
      .filter(({ ifname }) => ["flannel.1", "flannel-v6.1"].includes(ifname))
      .flatMap(({ addr_info }) => addr_info)
      .filter(({ local }) => !local.startsWith("fe80:"))
      .map(({ local, prefixlen }) => `${local}/${prefixlen}`)
      .toSorted();
  };
});

function never(): never {
  throw new Error("a daemon gave no report");
}
