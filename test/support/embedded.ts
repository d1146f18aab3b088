import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../src/base/log.ts";
import { openStoreServer, type ServeOptions, type StoreServer } from "../../src/store/embedded/serve.ts";
import { type Etcd, keysBy } from "./etcd.ts";

/** The embedded store on loopback, in this process, with a data directory of its own. */
export interface EmbeddedStore
  extends AsyncDisposable, Pick<Etcd, "endpoint" | "call" | "put" | "get" | "delete" | "compact"> {
  readonly server: StoreServer;
  readonly dataDir: string;
}

export async function startEmbedded(options: Partial<ServeOptions> = {}): Promise<EmbeddedStore> {
  const directory = mkdtempSync(join(tmpdir(), "fl-store-"));
  const dataDir = join(directory, "data");
  try {
    const server = await openStoreServer({
      dataDir,
      listen: "127.0.0.1:0",
      log: silentLog,
      version: "test",
      ...options,
    });
    const call = gatewayCaller(server.endpoint);
    return {
      endpoint: server.endpoint,
      server,
      dataDir,
      call,
      ...keysBy(call),
      async [Symbol.asyncDispose]() {
        await server[Symbol.asyncDispose]();
        rmSync(directory, { recursive: true, force: true });
      },
    };
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
}

/** Calls of the v3 JSON gateway at an endpoint; each rejects unless the answer is 200. */
export function gatewayCaller(endpoint: string): Etcd["call"] {
  return async (path, body) => {
    const signal = AbortSignal.timeout(10_000);
    const request = { method: "POST", body: JSON.stringify(body), signal, proxy: false as const };
    const response = await fetch(`${endpoint}${path}`, request);
    const text = await response.text();
    if (response.status !== 200) throw new Error(`${path}: HTTP ${response.status} ${text}`);
    return JSON.parse(text) as Record<string, unknown>;
  };
}
