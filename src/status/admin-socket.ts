import { chmodSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { errorText, FlannelError } from "../base/error.ts";
import type { ReloadReport } from "../reload.ts";
import type { StatusReport } from "./report.ts";

/** A daemon answers at once; one that does not is stuck. */
const answerMsMax = 3_000;

/** A reload may wait for a store that does not answer, and for the firewall. */
const reloadMsMax = 60_000;

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
 * Serves the daemon's report, and takes requests to reload, on a Unix socket that only root can reach, and by that claims `runDir`.
 * @throws FlannelError `host/run-dir`
 */
export function openAdminSocket(
  runDir: string,
  { report, reload }: { report: () => StatusReport; reload: () => Promise<ReloadReport> },
): AdminSocket {
  const path = adminSocketPath(runDir);
  let surrendered = false;
  try {
    mkdirSync(runDir, { recursive: true, mode: 0o700 });
    rmSync(path, { force: true }); // a crash leaves it behind; nobody answered on it
    const server = Bun.serve({
      unix: path,
      routes: {
        "/status": () => Response.json(report()),
        "/reload": { POST: async () => Response.json(await reload()) },
      },
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
  return (await ask(runDir, "/status", { method: "GET", msMax: answerMsMax })) as StatusReport;
}

/** Has the daemon that holds `runDir` reload. @throws FlannelError `daemon/not-running` */
export async function askReload(runDir: string): Promise<ReloadReport> {
  return (await ask(runDir, "/reload", { method: "POST", msMax: reloadMsMax })) as ReloadReport;
}

/** Only root can serve on this socket, since the directory is 0700: the answer is taken for what it should be. */
async function ask(
  runDir: string,
  path: string,
  { method, msMax }: { method: string; msMax: number },
): Promise<unknown> {
  const unix = adminSocketPath(runDir);
  try {
    const signal = AbortSignal.timeout(msMax);
    const response = await fetch(`http://localhost${path}`, { unix, method, signal });
    if (!response.ok) throw new Error(`it answered ${response.status}`);
    return await response.json();
  } catch (error) {
    throw new FlannelError(
      "daemon/not-running",
      `no flannel-lite answers on ${unix}`,
      { reason: reasonOf(error) },
      { remedy: "Start it, or name the daemon's host.run_dir" },
    );
  }
}

/** The runtime's own words are about typos in URLs. */
function reasonOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOENT") return "there is no such socket";
  return code === "ECONNREFUSED" ? "nobody listens on it" : errorText(error);
}
