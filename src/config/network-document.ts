import * as z from "zod/mini";
import type { Json } from "../lease/lease.ts";
import { FlannelError } from "../base/error.ts";
import { type Kind, kind, type Refusal } from "./kind.ts";
import { parseNetworkConfig } from "./network.ts";
import { didYouMean, mostSimilar } from "./similar.ts";
import { jsonForm } from "./text-form.ts";
import { isTable } from "./toml.ts";

/** A network configuration in flannel's spelling, ready for JSON.stringify. */
export type NetworkDocument = { readonly [key: string]: Json };

/** Containers inside containers; flannel's own documents have two levels. */
const depthMax = 16;

const members = {
  Network: { schema: z.string(), allowed: "a CIDR in quotes" },
  SubnetLen: { schema: z.int(), allowed: "a prefix length" },
  SubnetMin: { schema: z.string(), allowed: "an IP address in quotes" },
  SubnetMax: { schema: z.string(), allowed: "an IP address in quotes" },
  EnableIPv4: { schema: z.boolean(), allowed: "true or false" },
  EnableIPv6: { schema: z.boolean(), allowed: "true or false" },
  EnableNFTables: { schema: z.boolean(), allowed: "true or false" },
  IPv6Network: { schema: z.string(), allowed: "a CIDR in quotes" },
  IPv6SubnetLen: { schema: z.int(), allowed: "a prefix length" },
  IPv6SubnetMin: { schema: z.string(), allowed: "an IP address in quotes" },
  IPv6SubnetMax: { schema: z.string(), allowed: "an IP address in quotes" },
  Backend: { schema: z.custom(isTable), allowed: "a table with Type and the backend's options" },
} as const;

const container = kind(
  z.custom<Record<string, unknown>>(isTable),
  "a table with the keys of flannel's network JSON",
  jsonForm,
);

/** flannel's network configuration as a TOML table, or as JSON text in a flag. Keys match in any case. */
export const networkDocument: Kind<NetworkDocument, NetworkDocument> = {
  allowed: container.allowed,
  form: container.form,
  parse: (raw) => {
    const whole = container.parse(raw);
    if ("refusals" in whole) return whole;
    const document = new Map<string, Json>();
    const refusals: Refusal[] = [];
    for (const [key, value] of Object.entries(whole.value)) {
      const member = parseMember(key, value, document);
      if ("refused" in member) refusals.push({ at: [key], reason: member.refused });
      else document.set(member.name, member.value);
    }
    if (refusals.length > 0) return { refusals };
    const value = Object.fromEntries(document);
    const reason = whyInvalid(value);
    return reason === undefined ? { value } : { refusals: [{ at: [], reason }] };
  },
};

/** What flannel would say against the document as a whole. */
function whyInvalid(document: NetworkDocument): string | undefined {
  try {
    parseNetworkConfig(JSON.stringify(document));
    return undefined;
  } catch (error) {
    if (error instanceof FlannelError) return error.message;
    throw error;
  }
}

function parseMember(
  key: string,
  value: unknown,
  earlier: ReadonlyMap<string, Json>,
): { name: string; value: Json } | { refused: string } {
  const names = Object.keys(members) as (keyof typeof members)[];
  const name = names.find((known) => known.toLowerCase() === key.toLowerCase());
  if (name === undefined) return { refused: `unknown key${didYouMean(mostSimilar(key, names))}` };
  if (earlier.has(name)) return { refused: `${name} is there twice, in different case` };
  const json = asJson(value);
  if (json === undefined || !members[name].schema.safeParse(value).success) {
    return { refused: `must be ${members[name].allowed}` };
  }
  return { name, value: json };
}

/** `value` if JSON can carry it: no dates, no nan, no inf, and not too deep. */
function asJson(value: unknown, depth = 0): Json | undefined {
  if (typeof value === "string" || typeof value === "boolean") return value;
  if (typeof value === "number") return Number.isFinite(value) ? value : undefined;
  if (typeof value !== "object" || value === null || value instanceof Date || depth >= depthMax)
    return undefined;
  if (Array.isArray(value)) {
    const items: (Json | undefined)[] = value.map((item: unknown) => asJson(item, depth + 1));
    return items.every((item) => item !== undefined) ? items : undefined;
  }
  const entries: [string, Json][] = [];
  for (const [key, inner] of Object.entries(value)) {
    const json = asJson(inner, depth + 1);
    if (json === undefined) return undefined;
    entries.push([key, json]);
  }
  return Object.fromEntries(entries);
}
