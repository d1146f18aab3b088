import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { LabHost } from "../../src/demo/lab.ts";
import { type KubeProcess, startKubeProcess } from "../support/kube-process.ts";
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

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/kubernetes.test.ts: ${refused}`);

const netConf = '{"Network":"10.244.0.0/16","EnableNFTables":false,"Backend":{"Type":"vxlan"}}';
const prefix = "flannel.alpha.coreos.com/";

describe.skipIf(refused !== undefined)("kubernetes", () => {
  let open: TestOverlay | undefined;

  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });

  const cluster = async (hosts: number): Promise<{ net: TestOverlay; kube: KubeProcess }> => {
    const net = await openTestOverlay(hosts);
    open = net;
    const kube = await startKubeProcess(net.lab);
    writeFileSync(join(net.lab.directory, "net-conf.json"), netConf);
    return { net, kube };
  };

  const hostOf = ({ lab }: TestOverlay, number: number): LabHost => {
    const host = lab.hosts[number - 1];
    if (host === undefined) throw new Error(`no host ${number}`);
    return host;
  };

  /** A daemon whose node is `node-N`, with its leases in the nodes. */
  const startInNodes = (
    net: TestOverlay,
    kube: KubeProcess,
    number: number,
    options: Partial<DaemonOptions> = {},
  ): Daemon =>
    net.startDaemon(hostOf(net, number), {
      engine: "auto",
      store: 'type = "kubernetes"',
      more: `[kubernetes]\napi_url = "${kube.url}"\nnet_config = "${net.lab.directory}/net-conf.json"\n`,
      env: { NODE_NAME: `node-${number}` },
      ...options,
    });

  const until = async (what: string, holds: () => Promise<boolean>) => {
    for (const deadline = Date.now() + 20_000; Date.now() < deadline; await Bun.sleep(50))
      if (await holds()) return;
    throw new Error(`not ${what} in 20 s`);
  };

  test.each([["userspace"], ["kernel"]] as const)(
    "three hosts with leases in their nodes carry traffic: %s",
    async (engine) => {
      const { net, kube } = await cluster(3);
      for (const number of [1, 2, 3])
        await kube.call("createNode", {
          name: `node-${number}`,
          // The first subnet of the network is a node's like any other.
          podCidrs: [`10.244.${number - 1}.0/24`],
          networkUnavailable: "True",
        });
      const daemons = [1, 2, 3].map((number) => startInNodes(net, kube, number, { engine }));
      const reports = await Promise.all(daemons.map((daemon) => daemon.ready(2)));
      expect(reports.map(({ lease }) => lease?.subnets)).toEqual([
        ["10.244.0.0/24"],
        ["10.244.1.0/24"],
        ["10.244.2.0/24"],
      ]);
      const ends = reports.map((report, at) => ({
        host: hostOf(net, at + 1),
        address: vtepAddress(report),
      }));
      for (const from of ends) {
        for (const to of ends) {
          if (from === to) continue;
          await ping(from.host, to.address);
        }
      }
      const [first, second] = ends;
      if (first === undefined || second === undefined) throw new Error("two ends");
      expect((await transfer(net.lab, first, second)).intact).toBe(true);
      expect(readFileSync(daemons[0]?.subnetFile ?? "", "utf8")).toContain("FLANNEL_SUBNET=10.244.0.1/24");

      const node = await kube.getNode("node-2");
      const mac = daemons[1] && (await daemons[1].report()).lease?.vtepMac;
      expect(node.metadata.annotations).toEqual({
        [`${prefix}kube-subnet-manager`]: "true",
        [`${prefix}backend-type`]: "vxlan",
        [`${prefix}backend-data`]: `{"VNI":1,"VtepMAC":"${mac}"}`,
        [`${prefix}public-ip`]: hostOf(net, 2).address,
      });
      await until("available", async () => {
        const { status } = await kube.getNode("node-2");
        return status.conditions?.[0]?.["reason"] === "FlannelIsUp";
      });
      expect(await kube.refused()).toEqual([]);
    },
    90_000,
  );
});
