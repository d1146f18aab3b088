import type { Kind } from "./kind.ts";
import type { TextForm } from "./text-form.ts";

/**
 * Who takes a changed value while the daemon runs; `use`: whoever reads it next. Each part tells in daemon/ what
 * it does about it.
 */
export type LivePart =
  "log" | "listeners" | "firewall" | "forwarding" | "plan" | "checksum" | "lease" | "uplink" | "use";

/** One setting: what it means, what it takes, and how flanneld spells it. `Value` is its type in Config. */
export interface Option<Value> {
  readonly is: "option";
  readonly kind: Kind<Value>;
  /** One line for people, without the allowed values: those come from the kind. */
  readonly doc: string;
  /** As it would stand in TOML; undefined where the option may stay unset. */
  readonly fallback: unknown;
  /** As it would stand in TOML, to show how an option without default is written. */
  readonly example: unknown;
  /** flanneld's flag for it, without dashes. */
  readonly flanneldFlag: string | undefined;
  /** Another flag of flanneld's that sets the same thing in other words. */
  readonly alsoFlag: { readonly name: string; readonly form: TextForm; readonly doc: string } | undefined;
  /** Never shown, and not read from the configuration file. */
  readonly secret: boolean;
  /** Who takes a change at a reload; undefined where that takes a restart. */
  readonly live: LivePart | undefined;
}

/** A TOML table of options. */
export interface Table<Members extends TableMembers> {
  readonly is: "table";
  readonly doc: string;
  readonly members: Members;
}

export type TableMembers = { readonly [key: string]: Option<unknown> | Table<TableMembers> };

/** The Config that a table of options describes: its keys in camel case. */
export type ConfigOf<Members> = {
  readonly [Key in keyof Members as Key extends string ? CamelCase<Key> : never]: Members[Key] extends Option<
    infer Value
  >
    ? Value
    : Members[Key] extends Table<infer Inner>
      ? ConfigOf<Inner>
      : never;
};

type CamelCase<Key extends string> = Key extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : Key;

/** `public_ip` → `publicIp`. */
export function camelCase(key: string): string {
  return key.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}

interface OptionSpec {
  readonly doc: string;
  readonly flanneldFlag?: string;
  readonly alsoFlag?: Option<unknown>["alsoFlag"];
  readonly secret?: true;
  readonly live?: LivePart;
}

/** An option with a default, or one with an example that may stay unset. */
export function option<Value, Raw>(
  kind: Kind<Value, Raw>,
  spec: OptionSpec & { readonly fallback: Raw },
): Option<Value>;
export function option<Value, Raw>(
  kind: Kind<Value, Raw>,
  spec: OptionSpec & { readonly example: Raw },
): Option<Value | undefined>;
export function option<Value, Raw>(
  kind: Kind<Value, Raw>,
  spec: OptionSpec & { readonly fallback?: Raw; readonly example?: Raw },
): Option<Value | undefined> {
  const { doc, fallback, example, flanneldFlag, alsoFlag, secret = false, live } = spec;
  return { is: "option", kind, doc, fallback, example, flanneldFlag, alsoFlag, secret, live };
}

export function table<const Members extends TableMembers>(doc: string, members: Members): Table<Members> {
  return { is: "table", doc, members };
}
