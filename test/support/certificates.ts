import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Certificates made for one test, as PEM files in a directory of its own. */
export interface Certificates extends Disposable {
  readonly directory: string;
  /** A new authority: its certificate's path. */
  authority(name: string): string;
  /**
   * A certificate for server and client, signed by `by`, with `name` as Common Name. `names` as in
   * `IP:127.0.0.1,DNS:localhost`; without any it can be a client's only.
   */
  issue(name: string, options: { by: string; names?: string; days?: number }): { cert: string; key: string };
}

/** Needs the openssl program. */
export function openCertificates(): Certificates {
  const directory = mkdtempSync(join(tmpdir(), "fl-certs-"));
  const path = (file: string) => join(directory, file);
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  return {
    directory,
    authority(name) {
      const out = ["-keyout", path(`${name}.key`), "-out", path(`${name}.crt`)];
      openssl("req", "-x509", ...newKey, ...out, "-subj", `/CN=${name}`, "-days", "2");
      return path(`${name}.crt`);
    },
    issue(name, { by, names, days = 2 }) {
      const cert = path(`${name}.crt`);
      const key = path(`${name}.key`);
      const request = path(`${name}.csr`);
      const extensions = path(`${name}.ext`);
      const alternative = names === undefined ? "" : `subjectAltName=${names}\n`;
      writeFileSync(extensions, `${alternative}extendedKeyUsage=serverAuth,clientAuth\n`);
      openssl("req", ...newKey, "-keyout", key, "-out", request, "-subj", `/CN=${name}`);
      const signer = ["-CA", path(`${by}.crt`), "-CAkey", path(`${by}.key`), "-CAcreateserial"];
      openssl(
        "x509",
        "-req",
        "-in",
        request,
        ...signer,
        "-out",
        cert,
        "-days",
        `${days}`,
        "-extfile",
        extensions,
      );
      return { cert, key };
    },
    [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }),
  };
}

function openssl(...args: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(["openssl", ...args]);
  if (exitCode !== 0) throw new Error(`openssl ${args[0]}: ${stderr.toString()}`);
}
