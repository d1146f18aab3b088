import { describe, expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { openTxChecksum, type TxChecksum } from "../../../src/datapath/tx-checksum.ts";
import { manualClock, settle } from "../../support/manual-clock.ts";
import { recordingLog } from "../../support/recording-log.ts";

const second = 1_000;

/** A device, and peers whose answers the test gives: by whether the offload is on, and the number of the try. */
async function bench(
  answers: (peer: string, offload: boolean, nth: number) => boolean,
  {
    setting = "auto",
    peers = ["10.5.2.0"],
    offload: first = true,
  }: { setting?: TxChecksum; peers?: string[]; offload?: boolean } = {},
) {
  const clock = manualClock();
  const ending = new AbortController();
  const knocks: string[] = [];
  const device = { offload: first, present: true };
  const missing = () => new FlannelError("native/enodev", "there is no flannel.1");
  const keeper = openTxChecksum({
    addon: {
      txChecksum() {
        if (!device.present) throw missing();
        return device.offload;
      },
      setTxChecksum(_name, on) {
        if (!device.present) throw missing();
        device.offload = on;
      },
      async knock(peer) {
        knocks.push(`${peer} ${device.offload ? "on" : "off"}`);
        const answered = answers(peer, device.offload, knocks.length);
        if (!answered) await clock.sleep(second, ending.signal);
        return answered;
      },
    },
    setting,
    device: "flannel.1",
    peers: () => peers,
    log: recordingLog(),
    clock,
  });
  const running = keeper.run(ending.signal);
  await settle();
  const end = async () => {
    ending.abort();
    await running;
  };
  return { keeper, device, clock, knocks, peers, end };
}

describe("tx checksum", () => {
  test("one answer with the offload on proves that packets arrive; nothing is switched", async () => {
    const { keeper, device, clock, knocks, end } = await bench((_, on, nth) => on && nth === 3);
    await clock.advance(20 * second);
    expect([device.offload, knocks, keeper.verdict]).toEqual([
      true,
      ["10.5.2.0 on", "10.5.2.0 on", "10.5.2.0 on"],
      "on: packets arrive with it at 10.5.2.0",
    ]);
    await end();
  });

  test("no answer with it and three without switch it off, also on a device made anew", async () => {
    const { keeper, device, clock, knocks, end } = await bench((_, on) => !on);
    await clock.advance(20 * second);
    expect([device.offload, knocks.length, keeper.verdict]).toEqual([
      false,
      6,
      "off: packets arrive at 10.5.2.0 without it only",
    ]);
    device.present = false;
    keeper.look();
    await clock.advance(second);
    Object.assign(device, { present: true, offload: true });
    keeper.look();
    await clock.advance(second);
    expect([device.offload, knocks.length]).toEqual([false, 6]);
    await end();
  });

  test.each([
    ["nobody answers", () => false],
    ["answers come by chance", (_peer: string, on: boolean, nth: number) => !on && nth % 2 === 0],
  ])("%s: it stays on, undecided, and is measured again later", async (_name, answers) => {
    const { keeper, device, clock, knocks, end } = await bench(answers);
    await clock.advance(30 * second);
    expect(device.offload).toBe(true);
    expect(keeper.verdict).toStartWith("undecided, left on: none of 10.5.2.0");
    const before = knocks.length;
    keeper.look();
    await clock.advance(second);
    expect(knocks).toHaveLength(before);
    await clock.advance(90 * second);
    expect(knocks.length).toBeGreaterThan(before);
    await end();
  });

  test("a peer that says nothing is passed over for the next", async () => {
    const { keeper, clock, end } = await bench((peer) => peer === "10.5.3.0", {
      peers: ["10.5.2.0", "10.5.3.0"],
    });
    await clock.advance(30 * second);
    expect(keeper.verdict).toBe("on: packets arrive with it at 10.5.3.0");
    await end();
  });

  test("with no peer it waits for one", async () => {
    const peers: string[] = [];
    const { keeper, clock, knocks, end } = await bench(() => true, { peers });
    await clock.advance(600 * second);
    expect([knocks, keeper.verdict]).toEqual([[], "undecided: no peer was asked yet"]);
    peers.push("10.5.2.0");
    keeper.look();
    await clock.advance(second);
    expect(keeper.verdict).toStartWith("on: ");
    await end();
  });

  test.each([
    ["on", false, true],
    ["off", true, false],
  ] as const)("%s is set, and set again, without asking anybody", async (setting, before, after) => {
    const { keeper, device, clock, knocks, end } = await bench(() => true, { setting, offload: before });
    await clock.advance(second);
    expect([device.offload, keeper.verdict]).toEqual([after, `${setting}: it is configured`]);
    device.offload = before;
    keeper.look();
    await clock.advance(second);
    expect([device.offload, knocks]).toEqual([after, []]);
    await end();
  });

  test("one that somebody has switched off before stays off, and a stop amid a measurement leaves it on", async () => {
    const found = await bench(() => true, { offload: false });
    await found.clock.advance(second);
    expect([found.device.offload, found.knocks, found.keeper.verdict]).toEqual([
      false,
      [],
      "off: it was found so",
    ]);
    await found.end();
    const { device, clock, end } = await bench((_, on) => !on);
    await clock.advance(3.5 * second);
    expect(device.offload).toBe(false);
    await end();
    expect(device.offload).toBe(true);
  });

  test("another setting counts at once: off, on, and auto, which measures anew what we switched off", async () => {
    const { keeper, device, clock, knocks, end } = await bench((_, on) => on);
    await clock.advance(second);
    expect(keeper.verdict).toBe("on: packets arrive with it at 10.5.2.0");
    const asked = knocks.length;
    keeper.change("off");
    await clock.advance(0);
    expect([device.offload, keeper.verdict]).toEqual([false, "off: it is configured"]);
    keeper.change("on");
    await clock.advance(0);
    expect([device.offload, keeper.verdict]).toEqual([true, "on: it is configured"]);
    keeper.change("off");
    await clock.advance(0);
    expect(knocks).toHaveLength(asked);
    keeper.change("auto");
    await clock.advance(20 * second);
    expect([device.offload, keeper.verdict]).toEqual([true, "on: packets arrive with it at 10.5.2.0"]);
    await end();
  });

  test("a setting that changes while a peer is asked, or between two attempts, is not undone by the answer", async () => {
    const { keeper, device, clock, end } = await bench(() => false);
    keeper.change("off");
    await clock.advance(20 * second);
    expect([device.offload, keeper.verdict]).toEqual([false, "off: it is configured"]);
    keeper.change("auto");
    await clock.advance(20 * second);
    expect([device.offload, keeper.verdict]).toEqual([true, expect.stringContaining("undecided, left on")]);
    keeper.change("off");
    await clock.advance(0);
    expect([device.offload, keeper.verdict]).toEqual([false, "off: it is configured"]);
    await end();
  });
});
