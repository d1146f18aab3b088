import { FlannelError } from "../base/error.ts";
import type {
  Addon,
  Engine,
  EngineOptions,
  EngineStats,
  ForwardingTable,
  NamedDescriptor,
} from "../native/ports.ts";
import { emptyPlan, type ForwardItem, type Plan, type TunnelEngine, type TunnelItem } from "../plan/plan.ts";
import { itemText } from "../plan/text.ts";
import { openDgramEngine } from "./dgram/engine.ts";
import { subnetsByPeer } from "./forwarding.ts";

/** The userspace engines of this process, at most one per TUN device. */
export interface UserspaceEngines extends Disposable {
  /** What they were last given: they are the only place where it stands. */
  readonly held: Plan;
  /** Opens the engine of `tunnel`, or opens it anew where it cannot change live. Makes the TUN if need be. */
  open(tunnel: TunnelItem): Promise<void>;
  /** Whether a TUN can be had at all, found out with one that goes again. @throws FlannelError `engine/open` */
  probe(tunnel: TunnelItem): void;
  /** Hands the engine of each tunnel its whole table. */
  setTables(tunnels: readonly TunnelItem[], forwards: readonly ForwardItem[]): void;
  close(device: string): void;
  /** Stops reading, with nothing lost. @returns what another process can go on with */
  pause(): NamedDescriptor[];
  /** Goes on after {@link pause}. */
  resume(): void;
  /** Lets go of everything for good, while {@link held} stays as it was: another process goes on. */
  surrender(): void;
  stats(): { readonly device: string; readonly stats: EngineStats }[];
  /** Engines that have ended by themselves, with the reason. */
  failures(): { readonly device: string; readonly failure: string }[];
}

/** What opens engines, the native one and the reference. */
export type EngineAddon = Pick<Addon, "openEngine" | "openTun">;

/** @param onClosed told of each engine that is closed for good, before another takes its place */
export function openUserspaceEngines(
  addon: EngineAddon,
  onClosed: (device: string) => void = () => undefined,
): UserspaceEngines {
  const openers: Readonly<Record<TunnelEngine, EngineOpener>> = {
    userspace: addon.openEngine,
    dgram: (options) => openDgramEngine(addon.openTun, options),
  };
  const engines = new Map<string, OpenEngine>();
  let surrendered = false;
  const retune = ({ engine, tunnel: { latency: before } }: OpenEngine, { device, latency }: TunnelItem) => {
    if (latency === before) return;
    try {
      engine.setLatency?.(latency);
    } catch (error) {
      drop(device); // the next pass opens it anew
      throw error;
    }
  };
  const drop = (device: string) => {
    engines.get(device)?.engine.close();
    engines.delete(device);
  };
  const close = (device: string) => {
    if (surrendered || !engines.has(device)) return;
    drop(device);
    onClosed(device);
  };
  return {
    get held() {
      const all = [...engines.values()];
      return {
        ...emptyPlan,
        tunnels: all.map(({ tunnel }) => tunnel),
        forwards: all.flatMap(({ forwards }) => forwards ?? []),
      };
    },
    async open(tunnel) {
      if (surrendered) return;
      const present = engines.get(tunnel.device);
      if (present !== undefined && !mustReopen(present.tunnel, tunnel)) return retune(present, tunnel);
      close(tunnel.device);
      const { device, port, local, mtuBytes, latency, encapsulation } = tunnel;
      const options = { device, port, local: `${local}`, mtuBytes, latency, encapsulation };
      const engine = await openEngine(openers[tunnel.engine], tunnel.engine, options);
      engines.set(device, { engine, tunnel, forwards: undefined });
    },
    probe({ engine, device, port, local, mtuBytes, encapsulation }) {
      try {
        addon.openTun(`fl-probe${process.pid}`).close();
      } catch (error) {
        throw openFailure(error, engine, { device, port, local: `${local}`, mtuBytes, encapsulation });
      }
    },
    setTables(tunnels, forwards) {
      if (surrendered) return;
      for (const tunnel of tunnels) {
        const entry = engines.get(tunnel.device);
        if (entry === undefined) continue;
        const own = forwards.filter(({ device }) => device === tunnel.device);
        if (
          itemText({ type: "tunnel", value: tunnel }) === tunnelText(entry) &&
          sameForwards(entry.forwards, own)
        )
          continue;
        entry.engine.setTable(tableOf(tunnel, own));
        engines.set(tunnel.device, { ...entry, tunnel, forwards: own });
      }
    },
    close,
    pause: () =>
      [...engines.values()].flatMap(({ engine }) => {
        if (engine.pause !== undefined) return engine.pause();
        engine.close(); // it would go on reading
        return [];
      }),
    resume() {
      for (const [device, { engine }] of engines) {
        if (engine.resume !== undefined) engine.resume();
        else drop(device); // the next pass opens it anew
      }
    },
    surrender() {
      surrendered = true;
      for (const { engine } of engines.values()) engine.close();
    },
    stats: () => [...engines].map(([device, { engine }]) => ({ device, stats: engine.stats() })),
    failures: () =>
      [...engines].flatMap(([device, { engine }]) => {
        const failure = engine.failure();
        return failure === null ? [] : [{ device, failure }];
      }),
    [Symbol.dispose]() {
      for (const device of [...engines.keys()]) drop(device);
    },
  };
}

