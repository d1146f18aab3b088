import { describe, expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { addonError, openAddon } from "../../../src/native/addon.ts";

describe("addonError", () => {
  test("the errno at the beginning becomes the code and a field, the rest the message", () => {
    const error = addonError(new Error("EEXIST: add vxlan flannel.1: File exists"));
    expect(error).toBeInstanceOf(FlannelError);
    expect(error.code).toBe("native/eexist");
    expect(error.message).toBe("add vxlan flannel.1: File exists");
    expect(error.fields).toEqual({ errno: "EEXIST" });
    expect(error.retryable).toBe(false);
  });

  test("an errno that passes is retryable, one without a name keeps its number", () => {
    expect(addonError(new Error("EINTR: list routes: Interrupted system call")).retryable).toBe(true);
    expect(addonError(new Error("E4095: try: Unknown error 4095")).code).toBe("native/e4095");
  });

  test("anything else is native/failed with its cause", () => {
    for (const cause of [new Error("Failed to convert"), new Error("EMPTY"), "panic", undefined]) {
      const error = addonError(cause);
      expect(error.code).toBe("native/failed");
      expect(error.cause).toBe(cause);
    }
  });

  test("a FlannelError stays what it is", () => {
    const error = new FlannelError("some/code", "text");
    expect(addonError(error)).toBe(error);
  });
});

describe("openAddon", () => {
  test("what a method throws or rejects with is a FlannelError", async () => {
    const addon = openAddon();
    expect(() => addon.notify("/nowhere/notify", "READY=1")).toThrow(
      expect.objectContaining({ code: "native/enoent", fields: { errno: "ENOENT" } }),
    );
    const kernel = await addon.openKernel();
    try {
      expect(await kernel.routeTo("nonsense").catch((error: unknown) => error)).toMatchObject({
        name: "FlannelError",
        code: "native/einval",
      });
    } finally {
      kernel.close();
    }
  });
});
