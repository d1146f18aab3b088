import { errorText } from "../base/error.ts";
import type { Log } from "../base/log.ts";
import type { Addon, Descriptors, Engine, EngineOptions } from "../native/ports.ts";

/** More than we ever leave with systemd; a larger number is nonsense. */
const inheritedMax = 64;

/** What the descriptors of engines need from outside. */
export interface DescriptorContext {
  readonly addon: Pick<
    Addon,
    "openEngine" | "inheritDescriptors" | "notify" | "notifyDescriptors" | "notifyBarrier"
  >;
  /** NOTIFY_SOCKET, LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are read (sd_listen_fds(3)). */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly pid: number;
  readonly log: Log;
}

/**
 * Lets packets wait in the kernel between two runs: gives engines the TUN and sockets that an earlier run left
 * with systemd or handed to us, where they fit, and leaves ours with systemd (FileDescriptorStoreMax= of the unit).
 */
export interface EngineDescriptors {
  /**
   * Which devices will have engines: the rest of what was handed down is let go of, and must be before the first
   * engine opens, since a socket of it may have its port.
   */
  expect(devices: readonly string[]): void;
  /** As {@link Addon.openEngine}, with what was handed down. */
  open(options: EngineOptions): Engine;
  /** After the engine of `device` was closed for good: nobody shall hold its descriptors. */
  forget(device: string): void;
  /** Takes these in place of what there was. */
  receive(handed: Descriptors): void;
  /** Takes ours out of systemd's store: the successor stores its own. */
  withdraw(): void;
}

/** Takes what systemd passed to this process; to be called before it opens anything itself. */
export function openEngineDescriptors({ addon, env, pid, log }: DescriptorContext): EngineDescriptors {
  const socket = env["NOTIFY_SOCKET"] ?? "";
  const passed = passedNames(env, pid, log);
  let handed = passed.length === 0 ? undefined : addon.inheritDescriptors(passed);
  let isReceived = false;
  let awaited: readonly string[] = [];
  const stored = new Map<string, readonly string[]>();

  const forget = (names: readonly string[]) => {
    if (socket === "" || names.length === 0) return;
    try {
      for (const name of new Set(names)) addon.notify(socket, `FDSTOREREMOVE=1\nFDNAME=${name}`);
      // As long as systemd holds a queue or a socket, a new one cannot take its place.
      addon.notifyBarrier(socket);
    } catch (error) {
      log.warn("systemd may still hold old descriptors", { error: errorText(error) });
    }
  };
  const store = (device: string, engine: Engine) => {
    const descriptors = engine.descriptors?.() ?? [];
    if (socket === "" || descriptors.length === 0) return;
    try {
      // Without FDPOLL=0 systemd would look at every packet, and let go of a socket that has an error to tell.
      addon.notifyDescriptors(socket, "FDSTORE=1\nFDPOLL=0", descriptors);
      stored.set(
        device,
        descriptors.map(({ name }) => name),
      );
    } catch (error) {
      log.warn("systemd keeps no descriptors: a restart will lose packets", { error: errorText(error) });
    }
  };
  const unknown = () => {
    if (handed === undefined || isReceived) return [];
    const taken = new Set(handed.names());
    const names = passed.filter((name) => !taken.has(name));
    return names.map((name) => ({ name, reason: "it is neither a TUN nor a UDP socket" }));
  };
  const refuse = (refused: readonly { readonly name: string; readonly reason: string }[]) => {
    for (const { name, reason } of refused)
      log.warn("a descriptor of the run before is of no use: what waits in it is lost", { name, reason });
    forget(refused.map(({ name }) => name));
  };

  const expect = (devices: readonly string[]) => {
    awaited = devices;
    if (devices.length > 0) return refuse([...unknown(), ...(handed?.keepOnly(devices) ?? [])]);
    // No engine will come that could use any of it.
    const names = handed === undefined ? [] : isReceived ? handed.names() : passed;
    handed?.close();
    handed = undefined;
    forget(names);
  };

  return {
    expect,
    open(options) {
      const { device, local, port, encapsulation } = options;
      refuse(handed?.verify(device, local, port, encapsulation) ?? []);
      awaited = awaited.filter((other) => other !== device);
      const names = (handed?.names() ?? []).filter((name) => name.startsWith(`${device}-`));
      try {
        const engine = addon.openEngine(options, handed);
        if (names.length > 0) log.info("going on with the descriptors of the run before", { device, names });
        store(device, engine);
        return engine;
      } catch (error) {
        forget(names); // the next attempt begins with nothing in its way
        throw error;
      } finally {
        handed?.keepOnly(awaited);
        if (awaited.length === 0) {
          handed?.close();
          handed = undefined;
        }
      }
    },
    forget(device) {
      forget(stored.get(device) ?? []);
      stored.delete(device);
    },
    receive(given) {
      expect([]);
      handed = given;
      isReceived = true;
    },
    withdraw() {
      forget([...stored.values()].flat());
      stored.clear();
    },
  };
}

/** What systemd calls the descriptors that it passed to us, from 3 on. */
function passedNames(env: DescriptorContext["env"], pid: number, log: Log): readonly string[] {
  const { LISTEN_PID: forPid, LISTEN_FDS: countText, LISTEN_FDNAMES: namesText } = env;
  if (countText === undefined || forPid !== String(pid)) return [];
  const names = namesText?.split(":") ?? [];
  if (/^[0-9]+$/.test(countText) && Number(countText) === names.length && names.length <= inheritedMax)
    return names;
  log.warn("descriptors passed to us are left alone: their number and names disagree", {
    LISTEN_FDS: countText.slice(0, 20),
    names: names.length,
  });
  return [];
}
