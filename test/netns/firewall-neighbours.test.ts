import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { openTestOverlay, overlayRefused, type TestOverlay } from "../support/overlay.ts";

const refused =
  overlayRefused() ??
  (Bun.which("iptables-legacy") === null || Bun.which("nft") === null
    ? "iptables or nft is missing"
    : undefined);
if (refused !== undefined) console.warn(`SKIPPED test/netns/firewall-neighbours.test.ts: ${refused}`);

const variants = ["iptables-legacy", "iptables-nft", "nftables"] as const;
type Variant = (typeof variants)[number];

/** kube-proxy's jumps come first: it inserts them. */
const kubeForward = [
  '-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL',
  '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD',
  '-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
  '-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES',
];
const filter = [
  "*filter",
  ":FORWARD DROP [0:0]",
  ...["KUBE-PROXY-FIREWALL", "KUBE-FORWARD", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"].map(
    (chain) => `:${chain} - [0:0]`,
  ),
  ...["DOCKER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2", "DOCKER-USER"].map(
    (chain) => `:${chain} - [0:0]`,
  ),
  ...kubeForward,
  "-A FORWARD -j DOCKER-USER",
  "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
  "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
  "-A FORWARD -o docker0 -j DOCKER",
  "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
  "-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
  "-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
  "-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
  "-A DOCKER-USER -j RETURN",
  '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT',
  "COMMIT",
];
const nat = [
  "*nat",
  ...["KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-SERVICES", "DOCKER"].map((chain) => `:${chain} - [0:0]`),
  '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
  "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
  '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
  "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
  "-A DOCKER -i docker0 -j RETURN",
  "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
  "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
  "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
  '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
  "COMMIT",
];
const firewalld = `table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		jump filter_FORWARD_POLICIES
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_POLICIES {
		ip saddr 10.99.0.0/16 accept
		ip daddr 10.99.0.0/16 accept
	}
	chain nat_POSTROUTING {
		type nat hook postrouting priority srcnat + 10; policy accept;
		oifname "eth9" masquerade
	}
}
`;

