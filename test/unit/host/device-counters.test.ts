import { expect, test } from "bun:test";
import { parseDeviceCounters, readDeviceCounters } from "../../../src/host/device-counters.ts";

const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
flannel.1: 2000      20    1    2    0     0          0         0     1000      10    3    4    0     0       0          0
flannel.10: 9         9    9    9    9     9          9         9        9       9    9    9    9     9       9          9
odd: 1 2
huge: 99999999999999999999 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0
`;

test("device counters: of the device of that name, both ways", () => {
  expect(parseDeviceCounters(text, "flannel.1")).toEqual({
    received: { packets: 20, bytes: 2000, errors: 1, dropped: 2 },
    sent: { packets: 10, bytes: 1000, errors: 3, dropped: 4 },
  });
  expect(parseDeviceCounters(text, "flannel.10")?.sent.bytes).toBe(9);
});

test("device counters: none where there is no such device, or no sense in its line", () => {
  for (const device of ["flannel", "flannel.2", "odd", "huge", ""])
    expect(parseDeviceCounters(text, device)).toBeUndefined();
  expect(readDeviceCounters("flannel.none")).toBeUndefined();
});

test("device counters: the kernel's file is read", () => {
  expect(readDeviceCounters("lo")).toMatchObject({ sent: { errors: 0 } });
});
