import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { iptablesTables, jumpText } from "../../src/host/firewall/iptables-text.ts";
import { planFirewall } from "../../src/host/firewall/rules.ts";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import { parsePrefix } from "../../src/net/prefix.ts";
import type { StatusReport } from "../../src/status/report.ts";
import { iptablesVerdict } from "../support/firewall-rules.ts";
import {
  binary,
  type Daemon,
  hostOf,
  openTestOverlay,
  overlayRefused,
  type TestOverlay,
} from "../support/overlay.ts";

const refused =
  overlayRefused() ??
  (Bun.which("iptables-legacy") === null || Bun.which("nft") === null
    ? "iptables or nft is missing"
    : undefined);
if (refused !== undefined) console.warn(`SKIPPED test/netns/firewall.test.ts: ${refused}`);

const networkJson =
  '{"Network":"10.99.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:99::/48","Backend":{"Type":"vxlan"}}';
const ranges = [parsePrefix("10.99.0.0/16"), parsePrefix("fd00:99::/48")];
const masquerade = "ip_masq = true";
const variants = ["iptables-legacy", "iptables-nft", "nftables"] as const;
type Variant = (typeof variants)[number];

describe.skipIf(refused !== undefined)("firewall", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const overlay = async (hosts: number): Promise<TestOverlay> => {
    open = await openTestOverlay(hosts);
    await open.etcd("put", "/coreos.com/network/config", networkJson);
    return open;
  };
  /** A directory where `iptables` and its like are of one variant. */
  const pathFor = ({ lab }: TestOverlay, variant: Variant): string => {
    const directory = join(lab.directory, `bin-${variant}`);
    mkdirSync(directory);
    const real = variant === "nftables" ? "iptables-nft" : variant;
    for (const name of ["iptables", "ip6tables"]) {
      for (const suffix of ["", "-save", "-restore"]) {
        const target = Bun.which(`${real.replace("iptables", name)}${suffix}`);
        if (target !== null) symlinkSync(target, join(directory, name + suffix));
      }
    }
    return `${directory}:${process.env["PATH"]}`;
  };
  const startWith = (
    net: TestOverlay,
    host: LabHost,
    variant: Variant,
    lines: readonly string[] = [],
    more = {},
  ) =>
    net.startDaemon(host, {
      engine: "userspace",
      host: [masquerade, `firewall = "${variant === "nftables" ? "nftables" : "iptables"}"`, ...lines].join(
        "\n",
      ),
      env: { PATH: pathFor(net, variant) },
      ...more,
    });

  /** The rules that flannel's reference has for the subnets of `report`, jump included. */
  const expectedRules = (report: StatusReport, noMasquerade: readonly string[] = []) => {
    const [ipv4, ipv6] = (report.lease?.subnets ?? []).map(parsePrefix);
    const subnets = { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) };
    const wish = {
      ranges,
      subnets,
      masquerade: true,
      forward: true,
      noMasquerade: noMasquerade.map(parsePrefix),
    };
    return planFirewall(wish).map((rules) => ({
      family: rules.family,
      tables: iptablesTables(rules, { fullyRandom: true }).map((table) => ({
        table: table.table,
        lines: [
          `-A ${table.from} ${jumpText(table)}`,
          ...table.rules.map((text) => `-A ${table.chain} ${text}`),
        ],
      })),
    }));
  };
  const save = async (host: LabHost, variant: Variant, family: 4 | 6, table: string): Promise<string[]> => {
    const name = family === 4 ? variant : variant.replace("iptables", "ip6tables");
    const output = await inside(host.namespace, [`${name}-save`, "-t", table]);
    return output.split("\n").filter((line) => line.startsWith("-A"));
  };
  const nft = (host: LabHost, ...args: string[]) => inside(host.namespace, ["nft", ...args]);
  /** Ours, as they stand, in words that two of them can be compared by. */
  const ours = async (host: LabHost, variant: Variant): Promise<string[]> => {
    if (variant === "nftables") {
      const texts = ["ip", "ip6"].map((family) =>
        nft(host, "-s", "list", "table", family, "flannel-lite").catch(() => ""),
      );
      return (await Promise.all(texts)).join("").split("\n");
    }
    const all: string[] = [];
    for (const family of [4, 6] as const)
      for (const table of ["nat", "filter"])
        all.push(
          ...(await save(host, variant, family, table)).filter((line) => /FLANNEL|flanneld/.test(line)),
        );
    return all;
  };
  const untilTrue = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
    for (const deadline = Date.now() + 10_000; Date.now() < deadline; await Bun.sleep(50))
      if (await holds()) return;
    throw new Error(`never: ${what}`);
  };

  test.each(variants)(
    "%s: rules stand in flannel's order; what others flush returns, and nothing else",
    async (variant) => {
      const net = await overlay(1);
      const host = hostOf(net, 1);
      const ipt = variant === "nftables" ? "iptables-nft" : variant;
      const own = ["-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "-A FORWARD -j DOCKER"];
      await inside(host.namespace, [ipt, "-t", "nat", ...(own[0] ?? "").split(" ")]);
      await inside(host.namespace, [ipt, "-N", "DOCKER"]);
      await inside(host.namespace, [ipt, ...(own[1] ?? "").split(" ")]);
      await nft(host, "add", "table", "inet", "firewalld");
      const daemon = startWith(net, host, variant);
      const report = await daemon.ready(0);
      expect(report.firewall).toMatchObject({
        engine: variant === "nftables" ? "nftables" : "iptables",
        rules: 16,
        repairs: 0,
        trouble: null,
      });
      const wanted = await ours(host, variant);
      if (variant === "nftables") {
        expect(wanted.filter((line) => line.includes("masquerade"))).toHaveLength(4);
        expect(await save(host, "iptables-nft", 4, "nat")).toEqual([own[0] ?? ""]);
      } else {
        for (const { family, tables } of expectedRules(report)) {
          for (const { table, lines } of tables) {
            const saved = (await save(host, variant, family, table)).filter((line) =>
              line.includes("flanneld"),
            );
            expect(saved.toSorted()).toEqual(lines.toSorted());
            const chain = lines.slice(1);
            expect(saved.filter((line) => chain.includes(line))).toEqual(chain);
          }
        }
        expect(await save(host, variant, 4, "nat")).toContain(own[0] ?? "");
      }

      let repairs = 0;
      const survives = async (...command: string[]) => {
        await inside(host.namespace, command);
        await untilTrue(`repaired after ${command.join(" ")}`, async () => {
          const { firewall } = await daemon.report();
          return (
            (firewall?.repairs ?? 0) > repairs &&
            (await ours(host, variant)).toSorted().join() === wanted.toSorted().join()
          );
        });
        repairs = (await daemon.report()).firewall?.repairs ?? 0;
      };
      if (variant === "nftables") {
        await survives("nft", "delete", "table", "ip", "flannel-lite");
        await survives("nft", "flush", "table", "ip6", "flannel-lite");
        await survives("nft", "flush", "chain", "ip", "flannel-lite", "postrtg");
        await survives("nft", "insert", "rule", "ip", "flannel-lite", "postrtg", "return");
        expect(await save(host, "iptables-nft", 4, "nat")).toEqual([own[0] ?? ""]);
        expect(await nft(host, "list", "tables")).toContain("inet firewalld");
      } else {
        await survives(variant, "-t", "nat", "-F", "FLANNEL-POSTRTG");
        await survives(
          variant,
          "-t",
          "nat",
          "-D",
          ...(wanted[0] ?? "")
            .replace("-A ", "")
            .replaceAll('"flanneld masq"', "flanneld\u00a0masq")
            .split(" ")
            .map((word) => word.replace("\u00a0", " ")),
        );
        expect(await save(host, variant, 4, "nat")).toContain(own[0] ?? "");
        expect(await save(host, variant, 4, "filter")).toContain(own[1] ?? "");
        await survives(variant, "-F");
        await survives(variant, "-t", "nat", "-F");
        await survives(variant.replace("iptables", "ip6tables"), "-t", "nat", "-F");
        // What others had is theirs to bring back.
        expect(await save(host, variant, 4, "nat")).not.toContain(own[0] ?? "");
        expect(await nft(host, "list", "tables")).toContain("inet firewalld");
      }
      if (variant !== "iptables-legacy") {
        await survives("nft", "flush", "ruleset");
        expect(await nft(host, "list", "tables")).not.toContain("firewalld");
        expect(daemon.child.errorTail()).toMatch(/changed by others; set right.* by="nft \(\d+\)"/);
      }
      const settled = (await daemon.report()).firewall?.repairs;
      await Bun.sleep(1_500);
      expect((await daemon.report()).firewall?.repairs).toBe(settled ?? -1);
    },
  );

  /** A namespace with an address of the host's subnet, behind a veth as a bridge plugin would put it. */
  const addPod = async (net: TestOverlay, host: LabHost, report: StatusReport) => {
    const subnet = parsePrefix(report.lease?.subnets[0] ?? "");
    const [gateway, address] = [subnet.address.plus(1), subnet.address.plus(7)];
    const pod = `${net.lab.name}-p${host.number}`;
    await runProgram(["ip", "netns", "add", pod]);
    const [peer] = [`pod${host.number}`];
    await runProgram([
      "ip",
      "-n",
      host.namespace,
      "link",
      "add",
      peer,
      "type",
      "veth",
      "peer",
      "name",
      "eth0",
      "netns",
      pod,
    ]);
    await runProgram(["ip", "-n", host.namespace, "address", "add", `${gateway}/24`, "dev", peer]);
    await runProgram(["ip", "-n", host.namespace, "link", "set", peer, "up"]);
    await runProgram(["ip", "-n", pod, "address", "add", `${address}/24`, "dev", "eth0"]);
    await runProgram(["ip", "-n", pod, "link", "set", "eth0", "up"]);
    await runProgram(["ip", "-n", pod, "route", "add", "default", "via", `${gateway}`]);
    return { namespace: pod, address: `${address}` };
  };
  const answering =
    "Bun.listen({hostname:'0.0.0.0',port:7777,socket:{open(s){s.end(s.remoteAddress)},data(){}}});console.log('up')";
  /** The address under which a TCP connection arrives at its other end; "none" where none is made. */
  const seenFrom = async (namespace: string, target: string, local?: string): Promise<string> => {
    const client = `const s=await Bun.connect({hostname:'${target}',port:7777${local === undefined ? "" : `,localAddress:'${local}'`},socket:{data(_,d){console.log(String(d));process.exit(0)}}})`;
    const { code, output } = await tryProgram(
      ["ip", "netns", "exec", namespace, process.execPath, "-e", client],
      4_000,
    );
    return code === 0 ? output.trim() : "none";
  };

  test.each(variants)(
    "%s: pods reach the world under the host's address and each other under their own, as the truth table says",
    async (variant) => {
      const net = await overlay(3);
      const [a, b, world] = [hostOf(net, 1), hostOf(net, 2), hostOf(net, 3)];
      const exempt = await net.lab.addHost();
      const daemons = [a, b].map((host) =>
        net.startDaemon(host, {
          engine: "userspace",
          host: [
            masquerade,
            `firewall = "${variant === "nftables" ? "nftables" : "iptables"}"`,
            `no_masquerade = ["${exempt.address}"]`,
          ].join("\n"),
          env: { PATH: process.env["PATH"] ?? "" },
          wrap: ["env", `PATH=${host === a ? pathFor(net, variant) : (process.env["PATH"] ?? "")}`],
        }),
      );
      const [first, second] = await Promise.all(daemons.map((daemon) => daemon.ready(1)));
      if (first === undefined || second === undefined) throw new Error("two reports");
      const here = await addPod(net, a, first);
      const there = await addPod(net, b, second);
      try {
        // As Docker leaves it: what no rule accepts is dropped.
        const iptables = variant === "iptables-legacy" ? "iptables-legacy" : "iptables-nft";
        await inside(a.namespace, [iptables, "-P", "FORWARD", variant === "nftables" ? "ACCEPT" : "DROP"]);
        await runProgram(["ip", "-n", exempt.namespace, "route", "add", "10.99.0.0/16", "via", a.address]);
        for (const namespace of [there.namespace, here.namespace, world.namespace, exempt.namespace]) {
          const server = net.lab.start(namespace, [process.execPath, "-e", answering]);
          const reader = server.output.getReader();
          expect(new TextDecoder().decode((await reader.read()).value)).toBe("up\n");
          reader.releaseLock();
        }
        const rules = expectedRules(first, [`${exempt.address}/32`])[0]
          ?.tables[0]?.lines.slice(1)
          .map((line) => line.replace(/^-A \S+ /, ""));
        const cases = [
          { from: here, to: world.address, expected: a.address },
          { from: here, to: there.address, expected: here.address },
          { from: here, to: exempt.address, expected: here.address },
        ];
        for (const { from, to, expected } of cases) {
          const verdict = iptablesVerdict(rules ?? [], { source: from.address, destination: to });
          expect([to, verdict]).toEqual([to, expected === from.address ? "return" : "masquerade"]);
          expect([to, await seenFrom(from.namespace, to)]).toEqual([to, expected]);
        }
        expect(await seenFrom(there.namespace, here.address)).toBe(there.address);
        // An outside host that routes to a pod through its host is seen as who it is.
        await runProgram(["ip", "-n", world.namespace, "route", "add", "10.99.0.0/16", "via", a.address]);
        expect(await seenFrom(world.namespace, here.address)).toBe(world.address);
        // One that takes the wrong host arrives masqueraded, so that the answer finds back.
        expect(await seenFrom(world.namespace, there.address)).not.toBe("none");
        expect(await seenFrom(world.namespace, there.address)).not.toBe(world.address);
      } finally {
        for (const { namespace } of [here, there]) {
          const pids = (await tryProgram(["ip", "netns", "pids", namespace])).output
            .split("\n")
            .filter(Boolean);
          for (const pid of pids) process.kill(Number(pid), "SIGKILL");
          await tryProgram(["ip", "netns", "delete", namespace]);
        }
      }
    },
  );

  const stop = async (daemon: Daemon) => {
    await daemon.child.end();
    return daemon;
  };

  test.each(variants)(
    "%s: a stop keeps the rules, cleanup removes them, on_stop = remove too; nobody else's",
    async (variant) => {
      const net = await overlay(1);
      const host = hostOf(net, 1);
      const foreign = variant === "nftables" ? "iptables-nft" : variant;
      await inside(host.namespace, [
        foreign,
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-s",
        "172.17.0.0/16",
        "-j",
        "MASQUERADE",
      ]);
      await inside(host.namespace, [foreign, "-A", "FORWARD", "-s", "10.99.0.0/16", "-j", "ACCEPT"]);
      const state = async () =>
        JSON.stringify([await save(host, foreign, 4, "nat"), await save(host, foreign, 4, "filter")]);
      const before = await state();
      const daemon = startWith(net, host, variant);
      await daemon.ready(0);
      const wanted = await ours(host, variant);
      expect(readFileSync(daemon.subnetFile, "utf8")).toContain("FLANNEL_IPMASQ=true\n");
      await stop(daemon);
      expect(await ours(host, variant)).toEqual(wanted);
      const { output } = await net.run(daemon, "cleanup");
      expect(output).toContain("- firewall ");
      expect(await state()).toBe(before);
      expect((await ours(host, variant)).join("")).toBe("");

      const removing = net.startDaemon(host, {
        engine: "userspace",
        instance: "b",
        host: `${masquerade}\nfirewall = "${variant === "nftables" ? "nftables" : "iptables"}"`,
        datapath: 'on_stop = "remove"',
        wrap: ["env", `PATH=${join(net.lab.directory, `bin-${variant}`)}:${process.env["PATH"]}`],
      });
      await removing.ready(0);
      expect((await ours(host, variant)).join("")).not.toBe("");
      await stop(removing);
      expect(await state()).toBe(before);
      expect((await ours(host, variant)).join("")).toBe("");
    },
  );

  test("what flannel left in the other engine goes, whichever is chosen; other networks' tables stay", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    const leaveOldRules = async () => {
      const text = `*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.99.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE
-A POSTROUTING -s 10.99.0.0/16 -d 10.99.0.0/16 -j RETURN
-A POSTROUTING -s 10.99.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING ! -s 10.99.0.0/16 -d 10.99.3.0/24 -j RETURN
-A POSTROUTING ! -s 10.99.0.0/16 -d 10.99.0.0/16 -j MASQUERADE
COMMIT
`;
      const file = join(net.lab.directory, "old-rules");
      await Bun.write(file, text);
      await inside(host.namespace, [
        "sh",
        "-c",
        `iptables-legacy-restore --noflush < ${file}; iptables-nft-restore --noflush < ${file}`,
      ]);
      const flannels = `table ip flannel-ipv4 {
	chain postrtg {
		type nat hook postrouting priority 100;
		ip saddr 10.99.0.0/16 ip daddr != 224.0.0.0/4 masquerade
	}
}
table ip6 flannel-ipv6 {
}
`;
      await Bun.write(file, flannels);
      await nft(host, "-f", file);
    };
    await leaveOldRules();
    const viaNft = startWith(net, host, "nftables");
    await viaNft.ready(0);
    await untilTrue(
      "only ours are left",
      async () => !/flannel-ipv|FLANNEL/.test(await nft(host, "list", "ruleset")),
    );
    for (const variant of ["iptables-legacy", "iptables-nft"] as const)
      expect(await save(host, variant, 4, "nat")).toEqual([]);
    await stop(viaNft);

    await leaveOldRules();
    await nft(host, "delete", "table", "ip", "flannel-ipv4");
    await nft(host, "add", "table", "ip", "flannel-ipv4");
    const viaIptables = startWith(net, host, "iptables-nft");
    await viaIptables.ready(0);
    expect(await nft(host, "list", "tables")).not.toContain("flannel-lite");
    // Empty, or another network's: nothing says that it is ours.
    expect(await nft(host, "list", "tables")).toContain("table ip flannel-ipv4");
    expect(await save(host, "iptables-legacy", 4, "nat")).toEqual([]);
    expect((await save(host, "iptables-nft", 4, "nat")).filter((line) => !line.includes("flanneld"))).toEqual(
      [],
    );
  });

  test("without iptables and nft masquerading cannot be: not ready, saying so; forward rules alone are only warned about", async () => {
    const net = await overlay(1);
    const host = hostOf(net, 1);
    const hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /usr/sbin && exec "$@"', "sh"];
    const daemon = net.startDaemon(host, { engine: "userspace", host: masquerade, wrap: hidden });
    await untilTrue("it says so", async () =>
      ((await daemon.report().catch(() => undefined))?.phase ?? "").includes(
        "without masquerading: neither iptables nor nft is installed",
      ),
    );
    expect(await daemon.report()).toMatchObject({ ready: false, firewall: { engine: null } });
    await stop(daemon);
    const lenient = net.startDaemon(host, { engine: "userspace", instance: "b", wrap: hidden });
    const report = await lenient.ready(0);
    expect(report.firewall?.trouble).toContain("neither iptables nor nft is installed");
  });

  test("under the name mk-docker-opts.sh the program is that script", async () => {
    const net = await overlay(1);
    const { directory } = net.lab;
    const program = join(directory, "mk-docker-opts.sh");
    symlinkSync(binary, program);
    const [env, docker] = [join(directory, "subnet.env"), join(directory, "docker")];
    await Bun.write(env, "FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n");
    const { namespace } = hostOf(net, 1);
    const args = ["-k", "DOCKER_NETWORK_OPTIONS", "-c", "-f", env, "-d", docker];
    expect(await inside(namespace, [program, ...args])).toBe("");
    const written = 'DOCKER_NETWORK_OPTIONS=" --bip=10.1.74.1/24 --ip-masq=false --mtu=1472"\n';
    expect(readFileSync(docker, "utf8")).toBe(written);
    await runProgram(["ip", "-n", namespace, "route", "add", "10.1.74.0/24", "via", "10.77.0.254"]);
    const routed = await tryProgram(["ip", "netns", "exec", namespace, program, ...args]);
    expect([routed.code, routed.errors]).toEqual([
      1,
      "Your routing table already contains the subnet: 10.1.74.0/24 via 10.77.0.254\n",
    ]);
    expect(readFileSync(docker, "utf8")).toBe(written);
    const usage = await tryProgram([program, "-h"]);
    expect([usage.code, usage.output]).toEqual([1, ""]);
    expect(usage.errors).toStartWith(`${program} [-f FLANNEL-ENV-FILE]`);
  });
});
