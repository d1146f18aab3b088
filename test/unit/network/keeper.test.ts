import { describe, expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { parseNetworkConfig } from "../../../src/config/network.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { type Lease, leaseKey } from "../../../src/lease/lease.ts";
import { type Keeper, type KeeperContext, openKeeper, resumeKeeper } from "../../../src/network/keeper.ts";
import type { AcquireRequest, AcquireResult, RenewRequest, RenewResult } from "../../../src/store/store.ts";
import { fakeStore } from "../../support/fake-store.ts";
import { vxlanLease } from "../../support/leases.ts";
import { manualClock, settle } from "../../support/manual-clock.ts";
import { recordingLog } from "../../support/recording-log.ts";

const hour = 3_600_000;
const node = { id: "a1", name: "web-1" };
const unreachable = new FlannelError("store/unreachable", "etcd does not answer", {}, { retryable: true });

type Renewals = (request: RenewRequest) => RenewResult;
type Acquisitions = (request: AcquireRequest) => AcquireResult;

/** A keeper on a store that answers as told, its calls, and a clock. */
function bench(options: { onConflict?: KeeperContext["onConflict"] } = {}) {
  const clock = manualClock();
  const log = recordingLog();
  const calls: string[] = [];
  const ending = new AbortController();
  let changes = 0;
  const full = () => new Date(clock.now().getTime() + 24 * hour);
  const lease: Lease = { ...vxlanLease("10.5.1.0/24", "192.0.2.1"), expiresAt: full() };
  const say = {
    renew: (({ lease: own, attributes }) => {
      const renewed = { ...own, attributes: attributes ?? own.attributes, expiresAt: full() };
      return { kind: "renewed", lease: renewed, heldUntil: full() };
    }) as Renewals,
    acquire: (() => ({ kind: "acquired", lease, how: "allocated", heldUntil: full() })) as Acquisitions,
  };
  const context: KeeperContext = {
    store: fakeStore({
      async renew(request) {
        calls.push(`renew ${leaseKey(request.lease.subnets)}`);
        return say.renew(request);
      },
      async acquire(request) {
        calls.push(request.exactly === undefined ? "acquire" : `acquire ${leaseKey(request.exactly)}`);
        return say.acquire(request);
      },
    }),
    request: {
      network: parseNetworkConfig('{"Network":"10.5.0.0/16"}'),
      attributes: () => lease.attributes,
      publicIp: lease.attributes.publicIp,
      node,
      previous: undefined,
    },
    renewMarginMs: hour,
    onConflict: options.onConflict ?? "stop",
    log,
    clock,
  };
  return {
    clock,
    log,
    calls,
    lease,
    say,
    context,
    full,
    changes: () => changes,
    async open(): Promise<Keeper> {
      const keeper = await openKeeper(context, ending.signal);
      if (keeper === undefined) throw new Error("stopped");
      return keeper;
    },
    /** Runs it until the test's body has ended. */
    async running(keeper: Keeper, body: () => Promise<void>) {
      const running = keeper.run(ending.signal, () => changes++);
      try {
        await settle();
        await body();
      } finally {
        ending.abort();
        await running;
      }
    },
  };
}

describe("keeper", () => {
  test("between renewals it looks whether the store still says who we are, and renews where not", async () => {
    const { clock, calls, context, running, open } = bench();
    const answers: (boolean | FlannelError)[] = [true, unreachable, false, true];
    let asked = 0;
    const attests = async () => {
      const answer = answers[Math.min(asked++, answers.length - 1)];
      if (answer instanceof FlannelError) throw answer;
      return answer ?? true;
    };
    const store = { ...context.store, attests };
    Object.assign(context, { store });
    await running(await open(), async () => {
      await clock.advance(89_999);
      expect([asked, calls]).toEqual([2, ["acquire"]]);
      await clock.advance(1);
      expect([asked, calls]).toEqual([3, ["acquire", "renew 10.5.1.0-24"]]);
      await clock.advance(3_600_000);
      expect(calls).toHaveLength(2);
    });
  });

  test("renews before the margin, not earlier, for as long as it runs", async () => {
    const { clock, calls, changes, running, open } = bench();
    await running(await open(), async () => {
      await clock.advance(23 * hour - 1);
      expect(calls).toEqual(["acquire"]);
      await clock.advance(1);
      expect(calls).toEqual(["acquire", "renew 10.5.1.0-24"]);
      await clock.advance(46 * hour);
      expect(calls).toHaveLength(4);
      expect(changes()).toBe(3);
    });
  });

  test("a term shorter than the margin does not make it spin", async () => {
    const { clock, calls, say, running, open, full } = bench();
    const { renew } = say;
    say.renew = (request) => ({ ...renew(request), heldUntil: clock.now() }) as RenewResult;
    say.acquire = () => ({ kind: "acquired", lease: bench().lease, how: "own", heldUntil: full() });
    await running(await open(), async () => {
      await clock.advance(23 * hour);
      calls.length = 0;
      await clock.advance(10_000);
      expect(calls).toHaveLength(10);
    });
  });

  test("a lease that somebody changes again and again is put back more and more slowly, which is said once", async () => {
    const { clock, calls, log, running, open } = bench();
    const keeper = await open();
    const renewals = () => calls.filter((call) => call.startsWith("renew")).length;
    await running(keeper, async () => {
      const undone = async (times: number) => {
        for (let at = 0; at < times; at++) {
          keeper.wake();
          await settle();
        }
      };
      await undone(50);
      expect(renewals()).toBe(5);
      await clock.advance(1_000);
      expect(renewals()).toBe(6);
      await undone(50);
      await clock.advance(1_999);
      expect(renewals()).toBe(6);
      await clock.advance(1);
      expect(renewals()).toBe(7);
      expect(log.messages.filter((message) => message.includes("again and again"))).toHaveLength(1);
      expect(keeper.contested).toBe(true);
      // What we want to publish does not wait.
      await undone(1);
      keeper.publish(keeper.lease.attributes);
      await settle();
      expect(renewals()).toBe(8);
      // Once it is over a change is answered at once.
      await clock.advance(180_000);
      expect(keeper.contested).toBe(false);
      const before = renewals();
      await undone(1);
      expect(renewals()).toBe(before + 1);
    });
  });

  test("a reservation is renewed too, for what says whose it is, and the change is said once", async () => {
    const { clock, calls, log, say, running, open, full } = bench();
    say.renew = ({ lease }) => ({
      kind: "renewed",
      lease: { ...lease, expiresAt: undefined },
      heldUntil: full(),
    });
    const keeper = await open();
    await running(keeper, async () => {
      await clock.advance(3 * 23 * hour);
      expect(calls).toHaveLength(4);
      expect(keeper.lease.expiresAt).toBeUndefined();
      expect(log.messages.filter((message) => message.includes("reservation now"))).toHaveLength(1);
    });
  });

  test("a store that is away is asked again every ten seconds; the lease stays, and the log says it once", async () => {
    const { clock, calls, log, say, running, open } = bench();
    const keeper = await open();
    const { renew } = say;
    say.renew = () => {
      throw unreachable;
    };
    await running(keeper, async () => {
      await clock.advance(30 * hour);
      expect(keeper.trouble).toContain("etcd does not answer");
      expect(leaseKey(keeper.lease.subnets)).toBe("10.5.1.0-24");
      expect(calls.length).toBeGreaterThan((7 * hour) / 10_000 - 1);
      expect(log.messages.filter((message) => message.startsWith("lease not renewed"))).toHaveLength(1);
      say.renew = renew;
      await clock.advance(10_000);
      expect(keeper.trouble).toBeUndefined();
    });
  });

  test("woken where the key is gone, it takes exactly the same subnet again with the same attributes", async () => {
    const { calls, say, running, open, lease, full } = bench();
    const keeper = await open();
    let asked: AcquireRequest | undefined;
    say.renew = () => ({ kind: "lost", reason: "the key is gone" });
    say.acquire = (request) => {
      asked = request;
      return { kind: "acquired", lease, how: "previous", heldUntil: full() };
    };
    await running(keeper, async () => {
      keeper.wake();
      await settle();
      expect(calls).toEqual(["acquire", "renew 10.5.1.0-24", "acquire 10.5.1.0-24"]);
      expect(asked?.attributes(undefined)).toEqual(lease.attributes);
      expect(asked?.node).toEqual(node);
      expect(keeper.conflict).toBeUndefined();
    });
  });

  test("a wake while it is at work is not lost", async () => {
    const { calls, say, running, open } = bench();
    const keeper = await open();
    const { renew } = say;
    let woken = false;
    say.renew = (request) => {
      if (!woken) keeper.wake();
      woken = true;
      return renew(request);
    };
    await running(keeper, async () => {
      keeper.wake();
      await settle();
      expect(calls).toEqual(["acquire", "renew 10.5.1.0-24", "renew 10.5.1.0-24"]);
    });
  });

  const conflicts: [string, (say: { renew: Renewals; acquire: Acquisitions }) => void][] = [
    [
      "renewing finds another's lease",
      (say) => (say.renew = () => ({ kind: "conflict", owner: "192.0.2.9" })),
    ],
    [
      "the subnet is taken before it could be taken again",
      (say) => {
        say.renew = () => ({ kind: "lost", reason: "the key is gone" });
        say.acquire = () => ({ kind: "taken", owner: "192.0.2.9" });
      },
    ],
    [
      "another node has our public IP when the key is gone",
      (say) => {
        say.renew = () => ({ kind: "lost", reason: "the key is gone" });
        say.acquire = () => {
          throw new FlannelError("lease/owned", "our public IP belongs to 192.0.2.9");
        };
      },
    ],
  ];
  test.each(conflicts)(
    "a conflict, %s: said once, looked at again, over when the other is gone",
    async (_, begin) => {
      const { clock, calls, log, say, running, open, changes } = bench();
      const keeper = await open();
      const { renew } = say;
      await running(keeper, async () => {
        begin(say);
        keeper.wake();
        await settle();
        expect(keeper.conflict).toContain("192.0.2.9");
        expect(changes()).toBe(1);
        const looks = calls.length;
        await clock.advance(60_000);
        expect(calls.length - looks).toBe(6 * (looks - 1));
        expect(
          log.messages.filter((message) => message.startsWith("another node has our subnet")),
        ).toHaveLength(1);
        expect(leaseKey(keeper.lease.subnets)).toBe("10.5.1.0-24");
        expect(changes()).toBe(1);
        say.renew = renew;
        await clock.advance(10_000);
        expect(keeper.conflict).toBeUndefined();
        expect(changes()).toBe(2);
      });
    },
  );

  test('with "new-subnet" a conflict is followed by another subnet', async () => {
    const { calls, say, running, open, full } = bench({ onConflict: "new-subnet" });
    const keeper = await open();
    await running(keeper, async () => {
      say.renew = () => ({ kind: "conflict", owner: "192.0.2.9" });
      const moved = { ...vxlanLease("10.5.2.0/24", "192.0.2.1"), expiresAt: full() };
      say.acquire = () => ({ kind: "acquired", lease: moved, how: "allocated", heldUntil: full() });
      keeper.wake();
      await settle();
      expect(calls).toEqual(["acquire", "renew 10.5.1.0-24", "acquire"]);
      expect(leaseKey(keeper.lease.subnets)).toBe("10.5.2.0-24");
      expect(keeper.conflict).toBeUndefined();
    });
  });

  test("without a free subnet a conflict stays one, and nothing ends", async () => {
    const { clock, say, running, open, full, lease } = bench({ onConflict: "new-subnet" });
    const keeper = await open();
    await running(keeper, async () => {
      say.renew = () => ({ kind: "conflict", owner: "192.0.2.9" });
      say.acquire = () => ({ kind: "exhausted", leased: 7 });
      keeper.wake();
      await settle();
      expect(keeper.conflict).toBe("192.0.2.9");
      expect(keeper.trouble).toContain("out of subnets");
      say.acquire = () => ({ kind: "acquired", lease, how: "allocated", heldUntil: full() });
      await clock.advance(10_000);
      expect(keeper.conflict).toBeUndefined();
    });
  });

  test("what is to be published is published at once, again until it is, and then is our lease", async () => {
    const { clock, say, running, open } = bench();
    const keeper = await open();
    const { attributes } = vxlanLease("10.5.1.0/24", "192.0.2.1", "02:00:00:00:00:42");
    const { renew } = say;
    await running(keeper, async () => {
      say.renew = () => {
        throw unreachable;
      };
      keeper.publish(attributes);
      await settle();
      expect(keeper.lease.attributes).not.toEqual(attributes);
      say.renew = renew;
      await clock.advance(10_000);
      expect(keeper.lease.attributes).toEqual(attributes);
      const asked: unknown[] = [];
      say.renew = (request) => {
        asked.push(request.attributes);
        return renew(request);
      };
      keeper.wake();
      await settle();
      expect(asked).toEqual([undefined]);
    });
  });

  test("a remembered lease is confirmed at once, by renewing it and not by taking one", async () => {
    const { calls, lease, context, running } = bench();
    const keeper = resumeKeeper(context, lease);
    expect(keeper.trouble).toBeDefined();
    await running(keeper, async () => {
      expect(calls).toEqual(["renew 10.5.1.0-24"]);
      expect(keeper.trouble).toBeUndefined();
    });
  });

  test("a remembered lease is renewed with what a start publishes, our address of today", async () => {
    const { say, lease, context, running } = bench();
    const today = { ...lease.attributes, publicIp: parseIpAddress("192.0.2.77") };
    const published: (string | undefined)[] = [];
    const { renew } = say;
    say.renew = (request) => {
      published.push(request.attributes?.publicIp?.toString());
      return renew(request);
    };
    for (const attributes of [today, lease.attributes]) {
      const asked = { ...context, request: { ...context.request, attributes: () => attributes } };
      const keeper = resumeKeeper(asked, lease);
      await running(keeper, async () => {
        expect(keeper.lease.attributes).toEqual(attributes);
      });
    }
    expect(published).toEqual(["192.0.2.77", undefined]);
  });

  test("at the start an address that another node has ends it; a store that is away is waited for", async () => {
    const { say, clock, open } = bench();
    const { acquire } = say;
    say.acquire = () => {
      throw unreachable;
    };
    const opening = open();
    await clock.advance(5_000);
    say.acquire = acquire;
    await clock.advance(10_000);
    expect(leaseKey((await opening).lease.subnets)).toBe("10.5.1.0-24");
    say.acquire = () => {
      throw new FlannelError("lease/owned", "it belongs to another");
    };
    await expect(open()).rejects.toMatchObject({ code: "lease/owned" });
    say.acquire = () => ({ kind: "exhausted", leased: 3 });
    await expect(open()).rejects.toMatchObject({ code: "lease/exhausted" });
  });
});
