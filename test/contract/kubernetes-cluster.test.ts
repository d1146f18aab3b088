import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { parseNetworkConfig } from "../../src/config/network.ts";
import { leaseKey, type LeaseUpdate } from "../../src/lease/lease.ts";
import { parseIpAddress } from "../../src/net/address.ts";
import { parsePrefix } from "../../src/net/prefix.ts";
import { openNodeAnnotator } from "../../src/store/kube/annotate.ts";
import { openKubeOperator } from "../../src/store/kube/operator.ts";
import { type KubeStoreOptions, openKubeStore } from "../../src/store/kube/store.ts";
import type { Store } from "../../src/store/store.ts";
import {
  type NodeSpec,
  startKubeApi,
  type TestKubeApi,
  type TestKubeApiOptions,
} from "../support/kube-api.ts";
import { kubeOptions, names } from "../support/kube-world.ts";
import { manualClock } from "../support/manual-clock.ts";
import { recordingLog } from "../support/recording-log.ts";
import { openTcpProxy } from "../support/tcp-proxy.ts";
import { acquired, attributesOf, follow, never, requestFor, updateText } from "./store.ts";

let opened = new AsyncDisposableStack();

afterEach(async () => {
  await opened.disposeAsync();
  opened = new AsyncDisposableStack();
});

function start(options: TestKubeApiOptions = {}): TestKubeApi {
  return opened.use(startKubeApi(options));
}

function open(api: Pick<TestKubeApi, "url">, more: Partial<KubeStoreOptions> = {}): Store {
  return opened.use(openKubeStore(kubeOptions(api.url, { nodeName: "n1", ...more })));
}

const annotationsOf = (publicIp: string) => ({
  [names.managed]: "true",
  [names.backendType]: "vxlan",
  [names.backendData]: '{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}',
  [names.publicIp]: publicIp,
});

/** A node of flannel's, number `at` of the network 10.3.0.0/16. */
const flannelNode = (at: number): NodeSpec => ({
  name: `f${at}`,
  podCidrs: [`10.3.${at}.0/24`],
  annotations: annotationsOf(`192.0.2.${at}`),
});

/** Watches until the test ends. */
function drain(store: Store, take: (update: LeaseUpdate) => void = () => {}): void {
  const stop = new AbortController();
  const running = (async () => {
    for await (const update of store.watch(stop.signal)) take(update);
  })();
  opened.defer(async () => {
    stop.abort();
    await running;
  });
}

const renewalOf = (lease: ReturnType<typeof acquired>) => ({ lease, node: { id: "n1", name: "n1" } });

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await Bun.sleep(10)) if (holds()) return;
  throw new Error(`not ${what} in 10 s`);
}

