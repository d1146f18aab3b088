import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import type { NodeIdentity } from "../lease/lease.ts";

/** Hexadecimal digits of a derived id: 128 bits. */
const idLength = 32;

export interface IdentitySources {
  /** `host.node_id`. */
  readonly nodeId: string | undefined;
  /** Below which the host's files are looked for; the root directory by default. */
  readonly root?: string;
  readonly name?: string;
}

/**
 * Who this node is, the same over reboots: the id that is configured, else one made of the machine id and of
 * the board's UUID. Clones of a disk share the first but not the second, which only root can read and not
 * every machine has.
 */
export function readIdentity({ nodeId, root = "", name = hostname() }: IdentitySources): NodeIdentity {
  if (nodeId !== undefined) return { id: nodeId, name };
  const machine = readMachineId(root) ?? name;
  const board = readWord(`${root}/sys/class/dmi/id/product_uuid`) ?? "";
  const hash = createHash("sha256").update(`flannel-lite node\0${machine}\0${board.toLowerCase()}`);
  return { id: hash.digest("hex").slice(0, idLength), name };
}

/** systemd's machine id (machine-id(5)). */
function readMachineId(root: string): string | undefined {
  const ids = ["/etc/machine-id", "/var/lib/dbus/machine-id"].map((path) => readWord(`${root}${path}`));
  return ids.find((id) => id !== undefined && /^[0-9a-f]{32}$/.test(id));
}

function readWord(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined; // absent, or not for us to read
  }
}
