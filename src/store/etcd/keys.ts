import type { KeyValue, RangeAnswer, WatchMessage } from "./wire.ts";

/** A key as it was read: what a write depends on. */
export interface Unchanged {
  readonly key: string;
  /** The revision at which the key was read, 0 where it must not exist. */
  readonly ifRevision: bigint;
}

/** A put that happens only while the key is as it was read. */
export interface GuardedPut extends Unchanged {
  readonly value: string;
  /** Lease to attach, `0` for none. */
  readonly lease: string;
}

/** How long a lease lasts: -1 for one that is gone; and how many keys hang on it, where that was asked. */
export interface TimeToLive {
  readonly ttlSeconds: number;
  readonly keyCount: number;
}

/**
 * What leases need of etcd's keys, whichever of its APIs they are reached by. Every call throws FlannelError as
 * Store describes.
 */
export interface EtcdKeys {
  /** As origins, `http://host:port`. */
  readonly endpoints: readonly string[];
  /** Ends every call and watch; those to come fail with `store/closed`. */
  close(): void;
  /** After a watch that was cancelled: a token made before the users changed shows as that. */
  forgetToken(): void;
  /** One key, linearizable. */
  get(key: string, stop: AbortSignal): Promise<KeyValue | undefined>;
  /** Every key that begins with `prefix`, in key order, linearizable. */
  list(prefix: string, stop: AbortSignal): Promise<RangeAnswer>;
  /** Puts all keys if the revision of each is still the one given; tells whether they are put now. */
  put(puts: readonly GuardedPut[], stop: AbortSignal): Promise<boolean>;
  /** Puts a key that does not exist; tells whether it did. Not repeated once it may have been applied. */
  create(key: string, value: string, stop: AbortSignal): Promise<boolean>;
  /** Deletes all keys if the revision of each is still the one given; tells whether they are gone now. */
  delete(keys: readonly Unchanged[], stop: AbortSignal): Promise<boolean>;
  /** A new lease: its id and the seconds the server gives it. */
  grant(ttlSeconds: number, stop: AbortSignal): Promise<{ id: string; ttlSeconds: number }>;
  /** Ends a lease and deletes the keys attached to it. One that is gone already is no error. */
  revoke(id: string, stop: AbortSignal): Promise<void>;
  timeToLive(id: string, stop: AbortSignal, keys?: boolean): Promise<TimeToLive>;
  /**
   * Changes of the keys that begin with `prefix` from revision `from` on. Returns when the server ends it or
   * has been silent for long, throws FlannelError when it breaks or its server stops answering; either way
   * watch again from the revision after the last one seen.
   */
  watch(prefix: string, from: bigint, stop: AbortSignal): AsyncGenerator<WatchMessage>;
}
