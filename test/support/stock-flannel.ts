import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import { runProgram } from "../../src/demo/process.ts";

/** A host as flanneld (vxlan, VNI 1, port 8472) sets it up. */
export interface StockNode {
  readonly host: LabHost;
  /** Third byte of its subnet, `<network>.<n>.0/24`. */
  readonly subnet: number;
  readonly mac: string;
  /** Of its second device, in a dual-stack network. */
  readonly macV6?: string;
}

/** The first two bytes of the overlay network's addresses. */
export const stockNetwork = "10.99";

/** The IPv6 subnet of a node of a dual-stack network, without its length. */
export function stockSubnetV6({ subnet }: Pick<StockNode, "subnet">): string {
  return `fd00:99:0:${subnet}::`;
}

/** What flanneld has in etcd for the node, as it writes it. */
export function stockLease({ host, subnet, mac, macV6 }: StockNode): {
  readonly key: string;
  readonly value: string;
} {
  if (macV6 !== undefined)
    return {
      key: `/coreos.com/network/subnets/${stockNetwork}.${subnet}.0-24&${stockSubnetV6({ subnet })}-64`,
      value: `{"PublicIP":"${host.address}","PublicIPv6":"${host.addressV6}","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"${mac}"},"BackendV6Data":{"VNI":1,"VtepMAC":"${macV6}"}}`,
    };
  return {
    key: `/coreos.com/network/subnets/${stockNetwork}.${subnet}.0-24`,
    value: `{"PublicIP":"${host.address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"${mac}"}}`,
  };
}

/** Device, address and, for each peer, neighbour, FDB entry and route, as flannel makes or replaces them. */
export async function makeStockDevice(
  { host, subnet, mac }: StockNode,
  peers: readonly StockNode[],
): Promise<void> {
  const ip = (...words: string[]) => runProgram(["ip", "-n", host.namespace, ...words.join(" ").split(" ")]);
  const device = await ip("-o link").then((links) => links.includes(" flannel.1:"));
  if (!device)
    await ip(
      `link add flannel.1 mtu 1450 address ${mac} type vxlan id 1 local ${host.address} dev eth0 dstport 8472 nolearning`,
    );
  await ip(`link set flannel.1 txqueuelen 0`);
  await ip(`address replace ${stockNetwork}.${subnet}.0/32 dev flannel.1`);
  await ip(`link set flannel.1 up`);
  for (const peer of peers) {
    const first = `${stockNetwork}.${peer.subnet}.0`;
    await ip(`neighbour replace ${first} lladdr ${peer.mac} dev flannel.1 nud permanent`);
    await runProgram([
      ...["bridge", "-n", host.namespace, "fdb", "replace", peer.mac, "dev", "flannel.1"],
      ...["dst", peer.host.address, "self", "permanent"],
    ]);
    await ip(`route replace ${first}/24 via ${first} dev flannel.1 onlink`);
  }
}

/** The second device of a dual-stack network, with the same for each peer that has one. */
export async function makeStockDeviceV6(own: StockNode, peers: readonly StockNode[]): Promise<void> {
  const { host, macV6 } = own;
  const ip = (words: string) => runProgram(["ip", "-n", host.namespace, ...words.split(" ")]);
  await ip(
    `link add flannel-v6.1 address ${macV6} type vxlan id 1 local ${host.addressV6} dev eth0 dstport 8472 nolearning`,
  );
  await ip(`address add ${stockSubnetV6(own)}/128 dev flannel-v6.1 nodad`);
  await ip("link set flannel-v6.1 up");
  for (const peer of peers) {
    const first = stockSubnetV6(peer);
    await ip(`neighbour replace ${first} lladdr ${peer.macV6} dev flannel-v6.1 nud permanent`);
    await runProgram([
      ...["bridge", "-n", host.namespace, "fdb", "replace", `${peer.macV6}`, "dev", "flannel-v6.1"],
      ...["dst", peer.host.addressV6, "self", "permanent"],
    ]);
    await ip(`-6 route replace ${first}/64 via ${first} dev flannel-v6.1 onlink`);
  }
}

/** The bridge that Docker or CNI makes, with the first address that pods use. @returns the address */
export async function makePodBridge({ host, subnet }: StockNode): Promise<string> {
  const address = `${stockNetwork}.${subnet}.1`;
  const ip = (words: string) => runProgram(["ip", "-n", host.namespace, ...words.split(" ")]);
  await ip("link add cni0 type bridge");
  await ip(`address add ${address}/24 dev cni0`);
  await ip("link set cni0 up");
  return address;
}

