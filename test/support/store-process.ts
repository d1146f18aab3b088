import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gatewayCaller } from "./embedded.ts";
import { type Etcd, freePorts, keysBy } from "./etcd.ts";

const program = join(import.meta.dir, "../../dist/flannel-lite");
const startMsMax = 20_000;

/** `flannel-lite store serve`, as it is shipped, on one port and one directory of its own. */
export interface StoreProcess
  extends AsyncDisposable, Pick<Etcd, "endpoint" | "call" | "put" | "get" | "delete" | "compact"> {
  readonly dataDir: string;
  /** Of the process that serves now. */
  readonly pid: number;
  /** Ends it at once, as `kill -9`. */
  kill(): Promise<void>;
  /** Starts it again; resolves when it answers. */
  start(): Promise<void>;
  /** Asks it to stop; gives its exit code. */
  terminate(): Promise<number>;
  /** What it has said so far. */
  log(): Promise<string>;
}

export async function startStoreProcess(): Promise<StoreProcess> {
  const directory = mkdtempSync(join(tmpdir(), "fl-store-"));
  const dataDir = join(directory, "data");
  const logFile = join(directory, "log");
  const [port] = freePorts(1);
  const listen = `127.0.0.1:${port}`;
  const endpoint = `http://${listen}`;
  const call = gatewayCaller(endpoint);
  let child: Bun.Subprocess | undefined;

  const start = async () => {
    const log = Bun.file(logFile);
    child = Bun.spawn([program, "store", "serve", "-data-dir", dataDir, "-listen", listen], {
      stdout: "ignore",
      stderr: log,
      env: {},
    });
    for (const deadline = Date.now() + startMsMax; ; await Bun.sleep(10)) {
      const isUp = await call("/v3/maintenance/status", {}).then(
        () => true,
        () => false,
      );
      if (isUp) return;
      if (child.exitCode !== null || Date.now() > deadline) {
        throw new Error(`the store does not start: ${await log.text()}`);
      }
    }
  };
  const end = async (signal: NodeJS.Signals) => {
    child?.kill(signal);
    const code = await child?.exited;
    child = undefined;
    return code ?? -1;
  };
  const dispose = async () => {
    await end("SIGKILL");
    rmSync(directory, { recursive: true, force: true });
  };
  try {
    await start();
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    endpoint,
    dataDir,
    get pid() {
      return child?.pid ?? 0;
    },
    call,
    ...keysBy(call),
    async kill() {
      await end("SIGKILL");
    },
    start,
    terminate: () => end("SIGTERM"),
    log: () => Bun.file(logFile).text(),
    [Symbol.asyncDispose]: dispose,
  };
}