describe("our own node", () => {
  test("its pod CIDR is the lease; one patch with flannel's annotations goes to its status, a second start sends none", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.7.0/24"], annotations: { "example.com/other": "kept" } });
    const lease = acquired(await open(api).acquire(requestFor("192.0.2.1"), never));
    expect(leaseKey(lease.subnets)).toBe("10.3.7.0-24");
    expect(lease.expiresAt).toBeUndefined();
    expect(api.getNode("n1")?.metadata.annotations).toEqual({
      "example.com/other": "kept",
      ...annotationsOf("192.0.2.1"),
    });
    const again = await open(api).acquire(requestFor("192.0.2.1"), never);
    expect(again).toMatchObject({ kind: "acquired", how: "own" });
    expect(api.requests.filter(({ method }) => method === "PATCH")).toEqual([
      {
        method: "PATCH",
        path: "/api/v1/nodes/n1/status",
        query: {},
        contentType: "application/strategic-merge-patch+json",
        body: JSON.stringify({ metadata: { annotations: annotationsOf("192.0.2.1") } }),
      },
    ]);
    expect(api.refused).toEqual([]);
  });

  test("without annotations at all, as flannel cannot bear it, it gets them", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.7.0/24"] });
    acquired(await open(api).acquire(requestFor("192.0.2.1"), never));
    expect(api.getNode("n1")?.metadata.annotations).toEqual(annotationsOf("192.0.2.1"));
  });

  test("not there yet, then without a pod CIDR: both are worth waiting for, and said", async () => {
    const api = start();
    const store = open(api);
    const ask = () => store.acquire(requestFor("192.0.2.1"), never);
    await expect(ask()).rejects.toMatchObject({ code: "store/no-node", retryable: true });
    api.createNode({ name: "n1" });
    await expect(ask()).rejects.toMatchObject({
      code: "lease/pod-cidr",
      retryable: true,
      message: 'node "n1" pod cidr not assigned',
    });
    expect(api.getNode("n1")?.metadata.annotations).toBeUndefined();
    api.setPodCidrs("n1", ["10.3.8.0/24"]);
    expect(leaseKey(acquired(await ask()).subnets)).toBe("10.3.8.0-24");
  });

  test("a pod CIDR outside of the network is an error at start and a conflict later", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["192.168.0.0/24"] });
    const store = open(api);
    await expect(store.acquire(requestFor("192.0.2.1"), never)).rejects.toMatchObject({
      code: "lease/outside",
      retryable: false,
      exitCode: 1,
    });
    api.setPodCidrs("n1", ["10.3.8.0/24"]);
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    api.setPodCidrs("n1", ["192.168.0.0/24"]);
    expect(await store.renew(renewalOf(lease), never)).toMatchObject({
      kind: "conflict",
      owner: expect.stringContaining("doesn't contain"),
    });
  });

  test("a pod CIDR that changed is the lease from the next look on, and not shown before that", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"] });
    const store = open(api);
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    await using watch = follow(store);
    expect(updateText(await watch.next())).toBe("snapshot 10.3.8.0-24");
    api.setPodCidrs("n1", ["10.3.4.0/24"]);
    expect(updateText(await watch.next())).toBe("-10.3.8.0-24");
    expect(await store.renew(renewalOf(lease), never)).toMatchObject({
      kind: "renewed",
      lease: { subnets: { ipv4: parsePrefix("10.3.4.0/24") } },
    });
    expect(updateText(await watch.next())).toBe("+10.3.4.0-24");
    api.annotate("n1", { [names.managed]: null });
    expect(updateText(await watch.next())).toBe("-10.3.4.0-24");
  });

  test("deleted it is lost, made anew it is annotated anew; annotations that vanish are put back", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"] });
    const store = open(api);
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    await using watch = follow(store);
    await watch.next();
    api.deleteNode("n1");
    expect(updateText(await watch.next())).toBe("-10.3.8.0-24");
    expect(await store.renew(renewalOf(lease), never)).toEqual({ kind: "lost", reason: "the node is gone" });
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"] });
    const exactly = lease.subnets;
    expect(await store.acquire(requestFor("192.0.2.1", { exactly }), never)).toMatchObject({
      kind: "acquired",
    });
    expect(updateText(await watch.next())).toBe("+10.3.8.0-24");
    api.annotate("n1", { [names.managed]: null, [names.publicIp]: null });
    expect(updateText(await watch.next())).toBe("-10.3.8.0-24");
    expect(await store.renew(renewalOf(lease), never)).toMatchObject({ kind: "renewed" });
    expect(api.getNode("n1")?.metadata.annotations).toEqual(annotationsOf("192.0.2.1"));
  });

  test("replaced with another pod CIDR it is not asked for its old one", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.9.0/24"] });
    const exactly = { ipv4: parsePrefix("10.3.8.0/24") };
    expect(await open(api).acquire(requestFor("192.0.2.1", { exactly }), never)).toEqual({
      kind: "taken",
      owner: "the pod CIDR of node n1 is 10.3.9.0-24 now",
    });
  });

  test("public-ip-overwrite changes what is published and what our lease says, at once and later", async () => {
    const api = start();
    const overwrite = { [names.publicIpOverwrite]: "172.18.0.2" };
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"], annotations: overwrite });
    const store = open(api);
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    expect(`${lease.attributes.publicIp}`).toBe("172.18.0.2");
    expect(api.getNode("n1")?.metadata.annotations?.[names.publicIp]).toBe("172.18.0.2");
    api.annotate("n1", { [names.publicIpOverwrite]: "172.18.0.3" });
    const renewed = await store.renew(renewalOf(lease), never);
    expect(renewed.kind === "renewed" && `${renewed.lease.attributes.publicIp}`).toBe("172.18.0.3");
    api.annotate("n1", { [names.publicIpOverwrite]: "soon" });
    await expect(store.renew(renewalOf(lease), never)).rejects.toMatchObject({
      code: "lease/annotation",
      retryable: true,
    });
  });

  test("an overwrite that comes, changes or goes shows as another lease at once; the renewal follows, and undoes", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"] });
    const store = open(api);
    let lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    await using watch = follow(store);
    await watch.next();
    const seen = async () => {
      const update = await watch.next();
      const [change] = update.kind === "changes" ? update.changes : [];
      return change?.kind === "put" ? `${change.lease.attributes.publicIp}` : updateText(update);
    };
    for (const [overwrite, publicIp] of [
      ["172.18.0.2", "172.18.0.2"],
      ["172.18.0.3", "172.18.0.3"],
      [null, "192.0.2.1"],
    ] as const) {
      api.annotate("n1", { [names.publicIpOverwrite]: overwrite });
      expect(await seen()).toBe(publicIp);
      const renewed = await store.renew(renewalOf(lease), never);
      if (renewed.kind !== "renewed") throw new Error(renewed.kind);
      ({ lease } = renewed);
      expect(`${lease.attributes.publicIp}`).toBe(publicIp);
      expect(api.getNode("n1")?.metadata.annotations?.[names.publicIp]).toBe(publicIp);
    }
    // What somebody else writes there shows too, also below an overwrite.
    api.annotate("n1", { [names.publicIpOverwrite]: "172.18.0.4" });
    expect(await seen()).toBe("172.18.0.4");
    await store.renew(renewalOf(lease), never);
    api.annotate("n1", { [names.publicIp]: "203.0.113.1" });
    expect(await seen()).toBe("203.0.113.1");
  });

  test("our own lease is found by the node's name, whatever its annotations call its address", async () => {
    const api = start();
    const overwrite = { [names.publicIpOverwrite]: "172.18.0.2" };
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"], annotations: overwrite });
    const store = open(api);
    expect(await store.findOwn(parseIpAddress("192.0.2.1"), never)).toBeUndefined();
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    for (const publicIp of [parseIpAddress("192.0.2.1"), undefined])
      expect(await open(api).findOwn(publicIp, never)).toEqual(lease);
  });

  test("its name is NODE_NAME's, else that of the pod's node; nothing or nonsense is a mistake", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"] });
    api.createPod("kube-flannel", "ds-x7", "n1");
    const ask = (env: Record<string, string>) =>
      open(api, { nodeName: undefined, env }).acquire(requestFor("192.0.2.1"), never);
    acquired(await ask({ NODE_NAME: "n1" }));
    acquired(await ask({ POD_NAME: "ds-x7", POD_NAMESPACE: "kube-flannel" }));
    await expect(ask({ POD_NAME: "gone", POD_NAMESPACE: "kube-flannel" })).rejects.toMatchObject({
      code: "store/no-node",
      retryable: true,
    });
    for (const env of [
      {},
      { POD_NAME: "ds-x7" },
      { NODE_NAME: "../pods" },
      { POD_NAME: "a/b", POD_NAMESPACE: "c" },
    ])
      await expect(ask(env as Record<string, string>)).rejects.toMatchObject({
        code: "config/node-name",
        exitCode: 2,
      });
    expect(api.refused).toEqual([]);
  });

  test("an IPv6-only network: the pod CIDR of that family is the lease", async () => {
    const api = start();
    const network = parseNetworkConfig('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:10::/48"}');
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24", "fd00:10:0:7::/64"] });
    const lease = acquired(await open(api).acquire(requestFor("192.0.2.1", { network }), never));
    expect(leaseKey(lease.subnets)).toBe("fd00:10:0:7::-64");
  });

  test("released it publishes nothing", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"], annotations: { "example.com/other": "kept" } });
    const store = open(api);
    const lease = acquired(await store.acquire(requestFor("192.0.2.1"), never));
    await store.release(lease, never);
    await store.release(lease, never);
    expect(api.getNode("n1")?.metadata.annotations).toEqual({ "example.com/other": "kept" });
    expect(await store.list(never)).toEqual([]);
  });
});

