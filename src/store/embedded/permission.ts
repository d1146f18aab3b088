import { etcdLayout } from "../etcd/codec.ts";
import type { Role } from "./identity.ts";
import type {
  DeleteRangeRequest,
  LeaseRevokeRequest,
  PutRequest,
  RequestOp,
  TxnRequest,
} from "./protocol.ts";

/** Keys from `from` on and below `to`, both as bytes of one character each. */
interface KeyRange {
  readonly from: string;
  readonly to: string;
}

/** Decides by role; `attachedKeys` gives the keys that hang on a lease. */
export type Permission = (
  role: Role,
  operation: { readonly rpc: string; readonly request: unknown },
  attachedKeys: (lease: bigint) => readonly string[],
) => boolean;

/** Calls that write nothing, or only what is the caller's own: for every role. */
const open = new Set([
  "/etcdserverpb.KV/Range",
  "/etcdserverpb.Watch/Watch",
  "/etcdserverpb.Lease/LeaseGrant",
  "/etcdserverpb.Lease/LeaseKeepAlive",
  "/etcdserverpb.Lease/LeaseTimeToLive",
  "/etcdserverpb.Lease/LeaseLeases",
  "/etcdserverpb.Maintenance/Status",
  "/etcdserverpb.Maintenance/Alarm",
  "/etcdserverpb.Cluster/MemberList",
]);

/** Members write below `<prefix>/subnets/` and `<prefix>/nodes/`; an administrator may do all there is. */
export function openPermission(prefix: string): Permission {
  const { subnets, nodes } = etcdLayout(prefix);
  const writable = [subnets, nodes].map((directory) => below(`${directory}/`));
  const mayWrite = (key: string, end: string) =>
    writable.some(({ from, to }) => key >= from && (end === "" ? key < to : end !== "\0" && end <= to));

  const mayRun = (operation: RequestOp): boolean => {
    const { request_put: put, request_delete_range: deletion, request_txn: txn } = operation;
    if (put !== undefined) return mayWrite(put.key, "");
    if (deletion !== undefined) return mayWrite(deletion.key, deletion.range_end);
    return txn === undefined || mayTransact(txn);
  };
  const mayTransact = ({ success, failure }: TxnRequest) => [...success, ...failure].every(mayRun);

  return (role, { rpc, request }, attachedKeys) => {
    if (role === "admin" || open.has(rpc)) return true;
    switch (rpc) {
      case "/etcdserverpb.KV/Put":
        return mayWrite((request as PutRequest).key, "");
      case "/etcdserverpb.KV/DeleteRange": {
        const { key, range_end } = request as DeleteRangeRequest;
        return mayWrite(key, range_end);
      }
      case "/etcdserverpb.KV/Txn":
        return mayTransact(request as TxnRequest);
      case "/etcdserverpb.Lease/LeaseRevoke":
        // It deletes the keys that hang on it.
        return attachedKeys((request as LeaseRevokeRequest).ID).every((key) => mayWrite(key, ""));
      default:
        return false;
    }
  };
}

function below(prefix: string): KeyRange {
  const from = Buffer.from(prefix, "utf8").toString("latin1");
  return { from, to: `${from.slice(0, -1)}${String.fromCharCode(from.charCodeAt(from.length - 1) + 1)}` };
}
