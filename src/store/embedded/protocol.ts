import {
  bool,
  bytes,
  each,
  id,
  int,
  key,
  many,
  type MessageType,
  type MessageValue,
  one,
  oneOf,
  request,
  response,
  text,
  uid,
} from "./message.ts";

/** The part of etcd's v3 protocol that is answered here (etcd 3.4, etcdserverpb/rpc.proto, mvccpb/kv.proto). */

const responseHeader = response("ResponseHeader", {
  cluster_id: uid(1),
  member_id: uid(2),
  revision: int(3),
  raft_term: int(4),
});
export type ResponseHeader = MessageValue<typeof responseHeader>;

export const keyValue = response("KeyValue", {
  key: key(1),
  create_revision: int(2),
  mod_revision: int(3),
  version: int(4),
  value: bytes(5),
  lease: id(6),
});
export type KeyValue = MessageValue<typeof keyValue>;

export const event = response("Event", {
  type: oneOf(1, ["PUT", "DELETE"]),
  kv: one(2, () => keyValue),
  prev_kv: one(3, () => keyValue),
});
export type Event = MessageValue<typeof event>;

const header = one(1, () => responseHeader);

export const rangeRequest = request("RangeRequest", {
  key: key(1),
  range_end: key(2),
  limit: int(3),
  revision: int(4),
  sort_order: oneOf(5, ["NONE", "ASCEND", "DESCEND"]),
  sort_target: oneOf(6, ["KEY", "VERSION", "CREATE", "MOD", "VALUE"]),
  serializable: bool(7),
  keys_only: bool(8),
  count_only: bool(9),
  min_mod_revision: int(10),
  max_mod_revision: int(11),
  min_create_revision: int(12),
  max_create_revision: int(13),
});
export type RangeRequest = MessageValue<typeof rangeRequest>;
export const rangeResponse = response("RangeResponse", {
  header,
  kvs: many(2, () => keyValue),
  more: bool(3),
  count: int(4),
});
export type RangeResponse = MessageValue<typeof rangeResponse>;

export const putRequest = request("PutRequest", {
  key: key(1),
  value: bytes(2),
  lease: id(3),
  prev_kv: bool(4),
  ignore_value: bool(5),
  ignore_lease: bool(6),
});
export type PutRequest = MessageValue<typeof putRequest>;
export const putResponse = response("PutResponse", { header, prev_kv: one(2, () => keyValue) });
export type PutResponse = MessageValue<typeof putResponse>;

export const deleteRangeRequest = request("DeleteRangeRequest", {
  key: key(1),
  range_end: key(2),
  prev_kv: bool(3),
});
export type DeleteRangeRequest = MessageValue<typeof deleteRangeRequest>;
export const deleteRangeResponse = response("DeleteRangeResponse", {
  header,
  deleted: int(2),
  prev_kvs: many(3, () => keyValue),
});
export type DeleteRangeResponse = MessageValue<typeof deleteRangeResponse>;

export const compare = request("Compare", {
  result: oneOf(1, ["EQUAL", "GREATER", "LESS", "NOT_EQUAL"]),
  target: oneOf(2, ["VERSION", "CREATE", "MOD", "VALUE", "LEASE"]),
  key: key(3),
  version: int(4),
  create_revision: int(5),
  mod_revision: int(6),
  value: bytes(7),
  lease: id(8),
  range_end: key(64),
});
export type Compare = MessageValue<typeof compare>;

/** At most one of them is there. */
export interface RequestOp {
  readonly request_range: RangeRequest | undefined;
  readonly request_put: PutRequest | undefined;
  readonly request_delete_range: DeleteRangeRequest | undefined;
  readonly request_txn: TxnRequest | undefined;
}
export interface TxnRequest {
  readonly compare: readonly Compare[];
  readonly success: readonly RequestOp[];
  readonly failure: readonly RequestOp[];
}
const requestOp: MessageType<RequestOp> = request("RequestOp", {
  request_range: one(1, () => rangeRequest),
  request_put: one(2, () => putRequest),
  request_delete_range: one(3, () => deleteRangeRequest),
  request_txn: one(4, (): MessageType<TxnRequest> => txnRequest),
});
export const txnRequest: MessageType<TxnRequest> = request("TxnRequest", {
  compare: many(1, () => compare),
  success: many(2, () => requestOp),
  failure: many(3, () => requestOp),
});

