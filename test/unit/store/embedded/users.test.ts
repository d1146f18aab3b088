import { expect, test } from "bun:test";
import { openAccess } from "../../../../src/store/embedded/access.ts";
import { RpcError } from "../../../../src/store/embedded/errors.ts";
import {
  hashPassword,
  isPassword,
  parsePasswordHash,
  type User,
} from "../../../../src/store/embedded/users.ts";
import { parseUsers } from "../../../../src/store/embedded/users-file.ts";

const hash = await hashPassword("correct horse");

test("users: a hash is salted and knows its password only", async () => {
  expect(hash).toMatch(/^\$scrypt\$ln=15,r=8,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/);
  expect(await hashPassword("correct horse")).not.toBe(hash);
  const parsed = parsePasswordHash(hash);
  if (parsed === undefined) throw new Error("it is not read back");
  expect(await isPassword("correct horse", parsed)).toBe(true);
  for (const wrong of ["", "correct horse ", "Correct horse", "x".repeat(2_000)]) {
    expect(await isPassword(wrong, parsed)).toBe(false);
  }
});

test("users: the published example of scrypt is computed as published", async () => {
  // RFC 7914 §12: password "pleaseletmein", salt "SodiumChloride", N 16384, r 8, p 1; the first 32 bytes.
  const salt = Buffer.from("SodiumChloride");
  const digest = Buffer.from("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2", "hex");
  const published = { logN: 14, r: 8, p: 1, salt, digest };
  expect(await isPassword("pleaseletmein", published)).toBe(true);
});

test("users: a hash that would be dear, or is none, is refused", () => {
  const [, , , salt, digest] = hash.split("$");
  for (const costs of ["ln=20,r=8,p=1", "ln=15,r=99,p=1", "ln=15,r=8,p=9", "ln=0,r=8,p=1", "ln=15,r=8"]) {
    expect(parsePasswordHash(`$scrypt$${costs}$${salt}$${digest}`)).toBeUndefined();
  }
  for (const text of ["", "secret", "$2b$10$abc", `${hash}x$`, `$scrypt$ln=15,r=8,p=1$$${digest}`]) {
    expect(parsePasswordHash(text)).toBeUndefined();
  }
});

test("users: a line that is wrong is named by its number and not quoted", () => {
  const users = parseUsers(`# comment\n\nflannel:member:${hash}\nroot:admin:${hash}\n`);
  expect([...users.values()].map(({ name, role }) => `${name} ${role}`)).toEqual([
    "flannel member",
    "root admin",
  ]);
  const wrong = [
    [`flannel:boss:${hash}`, /line 2: the role/],
    ["flannel:member:secret", /line 2: the hash/],
    [`two words:member:${hash}`, /line 2: not name:role:hash/],
    [`a:member:${hash}`, /line 2: the name was there before/],
  ] as const;
  for (const [line, reason] of wrong) {
    expect(() => parseUsers(`a:admin:${hash}\n${line}\n`)).toThrow(reason);
    expect(() => parseUsers(`a:admin:${hash}\n${line}\n`)).not.toThrow(/secret/);
  }
});

test("access: a token lasts while it is used, and not when its user has changed", async () => {
  let [nowMs, users]: [number, readonly User[]] = [0, [...parseUsers(`a:member:${hash}`).values()]];
  const access = openAccess({
    prefix: "/net",
    users: () => users,
    attachedKeys: () => [],
    elapsedMs: () => nowMs,
  });
  const range = { rpc: "/etcdserverpb.KV/Range", request: {} };
  const ask = (token: string) => access.authorize({ certificate: undefined, token }, range);
  const token = await access.authenticate("a", "correct horse");
  for (let use = 0; use < 5; use++) {
    nowMs += 299_000;
    ask(token);
  }
  nowMs += 301_000;
  expect(() => ask(token)).toThrow(new RpcError("unauthenticated", "etcdserver: invalid auth token"));
  const second = await access.authenticate("a", "correct horse");
  ask(second);
  users = [...parseUsers(`a:admin:${hash}`).values()];
  expect(() => ask(second)).toThrow("etcdserver: invalid auth token");
  expect(() => ask("")).toThrow("etcdserver: user name is empty");
  expect(() => ask("x")).toThrow("etcdserver: invalid auth token");
  users = [];
  expect(access.authenticate("a", "correct horse")).rejects.toThrow("authentication is not enabled");
});

test("access: a flood of logins is turned away, and those that were let in are answered", async () => {
  const users = [...parseUsers(`a:member:${hash}`).values()];
  const access = openAccess({
    prefix: "/net",
    users: () => users,
    attachedKeys: () => [],
    elapsedMs: () => 0,
  });
  const logins = await Promise.allSettled(
    Array.from({ length: 70 }, (_, at) => access.authenticate("a", at === 0 ? "correct horse" : "wrong")),
  );
  const texts = logins.map((login) => (login.status === "rejected" ? String(login.reason) : "token"));
  expect(texts[0]).toBe("token");
  expect(texts.filter((text) => text.includes("authentication failed")).length).toBe(63);
  expect(texts.filter((text) => text.includes("too many requests")).length).toBe(6);
}, 60_000);
