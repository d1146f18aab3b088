import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import type { Clock } from "../../base/clock.ts";
import { FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";

/** PEM files; without a CA the system's authorities are trusted. Certificate and key go together. */
export interface TlsFiles {
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
}

/** What the files hold, in the form `fetch` takes. */
export interface TlsMaterial {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** Gives the files' current content; reads them again once one of them has changed. */
export interface TlsSource {
  /** @throws FlannelError `store/untrusted` while no readable set has been seen yet */
  current(): Promise<TlsMaterial>;
}

/** Longest PEM file read. */
const fileBytesMax = 1024 * 1024;

/**
 * Files are replaced while we run, and not all in the same instant: a set that is unreadable or does not
 * fit together is logged once and the last good one stays in use.
 */
export function openTlsSource(files: TlsFiles, log: Log, clock: Clock): TlsSource {
  let good: { stamp: string; material: TlsMaterial } | undefined;
  let complained = "";
  const warnExpired = ({ cert }: TlsMaterial) => {
    // A server that refuses it often just closes the connection.
    if (cert === undefined) return;
    const until = new X509Certificate(cert).validToDate;
    if (until <= clock.now())
      log.warn("our client certificate for etcd has expired", { path: files.certFile, until });
  };
  return {
    async current() {
      let stamp = "";
      try {
        stamp = await stampOf(files);
        if (good?.stamp === stamp) return good.material;
        const material = await load(files);
        // Somebody else may have loaded the same meanwhile: connections are made anew for what is another set.
        if (good?.stamp === stamp) return good.material;
        good = { stamp, material };
        warnExpired(good.material);
        complained = "";
        return good.material;
      } catch (error) {
        if (good === undefined) throw error;
        const reason = error instanceof Error ? error.message : String(error);
        if (complained !== reason)
          log.warn("etcd TLS files changed and do not fit, keeping the last", { reason });
        complained = reason;
        return good.material;
      }
    },
  };
}

async function load({ caFile, certFile, keyFile }: TlsFiles): Promise<TlsMaterial> {
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw bad("certfile and keyfile go together", certFile ?? keyFile ?? "");
  }
  const [ca, cert, key] = await Promise.all([caFile, certFile, keyFile].map(read));
  if (ca !== undefined) parse(caFile, () => new X509Certificate(ca));
  if (cert !== undefined && key !== undefined) {
    const certificate = parse(certFile, () => new X509Certificate(cert));
    const privateKey = parse(keyFile, () => createPrivateKey(key));
    if (!certificate.checkPrivateKey(privateKey)) {
      throw bad("the key does not belong to the certificate", keyFile ?? "");
    }
  }
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
  };
}

async function stampOf(files: TlsFiles): Promise<string> {
  const paths = [files.caFile, files.certFile, files.keyFile].filter((path) => path !== undefined);
  const stamps = paths.map(async (path) => {
    const { ino, mtimeMs, size } = await stat(path).catch((cause: unknown) => {
      throw bad("cannot read a TLS file", path, cause);
    });
    return `${ino}:${mtimeMs}:${size}`;
  });
  return (await Promise.all(stamps)).join();
}

async function read(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined;
  try {
    const { size } = await stat(path);
    if (size > fileBytesMax) throw new Error(`longer than ${fileBytesMax} bytes`);
    return await readFile(path, "utf8");
  } catch (cause) {
    throw bad("cannot read a TLS file", path, cause);
  }
}

/** The parser's own error is dropped: it may quote the file, and one of the files is a private key. */
function parse<T>(path: string | undefined, parser: () => T): T {
  try {
    return parser();
  } catch {
    throw bad("not a PEM file of the expected kind", path ?? "");
  }
}

function bad(message: string, path: string, cause?: unknown): FlannelError {
  return new FlannelError(
    "store/untrusted",
    message,
    { path },
    { cause, remedy: "Check cafile, certfile and keyfile." },
  );
}
