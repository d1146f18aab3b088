import { createHash } from "node:crypto";
import dockerDropIn from "../../deploy/systemd/flannel-lite.service.d/docker.conf" with { type: "text" };
import unit from "../../deploy/systemd/flannel-lite.service" with { type: "text" };

/** The program's path in the units as they are shipped. */
export const shippedProgram = "/usr/local/bin/flannel-lite";

export interface UnitFile {
  /** Below `/etc/systemd/system`. */
  readonly name: string;
  readonly text: string;
}

/** The unit that runs `program`, with our mark. */
export function serviceUnit(program: string): UnitFile {
  return { name: "flannel-lite.service", text: marked(unit.replaceAll(shippedProgram, program)) };
}

/** The drop-in that writes Docker's options after each start, with our mark. */
export function dockerOptionsUnit(program: string): UnitFile {
  return {
    name: "flannel-lite.service.d/docker.conf",
    text: marked(dockerDropIn.replaceAll(shippedProgram, program)),
  };
}

/** Whether a path stands in a unit for itself: no quoting, no specifier, no second word. */
export function isUnitPath(path: string): boolean {
  return /^(\/[A-Za-z0-9._+@-]+)+$/.test(path) && path.length <= 4_096;
}

/**
 * Whether a file is as some release of ours wrote it. One that somebody has edited since is not: what stands
 * there is theirs.
 */
export function isOwnUnit(text: string): boolean {
  const end = text.indexOf("\n") + 1;
  return text.slice(0, end) === mark(text.slice(end));
}

function marked(text: string): string {
  return mark(text) + text;
}

function mark(text: string): string {
  const digest = createHash("sha256").update(text).digest("hex").slice(0, 16);
  return `# Written by flannel-lite install systemd (${digest}). Changes: systemctl edit flannel-lite\n`;
}
