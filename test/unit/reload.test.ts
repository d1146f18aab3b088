import { describe, expect, test } from "bun:test";
import { FlannelError } from "../../src/base/error.ts";
import type { LivePart } from "../../src/config/option.ts";
import type { Config } from "../../src/config/schema.ts";
import { type Applier, openReloader } from "../../src/reload.ts";
import { loadFrom } from "../support/config.ts";
import { recordingLog } from "../support/recording-log.ts";

/** A reloader that began with the defaults; `told` has the parts that were asked, with the configuration then. */
function bench(answers: Partial<Record<LivePart, Applier>> = {}, flags: readonly string[] = []) {
  const log = recordingLog();
  const told: [LivePart, Config][] = [];
  const events: string[] = [];
  let file = "";
  const parts = [
    "log",
    "listeners",
    "firewall",
    "forwarding",
    "plan",
    "checksum",
    "lease",
    "uplink",
    "use",
  ] as const;
  const appliers = Object.fromEntries(
    parts.map((part) => [
      part,
      (next: Config) => {
        told.push([part, next]);
        return answers[part]?.(next);
      },
    ]),
  ) as Record<LivePart, Applier>;
  const elsewhere = { key: "Backend.VNI in the store", from: "1", to: "2", reason: "it is" };
  const reloader = openReloader(loadFrom({ toml: "" }).config, {
    reread: () => loadFrom({ toml: file, argv: ["-etcd-prefix=/x", ...flags] }),
    appliers,
    lookElsewhere: async () => [elsewhere],
    onBegin: () => events.push("begin"),
    onEnd: () => events.push("end"),
    log,
  });
  const reload = (toml: string) => {
    file = toml;
    return reloader.reload();
  };
  return { reloader, reload, told, log, events, elsewhere };
}

const prefixChange = {
  key: "store.etcd.prefix",
  from: '"/coreos.com/network"',
  to: '"/x"',
  reason: "it is read at the start only",
};

describe("reload", () => {
  test("what can change is applied, part by part; the rest is named, and again the next time", async () => {
    const { reloader, reload, told, events, elsewhere } = bench();
    const toml = '[log]\nlevel = "debug"\nformat = "json"\n[datapath]\nengine = "kernel"\nstrict = "off"\n';
    const engineChange = {
      key: "datapath.engine",
      from: '"auto"',
      to: '"kernel"',
      reason: prefixChange.reason,
    };
    expect(await reload(toml)).toEqual({
      applied: [
        { key: "datapath.strict", from: '"overlay"', to: '"off"' },
        { key: "log.level", from: '"info"', to: '"debug"' },
        { key: "log.format", from: '"text"', to: '"json"' },
      ],
      restart: [prefixChange, engineChange, elsewhere],
      failed: [],
      warnings: [],
      invalid: null,
    });
    expect(told.map(([part]) => part)).toEqual(["plan", "log"]);
    expect(told[1]?.[1].log).toEqual({ level: "debug", format: "json" });
    expect(reloader.config).toMatchObject({ datapath: { engine: "auto", strict: "off" } });
    expect(reloader.waiting).toEqual([prefixChange, engineChange]);
    expect(await reload(toml)).toMatchObject({
      applied: [],
      restart: [prefixChange, engineChange, elsewhere],
    });
    expect(events).toEqual(["begin", "end", "begin", "end"]);
  });

  test("an invalid file changes nothing, says why, and what waited for a restart goes on to", async () => {
    const { reloader, reload, told, log, elsewhere } = bench();
    await reload("");
    const { config } = reloader;
    const report = await reload('[log]\nlevel = "debug"\n[datapath]\nengin = "kernel"\n');
    expect(report).toMatchObject({ applied: [], failed: [], restart: [elsewhere] });
    expect(report.invalid).toContain("engin");
    expect(reloader.config).toBe(config);
    expect(reloader.waiting).toEqual([prefixChange]);
    expect(told).toEqual([]);
    expect(log.messages.at(-1)).toBe("the configuration is not reloaded");
  });

  test("a part that fails, or that takes a restart, keeps its former value, and others are applied", async () => {
    const { reloader, reload } = bench({
      listeners() {
        throw new FlannelError("status/listen", "port 80 is taken");
      },
      uplink: () => "it would choose eth1",
    });
    const report = await reload(
      '[health]\nport = 80\n[uplink]\ninterface = ["eth1"]\n[log]\nlevel = "warn"\n',
    );
    expect(report.applied.map(({ key }) => key)).toEqual(["log.level"]);
    expect(report.failed).toEqual([{ key: "health.port", from: "0", to: "80", reason: "port 80 is taken" }]);
    expect(report.restart).toContainEqual({
      key: "uplink.interface",
      from: "[]",
      to: '["eth1"]',
      reason: "it would choose eth1",
    });
    expect(reloader.config).toMatchObject({
      health: { port: 0 },
      uplink: { interface: [] },
      log: { level: "warn" },
    });
  });

  test("secrets are not shown", async () => {
    const { reload } = bench({}, ["-etcd-username=u", "-etcd-password=hunter2"]);
    const { restart } = await reload("");
    expect(restart.find(({ key }) => key === "store.etcd.password")?.to).toBe("<hidden>");
    expect(JSON.stringify(restart)).not.toContain("hunter2");
  });

  test("one reload waits for another", async () => {
    const { reload, events } = bench({ log: () => Bun.sleep(1).then(() => undefined) });
    await Promise.all([reload('[log]\nlevel = "warn"\n'), reload('[log]\nlevel = "warn"\n')]);
    expect(events).toEqual(["begin", "end", "begin", "end"]);
  });
});
