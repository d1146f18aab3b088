import { expect, test } from "bun:test";
import { openServiceManager } from "../../../src/host/sd-notify.ts";
import { recordingLog } from "../../support/recording-log.ts";

test("sd_notify: a reload begins with a time and ends with READY=1; without a socket nothing is sent", () => {
  const sent: string[] = [];
  const addon = {
    notify: (path: string, message: string) => void sent.push(`${path} ${message}`),
    notifyTimed: (path: string, message: string) => void sent.push(`${path} ${message} at T`),
  };
  for (const socket of ["/run/notify", undefined]) {
    const service = openServiceManager(addon, socket, recordingLog());
    service.reloading();
    service.reloaded("carrying traffic");
  }
  expect(sent).toEqual(["/run/notify RELOADING=1 at T", "/run/notify READY=1\nSTATUS=carrying traffic"]);
});
