import { expect, test } from "bun:test";
import { chooseEngine, probeTun } from "../../../src/datapath/engine-choice.ts";

const able = { kernelOnly: [], tunTrouble: undefined };

test("engine choice: what is configured is taken", () => {
  for (const configured of ["userspace", "kernel", "dgram"] as const) {
    expect(chooseEngine({ ...able, configured })).toEqual({
      engine: configured,
      reason: "it is configured",
    });
  }
});

test("engine choice: auto is userspace unless a TUN is missing or an option asks for the kernel's device", () => {
  expect(chooseEngine({ ...able, configured: "auto" }).engine).toBe("userspace");
  expect(chooseEngine({ ...able, configured: "auto", tunTrouble: "no TUN" })).toEqual({
    engine: "kernel",
    reason: "no TUN",
  });
  expect(chooseEngine({ ...able, configured: "auto", kernelOnly: ["GBP", "Learning"] })).toEqual({
    engine: "kernel",
    reason: "the network's Backend asks for GBP and Learning",
  });
});

test("engine choice: an engine that cannot do what the network asks for is refused by name", () => {
  for (const configured of ["userspace", "dgram"] as const) {
    const choose = () => chooseEngine({ ...able, configured, kernelOnly: ["GBP"] });
    expect(choose).toThrow(
      `the network's Backend asks for GBP, which the ${configured} engine does not have`,
    );
  }
});

test("engine choice: what no kernel device speaks is left to userspace, or said to be impossible", () => {
  const udp = { ...able, userspaceOnly: "udp" };
  expect(chooseEngine({ ...udp, configured: "auto" }).engine).toBe("userspace");
  expect(chooseEngine({ ...udp, configured: "dgram" }).engine).toBe("dgram");
  expect(() => chooseEngine({ ...udp, configured: "kernel" })).toThrow(
    "there is no kernel device here for the network's backend, udp",
  );
  expect(() => chooseEngine({ ...udp, configured: "auto", tunTrouble: "no TUN" })).toThrow(
    "the udp backend needs a TUN: no TUN",
  );
});

test("engine choice: what takes a raw socket is for userspace and the kernel", () => {
  const ipip = { ...able, rawSocket: "ipip" };
  expect(chooseEngine({ ...ipip, configured: "kernel" }).engine).toBe("kernel");
  expect(chooseEngine({ ...ipip, configured: "auto" }).engine).toBe("userspace");
  expect(chooseEngine({ ...ipip, configured: "auto", tunTrouble: "no TUN" }).engine).toBe("kernel");
  expect(() => chooseEngine({ ...ipip, configured: "dgram" })).toThrow(
    "the dgram engine has no raw socket, which the network's backend, ipip, takes",
  );
});

test("engine choice: the trouble with a TUN says what was tried", () => {
  expect(probeTun("/nonexistent/tun")).toStartWith("/nonexistent/tun does not open: ");
  expect(probeTun("/dev/null")).toBeUndefined();
});
