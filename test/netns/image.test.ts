import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import {
  type ContainerOptions,
  type Containers,
  imageRefused,
  openContainers,
} from "../support/container.ts";
import {
  type Daemon,
  type DaemonOptions,
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused() ?? imageRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/image.test.ts: ${refused}`);

/** What is said of a /dev/net/tun that does not open. */
const reasons = {
  absent: "it is not there (ENOENT)",
  denied: "the device rules of this container or unit forbid it (EPERM)",
  nodev: "its mode, a mount with nodev, SELinux or AppArmor forbid it (EACCES)",
};

describe.skipIf(refused !== undefined)("image", () => {
  let containers: Containers;
  let net: TestOverlay | undefined;

  beforeAll(async () => {
    containers = await openContainers();
  }, 60_000);

  afterEach(async () => {
    await net?.[Symbol.asyncDispose]();
    net = undefined;
  });

  afterAll(async () => {
    await containers?.[Symbol.asyncDispose]();
  });

  const overlay = async (hosts: number): Promise<TestOverlay> => {
    net = await openTestOverlay(hosts);
    await net.etcd(
      "put",
      "/coreos.com/network/config",
      '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}',
    );
    return net;
  };

  const hostOf = (overlay: TestOverlay, number: number): LabHost => {
    const host = overlay.lab.hosts[number - 1];
    if (host === undefined) throw new Error(`no host ${number}`);
    return host;
  };

  /** The daemon in a container, under the name by which kube-flannel's manifests start it. */
  const startInContainer = (
    overlay: TestOverlay,
    host: LabHost,
    options: DaemonOptions,
    more: Pick<ContainerOptions, "tun" | "capabilities"> = {},
  ): Daemon =>
    overlay.startDaemon(host, {
      ...options,
      through: (args, own) =>
        containers.commandOf({
          host,
          command: ["/opt/bin/flanneld", ...args],
          mounts: { [own]: own },
          ...more,
        }),
    });

  test("read-only, with two capabilities and a TUN, it takes a lease and carries traffic to another host", async () => {
    const overlaid = await overlay(2);
    const [host, other] = [hostOf(overlaid, 1), hostOf(overlaid, 2)];
    const contained = startInContainer(overlaid, host, {
      engine: "auto",
      host: 'ip_masq = true\nfirewall = "iptables"',
    });
    const peer = overlaid.startDaemon(other, { engine: "kernel" });
    const [report, peerReport] = [await contained.ready(1), await peer.ready(1)];
    expect(report.engine?.name).toBe("userspace");
    const [from, to] = [vtepAddress(report), vtepAddress(peerReport)];
    await ping(host, to);
    const { bytes, intact } = await transfer(
      overlaid.lab,
      { host, address: from },
      { host: other, address: to },
    );
    expect(bytes).toBeGreaterThan(0);
    expect(intact).toBe(true);
    // By the image's own iptables.
    expect(await inside(host.namespace, ["iptables-save"])).toContain("-A FLANNEL-POSTRTG");
  });

  test.each(["absent", "denied", "nodev"] as const)(
    "with /dev/net/tun %s, auto takes the kernel's device and says why, userspace is refused with what to do",
    async (tun) => {
      const overlaid = await overlay(1);
      const host = hostOf(overlaid, 1);
      const refused = startInContainer(overlaid, host, { engine: "userspace", instance: "b" }, { tun });
      expect(await refused.child.exited).toBe(1);
      const said = refused.child.errorTail();
      expect(said).toContain("the userspace engine needs a TUN: /dev/net/tun does not open: ");
      expect(said).toContain(reasons[tun]);
      expect(said).toContain('datapath.engine = "kernel"');
      const { engine } = await startInContainer(overlaid, host, { engine: "auto" }, { tun }).ready(0);
      expect(engine?.name).toBe("kernel");
      expect(engine?.reason).toBe(`/dev/net/tun does not open: ${reasons[tun]}`);
    },
  );

  test("without NET_ADMIN it says so, whatever the engine, and takes no lease", async () => {
    const overlaid = await overlay(1);
    const host = hostOf(overlaid, 1);
    for (const engine of ["userspace", "kernel"] as const) {
      const daemon = startInContainer(overlaid, host, { engine }, { capabilities: ["NET_RAW"] });
      expect(await daemon.child.exited).toBe(2);
      for (const part of ["root without CAP_NET_ADMIN", "--cap-add NET_ADMIN"])
        expect(daemon.child.errorTail()).toContain(part);
    }
    expect(await overlaid.etcd("get", "--prefix", "/coreos.com/network/subnets")).toBe("");
  });

  test("a read-only /proc/sys is a warning where forwarding is on, else an error that says what to do", async () => {
    const overlaid = await overlay(2);
    for (const [number, value, said] of [
      [1, "1", "IP forwarding is on, and only the host can change it"],
      [2, "0", "IP forwarding is not on and cannot be turned on"],
    ] as const) {
      const host = hostOf(overlaid, number);
      await inside(host.namespace, ["sysctl", "-qw", `net.ipv4.ip_forward=${value}`]);
      const daemon = startInContainer(overlaid, host, { engine: "kernel" });
      await daemon.settled();
      const lines = daemon.child.errorTail().split("\n");
      const about = lines.filter((line) => line.includes("IP forwarding"));
      expect(about).toHaveLength(1);
      expect(about[0]).toContain(said);
      expect(about[0]).toContain("EROFS");
      expect(about[0]?.includes("sysctl -w net.ipv4.ip_forward=1")).toBe(value === "0");
    }
  });

  test("a directory that it has to write and cannot is named, with the setting that moves it", async () => {
    const overlaid = await overlay(1);
    const host = hostOf(overlaid, 1);
    for (const [key, path] of [
      ["run_dir", "/run/flannel-lite"],
      ["subnet_file", "/run/flannel/subnet.env"],
      ["state_dir", "/var/lib/flannel-lite"],
    ] as const) {
      const daemon = startInContainer(overlaid, host, { engine: "kernel", host: `${key} = "${path}"` });
      expect(await daemon.child.exited).toBe(1);
      const last = daemon.child.errorTail().trimEnd().split("\n").at(-1) ?? "";
      expect(last).toStartWith("flannel-lite: error: ");
      for (const word of [path, "EROFS", `host.${key}`]) expect(last).toContain(word);
    }
  });

  test("the plugin and its list are installed from the image, by our command and by those of kube-flannel", async () => {
    const overlaid = await overlay(1);
    const host = hostOf(overlaid, 1);
    const target = mkdtempSync(`${overlaid.lab.directory}/cni-`);
    const [binDir, confDir] = [join(target, "opt/cni/bin"), join(target, "etc/cni/net.d")];
    for (const path of [binDir, confDir]) mkdirSync(path, { recursive: true });
    const inImage = async (command: readonly string[], mounts: Readonly<Record<string, string>>) => {
      const { code, output, errors } = await containers.run({ host, command, mounts, tun: "absent" });
      expect({ code, errors }).toEqual({ code: 0, errors: "" });
      return output;
    };
    const said = await inImage([...containers.config.config.Entrypoint, "install", "cni", "-root", "/host"], {
      "/host": target,
    });
    expect(said).toContain("wrote /host/opt/cni/bin/flannel");
    const list = join(confDir, "10-flannel.conflist");
    expect(JSON.parse(readFileSync(list, "utf8")).plugins[0].type).toBe("flannel");

    // As the init containers of kube-flannel's manifests do, over what stands there.
    rmSync(list);
    writeFileSync(join(target, "cni-conf.json"), '{"name":"cbr0"}\n');
    await inImage(
      ["/opt/bin/install-conf", "/etc/kube-flannel/cni-conf.json", "/etc/cni/net.d/10-flannel.conflist"],
      {
        "/etc/kube-flannel": `${target}:ro`,
        "/etc/cni/net.d": confDir,
      },
    );
    expect(readFileSync(list, "utf8")).toBe('{"name":"cbr0"}\n');
    await inImage(["cp", "-f", "/flannel", "/opt/cni/bin/flannel"], { "/opt/cni/bin": binDir });
    expect(readdirSync(binDir)).toEqual(["flannel"]);
    expect(await versionOf(join(binDir, "flannel"))).toContain("1.1.0");
  });

  test("it says what it is, and has no program in it that misses a library", async () => {
    const { config, annotations } = containers;
    expect(config.config.Labels).toEqual(annotations);
    expect(config.config.Labels).toMatchObject({
      "org.opencontainers.image.title": "flannel-lite",
      "org.opencontainers.image.licenses": "Apache-2.0",
    });
    const overlaid = await overlay(1);
    const host = hostOf(overlaid, 1);
    for (const command of [
      ["/usr/local/bin/flannel-lite", "version"],
      ["/opt/bin/flanneld", "--version"],
      ["ip", "-V"],
      ["nft", "--version"],
      ["iptables", "--version"],
      ["iptables-legacy", "--version"],
      ["ip6tables-restore", "--version"],
      ["sh", "-c", "echo fine"],
    ]) {
      const { code, errors } = await containers.run({ host, command, tun: "absent" });
      expect({ command, code, missing: errors.includes("cannot open shared object") }).toEqual({
        command,
        code: 0,
        missing: false,
      });
    }
  });
});

/** What the plugin answers as a runtime asks it. */
async function versionOf(plugin: string): Promise<string> {
  const child = Bun.spawn([plugin], {
    stdin: new Blob(['{"cniVersion":"1.1.0"}']),
    stdout: "pipe",
    env: { CNI_COMMAND: "VERSION" },
  });
  return await new Response(child.stdout).text();
}
