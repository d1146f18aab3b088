import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { inside } from "../../src/demo/lab.ts";
import { etcdProgram } from "../support/etcd.ts";
import { openTestOverlay, overlayRefused, ping, type TestOverlay, vtepAddress } from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/etcd-grpc.test.ts: ${refused}`);

/** A second etcd of the lab, without its JSON gateway. */
async function startWithoutGateway({ lab, endpoint }: TestOverlay, document: string): Promise<string> {
  const { hostname } = new URL(endpoint);
  const client = `http://${hostname}:12379`;
  const peer = `http://${hostname}:12380`;
  lab.start(lab.switchNamespace, [
    etcdProgram(),
    ...["--data-dir", join(lab.directory, "etcd-without-gateway"), "--enable-grpc-gateway=false"],
    ...["--listen-client-urls", client, "--advertise-client-urls", client],
    ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
    ...["--initial-cluster", `default=${peer}`],
  ]);
  const put = ["--endpoints", client, "put", "/coreos.com/network/config", document];
  const ctl = ["env", "ETCDCTL_API=3", `${etcdProgram()}ctl`, ...put];
  for (let tries = 0; ; tries++) {
    try {
      await inside(lab.switchNamespace, ctl);
      return client;
    } catch (error) {
      if (tries > 100) throw error;
      await Bun.sleep(100);
    }
  }
}

describe.skipIf(refused !== undefined)("etcd over grpc", () => {
  test("two compiled daemons meet at an etcd without gateway, whose absence is named", async () => {
    await using overlay = await openTestOverlay(2);
    const document = '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}';
    const endpoint = await startWithoutGateway(overlay, document);
    const env = {
      FLANNEL_LITE_STORE_ETCD_ENDPOINTS: endpoint,
      FLANNEL_LITE_STORE_ETCD_TRANSPORT: "grpc",
    };
    const [first, second] = overlay.lab.hosts.map((host) =>
      overlay.startDaemon(host, { engine: "userspace", env }),
    );
    if (first === undefined || second === undefined) throw new Error("two hosts are needed");
    const [, there] = await Promise.all([first.ready(1), second.ready(1)]);
    await ping(first.host, vtepAddress(there));

    const plan = (transport: string) =>
      overlay.run(first, "plan", `--etcd-endpoints=${endpoint}`, `--store-etcd-transport=${transport}`);
    const peerSubnet = there.lease?.subnets[0] ?? "none";
    expect(await plan("grpc")).toMatchObject({ code: 0, output: expect.stringContaining(peerSubnet) });
    const overGateway = await plan("gateway");
    expect(overGateway.code).toBe(1);
    expect(overGateway.errors).toContain('store.etcd.transport = "grpc"');

    await second.child.end();
    expect(await second.child.exited).toBe(0);
  }, 60_000);
});
