import { malformed } from "./errors.ts";
import { clampInt, depthMax, type Field, isZero, type MessageType, zeroOf } from "./message.ts";

/**
 * A message from protobuf's binary form; unknown fields are skipped, of a field sent twice the last counts.
 * Values of type bytes are views of `bytes`.
 * @throws RpcError invalidArgument
 */
export function fromProtobuf<Value>(type: MessageType<Value>, bytes: Uint8Array, depth = depthMax): Value {
  if (depth === 0) throw malformed("nested too deep");
  const message: Record<string, unknown> = {};
  const byNumber = fieldsByNumber(type);
  for (const [name, field] of byNumber.values()) message[name] = zeroOf(field);
  const reader = new Reader(bytes);
  while (!reader.done) {
    const tag = Number(reader.varint());
    const found = byNumber.get(Math.floor(tag / 8));
    if (found === undefined) {
      reader.skip(tag & 7);
      continue;
    }
    const [name, field] = found;
    if (field.repeated && (tag & 7) === wire.bytes && isPackable(field)) {
      const packed = new Reader(reader.bytes());
      while (!packed.done)
        (message[name] as unknown[]).push(readOne(field, packed, wire.varint, name, depth));
      continue;
    }
    const value = readOne(field, reader, tag & 7, name, depth);
    if (field.repeated) (message[name] as unknown[]).push(value);
    else message[name] = value;
  }
  return message as Value;
}

/** The message in protobuf's binary form; zero fields are left out. */
export function toProtobuf<Value>(type: MessageType<Value>, value: Value): Buffer {
  const parts: Uint8Array[] = [];
  write(type, value, parts);
  return Buffer.concat(parts);
}

const wire = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

const tables = new WeakMap<object, Map<number, readonly [string, Field<unknown>]>>();

function fieldsByNumber(type: MessageType<unknown>): Map<number, readonly [string, Field<unknown>]> {
  let table = tables.get(type);
  if (table === undefined) {
    table = new Map(Object.entries(type.fields).map((entry) => [entry[1].number, entry]));
    tables.set(type, table);
  }
  return table;
}

function isPackable({ type }: Field<unknown>): boolean {
  return typeof type === "object" ? "names" in type : ["int", "id", "uid", "bool"].includes(type);
}

function readOne(
  { type }: Field<unknown>,
  reader: Reader,
  wireType: number,
  name: string,
  depth: number,
): unknown {
  const isVarint = typeof type === "object" ? "names" in type : !["key", "bytes", "text"].includes(type);
  if (wireType !== (isVarint ? wire.varint : wire.bytes)) throw malformed(`${name} has the wrong wire type`);
  if (typeof type === "object" && "message" in type) {
    return fromProtobuf(type.message(), reader.bytes(), depth - 1);
  }
  if (typeof type === "object") {
    const found = type.names[Number(reader.varint())];
    if (found === undefined) throw malformed(`${name} must be one of ${type.names.join(", ")}`);
    return found;
  }
  switch (type) {
    case "int":
      return clampInt(BigInt.asIntN(64, reader.varint()));
    case "id":
      return BigInt.asIntN(64, reader.varint());
    case "uid":
      return BigInt.asUintN(64, reader.varint());
    case "bool":
      return reader.varint() !== 0n;
    case "text":
      return Buffer.from(reader.bytes()).toString("utf8");
    case "key":
      return Buffer.from(reader.bytes()).toString("latin1");
    case "bytes":
      return reader.bytes();
  }
}

class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get done(): boolean {
    return this.#at >= this.#bytes.length;
  }

  varint(): bigint {
    let value = 0;
    for (let shift = 0; shift < 28; shift += 7) {
      const byte = this.#byte();
      value |= (byte & 127) << shift;
      if (byte < 128) return BigInt(value);
    }
    let long = BigInt(value);
    for (let shift = 28n; shift < 70n; shift += 7n) {
      const byte = this.#byte();
      long |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asUintN(64, long);
    }
    throw malformed("a number has too many bytes");
  }

  bytes(): Uint8Array {
    return this.#take(Number(this.varint()));
  }

  skip(wireType: number): void {
    if (wireType === wire.varint) this.varint();
    else if (wireType === wire.bytes) this.bytes();
    else if (wireType === wire.fixed64) this.#take(8);
    else if (wireType === wire.fixed32) this.#take(4);
    else throw malformed("a field has an unknown wire type");
  }

  #byte(): number {
    const byte = this.#bytes[this.#at++];
    if (byte === undefined) throw malformed("the message is cut short");
    return byte;
  }

  #take(length: number): Uint8Array {
    if (length > this.#bytes.length - this.#at) throw malformed("the message is cut short");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
}

/** Appends the message to `parts`; gives its length in bytes. */
function write(type: MessageType<unknown>, value: unknown, parts: Uint8Array[]): number {
  let length = 0;
  for (const [name, field] of Object.entries(type.fields)) {
    const member = (value as Record<string, unknown>)[name];
    if (isZero(member)) continue;
    if (!field.repeated) length += writeOne(field, member, parts, false);
    else for (const item of member as readonly unknown[]) length += writeOne(field, item, parts, true);
  }
  return length;
}

function writeOne(field: Field<unknown>, member: unknown, parts: Uint8Array[], always: boolean): number {
  const { type, number } = field;
  if (typeof type === "object" && "message" in type) {
    const at = parts.length;
    const length = write(type.message(), member, parts);
    const head = Buffer.concat([varint(BigInt(number * 8 + wire.bytes)), varint(BigInt(length))]);
    parts.splice(at, 0, head);
    return head.length + length;
  }
  const content = scalarBytes(type, member);
  if (content instanceof Uint8Array) {
    const head = Buffer.concat([varint(BigInt(number * 8 + wire.bytes)), varint(BigInt(content.length))]);
    parts.push(head, content);
    return head.length + content.length;
  }
  if (content === 0n && !always) return 0;
  const both = Buffer.concat([varint(BigInt(number * 8 + wire.varint)), varint(content)]);
  parts.push(both);
  return both.length;
}

/** What follows the tag: a varint, or bytes that their length precedes. */
function scalarBytes(
  type: Exclude<Field<unknown>["type"], { message: unknown }>,
  member: unknown,
): bigint | Uint8Array {
  if (typeof type === "object") return BigInt(type.names.indexOf(member as string));
  switch (type) {
    case "int":
    case "id":
    case "uid":
      return BigInt.asUintN(64, BigInt(member as number | bigint));
    case "bool":
      return member === true ? 1n : 0n;
    case "text":
      return Buffer.from(member as string, "utf8");
    case "key":
      return Buffer.from(member as string, "latin1");
    case "bytes":
      return member as Uint8Array;
  }
}

function varint(value: bigint): Uint8Array {
  if (value < 128n) return Uint8Array.of(Number(value));
  const bytes: number[] = [];
  for (; value >= 128n; value >>= 7n) bytes.push(Number(value & 127n) | 128);
  bytes.push(Number(value));
  return Uint8Array.from(bytes);
}
