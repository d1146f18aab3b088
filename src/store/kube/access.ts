import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import type { Clock } from "../../base/clock.ts";
import { FlannelError } from "../../base/error.ts";
import { openExecPlugin } from "./exec-plugin.ts";
import { type Kubeconfig, parseKubeconfig, type PemSource, serverOf } from "./kubeconfig.ts";

export interface AccessOptions {
  readonly kubeconfig: string | undefined;
  /** In place of the kubeconfig's server; alone, a server that wants no credentials. */
  readonly apiUrl: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
  /** Where a pod finds its token and the cluster's authority. */
  readonly serviceAccountDir?: string;
}

/** Where the API server is and what to show it, as of now. */
export interface Connection {
  readonly server: string;
  readonly tls: { readonly ca?: string; readonly cert?: string; readonly key?: string };
  readonly serverName: string | undefined;
  readonly token: string | undefined;
}

export interface KubeAccess {
  /** For people; no secrets. */
  readonly description: string;
  /**
   * Read anew for each call, since tokens and certificates are replaced while we run.
   * @throws the reason of `stop` when it aborts while a plugin runs; FlannelError `store/untrusted`, `store/kubeconfig`, `store/unauthorized`, `store/exec-plugin`
   */
  connect(stop: AbortSignal): Promise<Connection>;
  /** What was shown was refused; tells whether other credentials may come of asking again. */
  refused(): boolean;
}

const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount";
const fileBytesMax = 1024 * 1024;

/** Chooses as flannel does: the kubeconfig, the URL, else what a pod is given. Reads nothing yet. */
export function openAccess(options: AccessOptions): KubeAccess {
  const { kubeconfig, apiUrl } = options;
  if (kubeconfig !== undefined) return byKubeconfig(kubeconfig, options);
  if (apiUrl !== undefined) {
    const server = serverOf(apiUrl);
    return {
      description: server,
      connect: async () => ({ server, tls: {}, serverName: undefined, token: undefined }),
      refused: () => false,
    };
  }
  return inCluster(options);
}

function inCluster({ env, serviceAccountDir: directory = serviceAccountDir }: AccessOptions): KubeAccess {
  const [host, port] = [env["KUBERNETES_SERVICE_HOST"], env["KUBERNETES_SERVICE_PORT"]];
  return {
    description: "of the cluster that this pod is in",
    async connect() {
      if (host === undefined || host === "" || port === undefined || port === "")
        throw new FlannelError(
          "store/kubeconfig",
          "fail to create kubernetes config: this is no pod, and no other way is named",
          {},
          { exitCode: 2, remedy: "Set kubernetes.kubeconfig (flanneld's -kubeconfig-file)" },
        );
      const server = serverOf(`https://${host.includes(":") ? `[${host}]` : host}:${port}`);
      const [token, ca] = await Promise.all([
        readToken(join(directory, "token")),
        readPem({ file: join(directory, "ca.crt") }, "certificate", directory),
      ]);
      return { server, tls: { ca }, serverName: undefined, token };
    },
    refused: () => false,
  };
}

function byKubeconfig(path: string, { apiUrl, env, clock }: AccessOptions): KubeAccess {
  let plugin: { key: string; exec: ReturnType<typeof openExecPlugin> } | undefined;
  const credentialsOf = async ({ exec }: Kubeconfig, stop: AbortSignal) => {
    if (exec === undefined) return undefined;
    const key = JSON.stringify(exec);
    if (plugin?.key !== key) plugin = { key, exec: openExecPlugin(exec, { path, env }) };
    return await plugin.exec.current(clock.now(), stop);
  };
  return {
    description: apiUrl ?? `of ${path}`,
    async connect(stop) {
      const config = parseKubeconfig(await readBounded(path, "store/kubeconfig"));
      const directory = dirname(path);
      const given = await credentialsOf(config, stop);
      const ca = config.ca && (await readPem(config.ca, "certificate", directory));
      const certSource =
        given?.certificate === undefined ? config.clientCertificate : { pem: given.certificate };
      const keySource = given?.key === undefined ? config.clientKey : { pem: given.key };
      const cert = certSource && (await readPem(certSource, "certificate", directory));
      const key = keySource && (await readPem(keySource, "key", directory));
      if ((cert === undefined) !== (key === undefined))
        throw untrusted("a client certificate and its key go together", path);
      const tokenFile = config.tokenFile === undefined ? undefined : at(directory, config.tokenFile);
      const written = given?.token ?? (tokenFile === undefined ? config.token : undefined);
      const token =
        written !== undefined
          ? checkedToken(written, path)
          : tokenFile === undefined
            ? undefined
            : await readToken(tokenFile);
      return {
        server: apiUrl === undefined ? config.server : serverOf(apiUrl),
        tls: { ...(ca && { ca }), ...(cert && key && { cert, key }) },
        serverName: config.serverName,
        token,
      };
    },
    refused() {
      plugin?.exec.forget();
      return plugin !== undefined;
    },
  };
}

async function readToken(path: string): Promise<string> {
  return checkedToken(await readBounded(path, "store/unauthorized"), path);
}

/** Anything else cannot stand in a header, and `fetch` would only say that it failed. */
function checkedToken(text: string, path: string): string {
  const token = text.trim();
  if (/^[\x21-\x7e]+$/.test(token)) return token;
  throw new FlannelError("store/unauthorized", "what should be a token is none", { path });
}

/** The parser's own error is dropped: it may quote a private key. */
async function readPem(source: PemSource, kind: "certificate" | "key", directory: string): Promise<string> {
  const path = "file" in source ? at(directory, source.file) : directory;
  const pem = "pem" in source ? source.pem : await readBounded(path, "store/untrusted");
  try {
    if (kind === "certificate") new X509Certificate(pem);
    else createPrivateKey(pem);
    return pem;
  } catch {
    throw untrusted(`not PEM of a ${kind}`, path);
  }
}

async function readBounded(
  path: string,
  code: "store/untrusted" | "store/unauthorized" | "store/kubeconfig",
): Promise<string> {
  try {
    const found = await stat(path);
    // A pipe would be waited for, with all that waits for us.
    if (!found.isFile()) throw new Error("it is no regular file");
    if (found.size > fileBytesMax) throw new Error(`longer than ${fileBytesMax} bytes`);
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new FlannelError(code, "cannot read what the API server is reached with", { path }, { cause });
  }
}

function at(directory: string, path: string): string {
  return isAbsolute(path) ? path : join(directory, path);
}

function untrusted(message: string, path: string): FlannelError {
  return new FlannelError(
    "store/untrusted",
    message,
    { path },
    { remedy: "Check the kubeconfig's certificates." },
  );
}
