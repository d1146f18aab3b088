import { expect, test } from "bun:test";
import protobuf from "protobufjs";
import kvProto from "etcd3/proto/kv.proto" with { type: "text" };
import authProto from "etcd3/proto/auth.proto" with { type: "text" };
import rpcProto from "etcd3/proto/rpc.proto" with { type: "text" };
import { fromJson, toJson } from "../../../../src/store/embedded/json.ts";
import type { Field, MessageType } from "../../../../src/store/embedded/message.ts";
import { unaryMethods } from "../../../../src/store/embedded/methods.ts";
import { fromProtobuf, toProtobuf } from "../../../../src/store/embedded/protobuf.ts";
import * as protocol from "../../../../src/store/embedded/protocol.ts";
import { type Random, seededRandom } from "../../../support/random.ts";

const root = new protobuf.Root();
for (const text of [kvProto, authProto, rpcProto]) protobuf.parse(text, root, { keepCase: true });
root.resolveAll();

function theirs(name: string): protobuf.Type {
  for (const space of ["etcdserverpb", "mvccpb"]) {
    const found = root.lookup(`${space}.${name}`, [protobuf.Type]);
    if (found instanceof protobuf.Type) return found;
  }
  const nested = root.lookup(`etcdserverpb.${name}`);
  throw new Error(`etcd has no message ${name} ${nested}`);
}

/** Every message there is, those inside of others too. */
function allTypes(): Map<string, MessageType<unknown>> {
  const types = new Map<string, MessageType<unknown>>();
  const add = (type: MessageType<unknown>) => {
    if (types.has(type.name)) return;
    types.set(type.name, type);
    for (const { type: of } of Object.values(type.fields)) {
      if (typeof of === "object" && "message" in of) add(of.message());
    }
  };
  for (const { request, response } of unaryMethods) {
    add(request);
    add(response);
  }
  for (const type of [
    protocol.watchRequest,
    protocol.watchResponse,
    protocol.leaseKeepAliveRequest,
    protocol.leaseKeepAliveResponse,
  ]) {
    add(type);
  }
  return types;
}

const protobufTypes = {
  int: "int64",
  id: "int64",
  uid: "uint64",
  key: "bytes",
  bytes: "bytes",
  text: "string",
  bool: "bool",
};

test("codec: every field of every message is etcd's, by name, number and type", () => {
  const types = allTypes();
  expect(types.size).toBeGreaterThan(30);
  for (const [name, { fields }] of types) {
    const known = theirs(name).fields;
    const ours = Object.entries(fields).map(([field, { number, type, repeated }]) => {
      const kind =
        typeof type !== "object" ? protobufTypes[type] : "names" in type ? "enum" : type.message().name;
      return [field, number, repeated, kind];
    });
    const etcds = Object.keys(fields).map((field) => {
      const of = known[field];
      const kind = of?.resolvedType instanceof protobuf.Enum ? "enum" : (of?.resolvedType?.name ?? of?.type);
      // What only counts is read as int64 here, whichever it is.
      const isCount = fields[field]?.type === "int" && kind === "uint64";
      return [field, of?.id ?? 0, of?.repeated ?? false, isCount ? "int64" : (kind ?? "")];
    });
    expect([name, ours]).toEqual([name, etcds]);
    expect([name, Object.keys(known).filter((field) => !(field in fields))]).toEqual([name, []]);
    for (const [field, { type }] of Object.entries(fields)) {
      const resolved = known[field]?.resolvedType;
      if (typeof type !== "object" || !("names" in type) || !(resolved instanceof protobuf.Enum)) continue;
      const names = Object.keys(resolved.values).map((one) => one.toUpperCase());
      expect([name, field, type.names.map((one) => one.replaceAll("_", ""))]).toEqual([name, field, names]);
    }
  }
});

function randomValue({ type, repeated }: Field<unknown>, random: Random, depth: number): unknown {
  const isLeaf = typeof type !== "object" || "names" in type;
  if (repeated && depth === 0 && !isLeaf) return [];
  if (repeated) {
    return Array.from({ length: random.below(3) }, () =>
      randomValue({ type, repeated: false, number: 0 }, random, depth),
    );
  }
  if (typeof type === "object" && "message" in type) {
    return depth === 0 ? undefined : randomMessage(type.message(), random, depth - 1);
  }
  if (typeof type === "object") return type.names[random.below(type.names.length)];
  const long = (BigInt(random.below(2 ** 31)) << 32n) | BigInt(random.below(2 ** 31));
  switch (type) {
    case "int":
      return random.pick([0, 1, -1, 127, 128, random.below(2 ** 31), Number.MAX_SAFE_INTEGER]);
    case "id":
      return random.pick([0n, 1n, -long, long, 2n ** 63n - 1n]);
    case "uid":
      return random.pick([0n, long, 2n ** 64n - 1n]);
    case "bool":
      return random.below(2) === 1;
    case "text":
      return random.pick(["", "x", 'ä\n"', "x".repeat(200)]);
    case "key":
      return random.pick(["", "a", "\0\xff", "k".repeat(200)]);
    case "bytes":
      return Buffer.from(random.pick(["", "v", "\xff\0", "v".repeat(40_000)]), "latin1");
  }
}

function randomMessage<Value>(type: MessageType<Value>, random: Random, depth = 3): Value {
  const entries = Object.entries(type.fields).map(([name, field]) => [
    name,
    randomValue(field, random, depth),
  ]);
  return Object.fromEntries(entries) as Value;
}

test("codec: random messages are the same after JSON, after protobuf, and after another's protobuf", () => {
  const random = seededRandom(11);
  for (const [name, type] of allTypes()) {
    for (let round = 0; round < 30; round++) {
      const message = randomMessage(type, random);
      const bytes = toProtobuf(type, message);
      const back = fromProtobuf(type, bytes);
      expect(toJson(type, back)).toBe(toJson(type, message));
      const json = toJson(type, message);
      expect(toJson(type, fromJson(type, JSON.parse(json)))).toBe(json);
      const other = theirs(name);
      const theirBytes = other.encode(other.decode(bytes)).finish();
      expect(toJson(type, fromProtobuf(type, theirBytes))).toBe(json);
    }
  }
});

test("codec: bytes that are no message are refused, and never more than that", () => {
  const random = seededRandom(5);
  const types = [...allTypes().values()];
  for (let round = 0; round < 3_000; round++) {
    const type = types[random.below(types.length)] ?? protocol.txnRequest;
    const bytes = toProtobuf(type, randomMessage(type, random)).subarray(0, 200);
    for (let flips = random.below(4); flips >= 0 && bytes.length > 0; flips--) {
      bytes[random.below(bytes.length)] = random.below(256);
    }
    try {
      fromProtobuf(type, bytes);
    } catch (error) {
      expect(error).toMatchObject({ status: "invalidArgument" });
    }
  }
});

test("codec: JSON takes both names of a member, numbers as text, and leaves the unknown alone", () => {
  const { rangeRequest } = protocol;
  const parse = (json: object) => fromJson(rangeRequest, json);
  expect(parse({ rangeEnd: "YQ==", limit: "5", nonsense: [1] })).toMatchObject({ range_end: "a", limit: 5 });
  expect(parse({ range_end: "YQ==", limit: 5, sort_order: 2 })).toMatchObject({
    range_end: "a",
    sort_order: "DESCEND",
  });
  expect(parse({ revision: "9223372036854775807" }).revision).toBe(Number.MAX_SAFE_INTEGER);
  expect(parse({ key: null, __proto__: null })).toEqual(parse({}));
});