interface OpenEngine {
  readonly engine: Engine;
  readonly tunnel: TunnelItem;
  /** What its table has; undefined before it has one. */
  readonly forwards: readonly ForwardItem[] | undefined;
}

type EngineOpener = (options: EngineOptions) => Engine | Promise<Engine>;

async function openEngine(open: EngineOpener, name: TunnelEngine, options: EngineOptions): Promise<Engine> {
  try {
    return await open(options);
  } catch (error) {
    throw openFailure(error, name, options);
  }
}

function openFailure(error: unknown, name: TunnelEngine, options: EngineOptions): unknown {
  if (!(error instanceof FlannelError)) return error;
  const remedy = remedies[String(error.fields["errno"])]?.(options);
  return new FlannelError(
    "engine/open",
    `the ${name} engine cannot start on ${options.device}`,
    { errno: error.fields["errno"] },
    { cause: error, ...(remedy === undefined ? {} : { remedy }) },
  );
}

const remedies: Readonly<
  Record<string, (options: Pick<EngineOptions, "device" | "port" | "local">) => string>
> = {
  EADDRINUSE: ({ port }) =>
    `UDP port ${port} is taken: stop the other flannel-lite or flanneld, or remove the kernel's vxlan device on it (ip -d link show type vxlan)`,
  EADDRNOTAVAIL: ({ local }) => `${local} is not an address of this host: choose the uplink by interface`,
  EBUSY: ({ device }) => `Another process holds ${device}: stop it`,
  EINVAL: ({ device }) => `A device named ${device} of another kind is in the way: ip link delete ${device}`,
  EPERM: () => "It needs root or CAP_NET_ADMIN",
};

function tableOf(tunnel: TunnelItem, forwards: readonly ForwardItem[]): ForwardingTable {
  const { overlay, strict, allowSources } = tunnel;
  const common = {
    overlay: overlay.map(String),
    strict,
    allowSources: allowSources.map(String),
    peers: subnetsByPeer(forwards),
  };
  if (tunnel.encapsulation === "udp")
    return { encapsulation: "udp", answerFrom: tunnel.answerFrom.map(String), ...common };
  if (tunnel.encapsulation === "ipip") return { encapsulation: "ipip", ...common };
  const { vni, vtepMac } = tunnel;
  return { encapsulation: "vxlan", vni, vtepMac, ...common };
}

/** Which engine it is, encapsulation, port, source address and MTU are fixed when it opens; the rest may change. */
function mustReopen(held: TunnelItem, wanted: TunnelItem): boolean {
  return (
    held.engine !== wanted.engine ||
    held.encapsulation !== wanted.encapsulation ||
    held.port !== wanted.port ||
    held.mtuBytes !== wanted.mtuBytes ||
    !held.local.equals(wanted.local)
  );
}

function tunnelText({ tunnel }: { tunnel: TunnelItem }): string {
  return itemText({ type: "tunnel", value: tunnel });
}

function sameForwards(a: readonly ForwardItem[] | undefined, b: readonly ForwardItem[]): boolean {
  return (
    a?.length === b.length &&
    a.every((value, at) => {
      const other = b[at];
      return (
        other !== undefined &&
        value.mac === other.mac &&
        value.to.equals(other.to) &&
        value.via.equals(other.via)
      );
    })
  );
}
