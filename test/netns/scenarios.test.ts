import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { type Lab, type LabHost, openLab } from "../../src/demo/lab.ts";
import { type Child, runProgram, tryProgram } from "../../src/demo/process.ts";
import { type Certificates, openCertificates } from "../support/certificates.ts";
import { binary, overlayRefused } from "../support/overlay.ts";
import { type SecureEtcd, startSecureEtcd } from "../support/secure-etcd.ts";

/**
 * flannel's own functional tests, with the program under flanneld's name and by flanneld's command line: daemons at
 * an etcd that asks for client certificates, an address of each subnet reached from the other.
 */
const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/scenarios.test.ts: ${refused}`);

describe.skipIf(refused !== undefined)("flannel's scenarios", () => {
  let lab: Lab | undefined;
  let certificates: Certificates | undefined;
  afterEach(async () => {
    await lab?.[Symbol.asyncDispose]();
    certificates?.[Symbol.dispose]();
    lab = certificates = undefined;
  });

  interface Node {
    readonly host: LabHost;
    readonly subnetFile: string;
    readonly directories: readonly string[];
    readonly flags: readonly string[];
  }

  const nodesOf = (lab: Lab, { endpoint }: SecureEtcd, files: readonly string[]): Node[] =>
    lab.hosts.map((host) => {
      const directory = join(lab.directory, `host${host.number}`);
      mkdirSync(directory, { mode: 0o700 });
      const subnetFile = join(directory, "subnet.env");
      return {
        host,
        subnetFile,
        directories: [`-host-run-dir=${directory}/run`, `-host-state-dir=${directory}/state`],
        flags: [`--etcd-endpoints=${endpoint}`, ...files, `-subnet-file=${subnetFile}`, "-v", "10"],
      };
    });
  /** The subnet in subnet.env, once the daemon has written it. */
  const subnetOf = async ({ subnetFile }: Node, child: Child): Promise<string> => {
    for (const deadline = Date.now() + 30_000; Date.now() < deadline; await Bun.sleep(50))
      if (existsSync(subnetFile))
        return /^FLANNEL_SUBNET=(.*)$/m.exec(readFileSync(subnetFile, "utf8"))?.[1] ?? "";
    throw new Error(`no ${subnetFile}: ${child.errorTail()}`);
  };
  /** A pod: a namespace on the host's bridge with an address of its subnet. */
  const addPod = async (lab: Lab, { host }: Node, subnet: string) => {
    const ip = (...args: string[]) => runProgram(["ip", "-n", host.namespace, ...args]);
    if ((await tryProgram(["ip", "-n", host.namespace, "link", "show", "cni0"])).code !== 0) {
      await ip("link", "add", "cni0", "type", "bridge");
      await ip("address", "add", subnet, "dev", "cni0");
      await ip("link", "set", "cni0", "up");
    }
    const [gateway = ""] = subnet.split("/");
    const namespace = `${lab.name}-pod${host.number}`;
    await runProgram(["ip", "netns", "add", namespace]);
    // The kernel takes its time with the devices of a namespace that is gone.
    await tryProgram(["ip", "-n", host.namespace, "link", "delete", "veth0"]);
    await ip("link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", namespace);
    await ip("link", "set", "veth0", "master", "cni0", "up");
    const address = gateway.replace(/\.1$/, ".9");
    const within = (...args: string[]) => runProgram(["ip", "-n", namespace, ...args]);
    await within("address", "add", `${address}/24`, "dev", "eth0");
    await within("link", "set", "eth0", "up");
    await within("route", "add", "default", "via", gateway);
    return { namespace, address };
  };
  type Pod = Awaited<ReturnType<typeof addPod>>;
  /** Three pings, until all of them come back. */
  const pings = async (from: Pod, to: Pod): Promise<void> => {
    const ping = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-I", from.address, to.address];
    let last = "";
    for (const deadline = Date.now() + 15_000; Date.now() < deadline; await Bun.sleep(100)) {
      const { code, output } = await tryProgram(["ip", "netns", "exec", from.namespace, ...ping]);
      if (code === 0 && output.includes(" 3 received")) return;
      last = output;
    }
    throw new Error(`${from.address} does not reach ${to.address}: ${last}`);
  };

  test.each([
    ["vxlan", "userspace"],
    ["vxlan", "kernel"],
    ["host-gw", "auto"],
    ["udp", "userspace"],
  ] as const)(
    "%s, %s: with client certificates pods ping both ways, also one made anew, and after all daemons restarted",
    async (backend, engine) => {
      lab = await openLab("scen", 2);
      const opened = lab;
      certificates = openCertificates();
      const etcd = await startSecureEtcd(opened, certificates);
      const network = { Network: "10.10.0.0/16", Backend: { Type: backend } };
      await etcd.etcdctl("put", "/coreos.com/network/config", JSON.stringify(network));
      const files = await Promise.all(
        (["ca", "cert", "key"] as const).map(async (name) => {
          const path = join(opened.directory, `${name}.pem`);
          await Bun.write(path, etcd[name], { mode: 0o600 });
          return `--etcd-${name}file=${path}`;
        }),
      );
      const flanneld = join(opened.directory, "flanneld");
      symlinkSync(binary, flanneld);
      const nodes = nodesOf(opened, etcd, files);
      const env = { FLANNEL_LITE_DATAPATH_ENGINE: engine };
      const startAll = () =>
        nodes.map(({ host, directories, flags }) =>
          opened.start(host.namespace, [flanneld, ...directories, ...flags, "-ip-masq"], env),
        );
      let daemons = startAll();
      const subnetsNow = () => Promise.all(nodes.map((node, at) => subnetOf(node, daemons[at] as Child)));
      const subnets = await subnetsNow();
      const pods: Pod[] = [];
      try {
        for (const [at, node] of nodes.entries()) pods.push(await addPod(opened, node, subnets[at] ?? ""));
        const [first, second] = pods as [Pod, Pod];
        await pings(first, second);
        await pings(second, first);

        await runProgram(["ip", "netns", "delete", second.namespace]);
        const again = await addPod(opened, nodes[1] as Node, subnets[1] ?? "");
        await pings(first, again);
        await pings(again, first);

        // Every operator's command takes the daemon's own flags.
        const [node] = nodes as [Node];
        const run = (command: string, ...more: string[]) =>
          tryProgram([
            ...["ip", "netns", "exec", node.host.namespace, "env", `FLANNEL_LITE_DATAPATH_ENGINE=${engine}`],
            ...[binary, command, ...node.directories, ...node.flags, "-ip-masq", ...more],
          ]);
        const plan = await run("plan");
        // The engine's own tables are in the running process: a start would fill new ones.
        const changes = plan.output.split("\n").filter((line) => /^[-+~] (?!tunnel|forward)/.test(line));
        expect([plan.code, changes]).toEqual([0, []]);
        const status = await run("status", "--json");
        expect(JSON.parse(status.output)).toMatchObject({ ready: true, network: { backend } });
        const check = JSON.parse((await run("check", "--json")).output) as Record<string, { value: unknown }>;
        expect(check["host.ip_masq"]?.value).toBe(true);
        const refusal = await run("cleanup");
        expect([refusal.code, refusal.errors]).toEqual([1, expect.stringContaining("Stop it first")]);

        for (const daemon of daemons) await daemon.end();
        expect(await Promise.all(daemons.map(({ exited }) => exited))).toEqual([0, 0]);
        const written = nodes.map(({ subnetFile }) => readFileSync(subnetFile, "utf8"));
        daemons = startAll();
        await pings(first, again);
        await pings(again, first);
        expect(await subnetsNow()).toEqual(subnets);
        expect(nodes.map(({ subnetFile }) => readFileSync(subnetFile, "utf8"))).toEqual(written);

        for (const daemon of daemons) await daemon.end();
        const cleaned = await run("cleanup");
        expect(cleaned.code).toBe(0);
        const links = await runProgram(["ip", "-n", node.host.namespace, "-o", "link"]);
        expect(links).not.toContain("flannel");
        const routes = await runProgram(["ip", "-n", node.host.namespace, "route"]);
        expect(routes).not.toContain("proto 241");
        expect(existsSync(node.subnetFile)).toBe(false);
      } finally {
        for (const { namespace } of pods) await tryProgram(["ip", "netns", "delete", namespace]);
      }
    },
    90_000,
  );
});
