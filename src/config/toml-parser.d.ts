/** The parser inside the `toml` package: its nodes are the only place where keys have positions. */
declare module "toml/lib/parser" {
  /** Offsets count UTF-16 units from the start of the text. */
  export type Statement =
    | {
        readonly type: "Assign";
        readonly key: readonly string[];
        readonly value: Value;
        readonly offset: number;
      }
    | {
        readonly type: "ObjectPath" | "ArrayPath";
        readonly value: readonly string[];
        readonly offset: number;
      };

  export type Value =
    | { readonly type: "Array"; readonly value: readonly Value[]; readonly offset: number }
    | { readonly type: "InlineTable"; readonly value: readonly Member[]; readonly offset: number }
    | { readonly type: "String" | "Integer" | "Float" | "Boolean"; readonly offset: number }
    | { readonly type: "Date" | "LocalDateTime" | "LocalDate" | "LocalTime"; readonly offset: number };

  export interface Member {
    readonly type: "InlineTableValue";
    readonly key: readonly string[];
    readonly value: Value;
    readonly offset: number;
  }

  export function parse(text: string, options?: { readonly maxDepth?: number }): readonly Statement[];
}
