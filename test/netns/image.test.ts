import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { inside, type LabHost } from "../../src/demo/lab.ts";
import {
  type ContainerOptions,
  type Containers,
  imageArchive,
  openContainers,
  type TunDevice,
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

function imageRefused(): string | undefined {
  if (!existsSync(imageArchive)) return `${imageArchive} is missing: run make image`;
  return Bun.which("runc") === null ? "runc is not installed" : undefined;
}

describe.skipIf(refused !== undefined)("image", () => {
  let directory = "";
  let containers: Containers;
  let net: TestOverlay | undefined;

  beforeAll(async () => {
    directory = mkdtempSync("/tmp/fl-image-");
    containers = await openContainers(directory);
  }, 60_000);

  afterEach(async () => {
    await net?.[Symbol.asyncDispose]();
    net = undefined;
  });

  afterAll(async () => {
    await containers?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
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
    more: { tun?: TunDevice; mounts?: (directory: string) => ContainerOptions["mounts"] } = {},
  ): Daemon =>
    overlay.startDaemon(host, {
      ...options,
      through: (args, own) =>
        containers.commandOf({
          host,
          command: ["/opt/bin/flanneld", ...args],
          mounts: more.mounts?.(own) ?? { [own]: own },
          ...(more.tun === undefined ? {} : { tun: more.tun }),
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
});
