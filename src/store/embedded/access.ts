import { randomBytes } from "node:crypto";
import type { Access } from "./authorize.ts";
import { etcdErrors } from "./errors.ts";
import { type Role, roleOf } from "./identity.ts";
import { openPermission } from "./permission.ts";
import { isPassword, nobodysHash, type User } from "./users.ts";

export interface AccessOptions {
  /** What the network's keys begin with. */
  readonly prefix: string;
  /** The users there are at the moment; none: nobody can log in. */
  users(): readonly User[];
  /** Keys that hang on a lease. */
  attachedKeys(lease: bigint): readonly string[];
  /** Monotonic, in ms. */
  readonly elapsedMs: () => number;
}

/** As etcd's --auth-token-ttl: a simple token ends so long after its last use. */
const tokenMsMax = 300_000;
/** Beyond it the token used least recently is forgotten. */
const tokensMax = 10_000;
/** Logins that wait for their hash; each takes memory and a thread. */
const loginsMax = 64;

interface Token {
  readonly name: string;
  /** Of the moment of the login: a changed user has to log in again. */
  readonly user: User;
  untilMs: number;
}

/** Who may do what, by client certificate or by the token of a login; a token lasts for as long as it is used. */
export function openAccess({ prefix, users, attachedKeys, elapsedMs }: AccessOptions): Access {
  const permits = openPermission(prefix);
  const tokens = new Map<string, Token>();
  let loginsNow = 0;
  // One after the other: hashing is expensive, and must not take the threads that everything else needs.
  let lastLogin: Promise<unknown> = Promise.resolve();

  const userOf = (token: string): User => {
    const known = tokens.get(token);
    const stands = known !== undefined && known.untilMs > elapsedMs() && users().includes(known.user);
    if (!stands) {
      tokens.delete(token);
      throw etcdErrors.invalidToken();
    }
    known.untilMs = elapsedMs() + tokenMsMax;
    tokens.delete(token);
    tokens.set(token, known);
    return known.user;
  };

  const newToken = (user: User): string => {
    const token = randomBytes(24).toString("base64url");
    for (const [oldest, { untilMs }] of tokens) {
      if (untilMs > elapsedMs() && tokens.size < tokensMax) break;
      tokens.delete(oldest);
    }
    tokens.set(token, { name: user.name, user, untilMs: elapsedMs() + tokenMsMax });
    return token;
  };

  return {
    authorize({ certificate, token }, operation) {
      if (operation.rpc === "/etcdserverpb.Auth/Authenticate") return;
      let role: Role;
      if (token !== "") role = userOf(token).role;
      else if (certificate !== undefined) role = roleOf(certificate.organization);
      else throw etcdErrors.userEmpty();
      if (!permits(role, operation, attachedKeys)) throw etcdErrors.permissionDenied();
    },
    async authenticate(name, password) {
      if (users().length === 0) throw etcdErrors.authNotEnabled();
      if (loginsNow >= loginsMax) throw etcdErrors.tooManyRequests();
      loginsNow++;
      const user = users().find((one) => one.name === name);
      const check = lastLogin.then(() => isPassword(password, user?.hash ?? nobodysHash));
      lastLogin = check.catch(() => {});
      try {
        if (!(await check) || user === undefined) throw etcdErrors.authFailed();
      } finally {
        loginsNow--;
      }
      return newToken(user);
    },
  };
}