describe.skipIf(refused !== undefined)("firewall beside others", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const setUp = async (variant: Variant) => {
    open = await openTestOverlay(1);
    const net = open;
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
    );
    const [host] = net.lab.hosts;
    if (host === undefined) throw new Error("no host");
    const tool = variant === "nftables" ? "iptables-nft" : variant;
    const restore = (lines: readonly string[]) =>
      feed(net, host, [`${tool}-restore`, "--noflush"], `${lines.join("\n")}\n`);
    await restore(filter);
    await restore(nat);
    await feed(net, host, ["nft", "-f"], firewalld);
    const bin = join(net.lab.directory, "bin");
    mkdirSync(bin);
    for (const suffix of ["", "-save", "-restore"])
      symlinkSync(Bun.which(`${tool}${suffix}`) ?? "", join(bin, `iptables${suffix}`));
    const daemon = net.startDaemon(host, {
      engine: "userspace",
      host: `ip_masq = true\nfirewall = "${variant === "nftables" ? "nftables" : "iptables"}"`,
      env: { PATH: `${bin}:${process.env["PATH"]}` },
    });
    /** The lines of one chain as they stand. */
    const chain = async (table: string, name: string) =>
      (await inside(host.namespace, [tool, "-t", table, "-S", name])).split("\n").filter(Boolean);
    /** All that is not ours, in order, counters left out. */
    const theirs = async () => {
      const tables = await inside(host.namespace, ["nft", "-s", "list", "table", "inet", "firewalld"]);
      const saved = (await inside(host.namespace, [`${tool}-save`])).split("\n");
      const kept = saved.filter((line) => !/^#|FLANNEL/.test(line));
      return `${kept.join("\n").replaceAll(/ \[\d+:\d+\]/g, "")}\n${tables}`;
    };
    return { net, host, daemon, tool, restore, chain, theirs };
  };
  const feed = async (net: TestOverlay, host: LabHost, command: readonly string[], text: string) => {
    const file = join(net.lab.directory, "rules");
    await Bun.write(file, text);
    await inside(host.namespace, [...command, file]);
  };

  test.each(variants)(
    "%s: ours stand last behind those of kube-proxy and Docker; theirs, firewalld's too, stay to the byte",
    async (variant) => {
      const { net, host, daemon, tool, restore, chain, theirs } = await setUp(variant);
      const before = await theirs();
      await daemon.ready(0);
      expect(await theirs()).toBe(before);
      const jump = '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD';
      const masq = '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG';
      const settled = async () => {
        if (variant === "nftables") return;
        const forward = await chain("filter", "FORWARD");
        expect(forward.at(-1)).toBe(jump);
        expect(forward.filter((line) => line === jump)).toHaveLength(1);
        expect((await chain("nat", "POSTROUTING")).at(-1)).toBe(masq);
      };
      await settled();
      if (variant !== "nftables") expect((await chain("filter", "FORWARD")).slice(1, 5)).toEqual(kubeForward);

      let repairs = 0;
      const repaired = async () => {
        for (const deadline = Date.now() + 10_000; Date.now() < deadline; await Bun.sleep(50)) {
          const now = (await daemon.report()).firewall?.repairs ?? 0;
          if (now > repairs) return void (repairs = now);
        }
        throw new Error("not repaired");
      };
      // Ours alone go and return.
      if (variant === "nftables")
        await inside(host.namespace, ["nft", "delete", "table", "ip", "flannel-lite"]);
      else {
        await inside(host.namespace, [
          tool,
          "-D",
          "FORWARD",
          ..."-m comment --comment".split(" "),
          "flanneld forward",
          "-j",
          "FLANNEL-FWD",
        ]);
      }
      await repaired();
      await settled();
      expect(await theirs()).toBe(before);

      // A reload of the other packet filter: all of it goes, then its owners put theirs back in front.
      if (variant === "nftables") {
        await inside(host.namespace, ["nft", "flush", "ruleset"]);
        await restore(filter);
        await restore(nat);
        await feed(net, host, ["nft", "-f"], firewalld);
        await repaired();
      } else {
        await inside(host.namespace, [tool, "-F", "FORWARD"]);
        await repaired();
        expect(await chain("filter", "FORWARD")).toEqual(["-P FORWARD DROP", jump]);
        const forward = filter.filter((line) => line.startsWith("-A FORWARD "));
        const inserted = forward.map((line, at) => line.replace("-A FORWARD", `-I FORWARD ${at + 1}`));
        await restore(["*filter", ...inserted, "COMMIT"]);
        await daemon.ready(0);
        await settled();
      }
      expect(await theirs()).toBe(before);

      await daemon.child.end();
      expect((await net.run(daemon, "cleanup")).code).toBe(0);
      expect(await theirs()).toBe(before);
      expect(await inside(host.namespace, [`${tool}-save`])).not.toContain("FLANNEL");
      expect(await inside(host.namespace, ["nft", "list", "tables"])).not.toContain("flannel");
    },
  );

  test.each(variants)(
    "%s: watched without starting a program; one is started when there is something to repair",
    async (variant) => {
      open = await openTestOverlay(1);
      const net = open;
      await net.etcd(
        "put",
        "/coreos.com/network/config",
        '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
      );
      const [host] = net.lab.hosts;
      if (host === undefined) throw new Error("no host");
      const tool = variant === "nftables" ? "iptables-nft" : variant;
      const [bin, calls] = [join(net.lab.directory, "bin"), join(net.lab.directory, "calls")];
      mkdirSync(bin);
      const programs = {
        nft: "nft",
        iptables: tool,
        "iptables-save": `${tool}-save`,
        "iptables-restore": `${tool}-restore`,
      };
      for (const [name, real] of Object.entries(programs)) {
        const script = `#!/bin/sh\necho "${name} $*" >> ${calls}\nexec ${Bun.which(real)} "$@"\n`;
        writeFileSync(join(bin, name), script, { mode: 0o755 });
      }
      const daemon = net.startDaemon(host, {
        engine: "userspace",
        host: `ip_masq = true\nfirewall = "${variant === "nftables" ? "nftables" : "iptables"}"`,
        env: { PATH: `${bin}:${process.env["PATH"]}` },
      });
      await daemon.ready(0);
      const called = () => readFileSync(calls, "utf8");
      for (let last = ""; last !== called(); await Bun.sleep(500)) last = called();
      const before = called();
      expect(before).not.toBe("");
      await Bun.sleep(6_000); // flannel looks every five seconds
      expect(called()).toBe(before);
      const ours =
        variant === "nftables" ? ["nft", "delete", "table", "ip", "flannel-lite"] : [tool, "-t", "nat", "-F"];
      await inside(host.namespace, ours);
      for (let tries = 0; tries < 200 && (await daemon.report()).firewall?.repairs === 0; tries++)
        await Bun.sleep(50);
      expect((await daemon.report()).firewall?.repairs).toBe(1);
      expect(called().length).toBeGreaterThan(before.length);
    },
  );
});
