/**
 * Messages of etcd's protocol as data: one table for each, read by the codecs of both faces (json.ts,
 * protobuf.ts). A field that was not sent has its zero value; one that is zero is not sent.
 */
export interface MessageType<Value> {
  readonly name: string;
  readonly fields: Readonly<Record<string, Field<unknown>>>;
  /** Carries the type only; never set. */
  readonly value?: Value;
}

export interface Field<Value> {
  readonly number: number;
  readonly type: ScalarType | EnumType | NestedType;
  readonly repeated: boolean;
  /** Carries the type only; never set. */
  readonly value?: Value;
}

/**
 * `int`: an int64 that counts something, clamped to what a number holds exactly; `id`: an int64 and `uid` a
 * uint64 that name something, exact; `key`: bytes as text of one character each, which sorts as they do.
 */
export type ScalarType = "int" | "id" | "uid" | "key" | "bytes" | "text" | "bool";
export interface EnumType {
  readonly names: readonly string[];
}
export interface NestedType {
  readonly message: () => MessageType<unknown>;
}

/** What a message of this type is once it is decoded. */
export type MessageValue<Type> = Type extends MessageType<infer Value> ? Value : never;

type Fields = Readonly<Record<string, Field<unknown>>>;
type FieldValues<F extends Fields> = {
  readonly [K in keyof F]: F[K] extends Field<infer Value> ? Value : never;
};

/** A message that we read: every field is there once decoded. */
export function request<const F extends Fields>(name: string, fields: F): MessageType<FieldValues<F>> {
  return { name, fields };
}

/** A message that we write: what is left out is zero. */
export function response<const F extends Fields>(
  name: string,
  fields: F,
): MessageType<Partial<FieldValues<F>>> {
  return { name, fields };
}

export const int = (number: number): Field<number> => ({ number, type: "int", repeated: false });
export const id = (number: number): Field<bigint> => ({ number, type: "id", repeated: false });
export const uid = (number: number): Field<bigint> => ({ number, type: "uid", repeated: false });
export const key = (number: number): Field<string> => ({ number, type: "key", repeated: false });
export const bytes = (number: number): Field<Uint8Array> => ({ number, type: "bytes", repeated: false });
export const text = (number: number): Field<string> => ({ number, type: "text", repeated: false });
export const bool = (number: number): Field<boolean> => ({ number, type: "bool", repeated: false });

export function oneOf<const Name extends string>(number: number, names: readonly Name[]): Field<Name> {
  return { number, type: { names }, repeated: false };
}

export function one<Value>(number: number, message: () => MessageType<Value>): Field<Value | undefined> {
  return { number, type: { message }, repeated: false };
}

export function many<Value>(number: number, message: () => MessageType<Value>): Field<readonly Value[]> {
  return { number, type: { message }, repeated: true };
}

/** The same scalar or enum again and again. */
export function each<Value>({ number, type }: Field<Value>): Field<readonly Value[]> {
  return { number, type, repeated: true };
}

/** What a field is that was not sent; nested messages are absent. */
export function zeroOf({ type, repeated }: Field<unknown>): unknown {
  if (repeated) return [];
  if (typeof type === "object") return "names" in type ? type.names[0] : undefined;
  switch (type) {
    case "int":
      return 0;
    case "id":
    case "uid":
      return 0n;
    case "key":
    case "text":
      return "";
    case "bytes":
      return noBytes;
    case "bool":
      return false;
  }
}

const noBytes = new Uint8Array();

/** Whether a value would be sent as nothing. */
export function isZero(value: unknown): boolean {
  if (Array.isArray(value) || value instanceof Uint8Array) return value.length === 0;
  return value === undefined || value === 0 || value === 0n || value === "" || value === false;
}

const intMax = BigInt(Number.MAX_SAFE_INTEGER);

/** The nearest whole number that a number holds exactly. */
export function clampInt(value: bigint): number {
  return Number(value > intMax ? intMax : value < -intMax ? -intMax : value);
}

/** Nesting beyond which a message is refused; etcd's transactions may nest. */
export const depthMax = 64;
