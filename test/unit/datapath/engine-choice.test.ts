import { expect, test } from "bun:test";
import { errorText } from "../../../src/base/error.ts";
import { chooseEngine, probeTun } from "../../../src/datapath/engine-choice.ts";

const able = { kernelOnly: [], tunTrouble: undefined };
const noTun = { reason: "no TUN", remedy: "Give it one" };

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
  expect(chooseEngine({ ...able, configured: "auto", tunTrouble: noTun })).toEqual({
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
  expect(() => chooseEngine({ ...udp, configured: "auto", tunTrouble: noTun })).toThrow(
    "the udp backend needs a TUN: no TUN",
  );
});

test("engine choice: what takes a raw socket is for userspace and the kernel", () => {
  const ipip = { ...able, rawSocket: "ipip" };
  expect(chooseEngine({ ...ipip, configured: "kernel" }).engine).toBe("kernel");
  expect(chooseEngine({ ...ipip, configured: "auto" }).engine).toBe("userspace");
  expect(chooseEngine({ ...ipip, configured: "auto", tunTrouble: noTun }).engine).toBe("kernel");
  expect(() => chooseEngine({ ...ipip, configured: "dgram" })).toThrow(
    "the dgram engine has no raw socket, which the network's backend, ipip, takes",
  );
});

test("engine choice: without a TUN an engine that takes one is refused, with what to do", () => {
  for (const configured of ["userspace", "dgram"] as const) {
    const choose = () => chooseEngine({ ...able, configured, tunTrouble: noTun });
    expect(errorTextOf(choose)).toBe(
      `the ${configured} engine needs a TUN: no TUN. Give it one, or use datapath.engine = "kernel"`,
    );
  }
  expect(chooseEngine({ ...able, configured: "kernel", tunTrouble: noTun }).engine).toBe("kernel");
  const udp = { ...able, userspaceOnly: "udp", tunTrouble: noTun };
  expect(errorTextOf(() => chooseEngine({ ...udp, configured: "userspace" }))).toEndWith(
    "no TUN. Give it one",
  );
  expect(errorTextOf(() => chooseEngine({ ...udp, configured: "auto" }))).toEndWith("no TUN. Give it one");
});

test("engine choice: the trouble with a TUN says what was tried, and how each refusal is cured", () => {
  expect(probeTun("/dev/null")).toBeUndefined();
  expect(probeTun("/nonexistent/tun")?.reason).toBe(
    "/nonexistent/tun does not open: it is not there (ENOENT)",
  );
  const refusedWith = (code: string) =>
    probeTun("/dev/net/tun", () => {
      throw Object.assign(new Error(`${code}: refused`), { code });
    });
  const forbidden = refusedWith("EPERM");
  expect(forbidden?.reason).toBe(
    "/dev/net/tun does not open: the device rules of this container or unit forbid it (EPERM)",
  );
  expect(forbidden?.remedy).toContain("--device /dev/net/tun");
  expect(forbidden?.remedy).toContain("DeviceAllow=/dev/net/tun rw");
  expect(refusedWith("EACCES")?.reason).toContain("SELinux");
  expect(refusedWith("ENODEV")?.remedy).toContain("modprobe tun");
  expect(refusedWith("EMFILE")?.reason).toBe("/dev/net/tun does not open: EMFILE: refused");
});

function errorTextOf(choose: () => unknown): string {
  try {
    choose();
  } catch (error) {
    return errorText(error);
  }
  throw new Error("it was not refused");
}
