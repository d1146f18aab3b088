import type { DocumentChange } from "../config/document-difference.ts";
import type { LivePart } from "../config/option.ts";
import type { Config } from "../config/schema.ts";
import type { NetworkConfigWatch } from "../network/network-config.ts";
import { type Applier, openReloader, type ReloadReport, type UnappliedChange } from "../reload.ts";
import type { DaemonContext } from "./context.ts";

/** A reload does not wait longer for the store. */
const lookMsMax = 3_000;

/** The configuration in effect, and who makes a change of it true. */
export interface LiveConfig {
  readonly current: Config;
  /** What waits for a restart, changes of the store's network configuration among it. */
  readonly waiting: readonly UnappliedChange[];
  /** From now on `applier` takes changes of `part`. Before, there is nothing to do: it is opened by `current`. */
  apply(part: LivePart, applier: Applier): void;
  /** From now on a reload looks there too. */
  lookAt(network: NetworkConfigWatch): void;
  reload(): Promise<ReloadReport>;
}

export function openLiveConfig(
  config: Config,
  {
    reread,
    log,
    clock,
    onBegin,
    onEnd,
  }: Pick<DaemonContext, "reread" | "log" | "clock"> & {
    readonly onBegin: () => void;
    readonly onEnd: () => void;
  },
  stop: AbortSignal,
): LiveConfig {
  const nothing: Applier = () => undefined;
  const appliers: Record<LivePart, Applier> = {
    log: nothing,
    uplink: nothing,
    listeners: nothing,
    firewall: nothing,
    forwarding: nothing,
    plan: nothing,
    checksum: nothing,
    lease: nothing,
    use: nothing,
  };
  let network: NetworkConfigWatch | undefined;
  const inStore = () => (network?.changes ?? []).map(storeChange);
  const reloader = openReloader(config, {
    reread,
    appliers,
    async lookElsewhere() {
      const answered = new AbortController();
      await Promise.race([network?.look(stop), clock.sleep(lookMsMax, answered.signal)]);
      answered.abort();
      return inStore();
    },
    onBegin,
    onEnd,
    log,
  });
  return {
    get current() {
      return reloader.config;
    },
    get waiting() {
      return [...reloader.waiting, ...inStore()];
    },
    apply(part, applier) {
      appliers[part] = applier;
    },
    lookAt(watch) {
      network = watch;
    },
    reload: reloader.reload,
  };
}

/** A change of the network configuration in the store. */
function storeChange({ name, from = "unset", to = "unset" }: DocumentChange): UnappliedChange {
  return { key: `${name} in the store`, from, to, reason: "the network configuration is read at the start" };
}
