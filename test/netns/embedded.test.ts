import { afterEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { LabHost } from "../../src/demo/lab.ts";
import { type DaemonOptions, openTestOverlay, overlayRefused, type TestOverlay } from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/embedded.test.ts: ${refused}`);

describe.skipIf(refused !== undefined)("embedded store", () => {
  let open: TestOverlay | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    open = undefined;
  });
  const overlay = async (): Promise<{ net: TestOverlay; host: LabHost; options: DaemonOptions }> => {
    open = await openTestOverlay(1);
    const [host] = open.lab.hosts;
    if (host === undefined) throw new Error("no host");
    const dataDir = join(open.lab.directory, "store");
    const more = `[store.embedded]\nserve = true\ndata_dir = "${dataDir}"\n[network]\nNetwork = "10.99.0.0/16"\nBackend = { Type = "vxlan" }\n`;
    return { net: open, host, options: { engine: "userspace", store: 'type = "embedded"', more } };
  };
  const leaseRows = async (net: TestOverlay, daemon: Parameters<TestOverlay["run"]>[0]) => {
    const { output, errors } = await net.run(daemon, "leases", "-json");
    if (output === "") throw new Error(errors);
    return (JSON.parse(output) as { leases: { subnets: string[]; own: boolean }[] }).leases;
  };

  test("a daemon alone serves the store, takes its lease there, and finds both again", async () => {
    const { net, host, options } = await overlay();
    const first = net.startDaemon(host, options);
    const { lease } = await first.ready(0);
    expect(await leaseRows(net, first)).toMatchObject([{ subnets: lease?.subnets, own: true }]);
    await first.child.end();
    expect(await first.child.exited).toBe(0);
    const again = net.startDaemon(host, options);
    expect((await again.ready(0)).lease?.subnets).toEqual(lease?.subnets as string[]);
  }, 60_000);

  test("a successor takes the store over with everything else", async () => {
    const { net, host, options } = await overlay();
    const first = net.startDaemon(host, options);
    const { lease } = await first.ready(0);
    const second = net.startDaemon(host, { ...options, args: ["-take-over"] });
    expect(await first.child.exited).toBe(0);
    expect((await second.ready(0)).lease?.subnets).toEqual(lease?.subnets as string[]);
    for (const deadline = Date.now() + 10_000; ; await Bun.sleep(100)) {
      const rows = await leaseRows(net, second).catch((error: unknown) => error);
      if (Array.isArray(rows)) {
        expect(rows).toMatchObject([{ subnets: lease?.subnets, own: true }]);
        break;
      }
      if (Date.now() > deadline) throw rows;
    }
  }, 60_000);
});
