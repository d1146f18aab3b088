import { readFileSync } from "node:fs";

/** CAP_NET_ADMIN (linux/capability.h). */
const netAdminBit = 12n;

/**
 * Whether this process has CAP_NET_ADMIN; a container's root may not. Where the kernel does not tell, it is taken
 * to: whatever then fails says so itself.
 * @param path a file such as /proc/self/status
 */
export function hasNetAdmin(path = "/proc/self/status"): boolean {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return true;
  }
  const effective = /^CapEff:\s*([0-9a-f]{1,16})$/m.exec(text)?.[1];
  return effective === undefined || ((BigInt(`0x${effective}`) >> netAdminBit) & 1n) === 1n;
}
