import type { Config } from "../config/schema.ts";
import { readReport } from "../status/admin-socket.ts";
import { statusText } from "../status/report.ts";

/** What the running daemon says of itself. @throws FlannelError `daemon/not-running` */
export async function status(config: Config, { json }: { json: boolean }): Promise<string> {
  const report = await readReport(config.host.runDir);
  return json ? `${JSON.stringify(report, null, 2)}\n` : statusText(report);
}
