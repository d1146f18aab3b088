import { expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import type { PassResult } from "../../../src/datapath/pass.ts";
import type { Reconciler } from "../../../src/datapath/reconcile.ts";
import type { Firewall } from "../../../src/host/firewall/firewall.ts";
import type { Keeper } from "../../../src/network/keeper.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import { hindrance, whyStuck } from "../../../src/status/health.ts";
import { type Progress, stageOf } from "../../../src/status/progress.ts";

const now = new Date("2026-01-01T00:10:00Z");
const well = { failures: () => [] };
const ended = { failures: () => [{ device: "flannel.1", failure: "EIO: read" }] };

const progressOf = (changes: {
  up?: boolean;
  phase?: string;
  keeper?: Partial<Keeper>;
  firewall?: Partial<Firewall>;
  reconciler?: Partial<Reconciler>;
}): Progress => ({ up: true, phase: "the phase", ...changes }) as Progress;

const failedPass = (item: PassResult["steps"][number]["item"]): PassResult => {
  const step = { op: "add", item } as const;
  return { steps: [step], failed: [{ step, error: new FlannelError("x/y", "it is in the way") }] };
};
const link = { type: "link", value: { kind: "tun", name: "flannel.1", mtuBytes: 1450 } } as const;

test("readiness: what is waited for is the reason before the daemon is up", () => {
  expect(hindrance(progressOf({ up: false, phase: "waiting for a lease" }), well)).toBe(
    "waiting for a lease",
  );
});

test("readiness: up and well is ready, and everything that stops traffic takes it back", () => {
  const good = { keeper: {}, firewall: {}, reconciler: { last: { steps: [], failed: [] } } };
  expect(hindrance(progressOf(good), well)).toBeUndefined();
  expect(hindrance(progressOf({ ...good, keeper: { conflict: "192.0.2.9" } }), well)).toBe("the phase");
  expect(hindrance(progressOf({ ...good, firewall: { blocked: "no nft" } }), well)).toBe("the phase");
  expect(hindrance(progressOf({ ...good, reconciler: { last: failedPass(link) } }), well)).toBe(
    "the device cannot be had: it is in the way",
  );
  expect(hindrance(progressOf(good), ended)).toBe("the engine on flannel.1 has ended: EIO: read");
});

test("readiness: one route that cannot be set is one peer, not all of them", () => {
  const value = { to: parsePrefix("10.5.2.0/24"), device: "flannel.1" };
  const last = failedPass({ type: "route", value } as PassResult["steps"][number]["item"]);
  expect(hindrance(progressOf({ reconciler: { last } }), well)).toBeUndefined();
});

test("watchdog: waiting is not being stuck; an ended engine and a pass without end are", () => {
  expect(whyStuck(progressOf({ up: false }), well, now)).toBeUndefined();
  expect(whyStuck(progressOf({}), ended, now)).toBe("the engine on flannel.1 has ended: EIO: read");
  const since = (ms: number) => progressOf({ reconciler: { busySince: new Date(now.getTime() - ms) } });
  expect(whyStuck(since(60_000), well, now)).toBeUndefined();
  expect(whyStuck(since(60_001), well, now)).toStartWith("comparing with the kernel has not come to an end");
});

test("stage: each stretch follows from what is reached", () => {
  const reached = (changes: object) => stageOf({ up: false, phase: "", ...changes } as Progress);
  expect([
    reached({}),
    reached({ chosen: {} }),
    reached({ chosen: {}, overlay: {} }),
    reached({ chosen: {}, overlay: {}, keeper: {} }),
    reached({ chosen: {}, overlay: {}, keeper: {}, up: true }),
    reached({ chosen: {}, overlay: {}, keeper: {}, stopping: true }),
  ]).toEqual(["starting", "waiting-for-network", "waiting-for-lease", "bringing-up", "carrying", "stopping"]);
});
