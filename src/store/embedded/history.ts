/** What a key was from one revision on. */
export interface Version {
  /** Bytes as text of one character each. */
  readonly key: string;
  /** Undefined where the key was deleted. */
  readonly value: Uint8Array | undefined;
  /** Revision at which the key came into being; 0 where it was deleted. */
  readonly created: number;
  readonly modified: number;
  /** Place among the changes of that revision, from 0. */
  readonly sub: number;
  /** Counts the writes since the key came into being, from 1; 0 where it was deleted. */
  readonly version: number;
  /** 0 for none. */
  readonly lease: bigint;
}

/** Keys from `key` on, up to but without `end`; without `end` just the one, and all that follow where it is "". */
export interface KeyRange {
  readonly key: string;
  readonly end: string | undefined;
}

/** A range as etcd's requests say it: no end is one key, an end of one zero byte is none at all. */
export function keyRange(key: string, rangeEnd: string): KeyRange {
  return { key, end: rangeEnd === "" ? undefined : rangeEnd === "\0" ? "" : rangeEnd };
}

export function inRange({ key, end }: KeyRange, candidate: string): boolean {
  if (end === undefined) return candidate === key;
  return candidate >= key && (end === "" || candidate < end);
}

/** What a version is counted with beside its key and value, in bytes. */
const versionOverheadBytes = 128;

/**
 * All versions of all keys since the last compaction, in memory. Reads see the writes of the revision that is
 * being made. Knows neither disk nor leases, but which key hangs on which lease.
 */
export class History {
  #revision: number;
  #compacted: number;
  readonly #byKey = new Map<string, Version[]>();
  /** All keys of `#byKey`, in byte order. */
  readonly #keys: string[] = [];
  /** The changes of each revision from `#logStart` on. */
  #log: (readonly Version[])[] = [];
  #logStart: number;
  #pending: Version[] = [];
  readonly #attached = new Map<bigint, Set<string>>();
  #bytes = 0;
  #liveBytes = 0;

