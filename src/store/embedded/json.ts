import { malformed } from "./errors.ts";
import { clampInt, depthMax, type Field, isZero, type MessageType, zeroOf } from "./message.ts";

/**
 * A message from JSON as etcd's gateway reads it: int64 as text or number, bytes as base64, enum members by
 * name or number, members under either of protobuf's names; unknown members are ignored.
 * @throws RpcError invalidArgument
 */
export function fromJson<Value>(type: MessageType<Value>, json: unknown, depth = depthMax): Value {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw malformed(`${type.name} must be an object`);
  }
  if (depth === 0) throw malformed("nested too deep");
  const members = json as Record<string, unknown>;
  const message: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(type.fields)) {
    const member = own(members, name) ?? own(members, camelCase(name));
    message[name] = member === undefined ? zeroOf(field) : parseField(field, member, name, depth);
  }
  return message as Value;
}

/** The message as etcd's gateway writes it: zero members are left out. */
export function toJson<Value>(type: MessageType<Value>, value: Value): string {
  let text = "";
  for (const [name, field] of Object.entries(type.fields)) {
    const member = (value as Record<string, unknown>)[name];
    if (isZero(member)) continue;
    text += `${text === "" ? "{" : ","}"${name}":${writeField(field, member)}`;
  }
  return text === "" ? "{}" : `${text}}`;
}

function own(members: Record<string, unknown>, name: string): unknown {
  return (Object.hasOwn(members, name) ? members[name] : undefined) ?? undefined;
}

function camelCase(name: string): string {
  return name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}

function parseField(field: Field<unknown>, member: unknown, name: string, depth: number): unknown {
  if (!field.repeated) return parseOne(field, member, name, depth);
  if (!Array.isArray(member)) throw malformed(`${name} must be a list`);
  return member.map((item: unknown) => parseOne(field, item, name, depth));
}

function parseOne({ type }: Field<unknown>, member: unknown, name: string, depth: number): unknown {
  if (typeof type === "object" && "message" in type) return fromJson(type.message(), member, depth - 1);
  if (typeof type === "object") {
    const found = typeof member === "number" ? type.names[member] : type.names.find((one) => one === member);
    if (found === undefined) throw malformed(`${name} must be one of ${type.names.join(", ")}`);
    return found;
  }
  switch (type) {
    case "int":
      return clampInt(parseInt64(member, name));
    case "id":
      return BigInt.asIntN(64, parseInt64(member, name));
    case "uid":
      return BigInt.asUintN(64, parseInt64(member, name));
    case "bool":
      if (typeof member !== "boolean") throw malformed(`${name} must be true or false`);
      return member;
    case "text":
      if (typeof member !== "string") throw malformed(`${name} must be text`);
      return member;
    case "key":
      return parseBase64(member, name).toString("latin1");
    case "bytes":
      return parseBase64(member, name);
  }
}

function parseInt64(member: unknown, name: string): bigint {
  const digits = typeof member === "number" ? String(member) : member;
  if (typeof digits !== "string" || !/^-?\d{1,20}$/.test(digits)) {
    throw malformed(`${name} must be a whole number`);
  }
  return BigInt(digits);
}

function parseBase64(member: unknown, name: string): Buffer {
  if (typeof member !== "string") throw malformed(`${name} must be base64`);
  const bytes = Buffer.from(member, "base64");
  if (Math.ceil(bytes.length / 3) * 4 === member.length && !/[-_]/.test(member)) return bytes;
  throw malformed(`illegal base64 data in ${name}`);
}

function writeField(field: Field<unknown>, member: unknown): string {
  if (!field.repeated) return writeOne(field, member);
  return `[${(member as readonly unknown[]).map((item) => writeOne(field, item)).join(",")}]`;
}

function writeOne({ type }: Field<unknown>, member: unknown): string {
  if (typeof type === "object" && "message" in type) return toJson(type.message(), member);
  if (typeof type === "object") return `"${String(member)}"`;
  switch (type) {
    case "int":
    case "id":
    case "uid":
      return `"${String(member)}"`;
    case "bool":
      return String(member);
    case "text":
      return JSON.stringify(member);
    case "key":
      return `"${Buffer.from(member as string, "latin1").toString("base64")}"`;
    case "bytes":
      return `"${asBuffer(member as Uint8Array).toString("base64")}"`;
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
