import { asGoObject } from "../../base/go-json.ts";

/** What of a Node object concerns us; the rest, which is most of it, is dropped at once. */
export interface KubeNode {
  readonly name: string;
  /** Another one under the same name is another node. */
  readonly uid: string;
  readonly resourceVersion: string;
  /** As the API server writes it, RFC 3339; the empty string where it does not. */
  readonly createdAt: string;
  /** `spec.podCIDRs`, else `spec.podCIDR`; nothing in it is checked yet. */
  readonly podCidrs: readonly string[];
  /** Those below our prefix, by whole name. */
  readonly annotations: ReadonlyMap<string, string>;
  /** The status of its condition NetworkUnavailable; undefined where it has none. */
  readonly networkUnavailable: string | undefined;
}

/** A name as Kubernetes has it (RFC 1123 subdomain): it becomes part of a path. */
export function isNodeName(text: string): boolean {
  return text.length <= 253 && /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(text) && !text.includes("..");
}

/**
 * Reads a Node object of the API server; of its annotations those whose names begin with `prefix`. Undefined for
 * what is none.
 */
export function parseNode(value: unknown, prefix: string): KubeNode | undefined {
  const node = asGoObject(value);
  const metadata = asGoObject(node?.get("metadata"));
  const spec = asGoObject(node?.get("spec"));
  const status = asGoObject(node?.get("status"));
  const name = textOf(metadata?.get("name"));
  if (!isNodeName(name)) return undefined;
  const annotations: [string, unknown][] = Object.entries(
    asGoObject(metadata?.get("annotations"))?.without() ?? {},
  );
  const listed = spec?.get("podCIDRs");
  const podCidr = textOf(spec?.get("podCIDR"));
  const many = Array.isArray(listed) ? listed.map(textOf) : [];
  return {
    name,
    uid: textOf(metadata?.get("uid")),
    resourceVersion: textOf(metadata?.get("resourceVersion")),
    createdAt: textOf(metadata?.get("creationTimestamp")),
    podCidrs: many.length > 0 ? many : podCidr === "" ? [] : [podCidr],
    annotations: new Map(
      annotations.filter(
        (entry): entry is [string, string] => entry[0].startsWith(prefix) && typeof entry[1] === "string",
      ),
    ),
    networkUnavailable: conditionOf(status?.get("conditions")),
  };
}

function conditionOf(conditions: unknown): string | undefined {
  if (!Array.isArray(conditions)) return undefined;
  const found = conditions.map(asGoObject).find((one) => one?.get("type") === "NetworkUnavailable");
  return found === undefined ? undefined : textOf(found.get("status"));
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}