  /** @param versions in the order of their writing */
  constructor(state: { revision: number; compacted: number; versions: Iterable<Version> }) {
    this.#revision = state.revision;
    this.#compacted = state.compacted;
    this.#logStart = Math.max(state.compacted, 1);
    this.#log = Array.from({ length: state.revision - this.#logStart + 1 }, () => []);
    for (const version of state.versions) {
      this.#append(version);
      const at = version.modified - this.#logStart;
      if (at >= 0) (this.#log[at] as Version[]).push(version);
    }
  }

  /** The revision of the last write; 1 before the first. */
  get revision(): number {
    return this.#revision;
  }

  /** Revisions before it cannot be read; -1 before the first compaction. */
  get compacted(): number {
    return this.#compacted;
  }

  /** Memory that all versions take, roughly. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The part of it that is the newest version of keys there are. */
  get liveBytes(): number {
    return this.#liveBytes;
  }

  /** The revision that reads see: that of the writes that are being made, where there are any. */
  get readRevision(): number {
    return this.#revision + (this.#pending.length > 0 ? 1 : 0);
  }

  /** The key as it was at `revision`, undefined where it was not there. */
  at(key: string, revision: number): Version | undefined {
    const versions = this.#byKey.get(key) ?? [];
    for (let at = versions.length - 1; at >= 0; at--) {
      const version = versions[at];
      if (version !== undefined && version.modified <= revision) {
        return version.value === undefined ? undefined : version;
      }
    }
    return undefined;
  }

  /** All keys of a range that were there at `revision`, in byte order. */
  range({ key, end }: KeyRange, revision: number): Version[] {
    if (end === undefined) {
      const found = this.at(key, revision);
      return found === undefined ? [] : [found];
    }
    const found: Version[] = [];
    for (let at = this.#firstFrom(key); at < this.#keys.length; at++) {
      const candidate = this.#keys[at] ?? "";
      if (end !== "" && candidate >= end) break;
      const version = this.at(candidate, revision);
      if (version !== undefined) found.push(version);
    }
    return found;
  }

  /** The keys that hang on a lease now, in byte order. */
  attached(lease: bigint): string[] {
    return [...(this.#attached.get(lease) ?? [])].sort();
  }

  put(key: string, value: Uint8Array, lease: bigint): void {
    const modified = this.#revision + 1;
    const before = this.at(key, modified);
    const created = before?.created ?? modified;
    this.#write({ key, value, created, modified, version: (before?.version ?? 0) + 1, lease });
  }

  /** The key must be there. */
  delete(key: string): void {
    this.#write({ key, value: undefined, created: 0, modified: this.#revision + 1, version: 0, lease: 0n });
  }

  /** Ends a revision; what was written since the last one is its changes, none of them no revision. */
  commit(): readonly Version[] {
    const changes = this.#pending;
    if (changes.length === 0) return changes;
    this.#pending = [];
    this.#revision++;
    this.#log.push(changes);
    return changes;
  }

  /** Takes back what was written since the last commit. */
  rollback(): void {
    for (const version of this.#pending.reverse()) this.#remove(version);
    this.#pending = [];
  }

  /** Takes the last commit back, which must have made a revision. */
  undo(): void {
    this.#pending = [...(this.#log.pop() ?? [])];
    this.#revision--;
    this.rollback();
  }

  /** The changes of one revision after the last compaction, or of the compacted one itself. */
  changesAt(revision: number): readonly Version[] {
    return this.#log[revision - this.#logStart] ?? [];
  }

  /** The versions that nobody can read any more once `revision` is compacted. */
  superseded(revision: number): Version[] {
    const gone: Version[] = [];
    for (const versions of this.#byKey.values())
      gone.push(...versions.slice(0, readableFrom(versions, revision)));
    return gone;
  }

  /** Forgets them; `revision` itself can still be read, and its changes be told. */
  compact(revision: number): void {
    for (const [key, versions] of this.#byKey) {
      for (const version of versions.splice(0, readableFrom(versions, revision)))
        this.#bytes -= sizeOf(version);
      if (versions.length === 0) this.#forgetKey(key);
    }
    this.#log.splice(0, revision - this.#logStart);
    this.#logStart = Math.max(revision, 1);
    this.#compacted = revision;
  }

  #write(change: Omit<Version, "sub">): void {
    const version = { ...change, sub: this.#pending.length };
    this.#append(version);
    this.#pending.push(version);
  }

  #append(version: Version): void {
    const versions = this.#byKey.get(version.key);
    if (versions === undefined) {
      this.#byKey.set(version.key, [version]);
      this.#keys.splice(this.#firstFrom(version.key), 0, version.key);
    } else {
      this.#leave(versions.at(-1));
      versions.push(version);
    }
    this.#enter(version);
    this.#bytes += sizeOf(version);
  }

  /** The version must be its key's last. */
  #remove(version: Version): void {
    const versions = this.#byKey.get(version.key) ?? [];
    versions.pop();
    this.#leave(version);
    this.#enter(versions.at(-1));
    this.#bytes -= sizeOf(version);
    if (versions.length === 0) this.#forgetKey(version.key);
  }

  /** `version` becomes its key's newest. */
  #enter(version: Version | undefined): void {
    if (version?.value === undefined) return;
    this.#liveBytes += sizeOf(version);
    if (version.lease === 0n) return;
    const keys = this.#attached.get(version.lease);
    if (keys === undefined) this.#attached.set(version.lease, new Set([version.key]));
    else keys.add(version.key);
  }

  #leave(version: Version | undefined): void {
    if (version?.value === undefined) return;
    this.#liveBytes -= sizeOf(version);
    const keys = this.#attached.get(version.lease);
    if (keys?.delete(version.key) === true && keys.size === 0) this.#attached.delete(version.lease);
  }

  #forgetKey(key: string): void {
    this.#byKey.delete(key);
    this.#keys.splice(this.#firstFrom(key), 1);
  }

  /** Index of the first key that is not before `key`. */
  #firstFrom(key: string): number {
    let low = 0;
    for (let high = this.#keys.length; low < high;) {
      const middle = (low + high) >> 1;
      if ((this.#keys[middle] ?? "") < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/**
 * Index of the first version that can be read at `revision` or later. A deletion before `revision` is nothing to
 * read; one at `revision` itself is kept, for watches that begin there.
 */
function readableFrom(versions: readonly Version[], revision: number): number {
  const last = versions.findLastIndex(({ modified }) => modified <= revision);
  const version = versions[last];
  if (version === undefined) return 0;
  return version.value === undefined && version.modified < revision ? last + 1 : last;
}

function sizeOf({ key, value }: Version): number {
  return key.length + (value?.length ?? 0) + versionOverheadBytes;
}
