import protobuf from "protobufjs";
import authProto from "etcd3/proto/auth.proto" with { type: "text" };
import kvProto from "etcd3/proto/kv.proto" with { type: "text" };
import rpcProto from "etcd3/proto/rpc.proto" with { type: "text" };

const files: Readonly<Record<string, string>> = {
  "etcd3/auth.proto": authProto,
  "etcd3/kv.proto": kvProto,
  "etcd3/rpc.proto": rpcProto,
};

/**
 * The part of etcd3 that holds etcd's protocol. While it loads it reads its .proto files from beside its own,
 * a path that in a compiled binary is one of the machine that built it: it gets the embedded ones instead.
 */
export function loadEtcd3(): typeof import("etcd3/lib/connection-pool") {
  for (const [name, text] of Object.entries(files)) protobuf.common(name, text as unknown as object);
  const { prototype } = protobuf.Root;
  const { resolvePath } = prototype;
  prototype.resolvePath = function (origin, target) {
    const name = `etcd3/${target.slice(target.lastIndexOf("/") + 1)}`;
    return name in files ? name : resolvePath.call(this, origin, target);
  };
  try {
    return require("etcd3/lib/connection-pool.js") as typeof import("etcd3/lib/connection-pool");
  } finally {
    prototype.resolvePath = resolvePath;
  }
}
