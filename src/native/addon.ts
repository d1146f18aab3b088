import { readFileSync } from "node:fs";
import { FlannelError } from "../base/error.ts";
import type { BenchCounter, BenchEcho, BenchTools } from "./bench-tools.ts";
import { loadAddonFromMemory } from "./memfd.ts";
import type {
  Addon,
  Claim,
  Descriptors,
  Door,
  Engine,
  EngineOptions,
  FirewallMonitor,
  Kernel,
  KernelEdit,
  NamedDescriptor,
  Tun,
} from "./ports.ts";

/**
 * The addon's file. A compiled program carries it, for which the path must be literal; run from source,
 * Bun 1.4 refuses to import a .node file whatever its type.
 */
const addonPath =
  Bun.embeddedFiles.length > 0
    ? (await import("../../dist/flannel-lite.node", { with: { type: "file" } })).default
    : new URL("../../dist/flannel-lite.node", import.meta.url).pathname;

/** The result of each edit is empty, or why it failed. */
type NativeKernel = Omit<Kernel, "apply"> & { apply(edits: readonly KernelEdit[]): Promise<string[]> };

/** What the .node file exports; its values have the shapes of ports.ts already. */
interface NativeAddon {
  openKernel(): Promise<NativeKernel>;
  readonly Engine: new (options: EngineOptions, handed?: Descriptors) => Engine;
  readonly Tun: new (device: string) => Tun;
  readonly Claim: new (name: string, handed?: Descriptors) => Claim;
  readonly Door: new (path: string) => Door;
  inheritDescriptors(names: readonly string[]): Descriptors;
  takeOver(path: string): Promise<Descriptors | string>;
  openFirewallMonitor(chains: readonly string[]): Promise<FirewallMonitor>;
  legacyTableState(family: number, table: string): string;
  notify(path: string, message: string): void;
  notifyTimed(path: string, message: string): void;
  notifyDescriptors(path: string, message: string, descriptors: readonly NamedDescriptor[]): void;
  notifyBarrier(path: string): void;
  readonly issueAuthority: Addon["issueAuthority"];
  readonly issueCertificate: Addon["issueCertificate"];
  txChecksum(device: string): boolean;
  setTxChecksum(device: string, on: boolean): void;
  knock(address: string, port: number, waitMs: number): Promise<boolean>;
  readonly benchBlast: BenchTools["blast"];
  readonly benchRoundTrips: BenchTools["roundTrips"];
  readonly BenchCounter: new (port: number) => BenchCounter;
  readonly BenchEcho: new (port: number) => BenchEcho;
}

/** Passing conditions of the kernel: the same call may succeed when it is made again. */
const retryable = new Set(["EAGAIN", "EBUSY", "EINTR", "ENOBUFS", "ENOMEM", "ETIMEDOUT"]);

/**
 * Loads the native addon. What its methods throw or reject with is a FlannelError `native/<errno>` (in lower
 * case, `native/eexist`) whose fields have `errno` (`EEXIST`); see {@link addonError}.
 * @throws FlannelError `native/load`: the system allows no executable memory file
 */
export function openAddon(): Addon {
  const native = loadNative();
  return {
    openKernel: () => reported(async () => kernelOf(await native.openKernel())),
    openEngine: (options, handed) => reported(() => guarded(new native.Engine(options, handed))),
    openTun: (device) => reported(() => guarded(new native.Tun(device))),
    claim: (name, handed) => reported(() => guarded(new native.Claim(name, handed))),
    openFirewallMonitor: (chains) => reported(async () => guarded(await native.openFirewallMonitor(chains))),
    legacyTableState: (family, table) => reported(() => native.legacyTableState(family, table)),
    txChecksum: (device) => reported(() => native.txChecksum(device)),
    setTxChecksum: (device, on) => reported(() => native.setTxChecksum(device, on)),
    knock: (address, port, waitMs) => reported(() => native.knock(address, port, waitMs)),
    notify: (path, message) => reported(() => native.notify(path, message)),
    notifyTimed: (path, message) => reported(() => native.notifyTimed(path, message)),
    notifyDescriptors: (...args) => reported(() => native.notifyDescriptors(...args)),
    notifyBarrier: (path) => reported(() => native.notifyBarrier(path)),
    // Not guarded, since a native class takes no other than its own objects.
    inheritDescriptors: (names) => reported(() => native.inheritDescriptors(names)),
    openDoor: (path) => reported(() => guarded(new native.Door(path))),
    takeOver: (path) => reported(() => native.takeOver(path)),
    issueAuthority: (...args) => reported(() => native.issueAuthority(...args)),
    issueCertificate: (...args) => reported(() => native.issueCertificate(...args)),
  };
}

/** The bench's load and meters, from the same file; fails as {@link openAddon}'s methods do. */
export function openBenchTools(): BenchTools {
  const native = loadNative();
  return {
    blast: (...args) => reported(() => native.benchBlast(...args)),
    openCounter: (port) => reported(() => guarded(new native.BenchCounter(port))),
    openEcho: (port) => reported(() => guarded(new native.BenchEcho(port))),
    roundTrips: (...args) => reported(() => native.benchRoundTrips(...args)),
  };
}

/**
 * A failure of the addon as a FlannelError: its message begins with the errno's name. One without such a
 * beginning (an argument of the wrong type, a panic) gets the code `native/failed`.
 */
export function addonError(error: unknown): FlannelError {
  if (error instanceof FlannelError) return error;
  const text = error instanceof Error ? error.message : String(error);
  const [, errno, message] = /^(E[A-Z0-9]+): (.*)$/s.exec(text) ?? [];
  if (errno === undefined || message === undefined) {
    return new FlannelError("native/failed", text, {}, { cause: error });
  }
  return new FlannelError(
    `native/${errno.toLowerCase()}`,
    message,
    { errno },
    { retryable: retryable.has(errno) },
  );
}

function loadNative(): NativeAddon {
  try {
    return loadAddonFromMemory(readFileSync(addonPath)) as NativeAddon;
  } catch (error) {
    throw new FlannelError(
      "native/load",
      "cannot load the native addon",
      {},
      {
        cause: error,
        remedy: "Mount /proc, and in a systemd unit set MemoryDenyWriteExecute=no",
      },
    );
  }
}

function kernelOf(native: NativeKernel): Kernel {
  const kernel = guarded(native);
  const apply: Kernel["apply"] = async (edits) =>
    (await kernel.apply(edits)).map((failure) => (failure === "" ? undefined : addonError(failure)));
  return new Proxy(kernel as unknown as Kernel, {
    get: (target, name) => (name === "apply" ? apply : Reflect.get(target, name)),
  });
}

/** `native` with every method reporting failures as {@link addonError} does. */
function guarded<T extends object>(native: T): T {
  return new Proxy(native, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name);
      if (typeof member !== "function") return member;
      // Methods of native objects refuse any other `this`.
      return (...args: unknown[]) => reported((): unknown => Reflect.apply(member, target, args));
    },
  });
}

/** Runs `call`, which throws or rejects with a FlannelError if at all. */
function reported<T>(call: () => T): T {
  try {
    const result = call();
    if (!(result instanceof Promise)) return result;
    return result.catch((error: unknown) => {
      throw addonError(error);
    }) as T;
  } catch (error) {
    throw addonError(error);
  }
}
