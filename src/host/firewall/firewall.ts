import { openBrake } from "../../base/brake.ts";
import type { Clock } from "../../base/clock.ts";
import { errorText, FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import type { LeaseSubnets } from "../../lease/lease.ts";
import type { Addon } from "../../native/ports.ts";
import type { Prefix } from "../../net/prefix.ts";
import type { Changes, Engine } from "./engine.ts";
import { hasIptables, openIptables } from "./iptables.ts";
import { hasNftables, openNftables } from "./nftables.ts";
import { type Programs, systemPrograms } from "./programs.ts";
import { planFirewall } from "./rules.ts";
import { watchFirewall } from "./watch.ts";

export interface FirewallOptions {
  readonly engine: "auto" | "iptables" | "nftables";
  /** The network's EnableNFTables: what `auto` prefers. */
  readonly enableNftables: boolean;
  readonly masquerade: boolean;
  readonly forward: boolean;
  readonly noMasquerade: readonly Prefix[];
  readonly fullyRandom: boolean;
  /** Name of our nftables table: one network's on this host. */
  readonly table: string;
  readonly ranges: readonly Prefix[];
  /** Networks of the run before, whose rules go. */
  readonly previous: readonly Prefix[];
}

export interface FirewallContext {
  readonly addon: Pick<Addon, "openFirewallMonitor" | "legacyTableState">;
  readonly log: Log;
  readonly clock: Clock;
  readonly programs?: Programs;
  /** Called when {@link Firewall.trouble} or {@link Firewall.blocked} changes. */
  readonly onChange?: () => void;
}

/** Keeps masquerade and forward rules in the kernel's packet filter. */
export interface Firewall {
  /** Sets whose rules they are; the next comparison aims at it. */
  want(subnets: LeaseSubnets): void;
  /** Goes by other options from the next comparison on, which takes away what only the former ones asked for. */
  change(options: FirewallOptions): Promise<void>;
  /** Compares once and repairs. Failures are logged and show in `trouble`; {@link run} tries again. */
  ensure(): Promise<void>;
  /** Compares and repairs when somebody changes the packet filter, and on a slow timer. */
  run(stop: AbortSignal): Promise<void>;
  /** Removes ours, of every engine that is installed. @returns one line a removal */
  remove(): Promise<string[]>;
  readonly status: FirewallStatus;
  /** Why masquerading, asked for, is not in place. */
  readonly blocked: string | undefined;
}

export interface FirewallStatus {
  readonly engine: "iptables" | "nftables" | null;
  /** Number of rules wanted. */
  readonly rules: number;
  /** How often others' changes were set right. */
  readonly repairs: number;
  /** Somebody else keeps changing ours; repairs are slowed down. */
  readonly contested: boolean;
  readonly trouble: string | null;
}

/** Everything is compared again this often, whether or not anything was noticed. */
const resyncMs = 60_000;
/** A failed pass is tried again after this long, doubling up to {@link retryMsMax}. */
const retryMs = 1_000;
const retryMsMax = 30_000;
/** Changes are gathered for this long, so that a burst is one pass. */
const foldMs = 50;

export function openFirewall(first: FirewallOptions, context: FirewallContext): Firewall {
  const { log, clock, programs = systemPrograms } = context;
  let options = first;
  let engines = openEngines(options, programs);
  let subnets: LeaseSubnets = {};
  let wanted = planFirewall({ ...options, subnets });
  let chosen: Engine | undefined;
  let inPlace = false;
  let trouble: string | undefined;
  let repairs = 0;
  const brake = openBrake(clock);
  let leftoversGone = false;
  let wake = Promise.withResolvers<void>();
  let culprit: string | undefined;
  let queue: Promise<unknown> = Promise.resolve();

  const settle = async (): Promise<void> => {
    const before = { blocked: firewall.blocked, trouble };
    const by = culprit;
    culprit = undefined;
    try {
      if (options.masquerade || options.forward) {
        const engine = choose();
        report(engine, await engine.ensure(wanted), by);
        inPlace = true;
      }
      if (!leftoversGone) await removeLeftovers();
      leftoversGone = true;
      if (trouble !== undefined) log.info("firewall rules are in place again");
      trouble = undefined;
    } catch (error) {
      const text = errorText(error);
      if (text !== trouble)
        log.error("firewall rules could not be set", { code: codeOf(error), error: text });
      trouble = text;
    }
    if (before.blocked !== firewall.blocked || before.trouble !== trouble) context.onChange?.();
  };

  const choose = (): Engine => {
    const { name, reason } = chooseEngine(options, programs);
    if (chosen?.name !== name) {
      log.info("firewall chosen", { firewall: name, reason });
      inPlace = false;
      leftoversGone = false;
    }
    chosen = engines[name];
    return chosen;
  };

  /** Without rules of ours to set, an old one that cannot be removed stops nothing. */
  const removeLeftovers = async (): Promise<void> => {
    for (const engine of Object.values(engines)) {
      if (engine === chosen) continue;
      try {
        for (const line of await engine.remove()) log.info("removed an old firewall rule", { rule: line });
      } catch (error) {
        log.warn("old firewall rules could not be looked for", {
          firewall: engine.name,
          error: errorText(error),
        });
      }
    }
  };

  const report = ({ name }: Engine, { missing, removed }: Changes, by: string | undefined): void => {
    if (missing.length + removed.length === 0) return;
    const fields = {
      firewall: name,
      missing: missing.slice(0, linesMax),
      removed: removed.slice(0, linesMax),
    };
    if (!inPlace) {
      log.info("firewall rules set", { ...fields, missing: missing.length });
      return;
    }
    repairs++;
    if (brake.repaired()) log.error("somebody keeps changing our firewall rules; repairs slow down", { by });
    log.warn("firewall rules were changed by others; set right", { ...fields, by, repairs });
  };

  const firewall: Firewall = {
    want(own) {
      subnets = own;
      const next = planFirewall({ ...options, subnets });
      if (JSON.stringify(next) === JSON.stringify(wanted)) return;
      wanted = next;
      inPlace = false;
      wake.resolve();
    },
    async change(to) {
      await queue;
      options = to;
      engines = openEngines(to, programs);
      wanted = planFirewall({ ...to, subnets });
      // With none chosen, every engine's leftovers are looked for.
      chosen = undefined;
      inPlace = false;
      leftoversGone = false;
      wake.resolve();
    },
    ensure() {
      const next = queue.then(settle);
      queue = next;
      return next;
    },
    async run(stop) {
      const onStop = () => wake.resolve();
      stop.addEventListener("abort", onStop);
      const watching = watchFirewall(
        { ...context, current: () => chosen?.watch },
        (by) => {
          culprit = by;
          wake.resolve();
        },
        stop,
      );
      let backoffMs = retryMs;
      while (!stop.aborted) {
        const waitMs = trouble === undefined ? resyncMs : backoffMs;
        backoffMs = trouble === undefined ? retryMs : Math.min(backoffMs * 2, retryMsMax);
        const timer = new AbortController();
        await Promise.race([wake.promise, clock.sleep(waitMs, timer.signal)]);
        timer.abort();
        await clock.sleep(Math.max(foldMs, brake.waitMs), stop);
        if (stop.aborted) break;
        wake = Promise.withResolvers();
        await firewall.ensure();
      }
      stop.removeEventListener("abort", onStop);
      await watching;
    },
    async remove() {
      await queue;
      inPlace = false;
      return [...(await engines.iptables.remove()), ...(await engines.nftables.remove())];
    },
    get status() {
      const rules = wanted.reduce(
        (sum, { masquerade, forward }) => sum + masquerade.length + forward.length,
        0,
      );
      return {
        engine: chosen?.name ?? null,
        rules,
        repairs,
        contested: brake.contested,
        trouble: trouble ?? null,
      };
    },
    get blocked() {
      return options.masquerade && !inPlace ? (trouble ?? "masquerade rules are not set yet") : undefined;
    },
  };
  return firewall;
}

function openEngines(options: FirewallOptions, programs: Programs) {
  const { ranges, previous, fullyRandom, table } = options;
  const former = previous.filter((one) => !ranges.some((range) => range.equals(one)));
  const networks = [...ranges, ...former];
  return {
    iptables: openIptables(programs, { networks, fullyRandom }),
    nftables: openNftables(programs, { networks, fullyRandom, table }),
  };
}

/** Rules named in a log line; the rest is cut. */
const linesMax = 20;

/** @throws FlannelError `firewall/missing` where neither is installed */
function chooseEngine(
  { engine, enableNftables, ranges }: FirewallOptions,
  programs: Programs,
): { readonly name: Engine["name"]; readonly reason: string } {
  if (engine !== "auto") return { name: engine, reason: "configured" };
  const installed = {
    iptables: ranges.every(({ family }) => hasIptables(programs, family)),
    nftables: hasNftables(programs),
  };
  const first = enableNftables ? "nftables" : "iptables";
  const second = enableNftables ? "iptables" : "nftables";
  if (installed[first]) {
    return {
      name: first,
      reason: enableNftables ? "EnableNFTables in the network configuration" : "the default",
    };
  }
  if (installed[second]) return { name: second, reason: `${first} is not installed` };
  throw new FlannelError(
    "firewall/missing",
    "neither iptables nor nft is installed",
    {},
    { retryable: true, remedy: "Install one of them, or switch host.forward_rules and host.ip_masq off" },
  );
}

function codeOf(error: unknown): string | undefined {
  return error instanceof FlannelError ? error.code : undefined;
}
