import { expect, test } from "bun:test";
import { FlannelError } from "../../../src/base/error.ts";
import { type EngineAddon, openUserspaceEngines } from "../../../src/datapath/userspace.ts";
import type { Engine, ForwardingTable } from "../../../src/native/ports.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parseMac } from "../../../src/net/mac.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";
import type { ForwardItem, Latency, TunnelItem } from "../../../src/plan/plan.ts";

const tunnel: TunnelItem = {
  encapsulation: "vxlan",
  device: "flannel.1",
  engine: "userspace",
  vni: 1,
  port: 18_472,
  local: parseIpAddress("127.0.0.1"),
  vtepMac: parseMac("02:00:00:00:00:01"),
  mtuBytes: 1450,
  overlay: [parsePrefix("10.5.0.0/16")],
  strict: "overlay",
  allowSources: [],
  latency: "auto",
};
const forward: ForwardItem = {
  device: "flannel.1",
  to: parsePrefix("10.5.2.0/24"),
  via: parseIpAddress("127.0.0.2"),
  mac: parseMac("02:00:00:00:00:02"),
};

/** An addon that writes down what is opened and closed. */
function fakeAddon(failing?: Latency) {
  const log: string[] = [];
  const tables: ForwardingTable[] = [];
  const addon: EngineAddon = {
    openEngine({ port, mtuBytes, latency }) {
      log.push(`open engine ${port} ${mtuBytes} ${latency}`);
      const engine: Pick<Engine, "setTable" | "setLatency" | "close"> = {
        setLatency(latency) {
          log.push(`latency ${latency}`);
          if (latency === failing)
            throw new FlannelError("native/eagain", "start engine", { errno: "EAGAIN" });
        },
        setTable: (table) => void tables.push(table),
        close: () => void log.push("close engine"),
      };
      return engine as Engine;
    },
    openTun(device) {
      log.push(`open tun ${device}`);
      const closed = Promise.withResolvers<null>();
      return {
        read: () => closed.promise,
        write: () => undefined,
        persist: () => undefined,
        close() {
          log.push("close tun");
          closed.resolve(null);
        },
      };
    },
  };
  return { addon, log, tables };
}

test("userspace engines: what an engine can change live does not open it anew", async () => {
  const { addon, log, tables } = fakeAddon();
  using engines = openUserspaceEngines(addon);
  await engines.open(tunnel);
  engines.setTables([tunnel], [forward]);
  await engines.open({ ...tunnel, strict: "full" });
  engines.setTables([{ ...tunnel, strict: "full" }], [forward]);
  engines.setTables([{ ...tunnel, strict: "full" }], [forward]);
  expect(log).toEqual(["open engine 18472 1450 auto"]);
  expect(tables.map(({ strict }) => strict)).toEqual(["overlay", "full"]);
});

test("userspace engines: another use of threads is the open engine's; where it fails, the next pass opens it anew", async () => {
  const { addon, log } = fakeAddon("throughput");
  using engines = openUserspaceEngines(addon);
  const pass = async (latency: Latency) => {
    await engines.open({ ...tunnel, latency });
    engines.setTables([{ ...tunnel, latency }], [forward]);
    return engines.held.tunnels.map((held) => held.latency);
  };
  expect(await pass("auto")).toEqual(["auto"]);
  expect(await pass("latency")).toEqual(["latency"]);
  expect(await pass("latency")).toEqual(["latency"]);
  await expect(pass("throughput")).rejects.toMatchObject({ code: "native/eagain" });
  expect(await pass("throughput")).toEqual(["throughput"]);
  expect(log).toEqual([
    ...["open engine 18472 1450 auto", "latency latency", "latency throughput", "close engine"],
    "open engine 18472 1450 throughput",
  ]);
});

test("userspace engines: another engine or MTU closes the old one before the new one opens", async () => {
  const { addon, log } = fakeAddon();
  {
    using engines = openUserspaceEngines(addon);
    await engines.open(tunnel);
    await engines.open({ ...tunnel, engine: "dgram" });
    await engines.open({ ...tunnel, mtuBytes: 1400 });
    engines.setTables([{ ...tunnel, mtuBytes: 1400 }], [forward]);
    expect(engines.held.tunnels.map(({ engine, mtuBytes }) => [engine, mtuBytes])).toEqual([
      ["userspace", 1400],
    ]);
  }
  expect(log).toEqual([
    "open engine 18472 1450 auto",
    "close engine",
    "open tun flannel.1",
    "close tun",
    "open engine 18472 1400 auto",
    "close engine",
  ]);
});

test("userspace engines: a port that is taken is the same error, with its remedy, from either engine", async () => {
  const { addon, log } = fakeAddon();
  addon.openEngine = () => {
    throw new FlannelError("native/eaddrinuse", "bind udp port", { errno: "EADDRINUSE" });
  };
  const { openSocket } = await import("../../../src/datapath/dgram/socket.ts");
  const holder = await openSocket("0.0.0.0", 0);
  const { port } = holder.address();
  using engines = openUserspaceEngines(addon);
  for (const engine of ["userspace", "dgram"] as const) {
    const error: unknown = await engines.open({ ...tunnel, engine, port }).catch((caught: unknown) => caught);
    expect(error).toMatchObject({
      code: "engine/open",
      message: `the ${engine} engine cannot start on flannel.1`,
      fields: { errno: "EADDRINUSE" },
    });
    expect(error instanceof FlannelError ? error.remedy : "").toStartWith(`UDP port ${port} is taken`);
  }
  holder.close();
  expect(engines.held.tunnels).toEqual([]);
  expect(log).toEqual(["open tun flannel.1", "close tun"]);
});
