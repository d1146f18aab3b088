import { test } from "bun:test";
import { seededRandom } from "../support/random.ts";
import { crashRounds } from "../support/store-crash.ts";

/** Part of `make soak`: the embedded store is killed under writes, again and again. */
const rounds = Number(process.env["SOAK_STORE_ROUNDS"] ?? 200);
const seed = Number(process.env["FL_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

test(
  `embedded store: killed ${rounds} times under writes (FL_SEED=${seed})`,
  () => crashRounds(rounds, seededRandom(seed)),
  rounds * 5_000 + 60_000,
);
