import type { LeaseUpdate } from "../../src/lease/lease.ts";
import type { Store } from "../../src/store/store.ts";

/** A store that answers the calls given and refuses every other. */
export function fakeStore(answers: Partial<Store>): Store {
  const refuse = (name: string) => () => {
    throw new Error(`unexpected call of ${name}`);
  };
  return {
    description: "fake",
    readNetworkConfig: refuse("readNetworkConfig"),
    createNetworkConfig: refuse("createNetworkConfig"),
    acquire: refuse("acquire"),
    renew: refuse("renew"),
    signOff: refuse("signOff"),
    attests: async () => true,
    release: refuse("release"),
    findOwn: refuse("findOwn"),
    list: refuse("list"),
    watch: refuse("watch"),
    [Symbol.asyncDispose]: refuse("dispose"),
    ...answers,
  };
}

/** What a watch yields, as the test says. */
export function updateFeed() {
  const waiting: LeaseUpdate[] = [];
  let rouse = () => {};
  return {
    give(update: LeaseUpdate) {
      waiting.push(update);
      rouse();
    },
    async *watch(stop: AbortSignal): AsyncGenerator<LeaseUpdate> {
      while (!stop.aborted) {
        const next = waiting.shift();
        if (next !== undefined) {
          yield next;
          continue;
        }
        const { promise, resolve } = Promise.withResolvers<void>();
        rouse = resolve;
        stop.addEventListener("abort", () => resolve());
        await promise;
      }
    },
  };
}
