import { randomBytes, scrypt, timingSafeEqual } from "node:crypto";
import type { Role } from "./identity.ts";

/** Somebody who logs in with a password. */
export interface User {
  readonly name: string;
  readonly role: Role;
  readonly hash: PasswordHash;
}

/** scrypt (RFC 7914): what was hashed with which costs. */
export interface PasswordHash {
  readonly logN: number;
  readonly r: number;
  readonly p: number;
  readonly salt: Buffer;
  readonly digest: Buffer;
}

/** 32 MiB and about 0.1 s a login. */
const costs = { logN: 15, r: 8, p: 1 } as const;
/** What a hash in a file may cost us at each login. */
const costsMax = { logN: 17, r: 16, p: 4 } as const;
const saltBytes = 16;
const digestBytes = 32;
/** Longest password taken, in bytes. */
export const passwordBytesMax = 1024;

/** @returns `$scrypt$ln=15,r=8,p=1$<salt>$<digest>`, as other programs write it (PHC string format) */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(saltBytes);
  const digest = await derive(password, { ...costs, salt, digest: Buffer.alloc(digestBytes) });
  return `$scrypt$ln=${costs.logN},r=${costs.r},p=${costs.p}$${base64(salt)}$${base64(digest)}`;
}

/** Undefined for what is no such hash, or one that would cost too much. */
export function parsePasswordHash(text: string): PasswordHash | undefined {
  const pattern =
    /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})$/;
  const [, logN, r, p, salt, digest] = pattern.exec(text) ?? [];
  if (salt === undefined || digest === undefined) return undefined;
  const hash = {
    logN: Number(logN),
    r: Number(r),
    p: Number(p),
    salt: Buffer.from(salt, "base64"),
    digest: Buffer.from(digest, "base64"),
  };
  const isCost = (value: number, max: number) => value >= 1 && value <= max;
  const affordable =
    isCost(hash.logN, costsMax.logN) && isCost(hash.r, costsMax.r) && isCost(hash.p, costsMax.p);
  return affordable ? hash : undefined;
}

export async function isPassword(password: string, hash: PasswordHash): Promise<boolean> {
  if (Buffer.byteLength(password) > passwordBytesMax) return false;
  return timingSafeEqual(await derive(password, hash), hash.digest);
}

/** One that no password has: a user who does not exist costs as much time as one who does. */
export const nobodysHash: PasswordHash = {
  ...costs,
  salt: randomBytes(saltBytes),
  digest: randomBytes(digestBytes),
};

function derive(password: string, { logN, r, p, salt, digest }: PasswordHash): Promise<Buffer> {
  const N = 2 ** logN;
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  scrypt(password, salt, digest.length, { N, r, p, maxmem: 256 * N * r + 1024 * 1024 }, (error, key) => {
    if (error instanceof Error) reject(error);
    else resolve(key);
  });
  return promise;
}

function base64(bytes: Buffer): string {
  return bytes.toString("base64").replace(/=+$/, "");
}
