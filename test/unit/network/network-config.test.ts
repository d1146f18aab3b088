import { describe, expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { waitForNetworkConfig, watchNetworkConfig } from "../../../src/network/network-config.ts";
import { fakeStore } from "../../support/fake-store.ts";
import { manualClock, settle } from "../../support/manual-clock.ts";
import { recordingLog } from "../../support/recording-log.ts";

const document = '{"Network":"10.5.0.0/16"}';
const unreachable = new FlannelError("store/unreachable", "etcd does not answer", {}, { retryable: true });
const refused = new FlannelError("store/unauthorized", "etcd refused the password");

/** A store that gives one answer after the other, the last one for good. */
function bench(...answers: (string | undefined | FlannelError)[]) {
  const clock = manualClock();
  const log = recordingLog();
  const ending = new AbortController();
  const published: string[] = [];
  let asked = 0;
  const store = fakeStore({
    async readNetworkConfig() {
      const answer = published[0] ?? answers[Math.min(asked++, answers.length - 1)];
      if (answer instanceof FlannelError) throw answer;
      return answer;
    },
    async createNetworkConfig(text) {
      published.push(text);
      return true;
    },
  });
  const wait = (own?: object, fallback: () => string | undefined = () => undefined) =>
    waitForNetworkConfig({ store, own, log, clock }, fallback, ending.signal);
  return { clock, log, ending, store, published, wait };
}

describe("network configuration", () => {
  test("it is waited for, with each reason said once, and given as it stands", async () => {
    const { clock, log, wait } = bench(undefined, undefined, "{", "{", unreachable, unreachable, document);
    const waiting = wait();
    await clock.advance(10_000);
    expect(await waiting).toMatchObject({ document, network: { ipv4: { subnetLength: 24 } } });
    expect(log.messages).toEqual(Array(3).fill("waiting for the network configuration"));
  });

  test("our own is published where there is none", async () => {
    const { published, wait } = bench(undefined);
    expect(await wait({ Network: "10.6.0.0/16" })).toMatchObject({ document: '{"Network":"10.6.0.0/16"}' });
    expect(published).toHaveLength(1);
  });

  test("a store that cannot be reached is stood in for, and so is one that was emptied", async () => {
    const away = bench(unreachable);
    expect(await away.wait(undefined, () => "remembered")).toBe("remembered");
    expect(away.log.messages).toEqual(["the store cannot be reached; starting from the leases last seen"]);
    const empty = bench(undefined);
    expect(await empty.wait(undefined, () => "remembered")).toBe("remembered");
    expect(empty.log.messages).toEqual(["the store is empty; starting from the leases last seen"]);
  });

  test("an emptied store gets our own configuration, and nothing stands in for it", async () => {
    const { published, wait } = bench(undefined);
    expect(await wait({ Network: "10.6.0.0/16" }, () => "remembered")).toMatchObject({
      document: '{"Network":"10.6.0.0/16"}',
    });
    expect(published).toHaveLength(1);
  });

  test("with nothing to stand in, that is asked for once and the store waited for", async () => {
    const { clock, wait } = bench(unreachable, unreachable, unreachable, document);
    let asked = 0;
    const waiting = wait(undefined, () => {
      asked++;
      return undefined;
    });
    await clock.advance(10_000);
    expect(await waiting).toMatchObject({ document });
    expect(asked).toBe(1);
  });

  test("where we may not publish ours, that and who may is said once, and somebody else's is waited for", async () => {
    const { clock, log, store, ending } = bench(undefined, undefined, undefined, document);
    const fields = { reason: "etcdserver: permission denied", rpcCode: 7 };
    const denied = new FlannelError("store/unauthorized", "etcd denies access to flannel's keys", fields);
    const createNetworkConfig = () => Promise.reject(denied);
    const own = { Network: "10.6.0.0/16" };
    const context = { store: { ...store, createNetworkConfig }, own, log, clock };
    const waiting = waitForNetworkConfig(context, () => undefined, ending.signal);
    await clock.advance(10_000);
    expect(await waiting).toMatchObject({ document });
    expect(log.messages).toEqual(["waiting for the network configuration"]);
    expect(JSON.stringify(log.lines)).toContain(
      "Publish it once as the store's administrator: flannel-lite network set",
    );
    const other = new FlannelError("store/unauthorized", "etcd wants a login", { rpcCode: 16 });
    const refusing = {
      ...context,
      store: { ...bench(undefined).store, createNetworkConfig: () => Promise.reject(other) },
    };
    await expect(waitForNetworkConfig(refusing, () => undefined, ending.signal)).rejects.toBe(other);
  });

  test("refused credentials end it at once, remembered or not; a stop ends it quietly", async () => {
    await expect(bench(refused).wait(undefined, () => "remembered")).rejects.toBe(refused);
    const { ending, wait } = bench(undefined);
    const waiting = wait();
    await settle();
    ending.abort();
    expect(await waiting).toBeUndefined();
  });

  const another = '{"Network":"10.6.0.0/16","Backend":{"VNI":2}}';
  const gone = "the store has no network configuration any more; ours is kept";
  const changed = "the network configuration is another one than this node started with";

  test.each([
    [document, []],
    ['{ "Network": "10.5.0.0/16" }', []],
    [undefined, [gone]],
    [another, [changed]],
  ])("once the store is back, %j is compared with what we began with", async (found, said) => {
    const { clock, log, ending, store } = bench(unreachable, unreachable, found);
    const watching = watchNetworkConfig({ store, log, clock }, document).run(ending.signal);
    await clock.advance(3_600_000);
    expect(log.messages).toEqual(said);
    ending.abort();
    await watching;
  });

  test("a change in the store is told member by member, also after the configuration was gone", async () => {
    const { clock, log, ending, store } = bench(document, undefined, undefined, another, another, document);
    const watch = watchNetworkConfig({ store, log, clock }, document);
    const watching = watch.run(ending.signal);
    await clock.advance(190_000);
    expect(watch.changes).toEqual([
      { name: "Network", from: '"10.5.0.0/16"', to: '"10.6.0.0/16"' },
      { name: "Backend.VNI", from: undefined, to: "2" },
    ]);
    expect(log.messages).toEqual([gone, "the store has a network configuration again", changed]);
    await clock.advance(120_000);
    expect(watch.changes).toEqual([]);
    expect(log.messages.at(-1)).toBe("the network configuration is again the one this node started with");
    ending.abort();
    await watching;
  });
});
