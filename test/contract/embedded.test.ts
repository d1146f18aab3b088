import { afterAll, beforeAll } from "bun:test";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { openEtcdStore } from "../../src/store/etcd/store.ts";
import { type EmbeddedStore, startEmbedded } from "../support/embedded.ts";
import { etcdTransports } from "../support/etcd-transports.ts";
import { etcdWorld } from "../support/etcd-world.ts";
import { storeContract } from "./store.ts";

let embedded: EmbeddedStore;
let worlds = 0;

beforeAll(async () => {
  embedded = await startEmbedded();
});

afterAll(async () => {
  await embedded?.[Symbol.asyncDispose]();
});

for (const transport of etcdTransports) {
  storeContract(`embedded over ${transport}`, async () =>
    etcdWorld(embedded, `/test/${worlds++}/network`, ({ endpoint }, prefix, options) =>
      openEtcdStore({
        endpoints: [endpoint],
        transport,
        prefix,
        log: silentLog,
        clock: systemClock,
        ...options,
      }),
    ),
  );
}
