import * as z from "zod/mini";
import { hostPrefix, type Prefix, tryParsePrefix } from "../net/prefix.ts";
import { type IpAddress, tryParseIpAddress } from "../net/address.ts";
import { listenAddressText, tryParseListenAddress } from "../net/listen-address.ts";
import { goRegExp } from "./go-regexp.ts";
import { boolForm, intForm, repeatedForm, stringForm, type TextForm } from "./text-form.ts";

/** What values an option takes: `Value` in the Config, `Raw` in TOML. */
export interface Kind<Value, Raw = unknown> {
  /** Completes "must be …": unit and range included. */
  readonly allowed: string;
  readonly form: TextForm;
  parse(raw: unknown): Parsed<Value>;
  /** Carries the type only; never set. */
  readonly rawType?: Raw;
}

export type Parsed<Value> = { readonly value: Value } | { readonly refusals: readonly Refusal[] };

/** Why a value is refused, and which part of it (keys and indexes from the value on; empty: all of it). */
export interface Refusal {
  readonly at: readonly string[];
  readonly reason: string;
}

const pathBytesMax = 4096;
const textCharsMax = 4096;
const listEntriesMax = 256;
/** IFNAMSIZ less its terminator. */
const interfaceNameBytesMax = 15;

export const boolean: Kind<boolean, boolean> = kind(z.boolean(), "true or false", boolForm);

/** A whole number from `min` to `max`, both included; `unit` is for people. */
export function integer(min: number, max: number, unit: string): Kind<number, number> {
  const schema = z.int().check(z.gte(min), z.lte(max));
  return kind(schema, `${min} to ${max} (${unit})`, intForm);
}

/** A port; nothing, and what flanneld takes for nothing, is 0. */
export const optionalPort: Kind<number, number> = kind(
  z.pipe(
    z.int().check(z.lte(65535)),
    z.transform((raw: number) => Math.max(raw, 0)),
  ),
  "1 to 65535, or 0 for none",
  intForm,
);

/** One of `values`. */
export function choice<const Name extends string>(values: readonly Name[]): Kind<Name, Name> {
  const names = values.map((name) => JSON.stringify(name));
  return kind<Name, Name>(
    z.enum(values),
    names.length === 1 ? `${names[0]}` : `one of ${names.join(", ")}`,
    stringForm,
  );
}

/** Any text but the empty one, without control characters. */
export const text: Kind<string, string> = parsedText("a non-empty text", (raw) =>
  raw !== "" && raw.length <= textCharsMax && !hasControlCharacter(raw) ? raw : undefined,
);

/** A short name for machines: letters, digits, and a few signs that need quoting nowhere. */
export const identifier: Kind<string, string> = parsedText(
  "1 to 128 letters, digits or any of . _ : -",
  (raw) => (/^[\w.:-]{1,128}$/.test(raw) ? raw : undefined),
);

/** Relative paths are refused: nothing is read from the current directory. */
export const absolutePath: Kind<string, string> = parsedText("an absolute path", (raw) =>
  raw.startsWith("/") && Buffer.byteLength(raw) < pathBytesMax && !hasControlCharacter(raw) ? raw : undefined,
);

export const ipv4: Kind<IpAddress, string> = parsedText("an IPv4 address", (raw) => {
  const address = tryParseIpAddress(raw);
  return address?.family === 4 ? address : undefined;
});

export const ipv6: Kind<IpAddress, string> = parsedText("an IPv6 address", (raw) => {
  const address = tryParseIpAddress(raw);
  return address?.family === 6 ? address : undefined;
});

export const ip: Kind<IpAddress, string> = parsedText("an IP address", tryParseIpAddress);

/** A regular expression of Go's, as text; {@link goRegExp} compiles it. */
export const goRegex: Kind<string, string> = parsedText("a regular expression in Go's syntax", (raw) =>
  goRegExp(raw) === undefined ? undefined : raw,
);

/** An HTTP address that may have a path, without credentials. */
export const httpUrl: Kind<string, string> = parsedText("an http:// or https:// URL", (raw) => {
  const url = URL.parse(raw);
  const isHttp = url?.protocol === "http:" || url?.protocol === "https:";
  return isHttp && url.username === "" && url.password === "" && raw.length <= textCharsMax ? raw : undefined;
});

/** By flannel's rule: a domain name, and perhaps a slash and a word. */
export const annotationPrefix: Kind<string, string> = parsedText(
  "a domain name, or one with /prefix behind it, in lower case",
  (raw) => (/^([a-z0-9_-]+\.)+[a-z0-9_-]+(\/[a-z0-9_-]*)?$/.test(raw) && raw.length <= 253 ? raw : undefined),
);

