import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../src/base/log.ts";
import { openAddon } from "../../src/native/addon.ts";
import { certificatePaths, type HostNames, initCertificates } from "../../src/store/embedded/certificates.ts";
import { openStoreServer, type StoreServer } from "../../src/store/embedded/serve.ts";
import type { TlsFiles } from "../../src/store/etcd/tls-files.ts";
import { etcdProgram } from "./etcd.ts";

/** A data directory with the certificates that `store init` makes; it goes when this does. */
export interface StoreSite extends Disposable {
  readonly dataDir: string;
  readonly ca: string;
  readonly admin: TlsFiles;
  member(host: string): TlsFiles;
  /** Serves it on loopback, to those with a certificate or, where there is a file of users, a login. */
  serve(options?: { usersFile?: string; clientCaFile?: string | null }): Promise<StoreServer>;
}

export const sitePrefix = "/coreos.com/network";

export function openStoreSite(hosts: readonly HostNames[] = [["127.0.0.1"]]): StoreSite {
  const dataDir = mkdtempSync(join(tmpdir(), "fl-site-"));
  const paths = certificatePaths(dataDir);
  initCertificates(openAddon(), { dataDir, hosts, now: new Date() });
  const files = ({ cert, key }: { cert: string; key: string }) => ({
    caFile: paths.ca,
    certFile: cert,
    keyFile: key,
  });
  return {
    dataDir,
    ca: paths.ca,
    admin: files(paths.admin),
    member: (host) => files(paths.member(host)),
    serve({ usersFile, clientCaFile = paths.ca } = {}) {
      return openStoreServer({
        dataDir,
        listen: "127.0.0.1:0",
        log: silentLog,
        version: "test",
        trust: {
          certFile: paths.server.cert,
          keyFile: paths.server.key,
          prefix: sitePrefix,
          ...(clientCaFile !== null && { clientCaFile }),
          ...(usersFile !== undefined && { usersFile }),
        },
      });
    },
    [Symbol.dispose]: () => rmSync(dataDir, { recursive: true, force: true }),
  };
}

/** Runs etcdctl (API v3) to its end. */
export async function etcdctl(
  endpoint: string,
  tls: TlsFiles,
  ...args: string[]
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  const { caFile, certFile, keyFile } = tls;
  const flags = [
    ...(caFile === undefined ? [] : ["--cacert", caFile]),
    ...(certFile === undefined ? [] : ["--cert", certFile]),
    ...(keyFile === undefined ? [] : ["--key", keyFile]),
  ];
  const child = Bun.spawn(
    [`${etcdProgram()}ctl`, "--endpoints", endpoint, "--command-timeout", "5s", ...flags, ...args],
    { env: { ETCDCTL_API: "3" }, stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: 20_000 },
  );
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}
