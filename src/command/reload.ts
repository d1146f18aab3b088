import type { Config } from "../config/schema.ts";
import type { ReloadReport } from "../reload.ts";
import { askReload } from "../status/admin-socket.ts";

/**
 * Has the running daemon read its configuration again.
 * @returns what became of each key; exit code 2 for a mistake in the configuration, 1 where something failed
 * @throws FlannelError `daemon/not-running`
 */
export async function reload(
  config: Config,
  { json }: { json: boolean },
): Promise<{ output: string; exitCode: number }> {
  const report = await askReload(config.host.runDir);
  const exitCode = report.invalid !== null ? 2 : report.failed.length > 0 ? 1 : 0;
  return { output: json ? `${JSON.stringify(report, null, 2)}\n` : reloadText(report), exitCode };
}

/** The report for people, a line a key. */
function reloadText({ applied, restart, failed, warnings, invalid }: ReloadReport): string {
  const lines = [
    ...(invalid === null ? [] : [`nothing is changed: ${invalid}`]),
    ...warnings.map((warning) => `warning: ${warning}`),
    ...applied.map(({ key, from, to }) => `applied   ${key}: ${from} -> ${to}`),
    ...restart.map(({ key, from, to, reason }) => `restart   ${key}: ${from} -> ${to} (${reason})`),
    ...failed.map(({ key, from, to, reason }) => `failed    ${key}: ${from} -> ${to} (${reason})`),
  ];
  return `${(lines.length === 0 ? ["nothing has changed"] : lines).join("\n")}\n`;
}