/** A network, or an address for the network of just that host. */
export const prefixOrAddress: Kind<Prefix, string> = parsedText("a CIDR or an IP address", (raw) => {
  const address = tryParseIpAddress(raw);
  return address === undefined ? tryParsePrefix(raw) : hostPrefix(address);
});

/** The name of a network interface, or an address that one has. */
export const interfaceChoice: Kind<IpAddress | string, string> = parsedText(
  `an interface name (at most ${interfaceNameBytesMax} bytes) or an IP address`,
  (raw) => tryParseIpAddress(raw) ?? (isInterfaceName(raw) ? raw : undefined),
);

/** Where to listen, as text with canonical address. */
export const listenAddress: Kind<string, string> = parsedText(
  "an IP address and a port, such as 127.0.0.1:2379 or [::1]:2379",
  (raw) => {
    const address = tryParseListenAddress(raw);
    return address === undefined || address.port === 0 ? undefined : listenAddressText(address);
  },
);

/**
 * An HTTP origin, `http://host:port` without a trailing slash; or `host:port` as it is, whose scheme is for
 * its reader to choose.
 */
export const httpEndpoint: Kind<string, string> = parsedText(
  "an http:// or https:// URL of host and port only, or host:port",
  (raw) => {
    if (/^[^\s/?#@\\]+:\d+$/.test(raw)) return URL.parse(`http://${raw}`) === null ? undefined : raw;
    const url = URL.parse(raw);
    if (url === null || !/^https?:\/\/[^\s/?#@\\]+\/?$/i.test(raw)) return undefined;
    return url.origin;
  },
);

/** A key prefix as flannel joins it: repeated and trailing slashes dropped. */
export const keyPrefix: Kind<string, string> = parsedText(
  'a key prefix such as "/coreos.com/network", without "." or ".." in it',
  (raw) => {
    const clean = raw.replace(/\/+/g, "/").replace(/\/$/, "");
    const isPlain = !clean.split("/").some((segment) => segment === "." || segment === "..");
    return raw !== "" && raw.length <= textCharsMax && isPlain && !hasControlCharacter(raw)
      ? clean
      : undefined;
  },
);

/** A list of `item`; as text by repeating the flag, unless `form` says otherwise. */
export function listOf<Value, Raw>(
  item: Kind<Value, Raw>,
  { form = repeatedForm, min = 0 }: { form?: TextForm; min?: number } = {},
): Kind<readonly Value[], readonly Raw[]> {
  const allowed = `a list${min > 0 ? ` of at least ${min}` : ""}, each ${item.allowed}`;
  const whole = kind<unknown[]>(
    z.array(z.unknown()).check(z.minLength(min), z.maxLength(listEntriesMax)),
    allowed,
    form,
  );
  return {
    allowed,
    form,
    parse: (raw) => {
      const entries = whole.parse(raw);
      if ("refusals" in entries) return entries;
      const parsed = entries.value.map((entry) => item.parse(entry));
      const refusals = parsed.flatMap((result, index) =>
        "refusals" in result
          ? result.refusals.map(({ at, reason }) => ({ at: [`${index}`, ...at], reason }))
          : [],
      );
      if (refusals.length > 0) return { refusals };
      return { value: parsed.flatMap((result) => ("value" in result ? [result.value] : [])) };
    },
  };
}

/** What `schema` accepts; every refusal reads "must be `allowed`". */
export function kind<Value, Raw = unknown>(
  schema: z.ZodMiniType<Value>,
  allowed: string,
  form: TextForm,
): Kind<Value, Raw> {
  return {
    allowed,
    form,
    parse: (raw) => {
      const result = schema.safeParse(raw);
      return result.success
        ? { value: result.data }
        : { refusals: [{ at: [], reason: `must be ${allowed}` }] };
    },
  };
}

function parsedText<Value>(allowed: string, parse: (raw: string) => Value | undefined): Kind<Value, string> {
  const schema = z.pipe(
    z.string(),
    z.transform((raw: string, context) => {
      const value = parse(raw);
      if (value !== undefined) return value;
      context.issues.push({ code: "custom", input: raw });
      return z.NEVER;
    }),
  );
  return kind<Value, string>(schema, allowed, stringForm);
}

/** As the kernel's dev_valid_name decides (net/core/dev.c). */
function isInterfaceName(name: string): boolean {
  const fits = name !== "" && Buffer.byteLength(name) <= interfaceNameBytesMax;
  return fits && name !== "." && name !== ".." && !/[/:\s]/.test(name) && !hasControlCharacter(name);
}

function hasControlCharacter(value: string): boolean {
  for (let at = 0; at < value.length; at++) {
    const code = value.charCodeAt(at);
    if (code < 0x20 || code === 0x7f) return true;
  }
  return false;
}