describe("the network configuration", () => {
  test("is a file, but an API server that is gone at start is said; one that has answered is not asked again", async () => {
    const directory = mkdtempSync(join(tmpdir(), "fl-kube-"));
    opened.defer(() => rmSync(directory, { recursive: true, force: true }));
    const netConfig = join(directory, "net-conf.json");
    const api = start();
    const store = open(api, { netConfig });
    const { port } = api;
    await api[Symbol.asyncDispose]();
    await expect(store.readNetworkConfig(never)).rejects.toMatchObject({
      code: "store/unreachable",
      retryable: true,
    });
    const back = start({ port });
    expect(await store.readNetworkConfig(never)).toBeUndefined();
    writeFileSync(netConfig, "one");
    expect(await store.readNetworkConfig(never)).toBe("one");
    writeFileSync(netConfig, "another");
    expect(await store.readNetworkConfig(never)).toBe("another");
    expect(back.requests).toHaveLength(1);
    writeFileSync(netConfig, "x".repeat(100_000));
    await expect(store.readNetworkConfig(never)).rejects.toMatchObject({ code: "store/net-config" });
  });
});

describe("the condition NetworkUnavailable", () => {
  test("is set once traffic can flow and not before, tried again when refused, set again when changed", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"], networkUnavailable: "True" });
    const log = recordingLog();
    // Its pauses are no part of this.
    const clock = {
      now: systemClock.now,
      sleep: (_: number, stop?: AbortSignal) => systemClock.sleep(20, stop),
    };
    const store = open(api, { setNodeNetworkUnavailable: true, log, clock });
    acquired(await store.acquire(requestFor("192.0.2.1"), never));
    await using watch = follow(store);
    await watch.next();
    const status = () => api.getNode("n1")?.status.conditions?.[0];
    expect(status()?.status).toBe("True");
    api.deny(({ method }) => method === "PATCH");
    store.announceReady?.();
    await until("refused", () => log.lines.some((line) => line.includes("cannot be set")));
    expect(status()?.status).toBe("True");
    api.deny();
    await until("set", () => status()?.status === "False");
    expect(status()).toMatchObject({ reason: "FlannelIsUp", message: "Flannel is running on this node" });
    // Whatever the watch tells next is awaited in the background.
    void watch.next().catch(() => undefined);
    api.setCondition("n1", "True");
    await until("set again", () => status()?.["reason"] === "FlannelIsUp");
  });

  test("is left alone where that is not wanted", async () => {
    const api = start();
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"], networkUnavailable: "True" });
    const store = open(api);
    acquired(await store.acquire(requestFor("192.0.2.1"), never));
    store.announceReady?.();
    await store.list(never);
    expect(api.getNode("n1")?.status.conditions?.[0]?.status).toBe("True");
  });
});

