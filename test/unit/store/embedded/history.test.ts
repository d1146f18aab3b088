import { expect, test } from "bun:test";
import { History, keyRange, type Version } from "../../../../src/store/embedded/history.ts";
import { seededRandom } from "../../../support/random.ts";

const keys = ["a", "ab", "b", "ba", "c", "\xff"];
const ranges = [
  keyRange("a", ""),
  keyRange("a", "b"),
  keyRange("ab", "\0"),
  keyRange("b", "c"),
  keyRange("c", "a"),
] as const;

/** Every state there ever was, whole: slow and obvious. */
class Model {
  states: Map<string, Version>[] = [new Map(), new Map()];

  get revision(): number {
    return this.states.length - 1;
  }

  write(changes: readonly (readonly [string, string | undefined, bigint])[]): void {
    const next = new Map(this.states.at(-1));
    for (const [sub, [key, value, lease]] of changes.entries()) {
      const before = next.get(key);
      const modified = this.revision + 1;
      if (value === undefined) next.delete(key);
      else {
        next.set(key, {
          key,
          value: Buffer.from(value),
          created: before?.created ?? modified,
          modified,
          sub,
          version: (before?.version ?? 0) + 1,
          lease,
        });
      }
    }
    this.states.push(next);
  }

  range({ key, end }: (typeof ranges)[number], revision: number): Version[] {
    const all = [...(this.states[revision] ?? [])].map(([, version]) => version);
    return all
      .filter((one) =>
        end === undefined ? one.key === key : one.key >= key && (end === "" || one.key < end),
      )
      .sort((a, b) => (a.key < b.key ? -1 : 1));
  }
}

function fresh(): History {
  return new History({ revision: 1, compacted: -1, versions: [] });
}

test("history: random writes, undone ones and compactions read as whole states would, at every revision", () => {
  for (let seed = 0; seed < 30; seed++) {
    const random = seededRandom(seed);
    let history = fresh();
    const model = new Model();
    let compacted = 1;
    for (let step = 0; step < 60; step++) {
      const changes: [string, string | undefined, bigint][] = [];
      for (let count = random.below(4); count > 0; count--) {
        const key = keys[random.below(keys.length)] ?? "";
        if (changes.some(([other]) => other === key)) continue;
        const isThere = model.states.at(-1)?.has(key) === true;
        if (isThere && random.below(3) === 0) changes.push([key, undefined, 0n]);
        else changes.push([key, `${step}`, BigInt(random.below(3))]);
      }
      const write = () => {
        for (const [key, value, lease] of changes) {
          if (value === undefined) history.delete(key);
          else history.put(key, Buffer.from(value), lease);
        }
      };
      write();
      const fate = random.below(10);
      if (fate === 0) history.rollback();
      else {
        history.commit();
        if (fate === 1 && changes.length > 0) history.undo();
        else if (changes.length > 0) model.write(changes);
      }
      if (random.below(12) === 0 && model.revision > compacted) {
        compacted += 1 + random.below(model.revision - compacted);
        history.compact(compacted);
      }
      // What a restart would read back from disk.
      if (random.below(12) === 0) history = reloaded(history, model.revision);
      expect(history.revision).toBe(model.revision);
      for (let revision = compacted; revision <= model.revision; revision++) {
        for (const range of ranges)
          expect(history.range(range, revision)).toEqual(model.range(range, revision));
      }
      for (const lease of [1n, 2n]) {
        const attached = model
          .range(keyRange("\0", "\0"), model.revision)
          .filter((one) => one.lease === lease);
        expect(history.attached(lease)).toEqual(attached.map(({ key }) => key));
      }
    }
    history.compact(history.revision);
    const deleted = history.changesAt(history.revision).filter(({ value }) => value === undefined);
    expect(history.bytes - history.liveBytes).toBe(
      deleted.reduce((sum, { key }) => sum + key.length + 128, 0),
    );
  }
});

/** Made anew of the versions it still has. */
function reloaded(history: History, revision: number): History {
  const versions: Version[] = [];
  for (const key of keys) {
    let last: Version | undefined;
    for (let at = 1; at <= revision; at++) {
      const found = history.at(key, at);
      if (found !== undefined && found !== last) versions.push(found);
      if (found === undefined && last !== undefined) {
        versions.push({ key, value: undefined, created: 0, modified: at, sub: 0, version: 0, lease: 0n });
      }
      last = found;
    }
  }
  versions.sort((a, b) => a.modified - b.modified || a.sub - b.sub);
  return new History({ revision, compacted: history.compacted, versions });
}

test("history: changes are told by revision, from the compacted one on", () => {
  const history = fresh();
  for (const value of ["1", "2", "3"]) {
    history.put("a", Buffer.from(value), 0n);
    history.commit();
  }
  history.delete("a");
  history.commit();
  history.compact(4);
  expect(
    [3, 4, 5, 6].map((revision) => history.changesAt(revision).map(({ value }) => value?.toString())),
  ).toEqual([[], ["3"], [undefined], []]);
});
