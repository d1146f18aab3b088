import { expect, test } from "bun:test";
import { systemClock } from "../../src/base/clock.ts";
import type { EtcdStoreOptions } from "../../src/store/etcd/store.ts";
import type { Store } from "../../src/store/store.ts";
import type { Etcd } from "../support/etcd.ts";
import { recordingLog } from "../support/recording-log.ts";
import { acquired, follow, type LeaseForm, never, updateText } from "./store.ts";

/** An API of etcd, and how a test reaches behind it. */
export interface EtcdUnderTest {
  /** One of the test's own. */
  start(): Promise<Etcd>;
  storeOn(etcd: Etcd, prefix: string, more?: Partial<EtcdStoreOptions>): Store;
  put(etcd: Etcd, key: string, value: string): Promise<unknown>;
  readonly form: Pick<LeaseForm, "requestFor" | "valueOf">;
}

/** What a store on etcd makes of one that hangs, or that came back without its data. */
export function etcdOutageContract(name: string, { start, storeOn, put, form }: EtcdUnderTest): void {
  const { requestFor, valueOf } = form;
  const prefix = "/outage/network";

  test(`${name}: a server that keeps its connections and says nothing is noticed, and nothing is lost`, async () => {
    await using etcd = await start();
    const log = recordingLog();
    await using store = storeOn(etcd, prefix, { log, probeMs: 50, callMsMax: 300 });
    await using watch = follow(store);
    expect(updateText(await watch.next())).toBe("snapshot");
    const next = watch.next();
    etcd.pause();
    await log.seen("etcd is lost");
    await expect(store.list(never)).rejects.toMatchObject({ code: "store/unreachable", retryable: true });
    etcd.resume();
    await put(etcd, `${prefix}/subnets/10.3.5.0-24`, valueOf("192.0.2.5"));
    expect(updateText(await next)).toBe("+10.3.5.0-24");
  }, 60_000);

  test(`${name}: a store that was wiped gives a fresh snapshot that says so, instead of silence`, async () => {
    await using etcd = await start();
    for (let at = 1; at <= 20; at++)
      await put(etcd, `${prefix}/subnets/10.3.${at}.0-24`, valueOf(`192.0.2.${at}`));
    await using store = storeOn(etcd, prefix);
    await using watch = follow(store);
    await watch.next();
    const next = watch.next();
    await etcd.kill();
    await etcd.start({ wiped: true });
    expect(await next).toEqual({ kind: "snapshot", leases: [], replaced: true });
    await put(etcd, `${prefix}/subnets/10.3.5.0-24`, valueOf("192.0.2.5"));
    expect(updateText(await watch.next())).toContain("10.3.5.0-24");
  }, 60_000);

  test(`${name}: a wiped store that has overtaken what we saw is known by what it lost of ours`, async () => {
    await using etcd = await start();
    let gate: PromiseWithResolvers<void> | undefined;
    const sleep: typeof systemClock.sleep = async (ms, stop) => {
      await systemClock.sleep(ms, stop);
      await gate?.promise;
    };
    await using store = storeOn(etcd, prefix, { clock: { ...systemClock, sleep } });
    acquired(await store.acquire(requestFor("192.0.2.1"), never));
    await using watch = follow(store);
    await watch.next();
    const next = watch.next();
    gate = Promise.withResolvers();
    await etcd.kill();
    await etcd.start({ wiped: true });
    for (let at = 1; at <= 20; at++) await put(etcd, `${prefix}/other/${at}`, "x");
    gate.resolve();
    expect(await next).toEqual({ kind: "snapshot", leases: [], replaced: true });
  }, 60_000);
}
