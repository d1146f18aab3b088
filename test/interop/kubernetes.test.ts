import { afterAll, beforeAll, expect, test } from "bun:test";
import { openKubeStore } from "../../src/store/kube/store.ts";
import { openKubeContext } from "../../src/store/kube/context.ts";
import { Gone } from "../../src/store/kube/failure.ts";
import { openNodeAnnotator } from "../../src/store/kube/annotate.ts";
import {
  attributesOf,
  follow,
  leaseForm,
  never,
  requestFor,
  storeContract,
  updateText,
} from "../contract/store.ts";
import {
  type KubeApiserver,
  type KubeUser,
  shippedObjects,
  startKubeApiserver,
} from "../support/kube-apiserver.ts";
import { kubeDiffers, kubeOptions, kubeWorld, names } from "../support/kube-world.ts";
import { recordingLog } from "../support/recording-log.ts";

let apiserver: KubeApiserver;

beforeAll(async () => {
  apiserver = await startKubeApiserver();
}, 120_000);

afterAll(async () => {
  await apiserver?.[Symbol.asyncDispose]();
});

// The suite that test/contract/kubernetes.test.ts runs against the test API server.
storeContract(
  "kubernetes by kube-apiserver",
  async () => {
    await apiserver.wipe();
    return kubeWorld(apiserver, apiserver.kubeconfig("annotator"));
  },
  leaseForm("v3"),
  kubeDiffers,
);

const as = (user: KubeUser) => ({
  nodeName: "n1",
  kubeconfig: apiserver.kubeconfig(user),
  apiUrl: undefined,
});

test("kube-apiserver: the shipped rights are enough, and less is refused", async () => {
  await apiserver.wipe();
  await apiserver.createNode({ name: "n1", podCidrs: ["10.3.7.0/24"] });
  const outcome = async (user: KubeUser) => {
    await using store = openKubeStore(kubeOptions(apiserver.url, as(user)));
    return await store.acquire(requestFor("192.0.2.1"), never).then(
      ({ kind }) => kind,
      (error: unknown) => error,
    );
  };
  expect(await outcome("stranger")).toMatchObject({ code: "store/unauthorized" });
  expect(await outcome("reader")).toMatchObject({ code: "store/unauthorized" });
  expect((await apiserver.getNode("n1")).metadata.annotations?.[names.publicIp]).toBeUndefined();
  for (const user of ["daemon", "annotator"] as const) {
    await apiserver.annotate("n1", { [names.publicIp]: null });
    expect(await outcome(user)).toBe("acquired");
    expect((await apiserver.getNode("n1")).metadata.annotations?.[names.publicIp]).toBe("192.0.2.1");
  }
});

test.each(["flannel-lite.yml", "hybrid-rbac.yml"])(
  "kube-apiserver: %s is taken, field by field, and taken again over itself",
  async (file) => {
    const objects = shippedObjects(file);
    expect(objects.length).toBeGreaterThan(3);
    for (const object of [...objects, ...objects]) {
      const { apiVersion, kind, metadata } = object;
      const group = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
      const within = metadata.namespace === undefined ? "" : `/namespaces/${metadata.namespace}`;
      const target = `${group}${within}/${kind.toLowerCase()}s/${metadata.name}`;
      const { status, text } = await apiserver.call(
        "PATCH",
        `${target}?fieldManager=test&fieldValidation=Strict`,
        object,
        "application/apply-patch+yaml",
      );
      expect([target, status < 300 ? "" : text]).toEqual([target, ""]);
    }
  },
);

test("kube-apiserver: the annotator writes a node that comes late, and again what somebody changed", async () => {
  await apiserver.wipe();
  const log = recordingLog();
  using annotator = openNodeAnnotator({ ...kubeOptions(apiserver.url, as("annotator")), log });
  const stop = new AbortController();
  const running = annotator.run(stop.signal);
  annotator.want(attributesOf("192.0.2.1"));
  await apiserver.createNode({ name: "n1" });
  const publicIp = async (wanted: string) => {
    for (const deadline = Date.now() + 20_000; Date.now() < deadline; await Bun.sleep(50)) {
      const { annotations } = (await apiserver.getNode("n1")).metadata;
      if (annotations?.[names.publicIp] === wanted) return;
    }
    throw new Error(`not ${wanted} in 20 s`);
  };
  await publicIp("192.0.2.1");
  await apiserver.annotate("n1", { [names.publicIp]: "203.0.113.9" });
  await publicIp("192.0.2.1");
  await apiserver.annotate("n1", { [names.publicIpOverwrite]: "203.0.113.10" });
  await publicIp("203.0.113.10");
  await apiserver.annotate("n1", { [names.publicIpOverwrite]: null });
  await publicIp("192.0.2.1");
  stop.abort();
  await running;
});

test("kube-apiserver: a node made anew, and a condition, are seen as they come", async () => {
  await apiserver.wipe();
  await apiserver.createNode({ name: "n1", podCidrs: ["10.3.7.0/24"] });
  const options = { ...as("annotator"), setNodeNetworkUnavailable: true };
  await using store = openKubeStore(kubeOptions(apiserver.url, options));
  await store.acquire(requestFor("192.0.2.1"), never);
  await using watch = follow(store);
  expect(updateText(await watch.next())).toBe("snapshot 10.3.7.0-24");
  store.announceReady?.();
  const condition = async () =>
    (await apiserver.getNode("n1")).status.conditions?.find(({ type }) => type === "NetworkUnavailable");
  for (const deadline = Date.now() + 20_000; (await condition()) === undefined; await Bun.sleep(50))
    if (Date.now() > deadline) throw new Error("no condition in 20 s");
  expect(await condition()).toMatchObject({ status: "False", reason: "FlannelIsUp" });
  await apiserver.deleteNode("n1");
  expect(updateText(await watch.next())).toBe("-10.3.7.0-24");
  await apiserver.createNode({ name: "n1", podCidrs: ["10.3.7.0/24"] });
  expect(await store.acquire(requestFor("192.0.2.1"), never)).toMatchObject({ kind: "acquired" });
  expect(updateText(await watch.next())).toBe("+10.3.7.0-24");
});

test("kube-apiserver: a watch from before etcd's compaction is told to read all nodes again", async () => {
  await using plain = await startKubeApiserver(["--watch-cache=false"]);
  await plain.createNode({ name: "n1" });
  const { client } = openKubeContext({
    ...kubeOptions(plain.url),
    ...{ kubeconfig: plain.kubeconfig("reader"), apiUrl: undefined },
  });
  const from = async (resourceVersion: string) => {
    const stop = new AbortController();
    const { value } = await client
      .watch({ from: resourceVersion }, stop.signal)
      [Symbol.asyncIterator]()
      .next();
    stop.abort();
    return value?.type;
  };
  expect(await from("1")).toBe("ADDED");
  await plain.compact();
  await expect(from("1")).rejects.toBeInstanceOf(Gone);
  client.close();
});