export interface ResponseOp {
  readonly response_range?: RangeResponse | undefined;
  readonly response_put?: PutResponse | undefined;
  readonly response_delete_range?: DeleteRangeResponse | undefined;
  readonly response_txn?: TxnResponse | undefined;
}
export interface TxnResponse {
  readonly header?: ResponseHeader | undefined;
  readonly succeeded?: boolean;
  readonly responses?: readonly ResponseOp[];
}
const responseOp: MessageType<ResponseOp> = response("ResponseOp", {
  response_range: one(1, () => rangeResponse),
  response_put: one(2, () => putResponse),
  response_delete_range: one(3, () => deleteRangeResponse),
  response_txn: one(4, (): MessageType<TxnResponse> => txnResponse),
});
export const txnResponse: MessageType<TxnResponse> = response("TxnResponse", {
  header,
  succeeded: bool(2),
  responses: many(3, () => responseOp),
});

export const compactionRequest = request("CompactionRequest", { revision: int(1), physical: bool(2) });
export const compactionResponse = response("CompactionResponse", { header });

export const leaseGrantRequest = request("LeaseGrantRequest", { TTL: int(1), ID: id(2) });
export const leaseGrantResponse = response("LeaseGrantResponse", {
  header,
  ID: id(2),
  TTL: int(3),
  error: text(4),
});
export const leaseRevokeRequest = request("LeaseRevokeRequest", { ID: id(1) });
export type LeaseRevokeRequest = MessageValue<typeof leaseRevokeRequest>;
export const leaseRevokeResponse = response("LeaseRevokeResponse", { header });
export const leaseKeepAliveRequest = request("LeaseKeepAliveRequest", { ID: id(1) });
export const leaseKeepAliveResponse = response("LeaseKeepAliveResponse", { header, ID: id(2), TTL: int(3) });
export const leaseTimeToLiveRequest = request("LeaseTimeToLiveRequest", { ID: id(1), keys: bool(2) });
export const leaseTimeToLiveResponse = response("LeaseTimeToLiveResponse", {
  header,
  ID: id(2),
  TTL: int(3),
  grantedTTL: int(4),
  keys: each(key(5)),
});
export const leaseLeasesRequest = request("LeaseLeasesRequest", {});
const leaseStatus = response("LeaseStatus", { ID: id(1) });
export const leaseLeasesResponse = response("LeaseLeasesResponse", {
  header,
  leases: many(2, () => leaseStatus),
});

const watchCreateRequest = request("WatchCreateRequest", {
  key: key(1),
  range_end: key(2),
  start_revision: int(3),
  progress_notify: bool(4),
  filters: each(oneOf(5, ["NOPUT", "NODELETE"])),
  prev_kv: bool(6),
  watch_id: int(7),
  fragment: bool(8),
});
export type WatchCreateRequest = MessageValue<typeof watchCreateRequest>;
const watchCancelRequest = request("WatchCancelRequest", { watch_id: int(1) });
const watchProgressRequest = request("WatchProgressRequest", {});
export const watchRequest = request("WatchRequest", {
  create_request: one(1, () => watchCreateRequest),
  cancel_request: one(2, () => watchCancelRequest),
  progress_request: one(3, () => watchProgressRequest),
});
export type WatchRequest = MessageValue<typeof watchRequest>;
export const watchResponse = response("WatchResponse", {
  header,
  watch_id: int(2),
  created: bool(3),
  canceled: bool(4),
  compact_revision: int(5),
  cancel_reason: text(6),
  fragment: bool(7),
  events: many(11, () => event),
});
export type WatchResponse = MessageValue<typeof watchResponse>;

export const alarmRequest = request("AlarmRequest", {
  action: oneOf(1, ["GET", "ACTIVATE", "DEACTIVATE"]),
  memberID: uid(2),
  alarm: oneOf(3, ["NONE", "NOSPACE", "CORRUPT"]),
});
const alarmMember = response("AlarmMember", {
  memberID: uid(1),
  alarm: oneOf(2, ["NONE", "NOSPACE", "CORRUPT"]),
});
export const alarmResponse = response("AlarmResponse", { header, alarms: many(2, () => alarmMember) });
export const statusRequest = request("StatusRequest", {});
export const statusResponse = response("StatusResponse", {
  header,
  version: text(2),
  dbSize: int(3),
  leader: uid(4),
  raftIndex: int(5),
  raftTerm: int(6),
  raftAppliedIndex: int(7),
  errors: each(text(8)),
  dbSizeInUse: int(9),
  isLearner: bool(10),
});
const member = response("Member", {
  ID: uid(1),
  name: text(2),
  peerURLs: each(text(3)),
  clientURLs: each(text(4)),
  isLearner: bool(5),
});
export const memberListRequest = request("MemberListRequest", { linearizable: bool(1) });
export const memberListResponse = response("MemberListResponse", { header, members: many(2, () => member) });

export const authenticateRequest = request("AuthenticateRequest", { name: text(1), password: text(2) });
export const authenticateResponse = response("AuthenticateResponse", { header, token: text(2) });