describe("watching", () => {
  test("begins with a snapshot, then tells what comes, changes and goes, and no heartbeat", async () => {
    const api = start();
    api.createNode(flannelNode(5));
    await using watch = follow(open(api));
    expect(await watch.next()).toEqual({
      kind: "snapshot",
      leases: [
        {
          subnets: { ipv4: parsePrefix("10.3.5.0/24") },
          attributes: attributesOf("192.0.2.5"),
          expiresAt: undefined,
        },
      ],
    });
    api.heartbeat("f5");
    api.createNode({ name: "f6", podCidrs: ["10.3.6.0/24"] });
    api.annotate("f6", annotationsOf("192.0.2.6"));
    expect(updateText(await watch.next())).toBe("+10.3.6.0-24");
    api.annotate("f6", { [names.publicIp]: "192.0.2.66" });
    expect(await watch.next()).toMatchObject({
      changes: [{ kind: "put", lease: { attributes: attributesOf("192.0.2.66") } }],
    });
    api.setPodCidrs("f6", ["10.3.9.0/24"]);
    expect(updateText(await watch.next())).toBe("-10.3.6.0-24 +10.3.9.0-24");
    api.annotate("f6", { [names.managed]: null });
    expect(updateText(await watch.next())).toBe("-10.3.9.0-24");
    api.deleteNode("f5");
    expect(updateText(await watch.next())).toBe("-10.3.5.0-24");
  });

  test("a connection that ends goes on where it ended; bookmarks move that place past a compaction", async () => {
    const api = start({ bookmarkMs: 20 });
    api.createNode(flannelNode(5));
    await using watch = follow(open(api));
    expect(updateText(await watch.next())).toBe("snapshot 10.3.5.0-24");
    const lists = () => api.requests.filter(({ query }) => query["limit"] !== undefined).length;
    const next = watch.next();
    await until("watched", () => api.watches === 1);
    api.dropWatches();
    api.createNode(flannelNode(6));
    expect(updateText(await next)).toBe("+10.3.6.0-24");
    const after = watch.next();
    api.compact();
    await Bun.sleep(100); // a bookmark tells that nothing was missed
    api.dropWatches();
    api.createNode(flannelNode(7));
    expect(updateText(await after)).toBe("+10.3.7.0-24");
    expect(lists()).toBe(1);
  });

  test("after a gap there is a fresh snapshot: what went in it goes, what cannot be read stays", async () => {
    const api = start();
    for (const at of [5, 6, 7]) api.createNode(flannelNode(at));
    await using watch = follow(open(api));
    expect(updateText(await watch.next())).toBe("snapshot 10.3.5.0-24 10.3.6.0-24 10.3.7.0-24");
    const next = watch.next();
    await until("watched", () => api.watches === 1);
    api.dropWatches();
    api.deleteNode("f5");
    api.annotate("f6", { [names.backendData]: "{" });
    api.deleteNode("f7");
    // Another node under the same name, of which nothing is known that could be kept.
    api.createNode({ ...flannelNode(7), annotations: { ...annotationsOf("x"), [names.publicIp]: "x" } });
    api.compact();
    expect(updateText(await next)).toBe("snapshot 10.3.6.0-24");
  });

  test("nodes that share a pod CIDR: the first of them is shown, the other once that is gone", async () => {
    const api = start();
    const log = recordingLog();
    api.createNode(flannelNode(5));
    api.createNode({ ...flannelNode(5), name: "a-later-one", annotations: annotationsOf("192.0.2.55") });
    await using watch = follow(open(api, { log }));
    expect(await watch.next()).toMatchObject({ leases: [{ attributes: attributesOf("192.0.2.5") }] });
    expect(log.lines.join()).toContain("f5 has the same pod CIDR, 10.3.5.0-24");
    api.deleteNode("f5");
    expect(await watch.next()).toMatchObject({
      changes: [{ kind: "put", lease: { attributes: attributesOf("192.0.2.55") } }],
    });
  });

  test("an API server that was restored from an older state speaks for nothing that is missing", async () => {
    const api = start();
    for (const at of [5, 6, 7]) api.createNode(flannelNode(at));
    for (let beats = 0; beats < 20; beats++) api.heartbeat("f5");
    await using watch = follow(open(api));
    await watch.next();
    const next = watch.next();
    await until("watched", () => api.watches === 1);
    const { port } = api;
    await api[Symbol.asyncDispose]();
    const restored = start({ port });
    restored.createNode(flannelNode(5));
    restored.compact();
    restored.deny(({ query }) => query["watch"] === "true", 410);
    expect(await next).toMatchObject({ kind: "snapshot", replaced: true, leases: [{}] });
  });

  test("an API server that is gone is waited for, said once, and nobody is removed meanwhile", async () => {
    const api = start();
    api.createNode(flannelNode(5));
    const log = recordingLog();
    await using watch = follow(open(api, { log }));
    await watch.next();
    const next = watch.next();
    await until("watched", () => api.watches === 1);
    const { port } = api;
    await api[Symbol.asyncDispose]();
    await until("said", () => log.lines.join().includes("the API server is lost"));
    const back = start({ port });
    back.createNode(flannelNode(5));
    back.createNode(flannelNode(6));
    // It is at an earlier version than the one seen, or at a later one: either way all is told.
    expect(updateText(await next)).toContain("10.3.6.0-24");
    const lost = log.lines.filter((line) => line.includes("the API server is lost"));
    expect(lost).toHaveLength(1);
  });

  test.each<[string, (request: { query: Readonly<Record<string, string>> }) => boolean]>([
    ["list", ({ query }) => query["limit"] !== undefined],
    ["watch", ({ query }) => query["watch"] === "true"],
  ])(
    "rights that are taken away, to %s, take nobody away; it is said once, and goes on once they are given back",
    async (verb, isDenied) => {
      const api = start();
      api.createNode(flannelNode(5));
      const log = recordingLog();
      const clock = {
        now: systemClock.now,
        sleep: (ms: number, stop?: AbortSignal) => systemClock.sleep(ms > 10_000 ? ms : 2, stop),
      };
      await using watch = follow(open(api, { log, clock }));
      expect(updateText(await watch.next())).toContain("10.3.5.0-24");
      const next = watch.next();
      await until("watched", () => api.watches === 1);
      api.deny(isDenied);
      if (verb === "list") api.compact();
      api.dropWatches();
      const denied = () => api.requests.filter(isDenied).length;
      const before = denied();
      await until("denied", () => denied() > before + 10);
      api.createNode(flannelNode(6));
      api.deny();
      const update = updateText(await next);
      expect(update).toContain("10.3.6.0-24");
      expect(update).not.toContain("-10.3.5.0");
      const lost = log.lines.filter((line) => line.includes("the API server is lost"));
      expect(lost).toEqual([expect.stringContaining("nodes: get, list, watch")]);
      await log.seen("the API server is back");
    },
  );

  test("an API server that is gone for ten minutes is asked every ten seconds, said once a minute, and takes nobody away", async () => {
    const api = start();
    api.createNode(flannelNode(5));
    const proxy = opened.use(await openTcpProxy(api.url));
    const [clock, log] = [manualClock(), recordingLog()];
    const updates: string[] = [];
    const store = open(api, { apiUrl: `http://${proxy.address}`, clock, log, random: () => 0 });
    drain(store, (update) => updates.push(updateText(update)));
    await until("watched", () => api.watches === 1);
    const before = proxy.connections;
    proxy.cut();
    const lost = () => log.lines.filter((line) => line.includes("the API server is lost")).length;
    await until("said", () => lost() === 1);
    for (let seconds = 0; seconds < 600; seconds++) {
      await clock.advance(1_000);
      await Bun.sleep(1);
    }
    expect(proxy.connections - before).toBeGreaterThan(1);
    expect(proxy.connections - before).toBeLessThanOrEqual(70);
    expect(lost()).toBeGreaterThan(1);
    expect(lost()).toBeLessThanOrEqual(11);
    expect(updates).toEqual(["snapshot 10.3.5.0-24"]);
    api.createNode(flannelNode(6));
    proxy.heal();
    for (let tries = 0; tries < 1_000 && updates.length < 2; tries++) {
      await clock.advance(1_000);
      await Bun.sleep(2);
    }
    expect(updates[1]).toBe("+10.3.6.0-24");
  });

  test("a watch that says nothing for long is opened again", async () => {
    const api = start();
    api.createNode(flannelNode(5));
    await using watch = follow(open(api, { silenceMsMax: 50 }));
    await watch.next();
    const next = watch.next();
    const watches = () => api.requests.filter(({ query }) => query["watch"] === "true").length;
    await until("opened again", () => watches() >= 3);
    api.createNode(flannelNode(6));
    expect(updateText(await next)).toBe("+10.3.6.0-24");
  });

  test("a watch that says nothing is opened again also after the clock was set back", async () => {
    const api = start();
    const manual = manualClock();
    let behindMs = 0;
    const clock = { ...manual, now: () => new Date(manual.now().getTime() - behindMs) };
    drain(open(api, { clock }));
    const watchCalls = () => api.requests.filter(({ query }) => query["watch"] === "true").length;
    await until("watched", () => api.watches === 1);
    behindMs = 3_600_000;
    await manual.advance(300_001);
    await until("ended", () => manual.nextMs !== undefined && manual.nextMs <= 250);
    await manual.advance(250);
    await until("opened again", () => watchCalls() === 2);
  });

  test("a server whose watches are always too late is listed more and more slowly", async () => {
    const api = start();
    api.deny(({ query }) => query["watch"] === "true", 410);
    const waits: number[] = [];
    const clock = {
      now: systemClock.now,
      sleep: (ms: number, stop?: AbortSignal) => {
        if (ms <= 10_000) waits.push(ms);
        return systemClock.sleep(ms <= 10_000 ? 1 : ms, stop);
      },
    };
    drain(open(api, { clock, random: () => 0 }));
    await until("listed often", () => waits.length >= 8);
    expect(waits.slice(0, 8)).toEqual([250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
  });
});

describe("many nodes", () => {
  test("5,000 of them are one paged list and one watch; one change is one update", async () => {
    const api = start();
    const at = (number: number) => `${number >> 8}.${number & 255}`;
    for (let number = 1; number <= 5_000; number++) {
      api.createNode({
        name: `node-${number}`,
        podCidrs: [`10.${100 + (number >> 8)}.${number & 255}.0/24`],
        annotations: annotationsOf(`172.16.${at(number)}`),
      });
    }
    const network = parseNetworkConfig('{"Network":"10.0.0.0/8"}');
    const store = open(api, { nodeName: "node-17" });
    acquired(await store.acquire(requestFor("172.16.0.17", { network }), never));
    await using watch = follow(store);
    const first = await watch.next();
    expect(first.kind === "snapshot" && first.leases.length).toBe(5_000);
    api.annotate("node-4711", { [names.publicIp]: "198.51.100.1" });
    expect(updateText(await watch.next())).toBe(`+10.${100 + (4_711 >> 8)}.${4_711 & 255}.0-24`);
    const gets = api.requests.filter(({ method, path }) => method === "GET" && path !== "/api/v1/nodes");
    expect(gets.map(({ path }) => path)).toEqual(["/api/v1/nodes/node-17"]);
    const lists = api.requests.filter(({ query }) => query["limit"] !== undefined);
    expect(lists.map(({ query }) => query["limit"])).toEqual(Array.from({ length: 10 }, () => "500"));
    expect(api.watches).toBe(1);
    expect(api.refused).toEqual([]);
  }, 30_000);

  test("a list whose place expires is begun anew, and ends in time where that never helps", async () => {
    const api = start();
    for (let number = 0; number < 700; number++)
      api.createNode({
        name: `node-${number}`,
        podCidrs: [`10.3.${number & 255}.${(number >> 8) * 64}/26`],
        annotations: annotationsOf("192.0.2.9"),
      });
    let expired = 0;
    api.deny(({ query }) => query["continue"] !== undefined && expired++ === 0, 410);
    expect(await open(api).list(never)).toHaveLength(700);
    api.deny(({ query }) => query["continue"] !== undefined, 410);
    await expect(open(api).list(never)).rejects.toMatchObject({ code: "store/protocol" });
  });
});

describe("annotating a node beside another store", () => {
  const annotate = (api: TestKubeApi, more: Partial<KubeStoreOptions> = {}) => {
    const annotator = opened.use(openNodeAnnotator(kubeOptions(api.url, { nodeName: "n1", ...more })));
    const stop = new AbortController();
    const running = annotator.run(stop.signal);
    opened.defer(async () => {
      stop.abort();
      await running;
    });
    return annotator;
  };
  const written = (api: TestKubeApi) => api.getNode("n1")?.metadata.annotations;

  test("writes at once, not waiting for Ready, and again at every change and for a node made anew", async () => {
    const api = start();
    api.createNode({ name: "n1", networkUnavailable: "True" });
    const annotator = annotate(api);
    annotator.want(attributesOf("192.0.2.1"));
    await until("written", () => Bun.deepEquals(written(api), annotationsOf("192.0.2.1")));
    annotator.want(attributesOf("192.0.2.2"));
    await until("changed", () => written(api)?.[names.publicIp] === "192.0.2.2");
    await until("watched", () => api.watches === 1);
    api.annotate("n1", { [names.backendData]: '{"VtepMAC":"somebody else"}' });
    await until("put back", () => Bun.deepEquals(written(api), annotationsOf("192.0.2.2")));
    api.deleteNode("n1");
    api.createNode({ name: "n1" });
    await until("annotated anew", () => Bun.deepEquals(written(api), annotationsOf("192.0.2.2")));
    expect(api.getNode("n1")?.status.conditions).toBeUndefined();
    expect(api.refused).toEqual([]);
  });

  test("what is refused, and a node that is not there yet, is tried again and said once", async () => {
    const api = start();
    const log = recordingLog();
    const clock = {
      now: systemClock.now,
      sleep: (ms: number, stop?: AbortSignal) => systemClock.sleep(Math.min(ms, 20), stop),
    };
    const annotator = annotate(api, { log, clock });
    annotator.want(attributesOf("192.0.2.1"));
    const said = (text: string) => log.lines.filter((line) => line.includes(text)).length;
    await until("missed", () => said("there is no such node") > 0);
    api.deny(({ method }) => method === "PATCH");
    api.createNode({ name: "n1" });
    await until("refused", () => said("denies what flannel needs") > 0);
    api.deny();
    await until("written", () => written(api)?.[names.publicIp] === "192.0.2.1");
    expect([said("there is no such node"), said("denies what flannel needs")]).toEqual([1, 1]);
  });

  test("annotations that another writer changes again and again are put back more and more slowly, which is said once", async () => {
    const api = start();
    api.createNode({ name: "n1" });
    const log = recordingLog();
    const clock = manualClock();
    const annotator = annotate(api, { log, clock });
    annotator.want(attributesOf("192.0.2.1"));
    const isOurs = () => Bun.deepEquals(written(api), annotationsOf("192.0.2.1"));
    const patches = () => api.requests.filter(({ method }) => method === "PATCH").length;
    await until("written", isOurs);
    await until("watched", () => api.watches === 1);
    const undo = () => api.annotate("n1", { [names.publicIp]: "192.0.2.99" });
    for (let times = 1; times <= 5; times++) {
      undo();
      await until(`put back ${times} times`, isOurs);
    }
    undo();
    for (let times = 0; times < 20; times++, await Bun.sleep(5)) api.heartbeat("n1");
    expect(patches()).toBe(6);
    await clock.advance(1_000);
    await until("put back after a second", isOurs);
    undo();
    await until("seen", () => clock.nextMs === 2_000);
    // A change of ours does not wait.
    annotator.want(attributesOf("192.0.2.2"));
    await until("changed", () => written(api)?.[names.publicIp] === "192.0.2.2");
    expect(log.lines.filter((line) => line.includes("again and again"))).toHaveLength(1);
  });

  test("rights that are denied are asked for no more often because the node changes", async () => {
    const api = start();
    api.createNode({ name: "n1" });
    api.deny(({ method }) => method === "PATCH");
    const clock = manualClock();
    annotate(api, { clock }).want(attributesOf("192.0.2.1"));
    const patches = () => api.requests.filter(({ method }) => method === "PATCH").length;
    await until("asked", () => patches() > 0);
    await until("watched", () => api.watches === 1);
    for (let times = 0; times < 100; times++, await Bun.sleep(2)) api.heartbeat("n1");
    expect(patches()).toBeLessThanOrEqual(6);
    api.deny();
    for (let times = 0; times < 40 && written(api) === undefined; times++, await Bun.sleep(5))
      await clock.advance(1_000);
    expect(written(api)).toEqual(annotationsOf("192.0.2.1"));
  });

  test("an API server that takes calls and answers none is asked again, and holds up no stop", async () => {
    const api = start();
    api.createNode({ name: "n1" });
    const proxy = opened.use(await openTcpProxy(api.url));
    proxy.stall();
    const clock = {
      now: systemClock.now,
      sleep: (ms: number, stop?: AbortSignal) => systemClock.sleep(ms > 60_000 ? ms : 5, stop),
    };
    const slow = { apiUrl: `http://${proxy.address}`, clock };
    const quick = annotate(api, { ...slow, callMsMax: 50 });
    quick.want(attributesOf("192.0.2.1"));
    await until("tried thrice", () => proxy.connections >= 3);
    expect(written(api)).toBeUndefined();
    proxy.heal();
    await until("written", () => Bun.deepEquals(written(api), annotationsOf("192.0.2.1")));
    proxy.stall();
    const before = proxy.connections;
    // Its calls would take ten seconds more; the end of the test does not wait for them.
    annotate(api, slow).want(attributesOf("192.0.2.2"));
    await until("asked", () => proxy.connections > before);
    await opened.disposeAsync();
    opened = new AsyncDisposableStack();
    expect(api.refused).toEqual([]);
  });

  test("without a name for the node there is nothing to wait for", () => {
    expect(() => openNodeAnnotator(kubeOptions("http://127.0.0.1:1"))).toThrow("POD_NAME and POD_NAMESPACE");
    expect(() => openNodeAnnotator(kubeOptions("http://127.0.0.1:1", { nodeName: "a/b" }))).toThrow(
      "no node's name",
    );
  });

  test("a kubeconfig that breaks meanwhile is said and read again", async () => {
    const api = start();
    api.createNode({ name: "n1" });
    const directory = mkdtempSync(join(tmpdir(), "fl-kube-"));
    opened.defer(() => rmSync(directory, { recursive: true, force: true }));
    const kubeconfig = join(directory, "kubeconfig");
    writeFileSync(kubeconfig, "{");
    const log = recordingLog();
    const clock = {
      now: systemClock.now,
      sleep: (ms: number, stop?: AbortSignal) => systemClock.sleep(Math.min(ms, 20), stop),
    };
    annotate(api, { kubeconfig, apiUrl: undefined, log, clock }).want(attributesOf("192.0.2.1"));
    await log.seen("the node cannot be annotated");
    const entry = { name: "x", context: { cluster: "x" }, cluster: { server: api.url } };
    writeFileSync(
      kubeconfig,
      JSON.stringify({ "current-context": "x", contexts: [entry], clusters: [entry] }),
    );
    await until("written", () => written(api)?.[names.publicIp] === "192.0.2.1");
  });
});

describe("operators", () => {
  test("see who holds what; what the cluster decides is refused with what to do instead", async () => {
    const api = start();
    const directory = mkdtempSync(join(tmpdir(), "fl-kube-"));
    opened.defer(() => rmSync(directory, { recursive: true, force: true }));
    const netConfig = join(directory, "net-conf.json");
    writeFileSync(netConfig, '{"Network":"10.3.0.0/16"}');
    api.createNode(flannelNode(5));
    api.createNode({ ...flannelNode(6), annotations: { ...annotationsOf("x"), [names.publicIp]: "x" } });
    api.createNode({ name: "n1", podCidrs: ["10.3.8.0/24"] });
    await using operator = openKubeOperator(kubeOptions(api.url, { netConfig }));
    expect(await operator.readNetworkConfig(never)).toBe('{"Network":"10.3.0.0/16"}');
    const leases = await operator.leases(never);
    expect(leases).toMatchObject([
      { key: "f5", attributes: attributesOf("192.0.2.5"), expiresAt: undefined, holder: { id: "f5" } },
      { key: "f6", attributes: undefined },
    ]);
    const [lease] = leases;
    if (lease === undefined) throw new Error("no lease");
    for (const refused of [
      operator.remove(lease, never),
      operator.reserve({ subnets: lease.subnets, attributes: attributesOf("192.0.2.9") }, never),
      operator.replaceNetworkConfig({ before: undefined, document: "{}" }, never),
    ])
      await expect(refused).rejects.toMatchObject({
        code: "store/read-only",
        exitCode: 2,
        remedy: expect.any(String),
      });
  });
});
