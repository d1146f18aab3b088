import { expect, test } from "bun:test";
import { seededRandom } from "../support/random.ts";
import { crashRounds } from "../support/store-crash.ts";
import { startStoreProcess } from "../support/store-process.ts";

const seed = Number(process.env["FL_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

test(`embedded: killed twenty times under writes, it loses nothing it acknowledged and no event (FL_SEED=${seed})`, async () => {
  await crashRounds(20, seededRandom(seed));
}, 120_000);

test("embedded: what was written before a stop is there after it, and the stop is clean", async () => {
  await using store = await startStoreProcess();
  await store.put("/a", "1");
  await store.put("/b", "2", 600);
  const { lease = "" } = (await store.get("/b")) ?? {};
  expect(await store.terminate()).toBe(0);
  await store.start();
  expect(await store.get("/a")).toMatchObject({ value: "1", revision: "2" });
  expect(await store.get("/b")).toMatchObject({ value: "2", lease });
  const { TTL } = await store.call("/v3/lease/timetolive", { ID: lease });
  expect(Number(TTL)).toBeGreaterThan(500);
}, 60_000);