/** subnet.env as flanneld leaves it. */
export function writeStockSubnetEnv(path: string, { subnet }: StockNode): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(
    path,
    `FLANNEL_NETWORK=${stockNetwork}.0.0/16\nFLANNEL_SUBNET=${stockNetwork}.${subnet}.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n`,
  );
}

/** The rules of v0.11, right in POSTROUTING and FORWARD. */
export async function addBareRules(tool: string, { host, subnet }: StockNode): Promise<void> {
  const [network, own] = [`${stockNetwork}.0.0/16`, `${stockNetwork}.${subnet}.0/24`];
  const rules = [
    `-t nat -A POSTROUTING -s ${network} -d ${network} -j RETURN`,
    `-t nat -A POSTROUTING -s ${network} ! -d 224.0.0.0/4 -j MASQUERADE`,
    `-t nat -A POSTROUTING ! -s ${network} -d ${own} -j RETURN`,
    `-t nat -A POSTROUTING ! -s ${network} -d ${network} -j MASQUERADE`,
    `-t filter -A FORWARD -s ${network} -j ACCEPT`,
    `-t filter -A FORWARD -d ${network} -j ACCEPT`,
  ];
  for (const rule of rules) await inside(host.namespace, [tool, ...rule.split(" ")]);
}

/** The chains of v0.20 and later. */
export async function addChainRules(tool: string, { host, subnet }: StockNode): Promise<void> {
  const [network, own] = [`${stockNetwork}.0.0/16`, `${stockNetwork}.${subnet}.0/24`];
  const masq = '-m comment --comment "flanneld masq"';
  const forward = '-m comment --comment "flanneld forward"';
  const nat = [
    ":FLANNEL-POSTRTG - [0:0]",
    `-A POSTROUTING ${masq} -j FLANNEL-POSTRTG`,
    `-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 ${masq} -j RETURN`,
    `-A FLANNEL-POSTRTG -s ${own} -d ${network} ${masq} -j RETURN`,
    `-A FLANNEL-POSTRTG -s ${network} -d ${own} ${masq} -j RETURN`,
    `-A FLANNEL-POSTRTG ! -s ${network} -d ${own} ${masq} -j RETURN`,
    `-A FLANNEL-POSTRTG -s ${network} ! -d 224.0.0.0/4 ${masq} -j MASQUERADE --random-fully`,
    `-A FLANNEL-POSTRTG ! -s ${network} -d ${network} ${masq} -j MASQUERADE --random-fully`,
  ];
  const filter = [
    ":FLANNEL-FWD - [0:0]",
    `-A FORWARD ${forward} -j FLANNEL-FWD`,
    `-A FLANNEL-FWD -s ${network} ${forward} -j ACCEPT`,
    `-A FLANNEL-FWD -d ${network} ${forward} -j ACCEPT`,
  ];
  await feed(host, [`${tool}-restore`, "--noflush"], `*nat\n${nat.join("\n")}\nCOMMIT\n`);
  await feed(host, [`${tool}-restore`, "--noflush"], `*filter\n${filter.join("\n")}\nCOMMIT\n`);
}

/** Both tables of EnableNFTables; the IPv6 one is empty on a host without it. */
export async function addNftTables({ host, subnet }: StockNode): Promise<void> {
  const [network, own] = [`${stockNetwork}.0.0/16`, `${stockNetwork}.${subnet}.0/24`];
  await feed(
    host,
    ["nft", "-f", "-"],
    `table ip flannel-ipv4 {
	comment "rules for flannel-ipv4"
	chain forward {
		type filter hook forward priority 0; policy accept;
		ip saddr ${network} accept
		ip daddr ${network} accept
	}
	chain postrtg {
		type nat hook postrouting priority 100; policy accept;
		meta mark 0x00004000 return
		ip saddr ${own} ip daddr ${network} return
		ip saddr ${network} ip daddr ${own} return
		ip saddr != ${own} ip daddr ${network} return
		ip saddr ${network} ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != ${network} ip daddr ${network} masquerade fully-random
	}
}
table ip6 flannel-ipv6 {
	comment "rules for flannel-ipv6"
}
`,
  );
}

async function feed({ namespace }: LabHost, command: readonly string[], input: string): Promise<void> {
  const child = Bun.spawn(["ip", "netns", "exec", namespace, ...command], {
    stdin: new Blob([input]),
    stderr: "pipe",
  });
  const errors = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}: ${errors}`);
}
