import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inside, type LabHost, openNamespaces, switchAddress } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import {
  type CniAnswer,
  type CniCall,
  delegatesRefused,
  runCniPlugin,
  runConflist,
  stockPlugins,
} from "../support/cni-runtime.ts";
import {
  binary,
  type Daemon,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
} from "../support/overlay.ts";

const refused = overlayRefused() ?? delegatesRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/cni.test.ts: ${refused}`);

const dualStack =
  '{"Network":"10.99.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:99::/48","Backend":{"Type":"vxlan"}}';

interface Node {
  readonly host: LabHost;
  readonly daemon: Daemon;
  readonly binDir: string;
  readonly conflist: string;
  readonly dataDir: string;
  readonly ipamDir: string;
}

/** A namespace that the plugin made a pod of. */
interface Pod extends LabHost {
  readonly node: Node;
  readonly id: string;
  readonly addresses: readonly string[];
  readonly result: string;
  readonly args: Readonly<Record<string, unknown>>;
}

describe.skipIf(refused !== undefined)("cni", () => {
  let net: TestOverlay | undefined;
  const pods: string[] = [];

  afterEach(async () => {
    for (const namespace of pods.splice(0)) await tryProgram(["ip", "netns", "delete", namespace]);
    await net?.[Symbol.asyncDispose]();
    net = undefined;
  });

  /** Installs plugin and list by our own command, with everything that is kept below the lab's directory. */
  const nodeOf = async (
    overlay: TestOverlay,
    number: number,
    { engine = "userspace" as "userspace" | "kernel", cniVersion = "1.0.0", daemon = "ip_masq = true" } = {},
  ): Promise<Node> => {
    const host = overlay.lab.hosts[number - 1];
    if (host === undefined) throw new Error(`no host ${number}`);
    const started = overlay.startDaemon(host, { engine, host: daemon });
    const root = join(overlay.lab.directory, `root${number}`);
    const [dataDir, ipamDir] = [join(root, "var/lib/cni/flannel"), join(root, "var/lib/cni/networks")];
    const source = join(overlay.lab.directory, `conflist${number}`);
    writeFileSync(
      source,
      JSON.stringify({
        name: "cbr0",
        cniVersion,
        plugins: [
          {
            type: "flannel",
            dataDir,
            ipam: { dataDir: ipamDir },
            delegate: { hairpinMode: true, isDefaultGateway: true },
          },
          { type: "portmap", capabilities: { portMappings: true } },
        ],
      }),
    );
    const install = [
      "install",
      "cni",
      "-root",
      root,
      "-link",
      "-conflist",
      source,
      "-subnet-file",
      started.subnetFile,
    ];
    await runProgram([binary, ...install]);
    const [binDir, conflist] = [join(root, "opt/cni/bin"), join(root, "etc/cni/net.d/10-flannel.conflist")];
    return { host, daemon: started, binDir, conflist, dataDir, ipamDir };
  };

  const call = (node: Node, cni: CniCall, more: Parameters<typeof runConflist>[3] = {}): Promise<CniAnswer> =>
    runConflist(
      node.conflist,
      cni,
      { namespace: node.host.namespace, path: [node.binDir, stockPlugins] },
      more,
    );

  const addNamespace = async (node: Node, id: string): Promise<string> => {
    const namespace = `${node.host.namespace}-${id}`;
    pods.push(namespace);
    await runProgram(["ip", "netns", "add", namespace]);
    return namespace;
  };

  const addPod = async (
    node: Node,
    id: string,
    args: Readonly<Record<string, unknown>> = {},
  ): Promise<Pod> => {
    const namespace = await addNamespace(node, id);
    const cni = { command: "ADD", containerId: id, netns: `/run/netns/${namespace}` };
    const { code, output, errors } = await call(node, cni, { args });
    if (code !== 0) throw new Error(`ADD ${id}: ${output}${errors}`);
    const { ips } = JSON.parse(output) as { ips: { address: string }[] };
    const addresses = ips.map(({ address }) => address.split("/")[0] ?? "");
    return {
      number: node.host.number,
      namespace,
      address: addresses[0] ?? "",
      addressV6: addresses[1] ?? "",
      node,
      id,
      addresses,
      result: output,
      args,
    };
  };

  const remove = ({ node, id, namespace, result, args }: Pod) =>
    call(node, { command: "DEL", containerId: id, netns: `/run/netns/${namespace}` }, { result, args });

  /** What connecting from `from` to a server that tells each client its address says. */
  const seenAs = (from: string, address: string, port: number) =>
    inside(from, ["bash", "-c", `exec 3<>/dev/tcp/${address}/${port}; cat <&3`]);

  const serveAddresses = async (overlay: TestOverlay, namespace: string, address: string, port: number) => {
    const open = "open(s){s.end(s.remoteAddress)},data(){}";
    const script = `Bun.listen({hostname:"${address}",port:${port},socket:{${open}}});console.log("listening")`;
    const child = overlay.lab.start(namespace, [process.execPath, "-e", script]);
    const reader = child.output.getReader();
    const { value } = await reader.read();
    if (new TextDecoder().decode(value) !== "listening\n") throw new Error(child.errorTail());
    reader.releaseLock();
  };

  test("six pods of three hosts reach each other, hosts and the outside in both families; DEL leaves nothing behind", async () => {
    const overlay = await openTestOverlay(3);
    net = overlay;
    await overlay.etcd("put", "/coreos.com/network/config", dualStack);
    const nodes = [
      await nodeOf(overlay, 1),
      await nodeOf(overlay, 2, { engine: "kernel" }),
      await nodeOf(overlay, 3, { cniVersion: "0.3.1" }),
    ];
    for (const { daemon } of nodes) await daemon.ready(2);
    const portMappings = [{ hostPort: 8080, containerPort: 5201, protocol: "tcp" }];
    const all: Pod[] = [];
    for (const node of nodes) {
      all.push(await addPod(node, "one", node === nodes[0] ? { portMappings } : {}));
      all.push(await addPod(node, "two"));
    }
    const [first, second, third, , fifth] = all;
    if (first === undefined || second === undefined || third === undefined || fifth === undefined)
      throw new Error("pods are missing");

    for (const { node, addresses } of all) {
      const subnets = (await node.daemon.report()).lease?.subnets.map((text) =>
        text.replace(/[.:]\d*\/\d+$/, ""),
      );
      expect(addresses.map((address) => subnets?.some((subnet) => address.startsWith(subnet)))).toEqual([
        true,
        true,
      ]);
    }
    // The pod's own MTU is the overlay's: nothing is cut on the way.
    expect(await inside(first.namespace, ["cat", "/sys/class/net/eth0/mtu"])).toBe("1430\n");

    for (const [from, to] of [
      [first, second],
      [first, third],
      [third, fifth],
      [fifth, first],
    ] as const) {
      for (const address of to.addresses) await ping(from, address);
      const { corruptBytes = 0 } = (await transfer(
        overlay.lab,
        { host: from, address: from.address },
        { host: to, address: to.address },
      )) as { corruptBytes?: number };
      expect(corruptBytes).toBe(0);
    }
    // A pod to its own host and to another one: by their addresses on the wire, masqueraded like all that leaves.
    await ping(first, first.node.host.address);
    await ping(first, third.node.host.address);
    await serveAddresses(overlay, overlay.lab.switchNamespace, switchAddress, 7000);
    expect(await seenAs(first.namespace, switchAddress, 7000)).toBe(first.node.host.address);
    // Between pods nobody masquerades.
    await serveAddresses(overlay, third.namespace, third.address, 7001);
    expect(await seenAs(first.namespace, third.address, 7001)).toBe(first.address);
    // What runtimes chain behind it works on the result: portmap.
    await serveAddresses(overlay, first.namespace, first.address, 5201);
    expect(await seenAs(overlay.lab.switchNamespace, first.node.host.address, 8080)).toBe(switchAddress);

    const check = { command: "CHECK", containerId: third.id, netns: `/run/netns/${third.namespace}` };
    expect(await call(third.node, check, { result: third.result, args: third.args })).toMatchObject({
      code: 0,
      output: "",
    });

    for (const pod of all) {
      expect(await remove(pod)).toMatchObject({ code: 0, output: "" });
      expect(await remove(pod)).toMatchObject({ code: 0, output: "" });
    }
    for (const { host, dataDir, ipamDir } of nodes) {
      expect(readdirSync(dataDir)).toEqual([]);
      expect(readdirSync(join(ipamDir, "cbr0")).filter((name) => /^[0-9a-f]+[.:]/.test(name))).toEqual([]);
      expect(
        JSON.parse(await inside(host.namespace, ["ip", "-j", "link", "show", "master", "cni0"])),
      ).toEqual([]);
      expect(await inside(host.namespace, ["iptables-save", "-t", "nat"])).not.toContain("CNI-DN-");
    }
    for (const { namespace } of all) {
      const links = JSON.parse(await inside(namespace, ["ip", "-j", "link"])) as { ifname: string }[];
      expect(links.map(({ ifname }) => ifname)).toEqual(["lo"]);
    }
  }, 120_000);

  test("a pod that comes before the daemon is told why; one made anew on the same node has its network again", async () => {
    const overlay = await openTestOverlay(2);
    net = overlay;
    const nodes = [await nodeOf(overlay, 1), await nodeOf(overlay, 2)];
    const [node, other] = nodes as [Node, Node];
    const namespace = await addNamespace(node, "early");
    const cni = { command: "ADD", containerId: "early", netns: `/run/netns/${namespace}` };
    const told = async () => {
      const { code, output } = await call(node, cni);
      return { exit: code, ...(JSON.parse(output) as { code: number; msg: string; details: string }) };
    };
    const reason = `${node.daemon.subnetFile}.reason`;
    for (
      let tries = 0;
      tries < 200 && !(existsSync(reason) && readFileSync(reason, "utf8").includes("has no network"));
      tries++
    )
      await Bun.sleep(50);
    expect(await told()).toMatchObject({
      exit: 1,
      code: 11,
      msg: `failed to load flannel 'subnet.env' file: open ${node.daemon.subnetFile}: no such file or directory. Check the flannel pod log for this node.`,
      details: expect.stringMatching(
        /^flannel-lite says: waiting for the network configuration: .* has no network configuration/,
      ),
    });
    expect(existsSync(node.dataDir)).toBe(false);
    expect(await call(node, { ...cni, command: "DEL" })).toMatchObject({ code: 0, output: "" });

    await overlay.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
    );
    for (const { daemon } of nodes) await daemon.ready(1);
    expect(existsSync(reason)).toBe(false);
    const far = await addPod(other, "far");
    const pod = await addPod(node, "again");
    await ping(pod, far.address);
    // It went while the daemon and its file were gone.
    await node.daemon.child.end();
    rmSync(node.daemon.subnetFile);
    expect(await remove(pod)).toMatchObject({ code: 0, output: "" });
    expect(readdirSync(node.dataDir)).toEqual([]);
    await tryProgram(["ip", "netns", "delete", pod.namespace]);
    const { daemon } = await nodeOf(overlay, 1);
    await daemon.ready(1);
    await ping(await addPod(node, "again"), far.address);
  }, 120_000);
});

const ipv4 = "FLANNEL_NETWORK=10.99.0.0/16\nFLANNEL_SUBNET=10.99.5.1/24\n";
const ipv6 = "FLANNEL_IPV6_NETWORK=fd00:99::/48\nFLANNEL_IPV6_SUBNET=fd00:99:0:5::1/64\n";
const rest = "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

describe.skipIf(refused !== undefined)("ADD and DEL by bridge and host-local", () => {
  /** The addresses that a result has, whatever its version. */
  const addressesOf = (output: string): string[] => {
    const { ips, ip4, ip6 } = JSON.parse(output) as Record<string, unknown>;
    const old = [ip4, ip6].filter((one) => one !== undefined).map((one) => (one as { ip: string }).ip);
    return Array.isArray(ips) ? ips.map(({ address }: { address: string }) => address) : old;
  };

  test.each<[string, string | undefined, string, string[]]>([
    ["IPv4", "1.0.0", ipv4 + rest, ["10.99.5.2/24"]],
    ["two networks", "1.0.0", ipv4.replace("/16", "/16,10.98.0.0/16") + rest, ["10.99.5.2/24"]],
    ["IPv6", "1.0.0", ipv6 + rest, ["fd00:99:0:5::2/64"]],
    ["both", "1.0.0", ipv4 + ipv6 + rest, ["10.99.5.2/24", "fd00:99:0:5::2/64"]],
    ["both", "0.4.0", ipv4 + ipv6 + rest, ["10.99.5.2/24", "fd00:99:0:5::2/64"]],
    ["both", "0.3.1", ipv4 + ipv6 + rest, ["10.99.5.2/24", "fd00:99:0:5::2/64"]],
    ["both", "0.3.0", ipv4 + ipv6 + rest, ["10.99.5.2/24", "fd00:99:0:5::2/64"]],
    ["both", "0.2.0", ipv4 + ipv6 + rest, ["10.99.5.2/24", "fd00:99:0:5::2/64"]],
    ["both", "0.1.0", ipv4 + ipv6 + rest, ["10.99.5.2/24", "fd00:99:0:5::2/64"]],
    ["IPv4", undefined, ipv4 + rest, ["10.99.5.2/24"]],
  ])(
    "%s, version %s: the state is there from ADD to DEL, which may be repeated",
    async (_name, cniVersion, env, expected) => {
      await using namespaces = await openNamespaces("cni");
      const { directory } = namespaces;
      const namespace = await namespaces.add("host");
      const pod = await namespaces.add("pod");
      symlinkSync(binary, join(directory, "flannel"));
      writeFileSync(join(directory, "subnet.env"), env);
      const config = JSON.stringify({
        name: "net",
        ...(cniVersion !== undefined && { cniVersion }),
        type: "flannel",
        subnetFile: join(directory, "subnet.env"),
        dataDir: join(directory, "data"),
        ipam: { dataDir: join(directory, "ipam") },
      });
      const run = (command: string) =>
        runCniPlugin(
          join(directory, "flannel"),
          { command, containerId: "pod1", netns: `/run/netns/${pod}` },
          config,
          { namespace, path: [stockPlugins] },
        );
      const added = await run("ADD");
      expect(added.code).toBe(0);
      expect(addressesOf(added.output)).toEqual(expected);
      const state = JSON.parse(readFileSync(join(directory, "data/pod1"), "utf8")) as Record<string, unknown>;
      expect(state).toMatchObject({ type: "bridge", mtu: 1450, ipMasq: false, name: "net" });
      expect(state["cniVersion"]).toBe(cniVersion);
      for (let times = 0; times < 2; times++) expect(await run("DEL")).toMatchObject({ code: 0, output: "" });
      expect(readdirSync(join(directory, "data"))).toEqual([]);
      expect(JSON.parse(await inside(namespace, ["ip", "-j", "link", "show", "master", "cni0"]))).toEqual([]);
    },
  );
});

describe.skipIf(refused !== undefined)("at once", () => {
  test("two ADDs of one pod are one address and one error, those of eight pods eight addresses; DEL frees all", async () => {
    await using namespaces = await openNamespaces("cni");
    const { directory } = namespaces;
    const namespace = await namespaces.add("host");
    symlinkSync(binary, join(directory, "flannel"));
    writeFileSync(join(directory, "subnet.env"), ipv4 + rest);
    const config = JSON.stringify({
      name: "net",
      cniVersion: "1.0.0",
      type: "flannel",
      subnetFile: join(directory, "subnet.env"),
      dataDir: join(directory, "data"),
      ipam: { dataDir: join(directory, "ipam") },
    });
    const pods: string[] = [];
    for (let at = 0; at < 8; at++) pods.push(await namespaces.add(`pod${at}`));
    const run = (command: string, at: number) =>
      runCniPlugin(
        join(directory, "flannel"),
        { command, containerId: `pod${at}`, netns: `/run/netns/${pods[at]}` },
        config,
        { namespace, path: [stockPlugins] },
      );
    const leased = () => readdirSync(join(directory, "ipam/net")).filter((name) => /^\d/.test(name));

    const twice = await Promise.all([run("ADD", 0), run("ADD", 0)]);
    expect(twice.map(({ code }) => code).sort()).toEqual([0, 1]);
    expect(JSON.parse(twice.find(({ code }) => code === 1)?.output ?? "")).toMatchObject({
      code: expect.any(Number),
      msg: expect.any(String),
    });
    const all = await Promise.all(pods.slice(1).map(async (_pod, at) => await run("ADD", at + 1)));
    expect(all.filter(({ code }) => code !== 0)).toEqual([]);
    expect(readdirSync(join(directory, "data")).sort()).toEqual(pods.map((_pod, at) => `pod${at}`));
    expect(leased()).toHaveLength(8);

    for (const _again of [false, true]) {
      const gone = await Promise.all(pods.map(async (_pod, at) => await run("DEL", at)));
      expect(gone.filter(({ code }) => code !== 0)).toEqual([]);
    }
    expect(readdirSync(join(directory, "data"))).toEqual([]);
    expect(leased()).toEqual([]);
  });
});

if (!existsSync(binary))
  console.warn(`SKIPPED the program as a plugin in test/netns/cni.test.ts: ${binary} is missing`);

describe.skipIf(!existsSync(binary))("the program as a plugin", () => {
  let directory = "";
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "fl-plugin-"));
    symlinkSync(binary, join(directory, "flannel"));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));
  const program = () => join(directory, "flannel");
  const run = (command: string, config: string) =>
    runCniPlugin(program(), { command, containerId: "pod1", netns: "/run/netns/none" }, config, {
      path: ["/nonexistent"],
    });
  const input = (more: object = {}) =>
    JSON.stringify({
      name: "net",
      type: "flannel",
      cniVersion: "1.0.0",
      subnetFile: `${directory}/subnet.env`,
      dataDir: `${directory}/data`,
      ...more,
    });

  test("VERSION needs no input; without a command it says what it is, on standard error", async () => {
    expect(await run("VERSION", "")).toEqual({
      code: 0,
      output:
        '{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}\n',
      errors: "",
    });
    const { code, output, errors } = await run("", "");
    expect({ code, output }).toEqual({ code: 0, output: "" });
    expect(errors).toStartWith("CNI Plugin flannel version ");
  });

  test.each<[string, () => string, object]>([
    ["empty", () => "", { code: 6 }],
    ["cut off", () => input().slice(0, 40), { code: 6 }],
    [
      "megabytes long",
      () => input({ filler: "x".repeat(8_000_000) }),
      { code: 6, msg: "network config is longer than 1048576 bytes" },
    ],
    ["binary", () => "\0\xff\xfe".repeat(1000), { code: 6 }],
    ["without subnet.env", () => input(), { code: 999 }],
    ["of a later version", () => input({ cniVersion: "2.0.0" }), { code: 1 }],
  ])("input that is %s: one CNI error on standard output, nothing else", async (_name, text, expected) => {
    const { code, output, errors } = await run("ADD", text());
    expect(code).toBe(1);
    expect(JSON.parse(output)).toMatchObject(expected);
    expect(output).toStartWith('{\n    "code": ');
    expect(errors).toBe("");
  });

  test("the delegate's configuration goes to standard error, its result to standard output, as it is", async () => {
    const bin = join(directory, "bin");
    mkdirSync(bin);
    writeFileSync(join(bin, "bridge"), `#!/bin/sh\necho noise >&2\nprintf '{ "ips": [] }'\n`, {
      mode: 0o755,
    });
    writeFileSync(
      join(directory, "subnet.env"),
      "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n",
    );
    const call = { command: "ADD", containerId: "pod1", netns: "/run/netns/none" };
    expect(await runCniPlugin(program(), call, input(), { path: [bin] })).toEqual({
      code: 0,
      output: '{ "ips": [] }',
      errors:
        '{"cniVersion":"1.0.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1472,"name":"net","type":"bridge"}\nnoise\n',
    });
  });

  test.each([["flannel-lite"], ["flannel-of-ours"]])(
    "started by a runtime as %s it is the plugin, and no daemon",
    async (name) => {
      symlinkSync(binary, join(directory, name));
      // A daemon would end at once over a mistake in its configuration.
      const env = ["CNI_COMMAND=VERSION", "FLANNELD_SUBNET_LEASE_RENEW_MARGIN=none"];
      const { code, output, errors } = await tryProgram(["env", ...env, join(directory, name)]);
      expect({ code, errors }).toEqual({ code: 0, errors: "" });
      expect(JSON.parse(output)).toMatchObject({ cniVersion: "1.1.0" });
    },
  );

  test("an answer that cannot be written is a failure", async () => {
    const shell = 'CNI_COMMAND=VERSION "$0" > /dev/full';
    expect(await tryProgram(["sh", "-c", shell, program()])).toMatchObject({ code: 1 });
  });

  test.each([
    ["full", "head -c 8192 /dev/zero > /mnt/x", "ENOSPC"],
    ["read-only", "mount -o remount,ro /mnt", "EROFS"],
  ])(
    "a disk that is %s fails an ADD before the delegate is called, and leaves nothing torn",
    async (_name, spoil, why) => {
      writeFileSync(join(directory, "subnet.env"), ipv4 + rest);
      writeFileSync(join(directory, "bridge"), `#!/bin/sh\necho $CNI_COMMAND >> ${directory}/called\n`, {
        mode: 0o755,
      });
      const script = `mount -t tmpfs -o size=8k none /mnt && mkdir -m 700 /mnt/data && { ${spoil}; } 2>/dev/null
        CNI_COMMAND=ADD "$0" < "$1"; CNI_COMMAND=DEL "$0" < "$1" && ls -A /mnt/data`;
      writeFileSync(join(directory, "input"), input({ dataDir: "/mnt/data" }));
      const env = ["CNI_CONTAINERID=pod1", "CNI_IFNAME=eth0", "CNI_NETNS=/run/none", `CNI_PATH=${directory}`];
      const { code, output } = await tryProgram([
        ...["env", ...env, "unshare", "--mount", "sh", "-c", script],
        ...[program(), join(directory, "input")],
      ]);
      expect(code).toBe(0);
      expect(JSON.parse(output)).toMatchObject({
        code: 999,
        msg: expect.stringMatching(
          new RegExp(`^failed to save the delegate's config in /mnt/data: ${why}.*(open|write)`),
        ),
      });
      expect(existsSync(join(directory, "called"))).toBe(false);
    },
  );

  test("told to end it ends the delegate, and says so", async () => {
    const bin = join(directory, "bin");
    mkdirSync(bin);
    const started = join(directory, "started");
    writeFileSync(
      join(bin, "bridge"),
      `#!/bin/sh\necho $$ > ${started}.new; mv ${started}.new ${started}\nsleep 1000\n`,
      {
        mode: 0o755,
      },
    );
    writeFileSync(join(directory, "subnet.env"), ipv4 + rest);
    const child = Bun.spawn([program()], {
      env: {
        CNI_COMMAND: "ADD",
        CNI_CONTAINERID: "pod1",
        CNI_IFNAME: "eth0",
        CNI_NETNS: "/run/netns/none",
        CNI_PATH: bin,
        PATH: process.env["PATH"] ?? "",
      },
      stdin: Buffer.from(input()),
      stdout: "pipe",
      stderr: "ignore",
    });
    for (let tries = 0; tries < 400 && !existsSync(started); tries++) await Bun.sleep(25);
    const pid = Number(readFileSync(started, "utf8"));
    child.kill("SIGTERM");
    expect(JSON.parse(await new Response(child.stdout).text())).toMatchObject({
      code: 999,
      msg: "failed to delegate add: bridge was stopped, as this plugin was told to end",
    });
    expect(await child.exited).toBe(1);
    expect(existsSync(`/proc/${pid}`)).toBe(false);
    // What was kept is there for the DEL that follows.
    expect(readdirSync(join(directory, "data"))).toEqual(["pod1"]);
  });

  test("install cni knows the compiled program", async () => {
    const root = join(directory, "root");
    const { code, output, errors } = await tryProgram([binary, "install", "cni", "-root", root]);
    expect({ code, errors }).toEqual({ code: 0, errors: "" });
    expect(output).toContain(
      `wrote ${root}/opt/cni/bin/flannel\nwrote ${root}/etc/cni/net.d/10-flannel.conflist\n`,
    );
    expect((await tryProgram([binary, "install", "cni", "-root", root, "-remove"])).output).toBe(
      `removed ${root}/etc/cni/net.d/10-flannel.conflist\nremoved ${root}/opt/cni/bin/flannel\n`,
    );
  });
});
