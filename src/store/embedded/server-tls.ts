import { readFileSync, statSync } from "node:fs";
import { createPrivateKey, X509Certificate } from "node:crypto";
import type { Server, Socket } from "node:net";
import { createServer, type SecureContextOptions, type TLSSocket } from "node:tls";
import { errorText, FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import type { ClientCertificate } from "./authorize.ts";

/** PEM files of the service; its clients' certificates must be signed by one in `clientCaFile`. */
export interface ServerTlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  readonly clientCaFile?: string;
}

export interface ServerTlsOptions {
  readonly files: ServerTlsFiles;
  /** Whether a client without a certificate may connect, to log in. */
  readonly certificateOptional: boolean;
  readonly log: Log;
  /** How often the files are looked at. */
  readonly reloadMs?: number;
  /** How long a client may take for its handshake. */
  readonly handshakeMsMax?: number;
}

/** Ends TLS for the listener. */
export interface ServerTls extends Disposable {
  createServer(accept: (socket: Socket, certificate?: ClientCertificate) => void): Server;
}

/** Longest PEM file read. */
const fileBytesMax = 1024 * 1024;
/** From then on the log tells of an end to come, once a day. */
const expiryWarnDays = 30;
const dayMs = 24 * 60 * 60 * 1000;

/**
 * Reads the files, and again when they have changed: connections from then on use the new ones, those that stand
 * are left alone. A set that does not fit is logged once, and the last good one stays.
 * @throws FlannelError `store/tls-files` where there is no good set to begin with
 */
export function openServerTls(options: ServerTlsOptions): ServerTls {
  const { files, certificateOptional, log, reloadMs = 2_000, handshakeMsMax = 15_000 } = options;
  let stamp = stampOf(files);
  let context = load(files);
  let complained = "";
  let warnedAt = 0;
  const servers: ReturnType<typeof createServer>[] = [];

  const warnOfEnd = () => {
    const until = new X509Certificate(context.cert).validToDate;
    if (until.getTime() - Date.now() > expiryWarnDays * dayMs || Date.now() - warnedAt < dayMs) return;
    warnedAt = Date.now();
    log.warn("the lease store's certificate ends soon", { path: files.certFile, until });
  };
  const reload = () => {
    warnOfEnd();
    try {
      const now = stampOf(files);
      if (now === stamp) return;
      context = load(files);
      stamp = now;
      complained = "";
      warnedAt = 0;
      for (const server of servers) server.setSecureContext(context);
      log.info("the lease store's certificate was read anew", { path: files.certFile });
    } catch (error) {
      const reason = errorText(error);
      if (reason !== complained) log.warn("TLS files changed and do not fit, keeping the last", { reason });
      complained = reason;
    }
  };
  warnOfEnd();
  const timer = setInterval(reload, reloadMs);
  timer.unref();
  return {
    createServer(accept) {
      const shaking = new Set<Socket>();
      const server = createServer(
        {
          ...context,
          minVersion: "TLSv1.2",
          // A client that speaks both, such as curl, means the gateway; those of gRPC speak HTTP/2 only.
          ALPNProtocols: ["http/1.1", "h2"],
          requestCert: files.clientCaFile !== undefined,
          rejectUnauthorized: !certificateOptional,
          noDelay: true,
          keepAlive: true,
        },
        (socket) => {
          shaking.delete(socket);
          const certificate = certificateOf(socket);
          // A certificate that is not believed is no reason to go on as if there were none.
          if (certificate === "untrusted") socket.destroy();
          else accept(socket, certificate);
        },
      );
      server.on("connection", (socket: Socket) => {
        shaking.add(socket);
        // The runtime's own limit tells of the delay and leaves the connection there.
        const timer = setTimeout(() => {
          if (shaking.has(socket)) socket.destroy();
        }, handshakeMsMax);
        socket.once("close", () => {
          clearTimeout(timer);
          shaking.delete(socket);
        });
      });
      server.on("tlsClientError", (error: Error, socket: Socket) => {
        socket.destroy();
        log.debug("a client of the lease store was refused", {
          peer: socket.remoteAddress,
          reason: error.message,
        });
      });
      servers.push(server);
      return server;
    },
    [Symbol.dispose]: () => clearInterval(timer),
  };
}

function certificateOf(socket: TLSSocket): ClientCertificate | "untrusted" | undefined {
  const subject = socket.getPeerCertificate()?.subject as { CN?: unknown; O?: unknown } | undefined;
  if (subject === undefined) return undefined;
  if (!socket.authorized) return "untrusted";
  // Of several Organizations none is meant.
  const organization = typeof subject.O === "string" ? subject.O : undefined;
  return { commonName: typeof subject.CN === "string" ? subject.CN : "", organization };
}

type Loaded = SecureContextOptions & { readonly cert: string };

function load({ certFile, keyFile, clientCaFile }: ServerTlsFiles): Loaded {
  const [cert, key] = [read(certFile), read(keyFile)];
  const certificate = parse(certFile, () => new X509Certificate(cert));
  const privateKey = parse(keyFile, () => createPrivateKey(key));
  if (!certificate.checkPrivateKey(privateKey))
    throw bad("the key does not belong to the certificate", keyFile);
  if (clientCaFile === undefined) return { cert, key };
  const ca = read(clientCaFile);
  parse(clientCaFile, () => new X509Certificate(ca));
  return { cert, key, ca };
}

function stampOf({ certFile, keyFile, clientCaFile }: ServerTlsFiles): string {
  const paths = [certFile, keyFile, clientCaFile].filter((path) => path !== undefined);
  const stamps = paths.map((path) => {
    try {
      const { ino, mtimeMs, size } = statSync(path);
      return `${ino}:${mtimeMs}:${size}`;
    } catch (cause) {
      throw bad("cannot read a TLS file", path, cause);
    }
  });
  return stamps.join();
}

function read(path: string): string {
  try {
    if (statSync(path).size > fileBytesMax) throw new Error(`longer than ${fileBytesMax} bytes`);
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw bad("cannot read a TLS file", path, cause);
  }
}

/** The parser's own error is dropped: it may quote the file, and one of the files is a private key. */
function parse<T>(path: string, parser: () => T): T {
  try {
    return parser();
  } catch {
    throw bad("not a PEM file of the expected kind", path);
  }
}

function bad(message: string, path: string, cause?: unknown): FlannelError {
  return new FlannelError(
    "store/tls-files",
    message,
    { path },
    { cause, exitCode: 2, remedy: "Check the certificate files of store.embedded." },
  );
}
