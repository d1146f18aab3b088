import { FlannelError } from "../../base/error.ts";
import type { TlsFiles } from "./tls-files.ts";

/**
 * The endpoints as origins, `http://host:port`. One without a scheme is TLS where there is a client
 * certificate, as in flannel.
 * @throws FlannelError `store/endpoint` for none and for what is no endpoint
 */
export function parseEndpoints(endpoints: readonly string[], tls: TlsFiles): readonly string[] {
  if (endpoints.length === 0) throw badEndpoint("", "no endpoint is given");
  return endpoints.map((endpoint) => parseEndpoint(endpoint, tls));
}

export function isTls(endpoint: string): boolean {
  return endpoint.startsWith("https:");
}

/** Host, without the brackets of an IPv6 address, and port, also where it is the scheme's own. */
export function hostAndPort(endpoint: string): { host: string; port: number } {
  const { hostname, port } = new URL(endpoint);
  const schemePort = isTls(endpoint) ? 443 : 80;
  return { host: hostname.replace(/^\[|\]$/g, ""), port: port === "" ? schemePort : Number(port) };
}

function parseEndpoint(text: string, tls: TlsFiles): string {
  const secure = tls.certFile !== undefined && tls.keyFile !== undefined;
  const url = URL.parse(text.includes("://") ? text : `${secure ? "https" : "http"}://${text}`);
  if (url === null || url.hostname === "") throw badEndpoint(text, "not a URL");
  if (url.protocol !== "http:" && url.protocol !== "https:")
    throw badEndpoint(text, "neither http nor https");
  if (url.username !== "" || url.password !== "") {
    throw badEndpoint(url.host, "credentials do not belong into the endpoint");
  }
  if (url.pathname !== "/" || url.search !== "" || url.hash !== "") {
    throw badEndpoint(text, "host and port only, no path");
  }
  return url.origin;
}

function badEndpoint(endpoint: string, reason: string): FlannelError {
  return new FlannelError(
    "store/endpoint",
    `not an etcd endpoint: ${reason}`,
    { endpoint: endpoint.slice(0, 200) },
    { exitCode: 2, remedy: "Write it as http://host:2379 or https://host:2379." },
  );
}
