import { FlannelError } from "../../base/error.ts";
import { asGoObject } from "../../base/go-json.ts";
import { certificateCodes, codeOf } from "../connection-error.ts";

/** HTTP 410: what was asked for lies too far back. List again. */
export class Gone extends Error {}

/** What an exception of `fetch`, or of reading its body, means. */
export function connectionError(thrown: unknown, server: string): FlannelError {
  const code = codeOf(thrown);
  if (certificateCodes.has(code)) {
    return new FlannelError(
      "store/untrusted",
      "the API server's certificate is not trusted",
      { server, reason: code },
      {
        remedy: "Check the authority's certificate, the names in the server's, and the clocks of both hosts",
      },
    );
  }
  const reason =
    code !== ""
      ? code
      : thrown instanceof DOMException
        ? "it did not answer in time"
        : "the connection broke";
  if (code === "EPROTO" || code.startsWith("ERR_SSL")) {
    return new FlannelError(
      "store/untrusted",
      "the API server refused the TLS handshake",
      { server, reason },
      {
        retryable: true,
        remedy: "Check the client certificate",
      },
    );
  }
  if (code === "UnexpectedRedirect") return notKubernetes("it redirects");
  return new FlannelError(
    "store/unreachable",
    "the API server did not answer",
    { server, reason },
    {
      retryable: true,
      remedy: "Check kubernetes.kubeconfig or kubernetes.api_url, and that the API server runs",
    },
  );
}

/** What an HTTP answer other than 200 means; `body` as JSON text, a Status where Kubernetes wrote it. */
export function statusError(status: number, body: string, method: string): FlannelError | Gone {
  const message = statusMessage(body);
  const fields = { status, ...(message === "" ? {} : { reason: message }) };
  switch (status) {
    case 401:
      return new FlannelError(
        "store/unauthorized",
        "the API server does not accept our credentials",
        fields,
        {
          remedy: "Check the service account's token, or the kubeconfig's user",
        },
      );
    case 403:
      return new FlannelError("store/unauthorized", "the API server denies what flannel needs", fields, {
        remedy:
          "Grant nodes: get, list, watch and nodes/status: patch (pods: get without NODE_NAME), as deploy/kubernetes does",
      });
    case 404:
      return new FlannelError("store/no-node", "the API server has no such node", fields, {
        retryable: true,
        remedy: "Check NODE_NAME; a node is there once its kubelet has registered it",
      });
    case 410:
      return new Gone(message);
    case 409:
    case 429:
      return busy(fields);
  }
  if (status >= 500) return busy(fields);
  return new FlannelError("store/protocol", `the API server refused the request (${method})`, fields);
}

export function notKubernetes(reason: string): FlannelError {
  return new FlannelError(
    "store/protocol",
    "what answers is no API server",
    { reason },
    {
      remedy: "Check kubernetes.api_url or the kubeconfig's server",
    },
  );
}

export function closed(): FlannelError {
  return new FlannelError("store/closed", "the store is closed");
}

function busy(fields: Readonly<Record<string, string | number>>): FlannelError {
  return new FlannelError("store/unreachable", "the API server cannot answer now", fields, {
    retryable: true,
  });
}

/** Of bounded length, without what steers a terminal: it goes to logs and to people. */
function statusMessage(body: string): string {
  try {
    const message = asGoObject(JSON.parse(body))?.get("message");
    return typeof message === "string" ? message.slice(0, 300).replace(/\p{C}/gu, "?") : "";
  } catch {
    return "";
  }
}
