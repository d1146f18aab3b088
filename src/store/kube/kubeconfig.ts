import { FlannelError } from "../../base/error.ts";
import { asGoObject, type GoObject } from "../../base/go-json.ts";

/** The part of a kubeconfig that its current context names. */
export interface Kubeconfig {
  /** `https://host:port`, maybe with a path, without a slash at its end. */
  readonly server: string;
  readonly ca: PemSource | undefined;
  /** The name that the server's certificate must have in place of the server's own. */
  readonly serverName: string | undefined;
  readonly clientCertificate: PemSource | undefined;
  readonly clientKey: PemSource | undefined;
  readonly token: string | undefined;
  readonly tokenFile: string | undefined;
  readonly exec: ExecPlugin | undefined;
}

/** PEM text, or the file that has it: relative ones are relative to the kubeconfig. */
export type PemSource = { readonly pem: string } | { readonly file: string };

/** A program that gives credentials (client.authentication.k8s.io). */
export interface ExecPlugin {
  readonly apiVersion: string;
  /** With a slash in it a path, relative ones relative to the kubeconfig; else looked for in PATH. */
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

const execVersions = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

/**
 * Reads a kubeconfig (YAML or JSON).
 * @throws FlannelError `store/kubeconfig` (exit code 2) naming what is missing, or what would be needed and is
 * not supported: certificates that are not verified, proxies, passwords
 */
export function parseKubeconfig(text: string): Kubeconfig {
  const root = asGoObject(parseYaml(text)) ?? refuse("it is no mapping");
  const contextName = textIn(root, "current-context") ?? refuse("it has no current-context");
  const context = named(root, "contexts", contextName, "context");
  const cluster = named(root, "clusters", textIn(context, "cluster") ?? "", "cluster");
  const userName = textIn(context, "user");
  const user = userName === undefined ? undefined : named(root, "users", userName, "user");
  if (cluster.get("insecure-skip-tls-verify") === true)
    refuse("insecure-skip-tls-verify is not supported: give its certificate-authority");
  if (textIn(cluster, "proxy-url") !== undefined) refuse("proxy-url is not supported");
  for (const kind of ["auth-provider", "username", "password", "as"]) {
    if (user?.get(kind) !== undefined && user.get(kind) !== "") refuse(`the user's ${kind} is not supported`);
  }
  return {
    server: serverOf(textIn(cluster, "server") ?? refuse("its cluster has no server")),
    ca: pemIn(cluster, "certificate-authority"),
    serverName: textIn(cluster, "tls-server-name"),
    clientCertificate: user && pemIn(user, "client-certificate"),
    clientKey: user && pemIn(user, "client-key"),
    token: user && textIn(user, "token"),
    tokenFile: user && textIn(user, "tokenFile"),
    exec: user && execIn(user),
  };
}

/** A URL in the form in which paths are put behind it. @throws FlannelError `store/kubeconfig` */
export function serverOf(text: string): string {
  const url = URL.parse(text);
  if (url === null || !["http:", "https:"].includes(url.protocol) || url.username !== "")
    refuse(`its server is no http:// or https:// URL`);
  return `${url?.origin}${url?.pathname ?? ""}`.replace(/\/+$/, "");
}

function execIn(user: GoObject): ExecPlugin | undefined {
  const exec = asGoObject(user.get("exec"));
  if (exec === undefined) return undefined;
  const apiVersion = textIn(exec, "apiVersion") ?? "";
  if (!execVersions.includes(apiVersion)) refuse(`exec.apiVersion is not one of ${execVersions.join(", ")}`);
  if (exec.get("interactiveMode") === "Always")
    refuse("exec.interactiveMode is Always, and nobody is asked here");
  const args = exec.get("args") ?? [];
  const env = exec.get("env") ?? [];
  if (!Array.isArray(args) || !args.every((one) => typeof one === "string"))
    refuse("exec.args is no list of texts");
  if (!Array.isArray(env)) refuse("exec.env is no list");
  const variables = (env as unknown[]).map((entry): [string, string] => {
    const members = asGoObject(entry);
    return [
      members && textIn(members, "name")
        ? (textIn(members, "name") ?? "")
        : refuse("exec.env has a member without name"),
      String(members?.get("value") ?? ""),
    ];
  });
  return {
    apiVersion,
    command: textIn(exec, "command") ?? refuse("exec has no command"),
    args: args as string[],
    env: Object.fromEntries(variables),
  };
}

/** `KEY-data` in base64, which goes before the file `KEY`. */
function pemIn(members: GoObject, key: string): PemSource | undefined {
  const data = textIn(members, `${key}-data`);
  if (data !== undefined) return { pem: Buffer.from(data, "base64").toString("utf8") };
  const file = textIn(members, key);
  return file === undefined ? undefined : { file };
}

function named(root: GoObject, list: string, name: string, member: string): GoObject {
  const entries: unknown = root.get(list);
  const entry = (Array.isArray(entries) ? entries : [])
    .map(asGoObject)
    .find((one) => one?.get("name") === name);
  return (
    asGoObject(entry?.get(member)) ?? refuse(`it has no ${member} ${JSON.stringify(name.slice(0, 128))}`)
  );
}

/** Undefined for an absent or empty one. */
function textIn(members: GoObject, key: string): string | undefined {
  const value = members.get(key) ?? "";
  if (typeof value !== "string") return refuse(`${key} is no text`);
  return value === "" ? undefined : value;
}

function parseYaml(text: string): unknown {
  try {
    return Bun.YAML.parse(text);
  } catch {
    return refuse("it is not YAML"); // the parser's own words may quote a key
  }
}

function refuse(reason: string): never {
  throw new FlannelError(
    "store/kubeconfig",
    `the kubeconfig cannot be used: ${reason}`,
    {},
    {
      exitCode: 2,
      remedy: "Check kubernetes.kubeconfig",
    },
  );
}
