import { readFileSync } from "node:fs";
import { hostname } from "node:os";

/** Stays the same over reboots: systemd's machine id, else the host's name. */
export function readMachineId(): string {
  for (const path of ["/etc/machine-id", "/var/lib/dbus/machine-id"]) {
    try {
      const id = readFileSync(path, "utf8").trim();
      if (/^[0-9a-f]{32}$/.test(id)) return id;
    } catch {
      // The next one, or the name.
    }
  }
  return hostname();
}
