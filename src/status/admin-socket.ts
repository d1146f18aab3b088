import { chmodSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { errorText, FlannelError } from "../base/error.ts";
import type { StatusReport } from "./report.ts";

/** A daemon answers at once; one that does not is stuck. */
const answerMsMax = 3_000;

export function adminSocketPath(runDir: string): string {
  return join(runDir, "admin.sock");
}

/** Where a daemon answers. */
export interface AdminSocket extends AsyncDisposable {
  /** Leaves the path to a successor, which serves on it from now on. */
  surrender(): void;
}

/** Makes sure that no daemon serves `runDir`. @throws FlannelError `daemon/running` naming the other's pid */
export async function refuseRunning(runDir: string): Promise<void> {
  const other = await readReport(runDir).catch(() => undefined);
  if (other !== undefined) {
    throw new FlannelError(
      "daemon/running",
      `flannel-lite is already running with run directory ${runDir}`,
      { pid: other.pid },
      { remedy: "Stop it first, or give this one its own host.run_dir, store prefix and VNI" },
    );
  }
}

/**
 * Serves the daemon's report on a Unix socket that only root can reach, and by that claims `runDir`.
 * @throws FlannelError `host/run-dir`
 */
export function openAdminSocket(runDir: string, report: () => StatusReport): AdminSocket {
  const path = adminSocketPath(runDir);
  let surrendered = false;
  try {
    mkdirSync(runDir, { recursive: true, mode: 0o700 });
    rmSync(path, { force: true }); // a crash leaves it behind; nobody answered on it
    const server = Bun.serve({
      unix: path,
      routes: { "/status": () => Response.json(report()) },
      fetch: () => new Response("not found\n", { status: 404 }),
    });
    chmodSync(path, 0o600);
    return {
      surrender() {
        surrendered = true;
      },
      async [Symbol.asyncDispose]() {
        // Stopping it would take the successor's socket away with ours; it ends with the process.
        if (surrendered) return server.unref();
        await server.stop(true);
        rmSync(path, { force: true });
      },
    };
  } catch (error) {
    throw new FlannelError(
      "host/run-dir",
      `cannot serve the admin socket ${path}`,
      {},
      { cause: error, remedy: "Make the directory writable or choose another with host.run_dir" },
    );
  }
}

/** Asks the daemon that holds `runDir`. @throws FlannelError `daemon/not-running` */
export async function readReport(runDir: string): Promise<StatusReport> {
  const unix = adminSocketPath(runDir);
  let response: Response;
  try {
    response = await fetch("http://localhost/status", { unix, signal: AbortSignal.timeout(answerMsMax) });
    if (!response.ok) throw new Error(`it answered ${response.status}`);
    // Only root can serve on this socket: the directory is 0700.
    return (await response.json()) as StatusReport;
  } catch (error) {
    throw new FlannelError(
      "daemon/not-running",
      `no flannel-lite answers on ${unix}`,
      { reason: errorText(error) },
      { remedy: "Start it, or name the daemon's host.run_dir" },
    );
  }
}
