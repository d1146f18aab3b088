import type { Access } from "./authorize.ts";
import { RpcError } from "./errors.ts";
import type { MessageType } from "./message.ts";
import * as protocol from "./protocol.ts";
import type { StoreService } from "./service.ts";
import { deleteRange, puts, put, range, transact, writes } from "./transaction.ts";

/** A call that takes one message and gives one. */
export interface Unary {
  /** `/etcdserverpb.KV/Range`. */
  readonly rpc: string;
  /** Where the gateway has it, `/v3/kv/range`; etcd has some at two places. */
  readonly paths: readonly string[];
  readonly request: MessageType<unknown>;
  readonly response: MessageType<unknown>;
  call(service: StoreService, request: unknown, access: Access): Promise<unknown>;
}

/** A stream that takes messages and gives messages. */
export interface Streaming {
  readonly rpc: string;
  readonly paths: readonly string[];
}

export const watchMethod: Streaming = { rpc: "/etcdserverpb.Watch/Watch", paths: ["/v3/watch"] };
export const keepAliveMethod: Streaming = {
  rpc: "/etcdserverpb.Lease/LeaseKeepAlive",
  paths: ["/v3/lease/keepalive"],
};

/** Every unary call that is answered. */
export const unaryMethods: readonly Unary[] = [
  unary({
    rpc: "/etcdserverpb.KV/Range",
    paths: ["/v3/kv/range"],
    request: protocol.rangeRequest,
    response: protocol.rangeResponse,
    call: async (service, request) => filled(service, range(service.history, request)),
  }),
  unary({
    rpc: "/etcdserverpb.KV/Put",
    paths: ["/v3/kv/put"],
    request: protocol.putRequest,
    response: protocol.putResponse,
    call: async (service, request) =>
      await service.write(() => {
        service.checkSpace();
        return filled(service, put(writeContext(service), request));
      }),
  }),
  unary({
    rpc: "/etcdserverpb.KV/DeleteRange",
    paths: ["/v3/kv/deleterange"],
    request: protocol.deleteRangeRequest,
    response: protocol.deleteRangeResponse,
    call: async (service, request) =>
      await service.write(() => filled(service, deleteRange(writeContext(service), request))),
  }),
  unary({
    rpc: "/etcdserverpb.KV/Txn",
    paths: ["/v3/kv/txn"],
    request: protocol.txnRequest,
    response: protocol.txnResponse,
    async call(service, request) {
      const work = () => {
        if (puts(request)) service.checkSpace();
        return filled(service, transact(writeContext(service), request));
      };
      return writes(request) ? await service.write(work) : work();
    },
  }),
  unary({
    rpc: "/etcdserverpb.KV/Compact",
    paths: ["/v3/kv/compaction"],
    request: protocol.compactionRequest,
    response: protocol.compactionResponse,
    async call(service, { revision }) {
      await service.compact(revision);
      return { header: service.header() };
    },
  }),
  unary({
    rpc: "/etcdserverpb.Lease/LeaseGrant",
    paths: ["/v3/lease/grant"],
    request: protocol.leaseGrantRequest,
    response: protocol.leaseGrantResponse,
    async call(service, { ID, TTL }) {
      const lease = await service.grant(ID, TTL);
      return { header: service.header(), ID: lease.id, TTL: lease.ttlSeconds };
    },
  }),
  unary({
    rpc: "/etcdserverpb.Lease/LeaseRevoke",
    paths: ["/v3/lease/revoke", "/v3/kv/lease/revoke"],
    request: protocol.leaseRevokeRequest,
    response: protocol.leaseRevokeResponse,
    async call(service, { ID }) {
      await service.revoke(ID);
      return { header: service.header() };
    },
  }),
  unary({
    rpc: "/etcdserverpb.Lease/LeaseTimeToLive",
    paths: ["/v3/lease/timetolive", "/v3/kv/lease/timetolive"],
    request: protocol.leaseTimeToLiveRequest,
    response: protocol.leaseTimeToLiveResponse,
    async call(service, { ID, keys }) {
      const header = service.header();
      const lease = service.leases.get(ID);
      if (lease === undefined) return { header, ID, TTL: -1 };
      const TTL = Math.trunc((lease.deadlineMs - service.servedMs) / 1000);
      const attached = keys ? { keys: service.history.attached(ID) } : {};
      return { header, ID, TTL, grantedTTL: lease.ttlSeconds, ...attached };
    },
  }),
  unary({
    rpc: "/etcdserverpb.Lease/LeaseLeases",
    paths: ["/v3/lease/leases", "/v3/kv/lease/leases"],
    request: protocol.leaseLeasesRequest,
    response: protocol.leaseLeasesResponse,
    call: async (service) => ({
      header: service.header(),
      leases: service.leases.all().map(({ id }) => ({ ID: id })),
    }),
  }),
  unary({
    rpc: "/etcdserverpb.Maintenance/Status",
    paths: ["/v3/maintenance/status"],
    request: protocol.statusRequest,
    response: protocol.statusResponse,
    call: async (service) => ({
      header: service.header(),
      version: service.version,
      dbSize: service.sizeBytes(),
      dbSizeInUse: service.history.bytes,
      leader: service.memberId,
      raftIndex: service.history.revision,
      raftTerm: 1,
      raftAppliedIndex: service.history.revision,
      errors: service.trouble === undefined ? [] : [service.trouble],
    }),
  }),
  unary({
    rpc: "/etcdserverpb.Maintenance/Alarm",
    paths: ["/v3/maintenance/alarm"],
    request: protocol.alarmRequest,
    response: protocol.alarmResponse,
    // Nothing is switched off by an alarm here: what there is to say is in Status.
    async call(service, { action }) {
      if (action !== "GET") throw unimplemented("/etcdserverpb.Maintenance/Alarm other than GET");
      return { header: service.header() };
    },
  }),
  unary({
    rpc: "/etcdserverpb.Cluster/MemberList",
    paths: ["/v3/cluster/member/list"],
    request: protocol.memberListRequest,
    response: protocol.memberListResponse,
    call: async (service) => ({
      header: service.header(),
      members: [{ ID: service.memberId, name: "flannel-lite" }],
    }),
  }),
  unary({
    rpc: "/etcdserverpb.Auth/Authenticate",
    paths: ["/v3/auth/authenticate"],
    request: protocol.authenticateRequest,
    response: protocol.authenticateResponse,
    call: async (service, { name, password }, access) => ({
      header: service.header(),
      token: await access.authenticate(name, password),
    }),
  }),
];

/** For what etcd answers and this does not. */
export function unimplemented(what: string): RpcError {
  return new RpcError("unimplemented", `flannel-lite's embedded store has no ${what}${remedies[what] ?? ""}`);
}

const remedies: Readonly<Record<string, string>> = {
  "/etcdserverpb.Maintenance/Snapshot": ": use flannel-lite store backup",
  "/v3/maintenance/snapshot": ": use flannel-lite store backup",
};

/** Types what `call` takes and gives by its messages. */
function unary<Request, Response>(method: {
  readonly rpc: string;
  readonly paths: readonly string[];
  readonly request: MessageType<Request>;
  readonly response: MessageType<Response>;
  readonly call: (service: StoreService, request: Request, access: Access) => Promise<Response>;
}): Unary {
  return { ...method, call: (service, request, access) => method.call(service, request as Request, access) };
}

function writeContext({ history, leases }: StoreService) {
  return { history, hasLease: (id: bigint) => leases.has(id) };
}

/** With a whole header in place of just its revision. */
function filled<T extends { readonly header?: protocol.ResponseHeader | undefined }>(
  service: StoreService,
  answer: T,
): T {
  return { ...answer, header: service.header(answer.header?.revision) };
}
