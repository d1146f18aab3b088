import { readFileSync, statSync } from "node:fs";
import { errorText, FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import { parsePasswordHash, type User } from "./users.ts";

const fileBytesMax = 1024 * 1024;
const usersMax = 1_000;
const nameLengthMax = 64;

/** The users in a file as it is now, in any order; whoever changes in it is a new user. */
export interface UsersFile extends Disposable {
  users(): readonly User[];
}

/**
 * Reads a file of users, and again when it has changed. One that cannot be read is logged once, and the last good
 * one stays in use.
 * @throws FlannelError `store/users` where there is none to begin with
 */
export function openUsersFile(path: string, log: Log, reloadMs = 2_000): UsersFile {
  let stamp = stampOf(path);
  let byLine = load(path, new Map());
  let users = [...byLine.values()];
  let complained = "";
  const timer = setInterval(() => {
    try {
      const now = stampOf(path);
      if (now === stamp) return;
      byLine = load(path, byLine);
      users = [...byLine.values()];
      stamp = now;
      complained = "";
      log.info("the lease store's users were read anew", { path, users: users.length });
    } catch (error) {
      const reason = errorText(error);
      if (reason !== complained) log.warn("the file of users is unusable, keeping the last", { reason });
      complained = reason;
    }
  }, reloadMs);
  timer.unref();
  return { users: () => users, [Symbol.dispose]: () => clearInterval(timer) };
}

/** One `name:role:hash` on each line; empty lines and those behind # are skipped. */
export function parseUsers(text: string, before: ReadonlyMap<string, User> = new Map()): Map<string, User> {
  const users = new Map<string, User>();
  const names = new Set<string>();
  for (const [at, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    // The line itself is not quoted: it holds a hash.
    const wrong = (reason: string) => bad(`line ${at + 1}: ${reason}`);
    const user = before.get(line) ?? parseUser(line, wrong);
    if (names.has(user.name)) throw wrong("the name was there before");
    names.add(user.name);
    users.set(line, user);
    if (users.size > usersMax) throw wrong(`more than ${usersMax} users`);
  }
  return users;
}

function parseUser(line: string, wrong: (reason: string) => FlannelError): User {
  const [, name = "", role, hashText = ""] = /^([^:\s]+):([^:]*):(.*)$/.exec(line) ?? [];
  if (name === "" || name.length > nameLengthMax) {
    throw wrong(`not name:role:hash with a name of at most ${nameLengthMax} characters`);
  }
  if (role !== "admin" && role !== "member") throw wrong("the role is neither admin nor member");
  const hash = parsePasswordHash(hashText);
  if (hash === undefined) throw wrong("the hash is none that store password makes");
  return { name, role, hash };
}

function load(path: string, before: ReadonlyMap<string, User>): Map<string, User> {
  let text: string;
  try {
    const { size, mode } = statSync(path);
    if (size > fileBytesMax) throw bad(`longer than ${fileBytesMax} bytes`);
    if ((mode & 0o007) !== 0) throw bad("other users may read or change it: chmod 0600");
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw named(path, error);
  }
  try {
    return parseUsers(text, before);
  } catch (error) {
    throw named(path, error);
  }
}

function stampOf(path: string): string {
  try {
    const { ino, mtimeMs, ctimeMs, size } = statSync(path);
    return `${ino}:${mtimeMs}:${ctimeMs}:${size}`;
  } catch (error) {
    throw named(path, error);
  }
}

function bad(message: string): FlannelError {
  return new FlannelError("store/users", message);
}

function named(path: string, error: unknown): FlannelError {
  const reason = error instanceof Error ? error.message : String(error);
  return new FlannelError(
    "store/users",
    `the file of users cannot be used: ${reason}`,
    { path },
    { exitCode: 2, remedy: "flannel-lite store password writes a line for it." },
  );
}
