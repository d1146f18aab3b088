import { expect, test } from "bun:test";
import type { FirewallOptions } from "../../../../src/host/firewall/firewall.ts";
import { previewFirewall } from "../../../../src/host/firewall/preview.ts";
import type { Programs } from "../../../../src/host/firewall/programs.ts";
import { parsePrefix } from "../../../../src/net/prefix.ts";
import { fakeIptables } from "../../../support/fake-iptables.ts";
import { fakeNft } from "../../../support/fake-nft.ts";

const options: FirewallOptions = {
  engine: "auto",
  enableNftables: false,
  masquerade: false,
  forward: true,
  noMasquerade: [],
  fullyRandom: true,
  table: "flannel-lite",
  ranges: [parsePrefix("10.42.0.0/16")],
  previous: [],
};

const addon = {
  openFirewallMonitor: () => Promise.reject(new Error("a preview listens to nothing")),
  legacyTableState: () => "",
};

const preview = (programs: Programs, more: Partial<FirewallOptions> = {}) =>
  previewFirewall({ ...options, ...more }, { ipv4: parsePrefix("10.42.1.0/24") }, { addon, programs });

const forward = '-m comment --comment "flanneld forward"';

test("preview: what iptables would get and lose, without a change", async () => {
  const programs = fakeIptables();
  programs.change("filter", ["-A FORWARD -s 10.42.0.0/16 -j ACCEPT", "-A FORWARD -d 10.42.0.0/16 -j ACCEPT"]);
  const before = programs.rules("filter");
  const restored = programs.restored.length;
  expect(await preview(programs)).toEqual({
    lines: [
      "- iptables -t filter FORWARD -s 10.42.0.0/16 -j ACCEPT",
      "- iptables -t filter FORWARD -d 10.42.0.0/16 -j ACCEPT",
      "+ iptables -t filter chain FLANNEL-FWD",
      `+ iptables -t filter FORWARD ${forward} -j FLANNEL-FWD`,
      `+ iptables -t filter FLANNEL-FWD -s 10.42.0.0/16 ${forward} -j ACCEPT`,
      `+ iptables -t filter FLANNEL-FWD -d 10.42.0.0/16 ${forward} -j ACCEPT`,
    ],
    trouble: null,
  });
  expect(programs.rules("filter")).toEqual(before);
  expect(programs.restored.length).toBe(restored);
});

test("preview: rules in another order are one line, rules in place none", async () => {
  const programs = fakeIptables();
  const rules = ["-s", "-d"].map((side) => `-A FLANNEL-FWD ${side} 10.42.0.0/16 ${forward} -j ACCEPT`);
  const jump = `-A FORWARD ${forward} -j FLANNEL-FWD`;
  programs.change("filter", [":FLANNEL-FWD - [0:0]", jump, ...rules]);
  expect((await preview(programs)).lines).toEqual([]);
  const reversed = fakeIptables();
  reversed.change("filter", [":FLANNEL-FWD - [0:0]", jump, ...rules.toReversed()]);
  expect((await preview(reversed)).lines).toEqual(["~ iptables -t filter order of the rules"]);
});

test("preview: nftables' tables by rule, flannel's own on their way out", async () => {
  const programs = fakeNft();
  programs.tables.set(
    "ip flannel-ipv4",
    "table ip flannel-ipv4 {\n\tchain forward {\n\t\tip saddr 10.42.0.0/16 accept\n\t}\n}\n",
  );
  programs.tables.set(
    "ip flannel-lite",
    "table ip flannel-lite {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tip saddr 10.42.0.0/16 accept\n\t\tmeta mark & 0x00004000 == 0x00004000 drop\n\t}\n}\n",
  );
  const before = [...programs.tables];
  expect(await preview(programs)).toEqual({
    lines: [
      "- nft ip flannel-lite forward meta mark & 0x4000 == 0x4000 drop",
      "+ nft ip flannel-lite forward ip daddr 10.42.0.0/16 accept",
      "- nft ip flannel-ipv4 forward ip saddr 10.42.0.0/16 accept",
      "- nft table ip flannel-ipv4",
    ],
    trouble: null,
  });
  expect([...programs.tables]).toEqual(before);
  expect(programs.loaded).toEqual([]);
});

test("preview: without any packet filter it says so", async () => {
  const programs = fakeNft();
  programs.installed = false;
  expect((await preview(programs)).trouble).toContain("neither iptables nor nft is installed");
});
