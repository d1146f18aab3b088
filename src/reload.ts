import { errorText, FlannelError } from "./base/error.ts";
import type { Log } from "./base/log.ts";
import { changedSettings, type SettingChange, settingChange, withSettings } from "./config/change.ts";
import type { Loaded } from "./config/load.ts";
import type { LivePart } from "./config/option.ts";
import type { Config, Setting } from "./config/schema.ts";

/** A change that waits for a restart, or that failed, and why. */
export interface UnappliedChange extends SettingChange {
  readonly reason: string;
}

/** What became of a reload, key by key. */
export interface ReloadReport {
  readonly applied: readonly SettingChange[];
  /** What takes a restart; things of the store's network configuration among them. */
  readonly restart: readonly UnappliedChange[];
  /** What could not be applied; the value before still counts. */
  readonly failed: readonly UnappliedChange[];
  readonly warnings: readonly string[];
  /** The configuration is invalid, and nothing was changed; its message. */
  readonly invalid: string | null;
}

/**
 * Makes a part of the daemon go by `next`, of which only that part's settings differ from before.
 * @returns why that takes a restart; undefined where it is done
 * @throws FlannelError where it failed, and all is as before
 */
export type Applier = (next: Config) => Promise<string | undefined> | string | undefined;

/** The configuration in effect, and what changes it. */
export interface Reloader {
  /** What the daemon goes by: what it began with, and what was applied since. */
  readonly config: Config;
  /** Changes of the configuration that wait for a restart. */
  readonly waiting: readonly UnappliedChange[];
  /** Reads the configuration again, one reload at a time. Never rejects for a mistake in it. */
  reload(): Promise<ReloadReport>;
}

export interface ReloadContext {
  /** Reads flags, environment and file again. @throws FlannelError `config/invalid` */
  readonly reread: () => Pick<Loaded, "config" | "warnings">;
  readonly appliers: Readonly<Record<LivePart, Applier>>;
  /** What else waits for a restart: what the store has, looked at anew. */
  readonly lookElsewhere: () => Promise<readonly UnappliedChange[]>;
  /** Called around each reload. */
  readonly onBegin: () => void;
  readonly onEnd: () => void;
  readonly log: Log;
}

const needsRestart = "it is read at the start only";

export function openReloader(first: Config, context: ReloadContext): Reloader {
  const { appliers, log } = context;
  let config = first;
  let waiting: readonly UnappliedChange[] = [];
  let queue: Promise<unknown> = Promise.resolve();

  const reload = async (): Promise<ReloadReport> => {
    context.onBegin();
    try {
      const elsewhere = context.lookElsewhere();
      const report = await applyFile();
      return { ...report, restart: [...report.restart, ...(await elsewhere)] };
    } finally {
      context.onEnd();
    }
  };

  const applyFile = async (): Promise<ReloadReport> => {
    let loaded: Pick<Loaded, "config" | "warnings">;
    try {
      loaded = context.reread();
    } catch (error) {
      if (!(error instanceof FlannelError)) throw error;
      const invalid = errorText(error);
      log.error("the configuration is not reloaded", { error: invalid });
      return { applied: [], restart: [], failed: [], warnings: [], invalid };
    }
    const { config: read, warnings } = loaded;
    for (const warning of warnings) log.warn(warning);
    const applied: SettingChange[] = [];
    const restart: UnappliedChange[] = [];
    const failed: UnappliedChange[] = [];
    for (const [part, settings] of byPart(changedSettings(config, read))) {
      const changes = settings.map((one) => settingChange(one, config, read));
      const because = (reason: string) => changes.map((change) => ({ ...change, reason }));
      if (part === undefined) {
        restart.push(...because(needsRestart));
        continue;
      }
      const before = config;
      config = withSettings(before, read, settings);
      try {
        const reason = await appliers[part](config);
        if (reason === undefined) applied.push(...changes);
        else {
          config = before;
          restart.push(...because(reason));
        }
      } catch (error) {
        config = before;
        if (!(error instanceof FlannelError)) throw error;
        failed.push(...because(errorText(error)));
      }
    }
    waiting = restart;
    const report = { applied, restart, failed, warnings, invalid: null };
    tell(report, log);
    return report;
  };

  return {
    get config() {
      return config;
    },
    get waiting() {
      return waiting;
    },
    reload() {
      const next = queue.then(reload);
      queue = next.catch(() => undefined);
      return next;
    },
  };
}

/** Parts in the order of the schema; a part's settings are applied together. */
function byPart(settings: readonly Setting[]): Map<LivePart | undefined, Setting[]> {
  return Map.groupBy(settings, ({ option }) => option.live);
}

function tell({ applied, restart, failed }: ReloadReport, log: Log): void {
  for (const { key, from, to } of applied) log.info("setting applied", { key, from, to });
  for (const { key, from, to, reason } of restart)
    log.warn("a changed setting waits for a restart", { key, from, to, reason });
  for (const { key, from, to, reason } of failed)
    log.error("a changed setting could not be applied", { key, from, to, error: reason });
  if (applied.length + restart.length + failed.length === 0) log.info("reloaded: nothing has changed");
}
